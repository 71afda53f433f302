"""@pypi: one virtual environment, made by the machine's python3 and pip from requirements_lock.txt.

The Python toolchain's interpreter is the environment's own python, so imports
resolve as they do outside Bazel. Each @pypi//<package> is a py_library that
carries the package's RECORD file only: a test's cache key follows what the test
uses, and the sandbox does not link ten thousand files to start it.
"""

load(":pip.bzl", "PIP_ENVIRONMENT", "find_python")

_LIST = """
import importlib.metadata, json, os, re, sys, sysconfig
normalize = lambda name: re.sub(r"[-_.]+", "_", name).lower()
paths = sysconfig.get_paths()
dists = {}
for dist in importlib.metadata.distributions(path=[paths["purelib"]]):
    requires = {normalize(re.match(r"[A-Za-z0-9._-]+", r).group(0)) for r in dist.requires or [] if "extra ==" not in r}
    dists[normalize(dist.metadata["Name"])] = {
        "record": os.path.relpath(str(dist._path), os.getcwd()) + "/RECORD",
        "version": dist.version,
        "requires": sorted(requires),
    }
print(json.dumps({
    "site": os.path.relpath(paths["purelib"]),
    "include": paths["include"],
    "python_version": "%d.%d" % sys.version_info[:2],
    "has_headers": os.path.exists(paths["include"] + "/Python.h"),
    "dists": dists,
}))
"""

_BUILD = """load("@rules_cc//cc:defs.bzl", "cc_library")
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pair",
    py3_runtime = ":runtime",
)

cc_library(
    name = "python_headers",
    hdrs = glob(["include/**/*.h"], allow_empty = True),
    includes = ["include"],
)

exports_files(["fingerprint.txt"] + {records})
"""

# Toolchains that rules_python has had since 1.0 and would otherwise fill by downloading a Python.
_NEWER_BUILD = """
load("@rules_python//python:py_exec_tools_toolchain.bzl", "py_exec_tools_toolchain")
load("@rules_python//python/cc:py_cc_toolchain.bzl", "py_cc_toolchain")

py_exec_tools_toolchain(name = "exec_tools")

cc_library(name = "no_libs")

py_cc_toolchain(
    name = "cc",
    headers = ":python_headers",
    libs = ":no_libs",
    python_version = "{version}",
)
"""

_TOOLCHAIN = """toolchain(
    name = "{target}_toolchain",
    toolchain = "@@{env}//:{target}",
    toolchain_type = "{type}",
    visibility = ["//visibility:public"],
)
"""

def _has_newer_toolchains(rctx):
    rules_python = rctx.path(Label("@rules_python//:MODULE.bazel")).dirname
    return rules_python.get_child("python").get_child("py_exec_tools_toolchain.bzl").exists

_PACKAGE = """load("@rules_python//python:defs.bzl", "py_library")

py_library(
    name = "{name}",
    data = ["//:{record}"],
    visibility = ["//visibility:public"],
    deps = {deps},
)
"""

def _pip(rctx, what, args):
    command = ["venv/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]
    result = rctx.execute(command + args, timeout = 3600)
    if result.return_code:
        fail("pip could not install %s: %s" % (what, result.stderr.strip()[-2000:]))

def _impl(rctx):
    python = find_python(rctx)
    lock = rctx.read(rctx.attr.requirements_lock, watch = "yes")
    shared, _, rest = lock.partition("# [cpu]\n")
    cpu, _, cuda = rest.partition("# [cuda]\n")
    if not cuda:
        fail("%s lacks its parts [cpu] and [cuda]: write it with tools/python_env/lock.sh" % rctx.attr.requirements_lock)
    cpu = cpu.strip()
    made = rctx.execute([python, "-m", "venv", "venv"], timeout = 600)
    if made.return_code:
        fail("%s -m venv failed (Debian, Ubuntu: apt-get install python3-venv): %s" % (python, made.stderr.strip()[-1000:]))

    build = rctx.getenv("FLASHFLOW_TORCH") or "auto"
    if build not in ["auto", "cpu", "cuda"]:
        fail("FLASHFLOW_TORCH is '%s': expected auto, cpu or cuda" % build)
    if build == "auto":  # the small CPU build where pip can find it, else the index's default build
        found = rctx.execute(["venv/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "--dry-run", "--no-deps", cpu], timeout = 600)
        build = "cuda" if found.return_code else "cpu"

    rctx.report_progress("installing Python packages (torch: %s build)" % build)
    rctx.file("lock.txt", shared + (cuda if build == "cuda" else ""))
    _pip(rctx, "the locked packages", ["--no-deps", "--require-hashes", "-r", "lock.txt"])
    if build == "cpu":
        _pip(rctx, cpu + " (it comes from PyTorch's own index: name that in PIP_EXTRA_INDEX_URL, or a folder with the wheel in PIP_FIND_LINKS)", ["--no-deps", cpu])

    # The sandbox is read-only: without this every process would compile every module anew.
    rctx.report_progress("compiling Python packages")
    rctx.execute(["venv/bin/python", "-m", "compileall", "-qq", "-j", "0", "venv/lib"], timeout = 3600)

    listed = rctx.execute(["venv/bin/python", "-I", "-c", _LIST])
    if listed.return_code:
        fail("cannot list the environment's packages: " + listed.stderr)
    env = json.decode(listed.stdout)
    if env["has_headers"]:
        rctx.symlink(env["include"], "include")
    dists = env["dists"]
    rctx.file("fingerprint.txt", "".join(["%s==%s\n" % (n, d["version"]) for n, d in sorted(dists.items())]))
    build = _BUILD.format(
        python = str(rctx.path("venv/bin/python")),
        records = repr([d["record"] for d in dists.values()]),
    )
    if _has_newer_toolchains(rctx):
        build += _NEWER_BUILD.format(version = env["python_version"])
    rctx.file("BUILD.bazel", build)
    for name, dist in dists.items():
        deps = ["//" + r for r in dist["requires"] if r in dists]
        rctx.file(name + "/BUILD.bazel", _PACKAGE.format(name = name, record = dist["record"], deps = repr(deps)))

_python_env = repository_rule(
    implementation = _impl,
    attrs = {"requirements_lock": attr.label(mandatory = True)},
    environ = PIP_ENVIRONMENT + ["FLASHFLOW_TORCH"],
)

def _toolchain_impl(rctx):
    types = {"pair": "@bazel_tools//tools/python:toolchain_type"}
    if _has_newer_toolchains(rctx):
        types["cc"] = "@rules_python//python/cc:toolchain_type"
        types["exec_tools"] = "@rules_python//python:exec_tools_toolchain_type"
    env = rctx.attr.env.workspace_name
    rctx.file("BUILD.bazel", "\n".join([
        _TOOLCHAIN.format(env = env, target = target, type = type)
        for target, type in types.items()
    ]))

# A repository of its own: every C++ build loads every registered toolchain's
# declaration, and must not make the environment for it.
_toolchain_repo = repository_rule(implementation = _toolchain_impl, attrs = {"env": attr.label()})

def _extension_impl(mctx):
    for module in mctx.modules:
        for tag in module.tags.lock:
            _python_env(name = tag.name, requirements_lock = tag.file)
            _toolchain_repo(name = tag.name + "_toolchain", env = "@%s//:BUILD.bazel" % tag.name)

python_env = module_extension(
    implementation = _extension_impl,
    tag_classes = {"lock": tag_class(attrs = {
        "name": attr.string(mandatory = True),
        "file": attr.label(mandatory = True),
    })},
)
