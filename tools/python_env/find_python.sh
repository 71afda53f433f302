#!/bin/sh
# Prints the path of a python3 that can make the environment: FLASHFLOW_PYTHON
# where set, else the first fit one on PATH. Otherwise says in one sentence why not.
probe='
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.implementation.name != "cpython" or not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python " + version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("lacks venv or ensurepip")
'
refused=
for name in ${FLASHFLOW_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
  path=$(command -v "$name") || continue
  if why=$("$path" -I -c "$probe" 2>&1); then
    echo "$path"
    exit 0
  fi
  refused="$refused, $path $(echo "$why" | tail -n 1)"
done
found=${refused:+found ${refused#, }}
: "${found:=found no ${FLASHFLOW_PYTHON:-python3}}"
echo "FlashFlow needs CPython 3.10 to 3.13 with venv, pip and headers" \
  "(Debian, Ubuntu: apt-get install python3-venv python3-dev), on PATH or named in FLASHFLOW_PYTHON;" \
  "$found." >&2
exit 1
