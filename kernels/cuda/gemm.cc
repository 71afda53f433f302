#include "kernels/cuda/gemm.h"

#include <cstdint>

namespace flashflow::cuda {
namespace {

// Whether tiles of 128 x 128 would leave most multiprocessors idle: rows of `a` 64 at a time use more of them.
bool HasFewTiles(const GemmArgs& args) {
  constexpr int64_t kTile = 128, kMostTiles = 66, kMostRows = 256;
  return args.m <= kMostRows && (args.m + kTile - 1) / kTile * ((args.n + kTile - 1) / kTile) <= kMostTiles;
}

}  // namespace

cudaError_t Gemm(const GemmArgs& args, cudaStream_t stream) {
  // Hopper's kernels return cudaErrorNotSupported on other GPUs; each leaves to the next what it cannot take.
  cudaError_t result = cudaErrorNotSupported;
  if (args.m <= 64 || HasFewTiles(args)) result = GemmRowsSm90(args, {}, stream);
  if (result == cudaErrorNotSupported && args.m <= 64) result = GemmSkinny(args, stream);
  if (result == cudaErrorNotSupported) result = GemmSm90(args, {}, stream);
  return result == cudaErrorNotSupported ? GemmPortable(args, stream) : result;
}

}  // namespace flashflow::cuda
