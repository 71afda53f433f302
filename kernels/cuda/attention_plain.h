// Attention in f32 arithmetic for what the tensor-core kernels do not take: f32 itself (never TF32), any page size,
// other head_dims.
#ifndef KERNELS_CUDA_ATTENTION_PLAIN_H_
#define KERNELS_CUDA_ATTENTION_PLAIN_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention_params.cuh"
#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// Precondition: params are valid; head_dim is a multiple of 8 up to 256, pointers are 16-byte aligned, strides a
// multiple of 16 bytes. A query's bits depend on it and on the keys that it sees, not on what is beside it.
cudaError_t LaunchPlainAttention(const AttentionParams& params, Dtype dtype, bool paged, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ATTENTION_PLAIN_H_
