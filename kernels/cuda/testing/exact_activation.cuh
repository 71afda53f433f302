// The activations of a product's epilogue, in f64.
#ifndef KERNELS_CUDA_TESTING_EXACT_ACTIVATION_CUH_
#define KERNELS_CUDA_TESTING_EXACT_ACTIVATION_CUH_

#include "kernels/cuda/gemm.h"

namespace flashflow::cuda::testing {

__device__ inline double ActivateExactly(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    case Activation::kSilu:
      return x / (1 + exp(-x));
  }
  return 0;
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_EXACT_ACTIVATION_CUH_
