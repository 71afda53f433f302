#include "kernels/cpu/quantize.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantize.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                       // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatD = hn::ScalableTag<float>;
using IntD = hn::RebindToSigned<FloatD>;
using CodeD = hn::Rebind<int8_t, FloatD>;

// The largest |x| as bits: the bits of finite floats are in the order of their sizes, and those of infinities and NaNs
// lie above.
HWY_INLINE uint32_t MostBits(const float* x, size_t count) {
  const FloatD d;
  const IntD di;
  const size_t lanes = hn::Lanes(d);
  auto most = hn::Zero(di);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) most = hn::Max(most, hn::BitCast(di, hn::Abs(hn::LoadU(d, x + i))));
  if (i < count) most = hn::Max(most, hn::BitCast(di, hn::Abs(hn::LoadN(d, x + i, count - i))));
  return static_cast<uint32_t>(hn::ReduceMax(di, most));
}

// Codes of one row, each with the bits of `flip` turned over; returns its scale.
HWY_INLINE float CodeElements(const float* x, size_t count, float clip, uint8_t flip, uint8_t* codes) {
  constexpr uint32_t kInfinity = 0x7F800000;
  constexpr float kMostCode = 127;
  constexpr float kLeastScaled = 0x1p-100f;
  const uint32_t most = MostBits(x, count);
  const float a = std::min(std::bit_cast<float>(most), clip);
  if (most >= kInfinity || a < kLeastScaled) {
    std::memset(codes, flip, count);
    return most >= kInfinity ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
  }
  const FloatD d;
  const CodeD dc;
  const auto scale = hn::Set(d, kMostCode / a);
  const auto limit = hn::Set(d, kMostCode);
  const auto flips = hn::Set(dc, static_cast<int8_t>(flip));
  const auto code = [&](auto v) HWY_ATTR {
    const auto scaled = hn::Mul(v, scale);
    const auto clamped = hn::Max(hn::Min(scaled, limit), hn::Neg(limit));
    return hn::Xor(hn::DemoteTo(dc, hn::NearestInt(clamped)), flips);
  };
  auto* to = reinterpret_cast<int8_t*>(codes);
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(code(hn::LoadU(d, x + i)), dc, to + i);
  if (i < count) hn::StoreN(code(hn::LoadN(d, x + i, count - i)), dc, to + i, count - i);
  return a / kMostCode;
}

float CodeRow(const float* x, size_t count, float clip, uint8_t flip, uint8_t* codes) {
  return CodeElements(x, count, clip, flip, codes);
}

void CodeGroups(const float* x, size_t k, uint8_t* row) {
  const hn::FixedTag<uint8_t, 16> d;
  const auto even_first = hn::Dup128VecFromValues(d, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  for (size_t i = 0; i < k; i += kInt4XGroup, row += kInt4XGroupBytes) {
    const float scale = CodeElements(x + i, kInt4XGroup, std::numeric_limits<float>::infinity(), /*flip=*/0, row);
    int sum = 0;
    for (size_t j = 0; j < kInt4XGroup; ++j) sum += static_cast<int8_t>(row[j]);
    for (size_t j = 0; j < kInt4XGroup; j += 16) {
      hn::StoreU(hn::TableLookupBytes(hn::LoadU(d, row + j), even_first), d, row + j);
    }
    const float after[] = {scale, static_cast<float>(sum)};
    std::memcpy(row + kInt4XGroup, after, sizeof(after));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(CodeRow);
HWY_EXPORT(CodeGroups);

constexpr int64_t kGrain = 16384;  // elements, about five microseconds

}  // namespace

float QuantizeRow(const float* x, int64_t k, float clip, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(CodeRow)(x, static_cast<size_t>(k), clip, /*flip=*/0, reinterpret_cast<uint8_t*>(codes));
}

void QuantizeRows(const float* x, int64_t rows, int64_t k, float clip, int8_t* codes, float* scales, ThreadPool* pool) {
  const auto quantize = HWY_DYNAMIC_POINTER(CodeRow);
  pool->ParallelFor(rows, kGrain / std::max<int64_t>(k, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      scales[r] =
          quantize(x + r * k, static_cast<size_t>(k), clip, /*flip=*/0, reinterpret_cast<uint8_t*>(codes + r * k));
    }
  });
}

// A multiple of 64 and then some: rows a power of two apart would share the same few sets of the cache.
int64_t Int8RowBytes(int64_t k) { return (k + 63) / 64 * 64 + 64; }

void QuantizeLinearRows(const float* x, int64_t rows, int64_t k, float clip, uint8_t* codes, float* scales,
                        ThreadPool* pool) {
  constexpr uint8_t kOffset = 128;
  const auto quantize = HWY_DYNAMIC_POINTER(CodeRow);
  const int64_t row_bytes = Int8RowBytes(k);
  pool->ParallelFor(rows, kGrain / std::max<int64_t>(k, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint8_t* row = codes + r * row_bytes;
      scales[r] = quantize(x + r * k, static_cast<size_t>(k), clip, /*flip=*/kOffset, row);
      std::memset(row + k, kOffset, static_cast<size_t>(row_bytes - k));
    }
  });
}

void QuantizeInt4Rows(const float* x, int64_t rows, int64_t k, uint8_t* codes, ThreadPool* pool) {
  const auto quantize = HWY_DYNAMIC_POINTER(CodeGroups);
  pool->ParallelFor(rows, kGrain / std::max<int64_t>(k, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) quantize(x + r * k, static_cast<size_t>(k), codes + r * Int4RowBytes(k));
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
