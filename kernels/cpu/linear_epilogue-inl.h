// Runs what follows a linear layer's products, for the target being compiled.

#if defined(KERNELS_CPU_LINEAR_EPILOGUE_INL_H_) == defined(HWY_TARGET_TOGGLE)  // once per target
#ifdef KERNELS_CPU_LINEAR_EPILOGUE_INL_H_
#undef KERNELS_CPU_LINEAR_EPILOGUE_INL_H_
#else
#define KERNELS_CPU_LINEAR_EPILOGUE_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"
#include "kernels/cpu/linear_epilogue.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

template <class Function>
HWY_INLINE void FinishWith(const Epilogue& e, const Function& activate) {
  for (size_t r = 0; r < e.rows; ++r) {
    const float* z = e.z + r * e.ldz;
    const float* up = e.up == nullptr ? nullptr : e.up + r * e.ldz;
    const float* residual = e.residual == nullptr ? nullptr : e.residual + r * e.ldy;
    float* y = e.y + r * e.ldy;
    ForEachVector(e.columns, [&](size_t i, auto vector) HWY_ATTR {
      auto v = activate(FloatD(), vector.Load(z + i));
      if (up != nullptr) v = hn::Mul(v, vector.Load(up + i));
      if (residual != nullptr) v = hn::Add(v, vector.Load(residual + i));
      vector.Store(v, y + i);
    });
  }
}

HWY_INLINE void FinishLinear(const Epilogue& e) {
  switch (e.activation) {
    case Activation::kNone:
      return FinishWith(e, [](auto, auto v) HWY_ATTR { return v; });
    case Activation::kGelu:
      return FinishWith(e, [](auto d, auto v) HWY_ATTR { return Gelu(d, v); });
    case Activation::kGeluTanh:
      return FinishWith(e, [](auto d, auto v) HWY_ATTR { return GeluTanh(d, v); });
    case Activation::kSilu:
      return FinishWith(e, [](auto d, auto v) HWY_ATTR { return Silu(d, v); });
    case Activation::kRelu:
      return FinishWith(e, [](auto d, auto v) HWY_ATTR { return Relu(d, v); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
