"""What defines a model: one frozen dataclass an architecture. No torch here, so that loading needs none.

Every field changes the maths and is honored by the module of the same architecture; loaders refuse, by name, what has
no field here. `weight_shapes()` lists the module's state_dict without building it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flashflow.errors import InvalidArgumentError, UnsupportedError

__all__ = [
    "ACTIVATIONS",
    "CONFIGS",
    "Gpt2Config",
    "GptSmallConfig",
    "LlamaConfig",
    "ModelConfig",
    "RopeScaling",
    "config_from_dict",
]

# gelu is exact (erf), gelu_tanh its tanh approximation.
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")

# Upper bounds of sizes, far above every model of these families: what a config may make us allocate is bounded.
_LIMITS = {
    "vocab_size": 1 << 22,
    "context_length": 1 << 21,
    "hidden_size": 1 << 17,
    "n_layers": 1 << 10,
    "n_heads": 1 << 12,
    "n_kv_heads": 1 << 12,
    "head_dim": 1 << 12,
    "mlp_size": 1 << 20,
}


def _check_integers(config: ModelConfig) -> None:
    for name, limit in _LIMITS.items():
        if not hasattr(config, name):
            continue
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise InvalidArgumentError(f"{name} must be an integer in 1..{limit}, got {value!r}", op=name)


def _check_number(config: object, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidArgumentError(f"{name} must be a number in {low:g}..{high:g}, got {value!r}", op=name)


def _check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise UnsupportedError(f"{name} {value!r} is not supported: expected one of {', '.join(choices)}", op=name)


def _check_flags(config: object, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise InvalidArgumentError(f"{name} must be true or false, got {getattr(config, name)!r}", op=name)


@dataclass(frozen=True)
class ModelConfig:
    """What all architectures share.

    vocab_size: rows of the token embedding. context_length: the most positions a sequence may have. hidden_size: the
    width of the residual stream. mlp_size: the inner width of the MLP. norm_eps: added to the variance.
    """

    architecture: ClassVar[str] = ""

    vocab_size: int
    context_length: int
    hidden_size: int
    n_layers: int
    n_heads: int
    mlp_size: int
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_integers(self)
        _check_number(self, "norm_eps", 0.0, 1.0)

    @property
    def head_size(self) -> int:
        """Elements of one attention head."""
        return self.hidden_size // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The module's parameters, name to shape, in state_dict order."""
        raise TypeError("ModelConfig is abstract: use the config of an architecture")

    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.weight_shapes().values())

    def metadata(self) -> dict[str, int | float | str | bool]:
        """What a compiled model keeps of its config."""
        return {
            "architecture": self.architecture,
            "context_length": self.context_length,
            "head_dim": self.head_size,
            "hidden_size": self.hidden_size,
            "n_heads": self.n_heads,
            "n_kv_heads": self.kv_heads,
            "n_layers": self.n_layers,
            "vocab_size": self.vocab_size,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible; config_from_dict is the inverse."""
        return {"architecture": self.architecture, **dataclasses.asdict(self)}

    def _check_heads(self) -> None:
        if self.hidden_size % self.n_heads:
            raise InvalidArgumentError(
                f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}", op="n_heads"
            )

    def _gpt_block_shapes(self, prefix: str, bias: bool) -> dict[str, tuple[int, ...]]:
        width, inner = self.hidden_size, self.mlp_size
        linears = {
            "attn.qkv_proj": (3 * width, width),
            "attn.out_proj": (width, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        shapes: dict[str, tuple[int, ...]] = {}
        for name in ("attn_norm", "attn.qkv_proj", "attn.out_proj", "mlp_norm", "mlp.up_proj", "mlp.down_proj"):
            shapes[f"{prefix}.{name}.weight"] = linears.get(name, (width,))
            if bias:
                shapes[f"{prefix}.{name}.bias"] = shapes[f"{prefix}.{name}.weight"][:1]
        return shapes


@dataclass(frozen=True)
class GptSmallConfig(ModelConfig):
    """GPTSmall, the model that we train: learned positions, pre-norm blocks, tied head.

    bias: whether linears and norms have one. dropout: share of activations dropped in training.
    """

    architecture: ClassVar[str] = "gpt_small"

    bias: bool = True
    dropout: float = 0.0
    activation: str = "gelu_tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads()
        _check_flags(self, "bias")
        _check_number(self, "dropout", 0.0, 0.999)
        _check_choice(self, "activation", ACTIVATIONS)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.vocab_size, self.hidden_size),
            "wpe.weight": (self.context_length, self.hidden_size),
        }
        for i in range(self.n_layers):
            shapes.update(self._gpt_block_shapes(f"blocks.{i}", self.bias))
        shapes["norm.weight"] = (self.hidden_size,)
        if self.bias:
            shapes["norm.bias"] = (self.hidden_size,)
        return shapes

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> GptSmallConfig:
        """The presets of training: "tiny" (0.8M parameters and the vocabulary), "mini" (14M parameters with its own
        vocabulary of 8,192 tokens) and "small" (GPT-2's 124M shape)."""
        presets: dict[str, dict[str, int]] = {
            "tiny": dict(context_length=256, hidden_size=128, n_layers=4, n_heads=4, mlp_size=512),
            "mini": dict(vocab_size=8192, context_length=512, hidden_size=384, n_layers=6, n_heads=6, mlp_size=1536),
            "small": dict(context_length=1024, hidden_size=768, n_layers=12, n_heads=12, mlp_size=3072),
        }
        if name not in presets:
            raise InvalidArgumentError(f"unknown preset {name!r}: expected one of {', '.join(presets)}", op="preset")
        return cls(**{"vocab_size": 50257, **presets[name], **overrides})


@dataclass(frozen=True)
class Gpt2Config(ModelConfig):
    """GPT-2, 124M to XL.

    scale_by_sqrt_head: attention scores are divided by sqrt(head size). scale_by_layer: and by the layer's number,
    counted from 1. tied_head: the head is the token embedding.
    """

    architecture: ClassVar[str] = "gpt2"

    activation: str = "gelu_tanh"
    scale_by_sqrt_head: bool = True
    scale_by_layer: bool = False
    tied_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_heads()
        _check_choice(self, "activation", ACTIVATIONS)
        _check_flags(self, "scale_by_sqrt_head", "scale_by_layer", "tied_head")

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.vocab_size, self.hidden_size),
            "wpe.weight": (self.context_length, self.hidden_size),
        }
        for i in range(self.n_layers):
            shapes.update(self._gpt_block_shapes(f"blocks.{i}", bias=True))
        shapes["norm.weight"] = (self.hidden_size,)
        shapes["norm.bias"] = (self.hidden_size,)
        if not self.tied_head:
            shapes["head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    def attention_scale(self, layer: int) -> float:
        """What the scores of this layer (from 0) are multiplied by."""
        scale = 1.0 / math.sqrt(self.head_size) if self.scale_by_sqrt_head else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed to reach longer contexts.

    "default" changes nothing. "linear" divides every frequency by `factor`. "llama3" divides low frequencies by
    `factor`, keeps high ones and blends between, as Llama 3.1's reference code does. "factors" divides frequency i by
    `factors[i]`, the form in which GGUF files carry any such scheme.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        _check_choice(self, "kind", ("default", "linear", "llama3", "factors"))
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"):
            _check_number(self, name, 1e-6, 1e9)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise InvalidArgumentError(
                f"rope scaling llama3: high_freq_factor {self.high_freq_factor} must be above low_freq_factor "
                f"{self.low_freq_factor}",
                op="high_freq_factor",
            )
        if not all(1e-6 <= f <= 1e9 for f in self.factors):
            raise InvalidArgumentError("rope factors must be finite and positive", op="factors")


@dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """The Llama family: Llama 1 to 3, SmolLM, TinyLlama, Mistral without its window, Qwen2.

    n_kv_heads: heads of keys and values; fewer than n_heads is grouped-query attention. head_dim: elements a head.
    rope_theta: base of the rotary frequencies. qkv_bias, out_bias, mlp_bias: which linears have one.
    """

    architecture: ClassVar[str] = "llama"

    n_kv_heads: int = 0  # no useful default: checked
    head_dim: int = 0
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied_head: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        super().__post_init__()
        _check_number(self, "rope_theta", 1e-3, 1e12)
        _check_choice(self, "activation", ACTIVATIONS)
        _check_flags(self, "qkv_bias", "out_bias", "mlp_bias", "tied_head")
        if self.n_heads % self.n_kv_heads:
            raise InvalidArgumentError(
                f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}", op="n_kv_heads"
            )
        if self.head_dim % 2:
            raise InvalidArgumentError(f"head_dim must be even, got {self.head_dim}", op="head_dim")
        if self.rope_scaling.kind == "factors" and len(self.rope_scaling.factors) != self.head_dim // 2:
            raise InvalidArgumentError(
                f"expected {self.head_dim // 2} rope factors, got {len(self.rope_scaling.factors)}", op="rope_scaling"
            )

    @property
    def head_size(self) -> int:
        return self.head_dim

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        width, inner = self.hidden_size, self.mlp_size
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        linears = {
            "attn.q_proj": (q_size, width, self.qkv_bias),
            "attn.k_proj": (kv_size, width, self.qkv_bias),
            "attn.v_proj": (kv_size, width, self.qkv_bias),
            "attn.out_proj": (width, q_size, self.out_bias),
            "mlp.gate_proj": (inner, width, self.mlp_bias),
            "mlp.up_proj": (inner, width, self.mlp_bias),
            "mlp.down_proj": (width, inner, self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, width)}
        for i in range(self.n_layers):
            shapes[f"layers.{i}.attn_norm.weight"] = (width,)
            for name, (rows, columns, bias) in linears.items():
                if name == "mlp.gate_proj":
                    shapes[f"layers.{i}.mlp_norm.weight"] = (width,)
                shapes[f"layers.{i}.{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"layers.{i}.{name}.bias"] = (rows,)
        shapes["norm.weight"] = (width,)
        if not self.tied_head:
            shapes["head.weight"] = (self.vocab_size, width)
        return shapes


CONFIGS: dict[str, type[ModelConfig]] = {c.architecture: c for c in (GptSmallConfig, Gpt2Config, LlamaConfig)}


def config_from_dict(fields: Mapping[str, Any]) -> ModelConfig:
    """The config that to_dict() wrote. Unknown architectures and fields are refused by name."""
    architecture = fields.get("architecture")
    if not isinstance(architecture, str) or architecture not in CONFIGS:
        raise UnsupportedError(
            f"architecture {architecture!r} is not supported: expected one of {', '.join(CONFIGS)}", op="architecture"
        )
    cls = CONFIGS[architecture]
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {name: value for name, value in fields.items() if name != "architecture"}
    if unknown := sorted(set(values) - set(known)):
        raise UnsupportedError(f"{architecture} has no config field {unknown[0]!r}", op=unknown[0])
    required = [name for name, f in known.items() if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise InvalidArgumentError(f"the config of {architecture} lacks {missing[0]!r}", op=missing[0])
    if "rope_scaling" in values:
        values["rope_scaling"] = _rope_scaling_from_dict(values["rope_scaling"])
    return cls(**values)


def _rope_scaling_from_dict(fields: object) -> RopeScaling:
    known = {f.name for f in dataclasses.fields(RopeScaling)}
    if not isinstance(fields, Mapping) or not set(fields) <= known:
        raise InvalidArgumentError(f"rope_scaling must hold only {', '.join(sorted(known))}", op="rope_scaling")
    if not isinstance(fields.get("factors", []), list | tuple):
        raise InvalidArgumentError("rope_scaling factors must be a list", op="rope_scaling")
    return RopeScaling(**fields)
