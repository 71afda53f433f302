// Elementary functions of fp32 vectors on all inputs, infinities and NaN included, for the target being compiled.

#if defined(KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)  // once per target
#ifdef KERNELS_CPU_MATH_INL_H_
#undef KERNELS_CPU_MATH_INL_H_
#else
#define KERNELS_CPU_MATH_INL_H_
#endif

#include <cmath>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// exp(x), at most 1.5 ulp off. Highway's is not defined past the range and loses NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpAll(D d, V x) {
  const V largest = hn::Set(d, 88.72283f);  // ln of the largest float
  const V y = hn::Exp(d, hn::Min(x, largest));
  return hn::IfThenElse(hn::Gt(x, largest), hn::Inf(d), hn::IfThenElse(hn::IsNaN(x), x, y));
}

// 1 / (1 + exp(-x)), by exp(-|x|) so that both tails keep their relative precision: at most 3 ulp off.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = ExpAll(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

// The distribution function of the standard normal, to a relative error in both tails: erfc(|x| / sqrt 2) / 2 =
// exp(-x^2 / 2) * erfcx(|x| / sqrt 2) / 2 on the left, one minus that on the right. erfcx(z) is t P(t) with
// t = 1 / (1 + 0.3 z); P was fitted to a relative error of 1.8e-9 for z < 14.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V NormalCdf(D d, V x) {
  constexpr float kP[] = {0.16926809f, 0.1689627f,  0.16502875f, 0.12381225f,  0.22137412f, -0.18071951f,
                          0.6192424f,  -0.6857432f, 0.6449731f,  -0.29585788f, 0.049659166f};
  const V one = hn::Set(d, 1.0f);
  const V half = hn::Set(d, 0.5f);
  const V z = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f));
  const V t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.3f), z, one));
  V p = hn::Set(d, kP[10]);
  HWY_UNROLL(10)
  for (int i = 9; i >= 0; --i) p = hn::MulAdd(p, t, hn::Set(d, kP[i]));
  // The square's rounding error, times |x|'s size, would show in the tail: exp(-h - l) = exp(-h) (1 - l).
  const V half_x = hn::Mul(half, x);
  const V h = hn::Mul(half_x, x);
  const V l = hn::MulSub(half_x, x, h);
  const V e = ExpAll(d, hn::Neg(h));
  const V tail = hn::Mul(hn::Mul(half, hn::Mul(t, p)), hn::NegMulAdd(e, l, e));
  // Beyond where the tail is zero, l may be NaN (infinite x).
  const V left = hn::IfThenElseZero(hn::Lt(h, hn::Set(d, 104.0f)), tail);
  const V cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), left, hn::Sub(one, left));
  return hn::IfThenElse(hn::IsNaN(x), x, cdf);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Relu(D d, V x) {  // keeps NaN
  return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Silu(D d, V x) {
  return hn::Mul(x, Sigmoid(d, x));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Gelu(D d, V x) {
  return hn::Mul(x, NormalCdf(d, x));
}

// (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for negative u.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanh(D d, V x) {
  const V cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715f), hn::Mul(x, x)), x, x);
  return hn::Mul(x, Sigmoid(d, hn::Mul(hn::Set(d, 1.5957691216f), cubic)));  // 2 sqrt(2 / pi)
}

// `approximation` in the lanes where |x| is at most `limit`, function(x) in the others.
template <class D, class V = hn::Vec<D>, class Function>
HWY_INLINE V OrScalarBeyond(D d, float limit, V x, V approximation, const Function& function) {
  const auto inside = hn::Le(hn::Abs(x), hn::Set(d, limit));
  if (HWY_LIKELY(hn::AllTrue(d, inside))) return approximation;
  HWY_ALIGN float lanes[hn::MaxLanes(D())];
  hn::Store(x, d, lanes);
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = function(lanes[i]);
  return hn::IfThenElse(inside, approximation, hn::Load(d, lanes));
}

// Beyond which Highway's argument reduction is not defined.
constexpr float kLargestAngle = 39000.0f;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V SinAll(D d, V x) {
  return OrScalarBeyond(d, kLargestAngle, x, hn::Sin(d, x), [](float v) { return std::sin(v); });
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V CosAll(D d, V x) {
  return OrScalarBeyond(d, kLargestAngle, x, hn::Cos(d, x), [](float v) { return std::cos(v); });
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
