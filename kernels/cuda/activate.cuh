// The activations of gemm.h, chosen when the kernel runs.
#ifndef KERNELS_CUDA_ACTIVATE_CUH_
#define KERNELS_CUDA_ACTIVATE_CUH_

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/gemm.h"

namespace flashflow::cuda {

__device__ __forceinline__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kGeluErf:
      return GeluErf(x);
    case Activation::kSilu:
      return Silu(x);
    default:
      return x;
  }
}

// The same to a few units in the last place of f32.
__device__ __forceinline__ float ActivateF32(Activation activation, float x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.7978845608f * fmaf(0.044715f * x, x * x, x)));
    case Activation::kGeluErf:
      return GeluErf(x);
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    default:
      return x;
  }
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ACTIVATE_CUH_
