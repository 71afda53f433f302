"""cuda_library with the attributes of bazel-contrib's rules_cuda."""
load("@bazel_skylib//rules:common_settings.bzl", "BuildSettingInfo")
load("@rules_cc//cc:find_cc_toolchain.bzl", "find_cc_toolchain", "use_cc_toolchain")
load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":toolkit.bzl", "CudaToolkitInfo")

def _gencode(archs):
    out = []
    for spec in [s for s in archs.split(";") if s]:
        virt, _, codes = spec.partition(":")
        out.append("-gencode=arch=%s,code=[%s]" % (virt, codes or virt.replace("compute_", "sm_")))
    return out

def _impl(ctx):
    tk = ctx.attr._toolkit[CudaToolkitInfo]
    if not tk.root:
        fail("no CUDA toolkit on this machine: set CUDA_PATH")
    cc = find_cc_toolchain(ctx)
    feat = cc_common.configure_features(ctx = ctx, cc_toolchain = cc, requested_features = ctx.features, unsupported_features = ctx.disabled_features)
    dep = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps] + [ctx.attr._runtime[CcInfo]])
    hdrs = ctx.files.hdrs + [f for f in ctx.files.srcs if f.extension in ("h", "hh", "hpp", "cuh", "inl")]
    pkg = ctx.label.package
    incs = [i if i.startswith("/") else (pkg + "/" + i if pkg else i) for i in ctx.attr.includes]
    own = cc_common.create_compilation_context(
        headers = depset(hdrs),
        includes = depset(incs),
        defines = depset(ctx.attr.defines),
    )
    cctx = cc_common.merge_compilation_contexts(compilation_contexts = [own, dep.compilation_context])
    objs = []
    for src in ctx.files.srcs:
        if src in hdrs:
            continue
        o = ctx.actions.declare_file("_objs/%s/%s.o" % (ctx.label.name, src.basename))
        a = ctx.actions.args()
        a.add_all(["-x", "cu", "-c", src, "-o", o, "-ccbin", cc.compiler_executable, "-Xcompiler=-fPIC"])
        a.add("-std=c++20") if not [c for c in ctx.attr.copts if "std=" in c] else None
        a.add_all({"opt": ["-O3"], "dbg": ["-g", "-O0"]}.get(ctx.var["COMPILATION_MODE"], []))
        a.add_all(_gencode(ctx.attr._archs[BuildSettingInfo].value))
        a.add_all([".", ctx.bin_dir.path], before_each = "-I")
        a.add_all(cctx.quote_includes, before_each = "-I")
        a.add_all(cctx.includes, before_each = "-I")
        a.add_all(cctx.system_includes, before_each = "-isystem")
        a.add_all(cctx.defines, format_each = "-D%s")
        a.add_all(ctx.attr.local_defines, format_each = "-D%s")
        a.add_all(ctx.attr._copts[BuildSettingInfo].value)
        a.add_all(ctx.attr.copts)
        a.add_all(ctx.attr.host_copts, format_each = "-Xcompiler=%s")
        ctx.actions.run(
            executable = tk.root + "/bin/nvcc",
            arguments = [a],
            inputs = depset([src, tk.stamp] + hdrs, transitive = [cctx.headers, cc.all_files]),
            outputs = [o],
            env = {"PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"},
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s with nvcc" % src.short_path,
        )
        objs.append(o)
    link, outs = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions, name = ctx.label.name, feature_configuration = feat, cc_toolchain = cc,
        compilation_outputs = cc_common.create_compilation_outputs(objects = depset(objs), pic_objects = depset(objs)),
        user_link_flags = ctx.attr.host_linkopts, alwayslink = ctx.attr.alwayslink,
        linking_contexts = [dep.linking_context], disallow_dynamic_library = True,
    )
    lib = outs.library_to_link
    files = [f for f in ([lib.static_library, lib.pic_static_library] if lib else []) if f]
    return [
        DefaultInfo(files = depset(files)),
        OutputGroupInfo(objects = depset(objs)),
        cc_common.merge_cc_infos(
            direct_cc_infos = [CcInfo(compilation_context = own, linking_context = link)],
            cc_infos = [CcInfo(compilation_context = dep.compilation_context)],
        ),
    ]

cuda_library = rule(
    implementation = _impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu", ".cc", ".cpp", ".h", ".hh", ".hpp", ".cuh", ".inl"]),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "copts": attr.string_list(), "host_copts": attr.string_list(), "host_linkopts": attr.string_list(),
        "defines": attr.string_list(), "local_defines": attr.string_list(), "includes": attr.string_list(),
        "alwayslink": attr.bool(default = False),
        "_toolkit": attr.label(default = "@cuda//:toolkit"),
        "_runtime": attr.label(default = "@cuda//:cuda_runtime_static"),
        "_archs": attr.label(default = "//cuda:archs"), "_copts": attr.label(default = "//cuda:copts"),
    },
    fragments = ["cpp"],
    toolchains = use_cc_toolchain(),
    provides = [CcInfo],
)
