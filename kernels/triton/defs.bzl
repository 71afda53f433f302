"""triton_cubin: a Triton kernel compiled ahead of time, without a GPU."""

def triton_cubin(name, kernel, signature, constants, num_warps, num_stages, archs = [80, 90], **kwargs):
    """Writes <name>.sm_<arch>.cubin and <name>.sm_<arch>.json, the launch's metadata (kernel_metadata.h), for each arch.

    Args:
      name: of the filegroup of all files.
      kernel: "module.function" in this package.
      signature: types of the parameters that are not constants; "*bf16:16" is a pointer that is a multiple of 16.
      constants: values of the tl.constexpr parameters.
      num_warps: of a program.
      num_stages: of its software pipeline.
      archs: 80, 90 (which is sm_90a).
      **kwargs: as for filegroup.
    """
    outs = []
    for arch in archs:
        cubin, metadata = ["%s.sm_%d.%s" % (name, arch, ending) for ending in ["cubin", "json"]]
        spec = json.encode({
            "arch": arch,
            "constants": constants,
            "kernel": kernel,
            "num_stages": num_stages,
            "num_warps": num_warps,
            "signature": signature,
        })
        native.genrule(
            name = "%s_sm_%d" % (name, arch),
            outs = [cubin, metadata],
            cmd = "$(execpath :compile_kernel) '%s' $(OUTS)" % spec,
            message = "Compiling %s for sm_%d" % (kernel, arch),
            tools = [":compile_kernel"],
        )
        outs += [cubin, metadata]
    native.filegroup(name = name, srcs = outs, **kwargs)
