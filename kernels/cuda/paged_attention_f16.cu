#include "kernels/cuda/paged_attention.cuh"

namespace flashflow::cuda::paged_attention {

template <>
cudaError_t LaunchTensorCores<__half>(Params& params, int head_dim, int64_t columns, bool cluster,
                                      cudaStream_t stream) {
  switch (head_dim) {
    case 64:
      return LaunchHeadDim<__half, 64>(params, columns, cluster, stream);
    case 80:
      return LaunchHeadDim<__half, 80>(params, columns, cluster, stream);
    case 96:
      return LaunchHeadDim<__half, 96>(params, columns, cluster, stream);
    case 128:
      return LaunchHeadDim<__half, 128>(params, columns, cluster, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda::paged_attention
