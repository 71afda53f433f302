#include "kernels/cuda/paged_attention.cuh"

namespace flashflow::cuda::paged_attention {

template <>
cudaError_t LaunchTensorCores<__half>(Params& params, int head_dim, int64_t columns, int blocks, cudaStream_t stream) {
  switch (head_dim) {
    case 64:
      return LaunchHeadDim<__half, 64>(params, columns, blocks, stream);
    case 80:
      return LaunchHeadDim<__half, 80>(params, columns, blocks, stream);
    case 96:
      return LaunchHeadDim<__half, 96>(params, columns, blocks, stream);
    case 128:
      return LaunchHeadDim<__half, 128>(params, columns, blocks, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda::paged_attention
