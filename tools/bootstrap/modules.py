#!/usr/bin/env python3
"""modules.py PREFIX PROJECT_DIR: makes PREFIX/modules-KEY and PROJECT_DIR/user.bazelrc."""
import hashlib, json, os, re, shutil, sys, tempfile
P = os.path.abspath(sys.argv[1])
B = P + '/usr/share/bazel'
SHIM = os.path.dirname(os.path.abspath(__file__)) + '/shim'
key = hashlib.sha256(open(__file__, 'rb').read())
for d, _, fs in sorted(os.walk(SHIM)):
    for f in sorted(fs): key.update(f.encode() + open(d + '/' + f, 'rb').read())
FINAL = P + '/modules-' + key.hexdigest()[:12]       # never changed once made: servers may be using it
M = tempfile.mkdtemp(dir=P)
REG = M + '/registry'

def w(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'w').write(text)

paths = {}
def stub(name, files=None, mod=''):
    d = f'{M}/{name}'
    w(d + '/MODULE.bazel', f'module(name = "{name}")\n' + mod)
    for k, v in (files or {'BUILD.bazel': ''}).items():
        w(f'{d}/{k}', v)
    paths[name] = d

def overlay(name, src, module_text=None, files=None):
    d = f'{M}/{name}'
    shutil.copytree(src, d, symlinks=False)
    if module_text is not None: w(d + '/MODULE.bazel', module_text)
    for k, v in (files or {}).items(): w(f'{d}/{k}', v)
    paths[name] = d

# Debian's own
paths['platforms'] = B + '/tools/platforms'
paths['bazel_skylib'] = B + '/tools/skylib'
paths['bazel_features'] = B + '/tools/features'
overlay('rules_cc', B + '/rules/cc')
with open(paths['rules_cc'] + '/cc/compiler/BUILD', 'a') as f:   # abseil names it; newer than 0.0.11
    f.write('config_setting(\n    name = "emscripten",\n    flag_values = {"@bazel_tools//tools/cpp:compiler": "emscripten"},\n)\n')
overlay('rules_java', B + '/rules/java', '''module(name = "rules_java")
# Trimmed for a machine without Java builds: no toolchain is registered, so none of
# its forty toolchain repositories is made for a C++ or Python build.
bazel_dep(name = "platforms", version = "0.0.4")
bazel_dep(name = "rules_cc", version = "0.0.2")
bazel_dep(name = "bazel_features", version = "1.11.0")
bazel_dep(name = "bazel_skylib", version = "1.6.1")
bazel_dep(name = "rules_proto", version = "4.0.0")
bazel_dep(name = "rules_license", version = "0.0.3")
toolchains = use_extension("//java:extensions.bzl", "toolchains")
use_repo(toolchains, "remote_java_tools", "remote_java_tools_linux", "remote_java_tools_windows",
         "remote_java_tools_darwin_x86_64", "remote_java_tools_darwin_arm64", "local_jdk")
''')
paths['rules_proto'] = B + '/rules/proto'
paths['rules_license'] = B + '/rules/license'
paths['rules_shell'] = B + '/rules/shell'
paths['rules_python'] = B + '/rules/python'
paths['googletest'] = P + '/src/googletest'
paths['abseil-cpp'] = P + '/src/abseil'
paths['highway'] = P + '/src/highway'
paths['google_benchmark'] = P + '/src/benchmark'
overlay('nlohmann_json', P + '/src/nlohmann-json3', 'module(name = "nlohmann_json", version = "3.11.3")\n')  # its tarball has no MODULE.bazel
# resolved by bazel_tools or by the modules above, never loaded here
NO_REPO = """def _repo(ctx):
    ctx.file("BUILD.bazel", "")
_none = repository_rule(implementation = _repo)
def _impl(ctx):
    _none(name = "buildozer_binary")
buildozer_binary = module_extension(implementation = _impl)
"""
for n in ('rules_foreign_cc', 'libpfm'): stub(n)   # google_benchmark names them for --define pfm=1
stub('buildozer', {'BUILD.bazel': '', 'buildozer_binary.bzl': NO_REPO})
for n in ('rules_cuda', 'pybind11_bazel'):
    if n not in paths: overlay(n, SHIM + '/' + n)
shutil.copytree(SHIM + '/coverage_tools', M + '/coverage_tools')
stub('apple_support'); stub('re2'); stub('protobuf')
stub('zlib', {'BUILD.bazel': 'cc_library(name = "zlib", linkopts = ["-lz"], visibility = ["//visibility:public"])\n'})


DEP = re.compile(r'bazel_dep\(([^)]*)\)', re.S)
def deps(text, dev):
    for m in DEP.finditer(re.sub(r'(?m)#.*$', '', text)):
        a = dict(re.findall(r'(\w+)\s*=\s*"?([^",\s]+)"?', m.group(1)))
        if dev or a.get('dev_dependency') != 'True':
            yield a['name'], a.get('version', '')

project = os.path.abspath(sys.argv[2])
todo = list(deps(open(project + '/MODULE.bazel').read(), True)) + list(deps(open(B + '/embedded_tools/MODULE.bazel').read(), False))
reached, asked = [], {}
todo.append(('platforms', '0.0.7'))   # Bazel's built-in local_config_platform
while todo:
    n, v = todo.pop(0)
    if n not in paths: sys.exit(f'{n} {v}: no offline source for this module')
    asked.setdefault(n, set()).add(v)
    if n not in reached:
        reached.append(n)
        todo += deps(open(paths[n] + '/MODULE.bazel').read(), False)

head = ['# Written by modules.py: every module comes from this machine, none is downloaded.',
        'common --lockfile_mode=off', 'common --check_direct_dependencies=off',
        'common --repository_disable_download', 'common --noenable_workspace',
        f'common --override_repository=bazel_tools~remote_coverage_tools_extension~remote_coverage_tools={M}/coverage_tools']
w(REG + '/bazel_registry.json', '{}\n')
os.chmod(M, 0o755)
try: os.rename(M, FINAL)
except OSError: shutil.rmtree(M)                     # another run made it
text = '\n'.join(head + [f'common --registry=file://{REG}'] +
    [f'common --override_module={n}={paths[n]}' for n in sorted(reached)]) + '\n'
text = text.replace(M + '/', FINAL + '/')
rc = project + '/user.bazelrc'
if not os.path.exists(rc) or open(rc).read() != text:
    w(rc + '.new', text); os.replace(rc + '.new', rc)
print(len(reached), 'modules from this machine:', ' '.join(sorted(reached)), file=sys.stderr)
