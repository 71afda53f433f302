#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_checks.h"

namespace flashflow::cuda {
namespace gemm_portable {

// Defined a type a file, gemm_portable_*.cu and gemm_f32.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);
#define FF_DECLARE(DTYPE) \
  template <>             \
  cudaError_t LaunchElement<DTYPE>(const GemmArgs& args, cudaStream_t stream);
FF_DECLARE(Dtype::kBf16)
FF_DECLARE(Dtype::kF16)
FF_DECLARE(Dtype::kF32)
FF_DECLARE(Dtype::kS8)
#undef FF_DECLARE

}  // namespace gemm_portable

cudaError_t GemmPortable(const GemmArgs& args, cudaStream_t stream) {
  if (cudaError_t error = CheckOperands(args)) return error;
  if (args.dtype == Dtype::kF32) return gemm_portable::LaunchElement<Dtype::kF32>(args, stream);
  if (!FitsTensorCores(args)) return cudaErrorNotSupported;
  switch (args.dtype) {
    case Dtype::kBf16:
      return gemm_portable::LaunchElement<Dtype::kBf16>(args, stream);
    case Dtype::kF16:
      return gemm_portable::LaunchElement<Dtype::kF16>(args, stream);
    default:
      return gemm_portable::LaunchElement<Dtype::kS8>(args, stream);
  }
}

}  // namespace flashflow::cuda
