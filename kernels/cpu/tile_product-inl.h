// A matrix product as a loop of register tiles over operands that are read once, for the target being compiled.

#if defined(KERNELS_CPU_TILE_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)  // once per target
#ifdef KERNELS_CPU_TILE_PRODUCT_INL_H_
#undef KERNELS_CPU_TILE_PRODUCT_INL_H_
#else
#define KERNELS_CPU_TILE_PRODUCT_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"
#include "kernels/cpu/panel_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

template <size_t... kIndices>
constexpr auto MakeProductTiles(std::index_sequence<kIndices...>) {
  return std::array<void (*)(const PanelTile<float>&), sizeof...(kIndices)>{
      &RunTile<kIndices / kTilePanels + 1, kIndices % kTilePanels + 1, /*kPrefetches=*/0, XLayout::kRowMajor,
               float>...};
}
// [(rows - 1) * kTilePanels + panels - 1]
constexpr auto kProductTiles = MakeProductTiles(std::make_index_sequence<kTileRows * kTilePanels>());

// b as panels of 16 columns: element (k, n) at (n / 16) * panel_stride + k * k_stride + n % 16. The last panel has all
// its columns in memory, whatever they hold.
struct Panels {
  const float* data;
  size_t k_stride;
  size_t panel_stride;
};

// y[m, n] = (accumulate ? y : 0) + x[m, k] b[k, n] (+ bias[n]): rows ldx and ldy apart. Every y is one chain of fused
// multiply-adds in ascending k.
HWY_INLINE void TileProduct(const float* x, size_t ldx, const Panels& b, const float* bias, float* y, size_t ldy,
                            size_t m, size_t n, size_t k, bool accumulate) {
  for (size_t column = 0; column < n; column += kTilePanels * kPanel) {
    const size_t columns = std::min(kTilePanels * kPanel, n - column);
    const size_t panels = (columns + kPanel - 1) / kPanel;
    for (size_t row = 0; row < m; row += kTileRows) {
      const size_t rows = std::min(kTileRows, m - row);
      kProductTiles[(rows - 1) * kTilePanels + panels - 1]({
          .x = x + row * ldx,
          .ldx = ldx,
          .weight = b.data + column / kPanel * b.panel_stride,
          .k_stride = b.k_stride,
          .panel_stride = b.panel_stride,
          .k = k,
          .y = y + row * ldy + column,
          .ldy = ldy,
          .bias = bias == nullptr ? nullptr : bias + column,
          .columns = columns,
          .accumulate = accumulate,
          .prefetch = 0,
          .prefetch_panel = 0,
          .prefetch_step = 0,
      });
    }
  }
}

// b[k, n], whose elements are k_stride and n_stride apart, as panels in `to`: ceil(n / 16) * k * 16 floats, columns
// past n zero.
HWY_INLINE Panels PackPanels(const float* b, int64_t k_stride, int64_t n_stride, size_t k, size_t n, float* to) {
  const Panels panels = {to, kPanel, k * kPanel};
  for (size_t first = 0; first < n; first += kPanel, to += k * kPanel) {
    const size_t columns = std::min(kPanel, n - first);
    const float* from = b + static_cast<int64_t>(first) * n_stride;
    for (size_t i = 0; i < k; ++i, from += k_stride) {
      for (size_t c = 0; c < columns; ++c) to[i * kPanel + c] = from[static_cast<int64_t>(c) * n_stride];
      std::fill(to + i * kPanel + columns, to + (i + 1) * kPanel, 0.0f);
    }
  }
  return panels;
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
