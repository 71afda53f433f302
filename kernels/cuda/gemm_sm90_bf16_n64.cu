// The Hopper GEMM of bf16 with tiles of 128 x 64.
#include "kernels/cuda/gemm_sm90.cuh"

namespace flashflow::cuda::gemm_sm90 {

template <>
cudaError_t LaunchTile<Dtype::kBf16, 64>(const GemmArgs& args, int sms, cudaStream_t stream) {
  return LaunchTileOf<__nv_bfloat16, 64>(args, sms, stream);
}

}  // namespace flashflow::cuda::gemm_sm90
