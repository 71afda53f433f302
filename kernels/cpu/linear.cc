#include "kernels/cpu/linear.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                     // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/panel_tile-inl.h"

#ifndef KERNELS_CPU_LINEAR_ONCE_
#define KERNELS_CPU_LINEAR_ONCE_
namespace flashflow::cpu {
namespace {

// y[m, n] = x[m, k] weight^T + bias.
struct Problem {
  const float* x;
  const void* weight;
  const float* bias;
  float* y;
  size_t m, n, k;
};

// The part'th of `parts` nearly equal consecutive pieces of [0, count).
struct Piece {
  Piece(size_t count, size_t parts, size_t part) : begin(count * part / parts), end(count * (part + 1) / parts) {}
  size_t size() const { return end - begin; }
  size_t begin, end;
};

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

// Rows and k of x that are multiplied by all panels before the next: they are to stay in the L2 cache.
constexpr size_t kBlockRows = 128;
constexpr size_t kBlockK = 768;
// How far ahead a weight stream is prefetched, in bytes of one panel.
constexpr size_t kPrefetchBytes = 2048;

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_LINEAR_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

// Few rows: reading the weights is all the time, and several panels are read side by side.
constexpr size_t kStreamRows = kPanelVecs == 1 ? 6 : 2;
constexpr size_t kStreamPanels = kPanelVecs == 1 ? 4 : 2;
constexpr size_t kMaxPanels = std::max(kTilePanels, kStreamPanels);

template <typename W>
using TileFn = void (*)(const PanelTile<W>&);

// The tile with one prefetch a step of k, or with one for each panel.
template <typename W, bool kOnePrefetch, size_t kRows, size_t kPanels>
constexpr TileFn<W> TileOf() {
  if constexpr (kPanels <= kTilePanels || (kPanels <= kStreamPanels && kRows <= kStreamRows)) {
    constexpr size_t kPrefetches = kOnePrefetch ? 1 : kPanels;
    return &RunTile<kRows, kPanels, kPrefetches, XLayout::kRowMajor, W>;
  } else {
    return nullptr;  // would not fit the registers, and is not asked for
  }
}

template <typename W, bool kOnePrefetch, size_t... kIndices>
constexpr auto MakeTiles(std::index_sequence<kIndices...>) {
  return std::array<TileFn<W>, sizeof...(kIndices)>{
      TileOf<W, kOnePrefetch, kIndices / kMaxPanels + 1, kIndices % kMaxPanels + 1>()...};
}

// [(rows - 1) * kMaxPanels + panels - 1]
template <typename W, bool kOnePrefetch>
constexpr auto kTiles = MakeTiles<W, kOnePrefetch>(std::make_index_sequence<kTileRows * kMaxPanels>());

// y's columns of panels [panel_begin, panel_end).
template <typename W>
void RunPanels(const Problem& problem, size_t panel_begin, size_t panel_end) {
  constexpr size_t kPack = sizeof(float) / sizeof(W);  // k values that lie side by side
  const size_t k_stride = kPack * kPanel;
  const size_t packs = CeilDiv(problem.k, kPack);
  const size_t panel_stride = packs * k_stride;
  const W* weight = static_cast<const W*>(problem.weight);
  const size_t row_blocks = CeilDiv(problem.m, kBlockRows);
  const size_t k_blocks = problem.m <= kTileRows ? 1 : std::max<size_t>(CeilDiv(problem.k, kBlockK), 1);
  const size_t group = problem.m <= kStreamRows ? kStreamPanels : kTilePanels;

  for (size_t row_block = 0; row_block < row_blocks; ++row_block) {
    const Piece rows(problem.m, row_blocks, row_block);
    const size_t tiles = CeilDiv(rows.size(), kTileRows);
    for (size_t k_block = 0; k_block < k_blocks; ++k_block) {
      const Piece k_packs(packs, k_blocks, k_block);
      const size_t k_begin = k_packs.begin * kPack;
      const size_t k_end = std::min(k_packs.end * kPack, problem.k);
      for (size_t p = panel_begin; p < panel_end; p += group) {
        const size_t panels = std::min(group, panel_end - p);
        const size_t column = p * kPanel;
        const W* block = weight + p * panel_stride + k_packs.begin * k_stride;
        const W* next_block = p + group < panel_end ? block + group * panel_stride : block;
        for (size_t i = 0; i < tiles; ++i) {
          const Piece tile_rows(rows.size(), tiles, i);
          const size_t row = rows.begin + tile_rows.begin;
          // A stream fetches its own next lines; a few tiles an equal part of each panel of the next group; many tiles
          // share those panels out and fetch a part of one each.
          const bool one_prefetch = tiles >= 2 * panels;
          const size_t panel = one_prefetch ? i * panels / tiles : 0;
          const size_t first = CeilDiv(panel * tiles, panels);
          const size_t sharers = one_prefetch ? CeilDiv((panel + 1) * tiles, panels) - first : tiles;
          const Piece fetched(k_packs.size(), sharers, i - first);
          const W* fetch = tiles == 1 ? block + kPrefetchBytes / sizeof(W)
                                      : next_block + panel * panel_stride + fetched.begin * k_stride;
          const PanelTile<W> tile = {
              .x = problem.x + row * problem.k + k_begin,
              .ldx = problem.k,
              .weight = block,
              .k_stride = k_stride,
              .panel_stride = panel_stride,
              .k = k_end - k_begin,
              .y = problem.y + row * problem.n + column,
              .ldy = problem.n,
              .bias = problem.bias != nullptr && k_block + 1 == k_blocks ? problem.bias + column : nullptr,
              .columns = std::min(panels * kPanel, problem.n - column),
              .accumulate = k_block > 0,
              .prefetch = reinterpret_cast<uintptr_t>(fetch),
              .prefetch_panel = panel_stride * sizeof(W),
              .prefetch_step = k_stride * sizeof(W) / sharers,
          };
          const size_t index = (tile_rows.size() - 1) * kMaxPanels + panels - 1;
          (one_prefetch ? kTiles<W, true> : kTiles<W, false>)[index](tile);
        }
      }
    }
  }
}

void RunPanelsF32(const Problem& problem, size_t begin, size_t end) { RunPanels<float>(problem, begin, end); }
void RunPanelsBF16(const Problem& problem, size_t begin, size_t end) { RunPanels<uint16_t>(problem, begin, end); }

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(RunPanelsF32);
HWY_EXPORT(RunPanelsBF16);

// Multiply-adds below which a task is not worth its start.
constexpr int64_t kGrain = int64_t{1} << 15;
// Tasks a thread, so that one thread which is held up does not hold up all.
constexpr int64_t kTasksPerThread = 4;
// Columns and rows that a task has at least: the widest tile's panels, two tiles' rows.
constexpr int64_t kTaskColumns = 3 * 16;
constexpr int64_t kTaskRows = 16;

void Run(const Problem& problem, void (*run_panels)(const Problem&, size_t, size_t), ThreadPool* pool) {
  if (problem.m == 0 || problem.n == 0) return;
  const int64_t m = static_cast<int64_t>(problem.m);
  const int64_t n = static_cast<int64_t>(problem.n);
  const int64_t threads = pool->num_threads();
  int64_t tasks = std::max<int64_t>(m * n * static_cast<int64_t>(problem.k) / kGrain, 1);
  if (tasks > threads) tasks = std::min(tasks / threads, kTasksPerThread) * threads;
  // Columns first: then each thread reads weights of its own.
  const int64_t columns = m < kTaskRows ? 16 : kTaskColumns;
  const int64_t units = (n + columns - 1) / columns;
  const int64_t column_parts = std::min(tasks, units);
  const int64_t row_parts = std::clamp<int64_t>(tasks / column_parts, 1, (m + kTaskRows - 1) / kTaskRows);
  pool->Run(column_parts * row_parts, [&](int64_t i, int) {
    const int64_t column_part = i / row_parts;
    const int64_t row_begin = m * (i % row_parts) / row_parts;
    const int64_t row_end = m * (i % row_parts + 1) / row_parts;
    Problem part = problem;
    part.m = static_cast<size_t>(row_end - row_begin);
    part.x += row_begin * static_cast<int64_t>(problem.k);
    part.y += row_begin * n;
    const auto panel_at = [&](int64_t unit) { return static_cast<size_t>(std::min(unit * columns, n + 15) / 16); };
    run_panels(part, panel_at(units * column_part / column_parts), panel_at(units * (column_part + 1) / column_parts));
  });
}

Problem MakeProblem(const float* x, const void* weight, const float* bias, float* y, int64_t m, int64_t n, int64_t k) {
  return {x, weight, bias, y, static_cast<size_t>(m), static_cast<size_t>(n), static_cast<size_t>(k)};
}

}  // namespace

void LinearF32(const float* x, const float* weight, const float* bias, float* y, int64_t m, int64_t n, int64_t k,
               ThreadPool* pool) {
  Run(MakeProblem(x, weight, bias, y, m, n, k), HWY_DYNAMIC_POINTER(RunPanelsF32), pool);
}

void LinearBF16(const float* x, const uint16_t* weight, const float* bias, float* y, int64_t m, int64_t n, int64_t k,
                ThreadPool* pool) {
  Run(MakeProblem(x, weight, bias, y, m, n, k), HWY_DYNAMIC_POINTER(RunPanelsBF16), pool);
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
