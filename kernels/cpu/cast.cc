#include "kernels/cpu/cast.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cast.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                   // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// In integers: instructions for it, where there are any, take subnormals for zero.
void F32ToBF16(const float* x, uint16_t* y, size_t count) {
  const hn::ScalableTag<uint32_t> d32;
  const hn::RebindToFloat<decltype(d32)> df;
  const hn::Rebind<uint16_t, decltype(d32)> d16;
  const auto half = hn::Set(d32, 0x7FFFu);  // just below half of the last place
  const auto one = hn::Set(d32, 1u);
  const auto quiet = hn::Set(d32, 0x00400000u);
  const size_t lanes = hn::Lanes(d32);
  const auto convert = [&](auto v) HWY_ATTR {
    const auto bits = hn::BitCast(d32, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), one);
    const auto rounded = hn::Add(bits, hn::Add(half, odd));
    const auto is_nan = hn::RebindMask(d32, hn::IsNaN(v));
    return hn::TruncateTo(d16, hn::ShiftRight<16>(hn::IfThenElse(is_nan, hn::Or(bits, quiet), rounded)));
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(convert(hn::LoadU(df, x + i)), d16, y + i);
  if (i < count) hn::StoreN(convert(hn::LoadN(df, x + i, count - i)), d16, y + i, count - i);
}

void BF16ToF32(const uint16_t* x, float* y, size_t count) {
  const hn::ScalableTag<uint32_t> d32;
  const hn::RebindToFloat<decltype(d32)> df;
  const hn::Rebind<uint16_t, decltype(d32)> d16;
  const size_t lanes = hn::Lanes(d32);
  const auto convert = [&](auto v) HWY_ATTR { return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(d32, v))); };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(convert(hn::LoadU(d16, x + i)), df, y + i);
  if (i < count) hn::StoreN(convert(hn::LoadN(d16, x + i, count - i)), df, y + i, count - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(F32ToBF16);
HWY_EXPORT(BF16ToF32);

constexpr int64_t kGrain = 16384;  // elements, about ten microseconds of the slower conversions

// A bool in memory: any byte but 0 is true.
struct Bool {
  uint8_t byte;
};

// The value as a float or an integer, exactly.
float Widen(hwy::float16_t v) { return hwy::F32FromF16(v); }
float Widen(hwy::bfloat16_t v) { return hwy::F32FromBF16(v); }
int8_t Widen(Bool v) { return v.byte != 0; }
template <typename T>
T Widen(T v) {
  return v;
}

// An integer rounded to odd: rounding that to a float of at most 22 bits gives what rounding v would.
float RoundToOdd(int64_t v) {
  uint64_t magnitude = v < 0 ? -static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
  const int dropped = std::bit_width(magnitude) - std::numeric_limits<float>::digits;
  if (dropped > 0) {
    const uint64_t rest = magnitude & ((uint64_t{1} << dropped) - 1);
    magnitude = (magnitude >> dropped | (rest != 0)) << dropped;
  }
  const auto rounded = static_cast<float>(magnitude);  // exact
  return v < 0 ? -rounded : rounded;
}

// What narrowing once more rounds as v itself.
template <typename From>
float ForNarrowing(From v) {
  if constexpr (std::is_integral_v<From>) {
    return RoundToOdd(v);
  } else {
    return v;
  }
}

template <typename To, typename From>
To Convert(From v) {
  if constexpr (std::is_same_v<To, Bool>) {
    return Bool{static_cast<uint8_t>(v != 0)};
  } else if constexpr (std::is_same_v<To, hwy::float16_t>) {
    return hwy::F16FromF32(ForNarrowing(v));
  } else if constexpr (std::is_same_v<To, hwy::bfloat16_t>) {
    return hwy::BF16FromF32(ForNarrowing(v));
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (std::isnan(v)) return 0;
    // Both ends are exact as floats: -2^(n-1), and 2^(n-1), which is one too many.
    constexpr float kEnd = -static_cast<float>(std::numeric_limits<To>::min());
    if (v >= kEnd) return std::numeric_limits<To>::max();
    if (v < -kEnd) return std::numeric_limits<To>::min();
    return static_cast<To>(v);
  } else {
    return static_cast<To>(v);
  }
}

template <typename From, typename To>
void CastRange(const From* x, To* y, int64_t count) {
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, hwy::bfloat16_t>) {
    HWY_DYNAMIC_DISPATCH(F32ToBF16)(x, reinterpret_cast<uint16_t*>(y), static_cast<size_t>(count));
  } else if constexpr (std::is_same_v<From, hwy::bfloat16_t> && std::is_same_v<To, float>) {
    HWY_DYNAMIC_DISPATCH(BF16ToF32)(reinterpret_cast<const uint16_t*>(x), y, static_cast<size_t>(count));
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = Convert<To>(Widen(x[i]));
  }
}

// Calls visit(static_cast<T*>(nullptr)) with the C++ type of `dtype`.
template <typename Visit>
void VisitType(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::kF32:
      return visit(static_cast<float*>(nullptr));
    case DType::kF16:
      return visit(static_cast<hwy::float16_t*>(nullptr));
    case DType::kBF16:
      return visit(static_cast<hwy::bfloat16_t*>(nullptr));
    case DType::kI8:
      return visit(static_cast<int8_t*>(nullptr));
    case DType::kI32:
      return visit(static_cast<int32_t*>(nullptr));
    case DType::kI64:
      return visit(static_cast<int64_t*>(nullptr));
    case DType::kBool:
      return visit(static_cast<Bool*>(nullptr));
  }
}

}  // namespace

void Cast(const void* x, DType from, void* y, DType to, int64_t count, ThreadPool* pool) {
  VisitType(from, [&]<typename From>(From*) {
    VisitType(to, [&]<typename To>(To*) {
      pool->ParallelFor(count, kGrain, [&](int64_t begin, int64_t end) {
        CastRange(static_cast<const From*>(x) + begin, static_cast<To*>(y) + begin, end - begin);
      });
    });
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
