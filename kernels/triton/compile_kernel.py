"""Compiles one Triton kernel ahead of time, without a GPU: SPEC_JSON in, OUT.cubin and OUT.json out.

The metadata says all that a launch needs, so that no Python and no Triton has to be there: kernel_metadata.h reads it
and describes its fields.
"""

import dataclasses
import importlib
import json
import os
import re
import sys
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FORMAT = 1
# What Triton 3.7 adds behind a kernel's own parameters. Another version may add others: the count is held to the PTX.
_HIDDEN = ("global_scratch", "profile_scratch")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A kernel and what is fixed of it.

    kernel: "module.function" in kernels.triton.
    arch: 80 or 90.
    signature: type of each parameter that is not a constant: "*bf16", "*i32", "i32", "fp32", ...; with ":16" behind it,
        the argument is a multiple of 16 (a pointer's address, an integer's value), which lets loads be wide.
    constants: values of the tl.constexpr parameters.
    """

    kernel: str
    arch: int
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


def compile_kernel(spec: Spec) -> tuple[bytes, dict[str, Any]]:
    """The cubin and its metadata."""
    module, _, function = spec.kernel.rpartition(".")
    kernel = getattr(importlib.import_module(f"kernels.triton.{module}"), function)
    names = kernel.arg_names
    if sorted(names) != sorted([*spec.signature, *spec.constants]):
        missing = set(names) ^ {*spec.signature, *spec.constants}
        raise ValueError(f"{spec.kernel}: expected a type or a value for each parameter, wrong: {sorted(missing)}")

    types: dict[str, str] = {}
    multiples: dict[tuple[int], list[list[Any]]] = {}
    parameters: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        if name in spec.constants:
            types[name] = "constexpr"
            continue
        types[name], _, multiple = spec.signature[name].partition(":")
        if multiple not in ("", "16"):
            raise ValueError(f"{spec.kernel}: {name}: expected a type, or a type and :16, got {spec.signature[name]!r}")
        if multiple:
            multiples[(at,)] = [["tt.divisibility", 16]]
        parameters.append({"name": name, "type": types[name], "multiple_of": 16 if multiple else 1})

    constants = {(names.index(name),): value for name, value in spec.constants.items()}
    compiled = triton.compile(
        ASTSource(kernel, types, constants, multiples),
        target=GPUTarget("cuda", spec.arch, 32),
        options={"num_warps": spec.num_warps, "num_stages": spec.num_stages},
    )
    meta, ptx, cubin = compiled.metadata, compiled.asm["ptx"], compiled.asm["cubin"]
    expected = len(parameters) + len(_HIDDEN)
    found = len(re.findall(r"\.param\b", ptx[ptx.index(".entry") : ptx.index(")", ptx.index(".entry"))]))
    if found != expected:
        raise ValueError(f"{spec.kernel}: Triton {triton.__version__} passes {found} parameters, expected {expected}")
    for name in ("global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl", "tmem_size"):
        if getattr(meta, name):
            raise ValueError(f"{spec.kernel}: {name} is {getattr(meta, name)}: the loader has no such launches")
    if meta.num_ctas != 1 or meta.tensordesc_meta:
        raise ValueError(f"{spec.kernel}: clusters and tensor descriptors: the loader has no such launches")
    arch = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    assert arch is not None
    return cubin, {
        "format": FORMAT,
        "compiler": f"triton {triton.__version__}",
        "kernel": spec.kernel,
        "entry": meta.name,
        "arch": arch.group(1),
        "threads": meta.num_warps * meta.warp_size,
        "shared_bytes": meta.shared,
        "parameters": parameters,
        "hidden_parameters": list(_HIDDEN),
        "constants": spec.constants,
        "cubin_bytes": len(cubin),
    }


def main() -> None:
    spec, cubin_path, metadata_path = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    cubin, metadata = compile_kernel(Spec(**spec))
    with open(cubin_path, "wb") as file:
        file.write(cubin)
    with open(metadata_path, "w", encoding="utf-8") as file:
        json.dump(metadata, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    # Lines of source would bring the build's folders into the cubin.
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        main()
