#include "kernels/cpu/linear.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/linear_int4.h"
#include "kernels/cpu/quantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                     // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/linear_epilogue-inl.h"
#include "kernels/cpu/panel_tile-inl.h"

#ifndef KERNELS_CPU_LINEAR_ONCE_
#define KERNELS_CPU_LINEAR_ONCE_
namespace flashflow::cpu {
namespace {

// z = x[m, k] weight^T + bias for the columns of some panels; z points to the first of them, rows are ldz apart.
struct Panels {
  const float* x;
  const void* weight;
  const float* bias;  // of all columns
  float* z;
  size_t ldz;
  size_t m, n, k;  // of the whole layer but for m
  size_t begin, end;
  LinearConfig config;
};

// The part'th of `parts` nearly equal consecutive pieces of [0, count).
struct Piece {
  Piece(size_t count, size_t parts, size_t part) : begin(count * part / parts), end(count * (part + 1) / parts) {}
  size_t size() const { return end - begin; }
  size_t begin, end;
};

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

// `wanted` where that is not 0 and less.
size_t AtMost(size_t most, int64_t wanted) { return wanted == 0 ? most : std::min(most, static_cast<size_t>(wanted)); }

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

template <typename W>
void RunPanels(const Panels& problem) {
  using Block = WeightBlock<W>;
  constexpr size_t kPack = Block::kDepth;
  constexpr size_t k_stride = Block::kElements;
  const size_t packs = CeilDiv(problem.k, kPack);
  const size_t panel_stride = packs * k_stride;
  const W* weight = static_cast<const W*>(problem.weight);
  const LinearConfig& config = problem.config;
  const size_t most_rows = AtMost(kTileRows, config.tile_rows);
  const size_t row_blocks = CeilDiv(problem.m, static_cast<size_t>(config.block_rows));
  const size_t k_blocks =
      problem.m <= most_rows ? 1 : std::max<size_t>(CeilDiv(problem.k, static_cast<size_t>(config.block_k)), 1);
  const size_t group = AtMost(problem.m <= kStreamRows ? kStreamPanels : kTilePanels, config.tile_panels);
  const size_t ahead = static_cast<size_t>(config.prefetch_bytes) / sizeof(W);

  for (size_t row_block = 0; row_block < row_blocks; ++row_block) {
    const Piece rows(problem.m, row_blocks, row_block);
    const size_t tiles = CeilDiv(rows.size(), most_rows);
    for (size_t k_block = 0; k_block < k_blocks; ++k_block) {
      const Piece k_packs(packs, k_blocks, k_block);
      const size_t k_begin = k_packs.begin * kPack;
      const size_t k_end = std::min(k_packs.end * kPack, problem.k);
      for (size_t p = problem.begin; p < problem.end; p += group) {
        const size_t panels = std::min(group, problem.end - p);
        const size_t column = p * kPanel;
        const W* block = weight + p * panel_stride + k_packs.begin * k_stride;
        const W* next_block = p + group < problem.end ? block + group * panel_stride : block;
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
          const W* fetch = tiles == 1 ? block + ahead : next_block + panel * panel_stride + fetched.begin * k_stride;
          const PanelTile<W> tile = {
              .x = problem.x + row * problem.k + k_begin,
              .ldx = problem.k,
              .weight = block,
              .k_stride = k_stride,
              .panel_stride = panel_stride,
              .k = k_end - k_begin,
              .y = problem.z + row * problem.ldz + (p - problem.begin) * kPanel,
              .ldy = problem.ldz,
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

LinearTiles Tiles() {
  return {.rows = kTileRows, .panels = kTilePanels, .stream_rows = kStreamRows, .stream_panels = kStreamPanels};
}

void RunPanelsF32(const Panels& problem) { RunPanels<float>(problem); }
void RunPanelsBF16(const Panels& problem) { RunPanels<uint16_t>(problem); }
void RunEpilogue(const Epilogue& e) { FinishLinear(e); }

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(RunPanelsF32);
HWY_EXPORT(RunPanelsBF16);
HWY_EXPORT(RunEpilogue);
HWY_EXPORT(Tiles);

// Multiply-adds below which a task is not worth its start.
constexpr int64_t kGrain = int64_t{1} << 15;
// Rows that a task has at least: two tiles'. With fewer, columns are handed out by the panel.
constexpr int64_t kTaskRows = 16;
// Of weights, where reading them is all the time: a thread that is held up keeps no more of them from the others.
constexpr int64_t kStreamTaskBytes = int64_t{512} << 10;
// Rows and columns of a gated layer that are computed before they are joined: gate and up fit a thread's scratch.
constexpr int64_t kGatedRows = 128;
constexpr int64_t kGatedColumns = 384;
static_assert(kGatedRows * (2 * kGatedColumns + 32) * sizeof(float) <= ThreadPool::kScratchBytes);

// Of one weight.
int64_t WeightBits(LinearWeight type) {
  switch (type) {
    case LinearWeight::kF32:
      return 32;
    case LinearWeight::kBF16:
      return 16;
    case LinearWeight::kInt4:
      return 5;  // with its share of the group's
  }
  return 0;
}

// A task: some rows and, in whole panels but for the last, some columns of y.
class Block {
 public:
  Block(const LinearProblem& problem, const LinearConfig& config, int64_t row_begin, int64_t row_end,
        int64_t column_begin, int64_t column_end)
      : problem_(problem),
        config_(config),
        columns_(problem.gated ? problem.n / 2 : problem.n),
        row_begin_(row_begin),
        row_end_(row_end),
        column_begin_(column_begin),
        column_end_(std::min(column_end, columns_)) {}

  void Run(float* scratch) const {
    if (!problem_.gated) return RunPlain();
    const int64_t block_rows = std::min(config_.block_rows, kGatedRows);
    for (int64_t row = row_begin_; row < row_end_; row += block_rows) {
      const int64_t rows = std::min(block_rows, row_end_ - row);
      for (int64_t c = column_begin_; c < column_end_; c += kGatedColumns) {
        RunGated(row, rows, c, std::min(c + kGatedColumns, column_end_), scratch);
      }
    }
  }

 private:
  void RunPlain() const {
    float* y = problem_.y + row_begin_ * columns_ + column_begin_;
    if (problem_.activation == Activation::kNone && problem_.residual == nullptr) {
      return Multiply(row_begin_, row_end_ - row_begin_, column_begin_, column_end_, y, columns_);
    }
    for (int64_t row = row_begin_; row < row_end_; row += config_.block_rows) {
      const int64_t rows = std::min(config_.block_rows, row_end_ - row);
      Multiply(row, rows, column_begin_, column_end_, y, columns_);
      FinishBlock(row, rows, column_begin_, column_end_, y, nullptr, columns_);
      y += rows * columns_;
    }
  }

  void RunGated(int64_t row, int64_t rows, int64_t begin, int64_t end, float* scratch) const {
    // The second half's columns may begin inside a panel.
    const int64_t first = (columns_ + begin) / 16 * 16;
    const int64_t last = std::min((columns_ + end + 15) / 16 * 16, problem_.n);
    const int64_t gate_columns = (end - begin + 15) / 16 * 16;
    const int64_t ldz = gate_columns + (last - first + 15) / 16 * 16;
    Multiply(row, rows, begin, std::min((end + 15) / 16 * 16, problem_.n), scratch, ldz);
    Multiply(row, rows, first, last, scratch + gate_columns, ldz);
    FinishBlock(row, rows, begin, end, scratch, scratch + gate_columns + (columns_ + begin - first), ldz);
  }

  // z of some rows and columns; the first column begins a panel.
  void Multiply(int64_t row, int64_t rows, int64_t begin, int64_t end, float* z, int64_t ldz) const {
    if (problem_.weight_type == LinearWeight::kInt4) return MultiplyCodes(row, rows, begin, end, z, ldz);
    auto run = HWY_DYNAMIC_POINTER(RunPanelsF32);
    if (problem_.weight_type == LinearWeight::kBF16) run = HWY_DYNAMIC_POINTER(RunPanelsBF16);
    run({.x = problem_.x + row * problem_.k,
         .weight = problem_.weight,
         .bias = problem_.bias,
         .z = z,
         .ldz = static_cast<size_t>(ldz),
         .m = static_cast<size_t>(rows),
         .n = static_cast<size_t>(problem_.n),
         .k = static_cast<size_t>(problem_.k),
         .begin = static_cast<size_t>(begin / 16),
         .end = static_cast<size_t>((end + 15) / 16),
         .config = config_});
  }

  void MultiplyCodes(int64_t row, int64_t rows, int64_t begin, int64_t end, float* z, int64_t ldz) const {
    MultiplyInt4({.x = problem_.codes + row * Int4RowBytes(problem_.k),
                  .weight = static_cast<const uint8_t*>(problem_.weight),
                  .groups = problem_.groups,
                  .bias = problem_.bias,
                  .z = z,
                  .ldz = static_cast<size_t>(ldz),
                  .m = static_cast<size_t>(rows),
                  .n = static_cast<size_t>(problem_.n),
                  .k = static_cast<size_t>(problem_.k),
                  .begin = static_cast<size_t>(begin / 16),
                  .end = static_cast<size_t>((end + 15) / 16),
                  .block_rows = static_cast<size_t>(config_.block_rows),
                  .prefetch_bytes = static_cast<size_t>(config_.prefetch_bytes)});
  }

  void FinishBlock(int64_t row, int64_t rows, int64_t begin, int64_t end, const float* z, const float* up,
                   int64_t ldz) const {
    const int64_t at = row * columns_ + begin;
    HWY_DYNAMIC_DISPATCH(RunEpilogue)
    ({.activation = problem_.activation,
      .z = z,
      .ldz = static_cast<size_t>(ldz),
      .up = up,
      .residual = problem_.residual == nullptr ? nullptr : problem_.residual + at,
      .y = problem_.y + at,
      .ldy = static_cast<size_t>(columns_),
      .rows = static_cast<size_t>(rows),
      .columns = static_cast<size_t>(end - begin)});
  }

  const LinearProblem& problem_;
  const LinearConfig& config_;
  const int64_t columns_;  // of y
  const int64_t row_begin_, row_end_, column_begin_, column_end_;
};

}  // namespace

LinearTiles LinearTilesOfTarget() { return HWY_DYNAMIC_DISPATCH(Tiles)(); }

void Linear(const LinearProblem& problem, ThreadPool* pool, const LinearConfig& config) {
  const int64_t m = problem.m;
  const int64_t n = problem.gated ? problem.n / 2 : problem.n;
  if (m == 0 || n == 0) return;
  const int64_t threads = pool->num_threads();
  int64_t tasks = std::max<int64_t>(m * problem.n * problem.k / kGrain, 1);
  int64_t most = config.tasks_per_thread;
  if (m < kTaskRows) {
    const int64_t weight_bytes = problem.n * problem.k * WeightBits(problem.weight_type) / 8;
    most = std::max(most, weight_bytes / threads / kStreamTaskBytes);
  }
  if (tasks > threads) tasks = std::min(tasks / threads, most) * threads;
  // Columns first: then each thread reads weights of its own.
  const int64_t columns = m < kTaskRows ? 16 : config.task_columns;
  const int64_t units = (n + columns - 1) / columns;
  const int64_t column_parts = std::min(tasks, units);
  const int64_t row_parts = std::clamp<int64_t>(tasks / column_parts, 1, (m + kTaskRows - 1) / kTaskRows);
  pool->Run(
      column_parts * row_parts,
      [&](int64_t i, int thread) {
        const int64_t column_part = i / row_parts;
        const int64_t row_part = i % row_parts;
        const Block block(problem, config, m * row_part / row_parts, m * (row_part + 1) / row_parts,
                          units * column_part / column_parts * columns,
                          units * (column_part + 1) / column_parts * columns);
        block.Run(static_cast<float*>(pool->scratch(thread)));
      },
      problem.next);
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
