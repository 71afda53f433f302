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

constexpr int64_t kSmallBytes = 8 << 20;  // of a weight, up to which the start outweighs the streaming

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
  const bool small = int64_t{args.n} * args.k * ElementBytes(args.dtype) <= kSmallBytes;
  if (args.m <= 8 && small) result = GemmSkinny(args, stream);
  if (result == cudaErrorNotSupported && args.m <= 64) result = GemmRowsSm90(args, {}, stream);
  if (result == cudaErrorNotSupported && args.m <= 64) result = GemmSkinny(args, stream);
  if (result == cudaErrorNotSupported) result = GemmSm90(args, {}, stream);
  return result == cudaErrorNotSupported ? GemmPortable(args, stream) : result;
}

}  // namespace flashflow::cuda
