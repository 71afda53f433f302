// Runs over fp32 arrays a vector at a time, for the target being compiled.

#if defined(KERNELS_CPU_VECTOR_LOOP_INL_H_) == defined(HWY_TARGET_TOGGLE)  // once per target
#ifdef KERNELS_CPU_VECTOR_LOOP_INL_H_
#undef KERNELS_CPU_VECTOR_LOOP_INL_H_
#else
#define KERNELS_CPU_VECTOR_LOOP_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatD = hn::ScalableTag<float>;
using FloatV = hn::Vec<FloatD>;

// How a loop's body reaches memory: all lanes of a vector, ...
struct WholeVector {
  HWY_INLINE size_t Count() const { return hn::Lanes(FloatD()); }
  HWY_INLINE FloatV Load(const float* p) const { return hn::LoadU(FloatD(), p); }
  HWY_INLINE void Store(FloatV v, float* p) const { hn::StoreU(v, FloatD(), p); }
  // v where the array has elements, `fallback` in the lanes beyond its end.
  HWY_INLINE FloatV Or(FloatV v, FloatV) const { return v; }
};

// ... or the `count` that are left at the end. Nothing beyond them is read or written.
struct LastVector {
  size_t count;
  HWY_INLINE size_t Count() const { return count; }
  HWY_INLINE FloatV Load(const float* p) const { return hn::LoadN(FloatD(), p, count); }
  HWY_INLINE void Store(FloatV v, float* p) const { hn::StoreN(v, FloatD(), p, count); }
  HWY_INLINE FloatV Or(FloatV v, FloatV fallback) const {
    return hn::IfThenElse(hn::FirstN(FloatD(), count), v, fallback);
  }
};

// Calls body(i, vector) for i = 0, lanes, 2 lanes, ... below count.
template <class Body>
HWY_INLINE void ForEachVector(size_t count, const Body& body) {
  const size_t lanes = hn::Lanes(FloatD());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, WholeVector());
  if (i < count) body(i, LastVector{count - i});
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
