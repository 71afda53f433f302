#include "kernels/cuda/norm.h"

#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/norm_plain.h"

namespace flashflow::cuda {
namespace norm {

// Defined a type a file, norm_*.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const NormArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kBf16>(const NormArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF16>(const NormArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF32>(const NormArgs& args, cudaStream_t stream);

}  // namespace norm

namespace {

bool Aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

cudaError_t Norm(const NormArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || (args.y == nullptr && args.codes == nullptr) ||
      (args.codes != nullptr) != (args.scale != nullptr) || args.ld < args.columns ||
      (args.rms && args.beta != nullptr) || !(args.clip > 0) ||
      (args.codes != nullptr && args.ld_codes < args.columns)) {
    return cudaErrorInvalidValue;
  }
  bool whole = args.columns <= 32768 && args.columns % 8 == 0 && args.ld % 8 == 0 && args.ld_codes % 8 == 0 &&
               Aligned(args.codes, 8);
  for (const void* pointer :
       {args.x, args.residual, static_cast<const void*>(args.sum), static_cast<const void*>(args.gamma),
        static_cast<const void*>(args.beta), static_cast<const void*>(args.y)}) {
    whole = whole && Aligned(pointer, 16);
  }
  if (!whole || args.gamma == nullptr) return NormPlain(args, stream);
  switch (args.dtype) {
    case Dtype::kBf16:
      return norm::LaunchElement<Dtype::kBf16>(args, stream);
    case Dtype::kF16:
      return norm::LaunchElement<Dtype::kF16>(args, stream);
    case Dtype::kF32:
      return norm::LaunchElement<Dtype::kF32>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
