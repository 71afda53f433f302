#include "kernels/cpu/linear_int4.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/quantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_int4.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                          // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

#ifndef KERNELS_CPU_LINEAR_INT4_ONCE_
#define KERNELS_CPU_LINEAR_INT4_ONCE_
namespace flashflow::cpu {
namespace {

constexpr size_t kPanel = 16;                        // columns of a panel
constexpr size_t kLines = 4;                         // of a group of a panel: 8 codes of each column
constexpr size_t kLine = kPanel * 4;                 // bytes
constexpr size_t kGroupBytes = kLines * kLine;       // of a panel
constexpr size_t kRanges = 2 * kPanel;               // of a group of a panel: its scales and then its least values
constexpr size_t kLineCodes = kInt4XGroup / kLines;  // of a row of x

struct Tile {
  const uint8_t* HWY_RESTRICT x;  // rows ldx apart
  size_t ldx;
  const uint8_t* HWY_RESTRICT weight;
  const hwy::float16_t* HWY_RESTRICT ranges;
  size_t groups;
  size_t prefetch;
  const float* HWY_RESTRICT bias;  // [columns], or nullptr
  float* HWY_RESTRICT z;           // rows ldz apart
  size_t ldz;
  size_t columns;
};

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_LINEAR_INT4_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatD = hn::CappedTag<float, kPanel>;
using FloatV = hn::Vec<FloatD>;
using IntD = hn::RebindToSigned<FloatD>;
using ByteD = hn::Repartition<uint8_t, FloatD>;
using ByteV = hn::Vec<ByteD>;
constexpr size_t kPanelLanes = hn::MaxLanes(FloatD());
constexpr size_t kPanelVecs = kPanel / kPanelLanes;

// As many sums, of integers and of floats, as the registers hold beside what codes are unpacked with.
#if HWY_TARGET <= HWY_AVX3
constexpr size_t kTileRows = 8;
#elif HWY_TARGET == HWY_AVX2 || HWY_ARCH_ARM_A64
constexpr size_t kTileRows = 2;
#else
constexpr size_t kTileRows = 1;
#endif

// Sums of a group's products, columns in the lanes.
#if HWY_TARGET <= HWY_AVX3_DL  // four products and their sum in one instruction
using SumD = IntD;
using SumV = hn::Vec<SumD>;

HWY_INLINE SumV AddProducts(ByteV codes, ByteV x, SumV sum) {
  return hn::SumOfMulQuadAccumulate(SumD(), codes, hn::BitCast(hn::RebindToSigned<ByteD>(), x), sum);
}
HWY_INLINE hn::Vec<IntD> SumOfLanes(SumV sum) { return sum; }
#else
// Two products in 16 bits, which hold those of a group: 16 of up to 15 * 127 are 30,480.
using SumD = hn::Repartition<int16_t, FloatD>;
using SumV = hn::Vec<SumD>;

HWY_INLINE SumV AddProducts(ByteV codes, ByteV x, SumV sum) {
  return hn::Add(sum, hn::SatWidenMulPairwiseAdd(SumD(), codes, hn::BitCast(hn::RebindToSigned<ByteD>(), x)));
}
HWY_INLINE hn::Vec<IntD> SumOfLanes(SumV sum) { return hn::WidenMulPairwiseAdd(IntD(), sum, hn::Set(SumD(), 1)); }
#endif

HWY_INLINE ByteV FourCodes(const uint8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return hn::BitCast(ByteD(), hn::Set(IntD(), quad));
}

HWY_INLINE FloatV Broadcast(const uint8_t* from) {
  float value;
  std::memcpy(&value, from, sizeof(value));
  return hn::Set(FloatD(), value);
}

template <size_t kRows>
HWY_INLINE void SumProducts(const Tile& t, const uint8_t* HWY_RESTRICT w, const uint8_t* HWY_RESTRICT x,
                            SumV (&sums)[kRows][kPanelVecs]) {
  const ByteD d;
  const hn::Repartition<uint16_t, ByteD> d16;
  const auto low_bits = hn::Set(d, 15);
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kPanelVecs; ++v) sums[r][v] = hn::Zero(SumD());
  }
  HWY_UNROLL(4)
  for (size_t line = 0; line < kLines; ++line, w += kLine, x += kLineCodes) {
    PrefetchStream(w + t.prefetch);
    HWY_UNROLL(8)
    for (size_t v = 0; v < kPanelVecs; ++v) {
      const ByteV both = hn::LoadU(d, w + v * kPanelLanes * 4);
      const ByteV low = hn::And(both, low_bits);
      const ByteV high = hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, both))), low_bits);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        sums[r][v] = AddProducts(low, FourCodes(x + r * t.ldx), sums[r][v]);
        sums[r][v] = AddProducts(high, FourCodes(x + r * t.ldx + 4), sums[r][v]);
      }
    }
  }
}

// Each operation rounds once, but for a fused one whose product is exact: this file is compiled without contraction of
// products and sums.
template <size_t kRows>
HWY_NOINLINE void RunInt4Tile(const Tile& t) {
  const FloatD d;
  const hn::Rebind<hwy::float16_t, FloatD> dh;
  FloatV acc[kRows][kPanelVecs];
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kPanelVecs; ++v) acc[r][v] = hn::Zero(d);
  }
  const uint8_t* HWY_RESTRICT w = t.weight;
  const uint8_t* HWY_RESTRICT x = t.x;
  const hwy::float16_t* HWY_RESTRICT ranges = t.ranges;
  for (size_t g = 0; g < t.groups; ++g, w += kGroupBytes, x += kInt4XGroupBytes, ranges += kRanges) {
    SumV sums[kRows][kPanelVecs];
    SumProducts<kRows>(t, w, x, sums);
    PrefetchStream(ranges + t.prefetch / 8);
    HWY_UNROLL(8)
    for (size_t v = 0; v < kPanelVecs; ++v) {
      const FloatV scale = hn::PromoteTo(d, hn::LoadU(dh, ranges + v * kPanelLanes));
      const FloatV least = hn::PromoteTo(d, hn::LoadU(dh, ranges + kPanel + v * kPanelLanes));
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        const uint8_t* of_x = x + r * t.ldx + kInt4XGroup;
        const FloatV products = hn::Mul(scale, hn::ConvertTo(d, SumOfLanes(sums[r][v])));
        const FloatV sum = hn::MulAdd(least, Broadcast(of_x + sizeof(float)), products);
        acc[r][v] = hn::Add(acc[r][v], hn::Mul(Broadcast(of_x), sum));
      }
    }
  }
  HWY_UNROLL(8)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kPanelVecs; ++v) {
      const size_t first = v * kPanelLanes;
      if (first >= t.columns) break;
      const size_t count = std::min(kPanelLanes, t.columns - first);
      if (t.bias != nullptr) acc[r][v] = hn::Add(acc[r][v], hn::LoadN(d, t.bias + first, count));
      hn::StoreN(acc[r][v], d, t.z + r * t.ldz + first, count);
    }
  }
}

template <size_t... kIndices>
constexpr auto MakeInt4Tiles(std::index_sequence<kIndices...>) {
  return std::array<void (*)(const Tile&), sizeof...(kIndices)>{&RunInt4Tile<kIndices + 1>...};
}
constexpr auto kInt4Tiles = MakeInt4Tiles(std::make_index_sequence<kTileRows>());  // [rows - 1]

void RunInt4Panels(const Int4Panels& p) {
  const size_t groups = p.k / kInt4XGroup;
  const auto ldx = static_cast<size_t>(Int4RowBytes(static_cast<int64_t>(p.k)));
  const auto* ranges = static_cast<const hwy::float16_t*>(p.groups);
  for (size_t block = 0; block < p.m; block += p.block_rows) {
    const size_t block_end = std::min(block + p.block_rows, p.m);
    for (size_t panel = p.begin; panel < p.end; ++panel) {
      const size_t column = panel * kPanel;
      for (size_t row = block; row < block_end; row += kTileRows) {
        kInt4Tiles[std::min(kTileRows, block_end - row) - 1]({.x = p.x + row * ldx,
                                                              .ldx = ldx,
                                                              .weight = p.weight + panel * groups * kGroupBytes,
                                                              .ranges = ranges + panel * groups * kRanges,
                                                              .groups = groups,
                                                              .prefetch = p.prefetch_bytes,
                                                              .bias = p.bias == nullptr ? nullptr : p.bias + column,
                                                              .z = p.z + row * p.ldz + (panel - p.begin) * kPanel,
                                                              .ldz = p.ldz,
                                                              .columns = std::min(kPanel, p.n - column)});
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {
HWY_EXPORT(RunInt4Panels);
}  // namespace

void MultiplyInt4(const Int4Panels& problem) { HWY_DYNAMIC_DISPATCH(RunInt4Panels)(problem); }

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
