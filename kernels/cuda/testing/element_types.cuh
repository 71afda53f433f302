// What tests over several element types share.
#ifndef KERNELS_CUDA_TESTING_ELEMENT_TYPES_CUH_
#define KERNELS_CUDA_TESTING_ELEMENT_TYPES_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda::testing {

using Bf16 = __nv_bfloat16;

template <class T>
constexpr Dtype kDtype = std::is_same_v<T, Bf16>     ? Dtype::kBf16
                         : std::is_same_v<T, __half> ? Dtype::kF16
                                                     : Dtype::kF32;

// A bound on the relative error of rounding to T.
template <class T>
constexpr double kHalfUnit = std::is_same_v<T, Bf16>     ? 0x1p-8
                             : std::is_same_v<T, __half> ? 0x1p-11
                                                         : 0x1p-24;

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_ELEMENT_TYPES_CUH_
