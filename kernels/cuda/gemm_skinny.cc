#include <cstdint>

#include "kernels/cuda/gemm.h"

namespace flashflow::cuda {
namespace gemm_skinny {

// Defined a type a file, gemm_skinny_*.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kBf16>(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF16>(const GemmArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kS8>(const GemmArgs& args, cudaStream_t stream);

}  // namespace gemm_skinny

namespace {

constexpr int kMostK = 131072;  // 2^17 products of at most 2^14 - 2^8 + 1 fit 32 bits with a sign

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t GemmSkinny(const GemmArgs& args, cudaStream_t stream) {
  if (args.m < 1 || args.n < 1 || args.k < 1) return cudaErrorInvalidValue;
  if (args.a == nullptr || args.w == nullptr || args.d == nullptr) return cudaErrorInvalidValue;
  if (args.dtype == Dtype::kF32) return cudaErrorNotSupported;
  const bool s8 = args.dtype == Dtype::kS8;
  if (s8 && (args.a_scale == nullptr || args.w_scale == nullptr)) return cudaErrorInvalidValue;
  const int step = s8 ? 16 : 8;
  if (args.m > 64 || args.k % step != 0 || args.lda % step != 0 || args.ldw % step != 0 || !Aligned(args.a) ||
      !Aligned(args.w) || (s8 && args.k > kMostK)) {
    return cudaErrorNotSupported;
  }
  switch (args.dtype) {
    case Dtype::kBf16:
      return gemm_skinny::LaunchElement<Dtype::kBf16>(args, stream);
    case Dtype::kF16:
      return gemm_skinny::LaunchElement<Dtype::kF16>(args, stream);
    default:
      return gemm_skinny::LaunchElement<Dtype::kS8>(args, stream);
  }
}

}  // namespace flashflow::cuda
