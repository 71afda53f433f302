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

// Stored weights: kDepth rows of k take kElements of W a panel.
template <typename W>
struct WeightBlock;
template <>
struct WeightBlock<float> {
  static constexpr size_t kDepth = 1, kElements = kPanel;
};
template <>
struct WeightBlock<uint16_t> {  // bf16 in pairs of k, [k / 2][16][2]
  static constexpr size_t kDepth = 2, kElements = 2 * kPanel;
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
  // While block k is multiplied, prefetch + p * prefetch_panel + k * prefetch_step is fetched for p below
  // the tile's number of prefetches: bytes that this or another tile needs later. Addresses need not be valid.
  uintptr_t prefetch;
  size_t prefetch_panel;
  size_t prefetch_step;
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
