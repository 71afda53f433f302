// LayerNorm and RMSNorm over rows of any width.
#ifndef KERNELS_CUDA_NORM_PLAIN_H_
#define KERNELS_CUDA_NORM_PLAIN_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/norm.h"

namespace flashflow::cuda {

// As Norm, for any number of columns at any alignment of elements: what Norm falls back to. A block a row, which it
// reads three times.
//
// Supports (else cudaErrorNotSupported): dtype kBf16, kF16 and kF32; no codes. Launches on `stream`; allocates nothing
// and does not wait.
cudaError_t NormPlain(const NormArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_NORM_PLAIN_H_
