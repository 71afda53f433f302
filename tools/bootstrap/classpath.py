"""Completes the class path of Debian's Bazel server: classpath.py UNPACKED_PREFIX FINAL_PREFIX VERSION.

Debian's list holds absolute paths and counts on the manifests of the jars it
names, which hold absolute paths again. Here every jar that is reached is listed,
below FINAL_PREFIX. Debian also leaves out the build label, without which the
server calls itself a development version and checks no bazel_compatibility.
"""

import os
import re
import sys
import zipfile
from pathlib import Path


def _named_by_manifest(jar: Path, path: str) -> list[str]:
    with zipfile.ZipFile(jar) as archive:
        try:
            manifest = archive.read("META-INF/MANIFEST.MF").decode("utf8", "replace")
        except KeyError:
            return []
    manifest = manifest.replace("\r\n", "\n").replace("\n ", "")
    entries = re.findall(r"(?m)^Class-Path: *(.*)$", manifest)
    paths = [re.sub("^file:(//)?", "", entry) for entry in " ".join(entries).split()]
    return [os.path.normpath(os.path.join(os.path.dirname(path), p)) for p in paths]


def main() -> None:
    unpacked, final, version = sys.argv[1:]
    listing = Path(unpacked + "/usr/share/bazel/bazel_classpath_debian_depends.txt")
    found: list[str] = []

    def add(path: str) -> None:
        jar = Path(unpacked + path)
        if path in found or not jar.exists():  # absent: optional parts of libraries
            return
        found.append(path)
        for named in _named_by_manifest(jar, path):
            add(named)

    for path in listing.read_text().split():
        add(path)
    label = Path(unpacked + "/etc/label")
    label.mkdir(parents=True)
    (label / "build-data.properties").write_text(f"build.label={version}\n")
    listing.write_text("".join(f"{final}{path}\n" for path in [*found, "/etc/label"]))


if __name__ == "__main__":
    main()
