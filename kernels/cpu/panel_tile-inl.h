// The register tile of every matrix product on the CPU, for the target being compiled: a few rows of x times a few
// panels of 16 columns. Linear layers and attention are loops around it.
//
// Each y[r, c] is a chain of fused multiply-adds in ascending k, whatever the tile's size: tiles may be chosen by
// speed alone, results do not change.

#if defined(KERNELS_CPU_PANEL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)  // once per target
#ifdef KERNELS_CPU_PANEL_TILE_INL_H_
#undef KERNELS_CPU_PANEL_TILE_INL_H_
#else
#define KERNELS_CPU_PANEL_TILE_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kPanel = 16;  // columns of a panel: the lanes of one AVX-512 vector

using PanelD = hn::CappedTag<float, kPanel>;
using PanelV = hn::Vec<PanelD>;
constexpr size_t kPanelLanes = hn::MaxLanes(PanelD());
constexpr size_t kPanelVecs = kPanel / kPanelLanes;

// The largest tile: as many accumulators as the registers hold beside a row of weights and a broadcast x.
#if HWY_TARGET <= HWY_AVX3  // 32 registers of 16 lanes
constexpr size_t kTileRows = 8;
constexpr size_t kTilePanels = 3;
#elif HWY_TARGET == HWY_AVX2  // 16 of 8 lanes
constexpr size_t kTileRows = 6;
constexpr size_t kTilePanels = 1;
#elif HWY_ARCH_ARM_A64        // 32 of 4 lanes
constexpr size_t kTileRows = 6;
constexpr size_t kTilePanels = 1;
#else                         // 16 of 4 lanes
constexpr size_t kTileRows = 2;
constexpr size_t kTilePanels = 1;
#endif

// Stored weights: kDepth rows of k take kElements of W a panel, in which a stream's next lines are fetched kLines
// times.
template <typename W>
struct WeightBlock;
template <>
struct WeightBlock<float> {
  static constexpr size_t kDepth = 1, kElements = kPanel, kLines = 1;
};
template <>
struct WeightBlock<uint16_t> {  // bf16 in pairs of k, [k / 2][16][2]
  static constexpr size_t kDepth = 2, kElements = 2 * kPanel, kLines = 1;
};
template <>
struct WeightBlock<uint32_t> {  // 4-bit codes in groups of k, [k / 8][16] words
  static constexpr size_t kDepth = 32, kElements = 4 * kPanel, kLines = 4;
};

// What a tile computes. W is of a WeightBlock.
template <typename W>
struct PanelTile {
  const float* HWY_RESTRICT x;  // [rows, k], rows ldx apart; or transposed, [k, rows], its rows ldx apart
  size_t ldx;
  const W* HWY_RESTRICT weight;  // block k of panel p at p * panel_stride + k * k_stride
  size_t k_stride;
  size_t panel_stride;
  size_t k;
  float* HWY_RESTRICT y;  // [rows, columns], rows ldy apart
  size_t ldy;
  const float* HWY_RESTRICT bias;  // [columns], or nullptr: added after the last product
  size_t columns;                  // that y has; fewer than the panels' where the last is partial
  bool accumulate;                 // start from y, not from zero
  // While line k of the block's is multiplied, prefetch + p * prefetch_panel + k * prefetch_step is fetched for p below
  // the tile's number of prefetches: bytes that this or another tile needs later. Addresses need not be valid.
  uintptr_t prefetch;
  size_t prefetch_panel;
  size_t prefetch_step;
  const hwy::float16_t* HWY_RESTRICT groups = nullptr;  // of 4-bit codes: group k of panel p, its 16 scales and then
  size_t group_panel_stride = 0;                        // its 16 least values, at p * group_panel_stride + k * 32
};

template <size_t kPrefetches, typename W>
HWY_INLINE void PrefetchLater(const PanelTile<W>& t, size_t k) {
  HWY_UNROLL(8)
  for (size_t p = 0; p < kPrefetches; ++p) {
    PrefetchStream(reinterpret_cast<const void*>(t.prefetch + p * t.prefetch_panel + k * t.prefetch_step));
  }
}

enum class XLayout : uint8_t { kRowMajor, kTransposed };

// acc += x[:, k] b
template <XLayout kX, typename W, size_t kRows, size_t kVecs>
HWY_INLINE void OuterProduct(const PanelTile<W>& t, size_t k, const PanelV (&b)[kVecs], PanelV (&acc)[kRows][kVecs]) {
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    const PanelV a = hn::Set(PanelD(), kX == XLayout::kRowMajor ? t.x[r * t.ldx + k] : t.x[k * t.ldx + r]);
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVecs; ++v) acc[r][v] = hn::MulAdd(a, b[v], acc[r][v]);
  }
}

template <size_t kRows, size_t kPanels, size_t kPrefetches, XLayout kX>
HWY_INLINE void AddProducts(const PanelTile<float>& t, PanelV (&acc)[kRows][kPanels * kPanelVecs]) {
  const PanelD d;
  const float* HWY_RESTRICT w = t.weight;
  HWY_UNROLL(2)
  for (size_t k = 0; k < t.k; ++k, w += t.k_stride) {
    PanelV b[kPanels * kPanelVecs];
    HWY_UNROLL(8)
    for (size_t p = 0; p < kPanels; ++p) {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kPanelVecs; ++v) {
        b[p * kPanelVecs + v] = hn::LoadU(d, w + p * t.panel_stride + v * kPanelLanes);
      }
    }
    PrefetchLater<kPrefetches>(t, k);
    OuterProduct<kX>(t, k, b, acc);
  }
}

template <size_t kRows, size_t kPanels, size_t kPrefetches, XLayout kX>
HWY_INLINE void AddProducts(const PanelTile<uint16_t>& t, PanelV (&acc)[kRows][kPanels * kPanelVecs]) {
  const PanelD d;
  const hn::RebindToUnsigned<PanelD> du;
  const auto upper = hn::Set(du, 0xFFFF0000u);
  const uint16_t* HWY_RESTRICT w = t.weight;
  for (size_t k = 0; k < t.k; k += 2, w += t.k_stride) {
    PanelV even[kPanels * kPanelVecs];
    PanelV odd[kPanels * kPanelVecs];
    HWY_UNROLL(8)
    for (size_t p = 0; p < kPanels; ++p) {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kPanelVecs; ++v) {
        const uint16_t* pairs = w + p * t.panel_stride + 2 * v * kPanelLanes;
        const auto pair = hn::BitCast(du, hn::LoadU(hn::Repartition<uint16_t, PanelD>(), pairs));
        even[p * kPanelVecs + v] = hn::BitCast(d, hn::ShiftLeft<16>(pair));
        odd[p * kPanelVecs + v] = hn::BitCast(d, hn::And(pair, upper));
      }
    }
    PrefetchLater<kPrefetches>(t, k / 2);
    OuterProduct<kX>(t, k, even, acc);
    if (HWY_LIKELY(k + 1 < t.k)) OuterProduct<kX>(t, k + 1, odd, acc);
  }
}

// A code q in the upper four bits of the mantissa of 1 is 1 + q / 16.
constexpr int kCodePlace = 19;

// acc += x[:, k + i] (scale (1 + code i of words / 16) + offset) for i from kCode to 7
template <int kCode, XLayout kX, size_t kRows, size_t kVecs>
HWY_INLINE void AddCodes(const PanelTile<uint32_t>& t, size_t k,
                         const hn::Vec<hn::RebindToUnsigned<PanelD>> (&words)[kVecs], const PanelV (&scale)[kVecs],
                         const PanelV (&offset)[kVecs], PanelV (&acc)[kRows][kVecs]) {
  const PanelD d;
  const hn::RebindToUnsigned<PanelD> du;
  const auto code_bits = hn::Set(du, uint32_t{15} << kCodePlace);
  const auto one = hn::BitCast(du, hn::Set(d, 1.0f));
  constexpr int kShift = kCodePlace - 4 * kCode;
  PanelV b[kVecs];
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVecs; ++v) {
    auto placed = words[v];
    if constexpr (kShift >= 0) {
      placed = hn::ShiftLeft<kShift>(placed);
    } else {
      placed = hn::ShiftRight<-kShift>(placed);
    }
    b[v] = hn::MulAdd(scale[v], hn::BitCast(d, hn::Or(hn::And(placed, code_bits), one)), offset[v]);
  }
  OuterProduct<kX>(t, k + kCode, b, acc);
  if constexpr (kCode < 7) AddCodes<kCode + 1, kX>(t, k, words, scale, offset, acc);
}

template <size_t kRows, size_t kPanels, size_t kPrefetches, XLayout kX>
HWY_INLINE void AddProducts(const PanelTile<uint32_t>& t, PanelV (&acc)[kRows][kPanels * kPanelVecs]) {
  using Block = WeightBlock<uint32_t>;
  constexpr size_t kVecs = kPanels * kPanelVecs;
  constexpr size_t kWordDepth = Block::kDepth / Block::kLines;
  const PanelD d;
  const hn::RebindToUnsigned<PanelD> du;
  const hn::Rebind<hwy::float16_t, PanelD> dh;
  const auto sixteen = hn::Set(d, 16.0f);
  const uint32_t* HWY_RESTRICT w = t.weight;
  const hwy::float16_t* HWY_RESTRICT groups = t.groups;
  for (size_t k = 0; k < t.k; k += Block::kDepth, w += t.k_stride, groups += 2 * kPanel) {
    PanelV scale[kVecs];   // 16 s
    PanelV offset[kVecs];  // l - 16 s
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVecs; ++v) {
      const hwy::float16_t* at = groups + v / kPanelVecs * t.group_panel_stride + v % kPanelVecs * kPanelLanes;
      scale[v] = hn::Mul(hn::PromoteTo(d, hn::LoadU(dh, at)), sixteen);
      offset[v] = hn::Sub(hn::PromoteTo(d, hn::LoadU(dh, at + kPanel)), scale[v]);
    }
    for (size_t line = 0; line < Block::kLines; ++line) {
      hn::Vec<decltype(du)> words[kVecs];
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVecs; ++v) {
        words[v] = hn::LoadU(du, w + line * kPanel + v / kPanelVecs * t.panel_stride + v % kPanelVecs * kPanelLanes);
      }
      PrefetchLater<kPrefetches>(t, k / kWordDepth + line);
      AddCodes<0, kX>(t, k + line * kWordDepth, words, scale, offset, acc);
    }
  }
}

// Computes a tile of kRows rows and kPanels panels.
template <size_t kRows, size_t kPanels, size_t kPrefetches, XLayout kX, typename W>
HWY_NOINLINE void RunTile(const PanelTile<W>& t) {
  constexpr size_t kColumns = kPanels * kPanel;
  constexpr size_t kVecs = kPanels * kPanelVecs;
  const PanelD d;
  if (t.columns < kColumns) {  // by way of a buffer with all columns
    HWY_ALIGN float y[kRows * kColumns] = {};
    HWY_ALIGN float bias[kColumns] = {};
    PanelTile<W> whole = t;
    whole.y = y;
    whole.ldy = kColumns;
    whole.columns = kColumns;
    if (t.accumulate) {
      for (size_t r = 0; r < kRows; ++r) std::memcpy(y + r * kColumns, t.y + r * t.ldy, t.columns * sizeof(float));
    }
    if (t.bias != nullptr) {
      std::memcpy(bias, t.bias, t.columns * sizeof(float));
      whole.bias = bias;
    }
    RunTile<kRows, kPanels, kPrefetches, kX>(whole);
    for (size_t r = 0; r < kRows; ++r) std::memcpy(t.y + r * t.ldy, y + r * kColumns, t.columns * sizeof(float));
    return;
  }

  PanelV acc[kRows][kVecs];
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVecs; ++v) acc[r][v] = hn::Zero(d);
  }
  if (t.accumulate) {
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kVecs; ++v) acc[r][v] = hn::LoadU(d, t.y + r * t.ldy + v * kPanelLanes);
    }
  }
  AddProducts<kRows, kPanels, kPrefetches, kX>(t, acc);
  if (t.bias != nullptr) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVecs; ++v) {
      const PanelV bias = hn::LoadU(d, t.bias + v * kPanelLanes);
      HWY_UNROLL(16)
      for (size_t r = 0; r < kRows; ++r) acc[r][v] = hn::Add(acc[r][v], bias);
    }
  }
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kVecs; ++v) hn::StoreU(acc[r][v], d, t.y + r * t.ldy + v * kPanelLanes);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
