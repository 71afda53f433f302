#!/usr/bin/env bash
# Builds the kernels without Bazel, for a machine that has an H100 or H200 but not this repository's tool chain:
#
#   kernels/cuda/build.sh OUT     from the repository's root; needs nvcc 13 on the PATH, not a GPU
#
# OUT/kernels_test                         checks every kernel; exits 77 where there is no such GPU
# OUT/libflashflow_kernels.so              the kernels behind the C functions of testing/c_api_*.cc
# cd OUT/bench && python3 -m tools.bench.kernels_suite --library ../libflashflow_kernels.so    times them (needs torch)
#
# Binaries are statically linked against the CUDA runtime: they can be copied to the machine with the GPU. There:
#   compute-sanitizer --tool memcheck OUT/kernels_test
set -euo pipefail
out=${1:?where to put the outputs}
mkdir -p "$out/objects"
flags=(-std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a -lineinfo -Xcompiler -fPIC -I.)

objects=() tests=() c_api=()
for source in kernels/cuda/*.{cu,cc} kernels/cuda/testing/*.{cu,cc}; do
  [[ $source == */device_info_test.cc ]] && continue  # needs googletest
  object=$out/objects/$(basename "$source").o
  # Rebuilt where any source is newer: the headers are few and the whole takes about a minute.
  if [[ ! -f $object || -n $(find kernels/cuda -name '*.*' -newer "$object" -print -quit) ]]; then
    echo "nvcc $source"
    nvcc "${flags[@]}" -c "$source" -o "$object"
  fi
  case $source in
    */testing/c_api_*.cc) c_api+=("$object") ;;
    */testing/*) tests+=("$object") ;;
    *) objects+=("$object") ;;
  esac
done
nvcc -shared -cudart static -o "$out/libflashflow_kernels.so" "${objects[@]}" "${c_api[@]}"
nvcc -cudart static -o "$out/kernels_test" "${objects[@]}" "${tests[@]}"
mkdir -p "$out/bench"
cp --parents kernels/bench/*.py tools/bench/kernel*.py compiler/analysis/data/*.json "$out/bench"
