#include <cstdint>

#include "kernels/cuda/gemm.h"

namespace flashflow::cuda {
namespace gemm_portable {

// Defined a type a file, gemm_portable_*.cu and gemm_f32.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kBf16>(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF16>(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF32>(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kS8>(const GemmArgs& args, cudaStream_t stream);

}  // namespace gemm_portable

namespace {

constexpr int kMostK = 131072;  // 2^17 products of at most 2^14 - 2^8 + 1 fit 32 bits with a sign

// Whether tiles of 128 x 128 would leave most multiprocessors idle: rows of `a` 64 at a time use more of them.
bool HasFewTiles(const GemmArgs& args) {
  constexpr int64_t kTile = 128, kMostTiles = 66, kMostRows = 256;
  return args.m <= kMostRows && (args.m + kTile - 1) / kTile * ((args.n + kTile - 1) / kTile) <= kMostTiles;
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t GemmPortable(const GemmArgs& args, cudaStream_t stream) {
  if (args.m < 1 || args.n < 1 || args.k < 1) return cudaErrorInvalidValue;
  if (args.a == nullptr || args.w == nullptr || args.d == nullptr) return cudaErrorInvalidValue;
  if (args.dtype == Dtype::kF32) return gemm_portable::LaunchElement<Dtype::kF32>(args, stream);
  const bool s8 = args.dtype == Dtype::kS8;
  if (s8 && (args.a_scale == nullptr || args.w_scale == nullptr)) return cudaErrorInvalidValue;
  const int step = s8 ? 16 : 8;
  if (args.k % step != 0 || args.lda % step != 0 || args.ldw % step != 0 || !Aligned(args.a) || !Aligned(args.w) ||
      (s8 && args.k > kMostK)) {
    return cudaErrorNotSupported;
  }
  switch (args.dtype) {
    case Dtype::kBf16:
      return gemm_portable::LaunchElement<Dtype::kBf16>(args, stream);
    case Dtype::kF16:
      return gemm_portable::LaunchElement<Dtype::kF16>(args, stream);
    default:
      return gemm_portable::LaunchElement<Dtype::kS8>(args, stream);
  }
}

cudaError_t Gemm(const GemmArgs& args, cudaStream_t stream) {
  // Hopper's kernels return cudaErrorNotSupported on other GPUs; each leaves to the next what it cannot take.
  cudaError_t result = cudaErrorNotSupported;
  if (args.m <= 64 || HasFewTiles(args)) result = GemmRowsSm90(args, {}, stream);
  if (result == cudaErrorNotSupported && args.m <= 64) result = GemmSkinny(args, stream);
  if (result == cudaErrorNotSupported) result = GemmSm90(args, {}, stream);
  return result == cudaErrorNotSupported ? GemmPortable(args, stream) : result;
}

}  // namespace flashflow::cuda
