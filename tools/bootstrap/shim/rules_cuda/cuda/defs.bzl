"""cuda_library, with the attributes of bazel-contrib's rules_cuda."""

load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":toolkit.bzl", "CudaToolkitInfo")

_HEADERS = ("h", "hh", "hpp", "cuh", "inl")

def _gencode(archs):
    flags = []
    for spec in [s for s in archs.split(";") if s]:
        virtual, _, code = spec.partition(":")
        flags.append("-gencode=arch=%s,code=[%s]" % (virtual, code or virtual.replace("compute_", "sm_")))
    return flags

def _compile(ctx, toolkit, cc, context, source, headers):
    """Registers the action for one source and returns the object file."""
    out = ctx.actions.declare_file("_objs/%s/%s.o" % (ctx.label.name, source.basename))
    args = ctx.actions.args()
    args.add_all(["-x", "cu", "-c", source, "-o", out, "-ccbin", cc.compiler_executable, "-Xcompiler=-fPIC"])
    if not [c for c in ctx.attr.copts if "std=" in c]:
        args.add("-std=c++20")
    args.add_all({"dbg": ["-g", "-O0"], "opt": ["-O3"]}.get(ctx.var["COMPILATION_MODE"], []))
    args.add_all(_gencode(ctx.attr._archs[BuildSettingInfo].value))
    args.add_all([".", ctx.bin_dir.path], before_each = "-I")
    args.add_all(context.quote_includes, before_each = "-I")
    args.add_all(context.includes, before_each = "-I")
    args.add_all(context.system_includes, before_each = "-isystem")
    args.add_all(context.external_includes, before_each = "-isystem")
    args.add_all(context.defines, format_each = "-D%s")
    args.add_all(ctx.attr.local_defines, format_each = "-D%s")
    args.add_all(ctx.attr._copts[BuildSettingInfo].value)
    args.add_all(ctx.attr.copts)
    args.add_all(ctx.attr.host_copts, format_each = "-Xcompiler=%s")
    ctx.actions.run(
        executable = toolkit.root + "/bin/nvcc",
        arguments = [args],
        inputs = depset([source, toolkit.stamp] + headers, transitive = [context.headers, cc.all_files]),
        outputs = [out],
        env = {"PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"},
        mnemonic = "CudaCompile",
        progress_message = "Compiling %s with nvcc" % source.short_path,
    )
    return out

def _impl(ctx):
    toolkit = ctx.attr._toolkit[CudaToolkitInfo]
    if not toolkit.root:
        fail("no CUDA toolkit: set CUDA_PATH, or build with --config=cuda to get one")
    cc = find_cc_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    deps = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps + [ctx.attr._runtime]])
    headers = ctx.files.hdrs + [f for f in ctx.files.srcs if f.extension in _HEADERS]
    own = cc_common.create_compilation_context(
        headers = depset(headers),
        includes = depset([i if i.startswith("/") else ctx.label.package + "/" + i for i in ctx.attr.includes]),
        defines = depset(ctx.attr.defines),
    )
    context = cc_common.merge_compilation_contexts(compilation_contexts = [own, deps.compilation_context])
    objects = depset([
        _compile(ctx, toolkit, cc, context, source, headers)
        for source in ctx.files.srcs
        if source.extension not in _HEADERS
    ])
    linking, outputs = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        alwayslink = ctx.attr.alwayslink,
        cc_toolchain = cc,
        compilation_outputs = cc_common.create_compilation_outputs(objects = objects, pic_objects = objects),
        disallow_dynamic_library = True,
        feature_configuration = features,
        linking_contexts = [deps.linking_context],
        user_link_flags = ctx.attr.host_linkopts,
    )
    library = outputs.library_to_link
    archives = [library.static_library, library.pic_static_library] if library else []
    return [
        DefaultInfo(files = depset([a for a in archives if a])),
        OutputGroupInfo(objects = objects),
        cc_common.merge_cc_infos(
            cc_infos = [CcInfo(compilation_context = deps.compilation_context)],
            direct_cc_infos = [CcInfo(compilation_context = own, linking_context = linking)],
        ),
    ]

cuda_library = rule(
    implementation = _impl,
    attrs = {
        "alwayslink": attr.bool(default = False),
        "copts": attr.string_list(),
        "defines": attr.string_list(),
        "deps": attr.label_list(providers = [CcInfo]),
        "hdrs": attr.label_list(allow_files = True),
        "host_copts": attr.string_list(),
        "host_linkopts": attr.string_list(),
        "includes": attr.string_list(),
        "local_defines": attr.string_list(),
        "srcs": attr.label_list(allow_files = [".cu", ".cc", ".cpp", ".h", ".hh", ".hpp", ".cuh", ".inl"]),
        "_archs": attr.label(default = "//cuda:archs"),
        "_copts": attr.label(default = "//cuda:copts"),
        "_runtime": attr.label(default = "@cuda//:cuda_runtime_static"),
        "_toolkit": attr.label(default = "@cuda//:toolkit"),
    },
    fragments = ["cpp"],
    provides = [CcInfo],
    toolchains = use_cc_toolchain(),
)
