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

// 1 / x to within 1 ulp; 0 for infinity.
__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x / (1 + 2^t) to within a few ulp: x times the logistic function of -t ln 2, with no cancellation at either end.
__device__ __forceinline__ float TimesLogistic2(float x, float t) { return x * Reciprocal(1.0f + Exp2(t)); }

__device__ __forceinline__ float GeluTanh(float x) {
  // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), u = sqrt(2 / pi) * (x + 0.044715 x^3).
  constexpr float kFirst = -2.0f * 0.7978845608f * kLog2E;
  constexpr float kThird = kFirst * 0.044715f;
  return TimesLogistic2(x, x * fmaf(kThird, x * x, kFirst));
}
__device__ __forceinline__ float GeluErf(float x) { return 0.5f * x * (1.0f + erff(x * 0.7071067812f)); }
__device__ __forceinline__ float Silu(float x) { return TimesLogistic2(x, -kLog2E * x); }

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_FAST_MATH_CUH_
