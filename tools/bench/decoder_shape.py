"""The models of the decode and prefill suites, and what a step of them must compute and read at least."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderShape:
    """A decoder's sizes. Llama's (`gated`: RMSNorm, rotary positions, SwiGLU, no biases) or GPT-2's form; tied head."""

    name: str
    vocab_size: int
    context_length: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_size: int
    gated: bool = False
    rope_theta: float = 10000.0
    head_dim: int = 64

    @property
    def layer_parameters(self) -> int:
        """Of the products of one layer, without biases and norms."""
        qkv = self.hidden_size * self.head_dim * (self.n_heads + 2 * self.n_kv_heads)
        out = self.hidden_size * self.head_dim * self.n_heads
        return qkv + out + (3 if self.gated else 2) * self.hidden_size * self.mlp_size

    def decode_cost(
        self, batch: int, context: int, element_bytes: int, weight_bytes: int | None = None
    ) -> tuple[float, float]:
        """Operations and bytes of one step: each weight once, each request's keys and values once.

        Args:
            weight_bytes: of an element of the weights, where it has others than one of keys and values.
        """
        weight_bytes = weight_bytes or element_bytes
        weights = self.n_layers * self.layer_parameters + self.vocab_size * self.hidden_size
        cached = 2 * self.n_layers * self.n_kv_heads * self.head_dim * context  # elements a request
        attention = 4 * self.n_layers * self.n_heads * self.head_dim * context  # operations a request
        return batch * (2.0 * weights + attention), weight_bytes * weights + element_bytes * float(batch) * cached

    def prefill_cost(
        self, batch: int, tokens: int, element_bytes: int, weight_bytes: int | None = None
    ) -> tuple[float, float]:
        """Operations and bytes of reading prompts: each weight once, the head for the last tokens, causal attention.

        Args:
            weight_bytes: as in decode_cost.
        """
        weight_bytes = weight_bytes or element_bytes
        layers = self.n_layers * self.layer_parameters
        head = self.vocab_size * self.hidden_size
        attention = 2.0 * self.n_layers * self.n_heads * self.head_dim * tokens * tokens  # half of the square
        flops = batch * (2.0 * layers * tokens + 2.0 * head + attention)
        written = 2.0 * batch * tokens * self.n_layers * self.n_kv_heads * self.head_dim
        return flops, weight_bytes * (layers + head) + element_bytes * written


SHAPES = {
    shape.name: shape
    for shape in (
        DecoderShape("gpt2-124m", 50257, 1024, 768, 12, 12, 12, 3072),
        DecoderShape("gpt2-xl", 50257, 1024, 1600, 48, 25, 25, 6400),
        DecoderShape("smollm2-135m", 49152, 2048, 576, 30, 9, 3, 1536, gated=True, rope_theta=100000.0),
        DecoderShape("llama-3.2-1b", 128256, 2048, 2048, 16, 32, 8, 8192, gated=True, rope_theta=500000.0),
    )
}
