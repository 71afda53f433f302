// Single hardware instructions for the transcendental parts of kernels whose results are rounded to bf16.
#ifndef KERNELS_CUDA_FAST_MATH_CUH_
#define KERNELS_CUDA_FAST_MATH_CUH_

namespace flashflow::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

// 2^x to within 2 ulp; results below the least normal float are zero.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x / (1 + e^-y) to within a few ulp; no cancellation at either end.
__device__ __forceinline__ float TimesSigmoid(float x, float y) { return __fdividef(x, 1.0f + Exp2(-kLog2E * y)); }

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_FAST_MATH_CUH_
