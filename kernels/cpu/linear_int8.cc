#include "kernels/cpu/linear_int8.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/quantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_int8.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                          // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/linear_epilogue-inl.h"

#ifndef KERNELS_CPU_LINEAR_INT8_ONCE_
#define KERNELS_CPU_LINEAR_INT8_ONCE_
namespace flashflow::cpu {
namespace {

constexpr size_t kPanel = 16;             // columns of a panel
constexpr size_t kQuad = 4;               // k values that lie side by side
constexpr size_t kStep = kPanel * kQuad;  // bytes of one such step of a panel
constexpr size_t kStart = kPanel * 4;     // bytes of the sums that a panel's columns start from, before its codes
constexpr size_t kDepthAlignment = 64;    // of a panel's k
constexpr size_t kStreamRows = 8;         // at most: reading the weights is all the time
constexpr size_t kBlockRows = 32;         // otherwise: of z in the scratch at a time
constexpr size_t kBlockColumns = 96;      // of z, and of gate and up each
constexpr size_t kStreamColumns = 288;    // the same of few rows: a stream stops as seldom as it can
constexpr size_t kPrefetchBytes = 3072;   // how far ahead a stream of weights is fetched
constexpr size_t kLdSums = kStreamColumns + 2 * kPanel;  // gated: up may begin and end inside a panel

struct Tile {
  const uint8_t* HWY_RESTRICT x;  // [rows, k], rows ldx apart
  size_t ldx;
  const std::byte* HWY_RESTRICT panel;
  size_t panel_bytes;
  size_t panels;
  size_t k;       // a multiple of kDepthAlignment
  int32_t* sums;  // [rows, panels * kPanel], rows kLdSums apart
};

// z of some rows and columns from their sums.
struct Scaling {
  const int32_t* sums;  // rows kLdSums apart, as z
  const float* x_scale;
  const float* weight_scale;  // of the first column, as bias
  const float* bias;          // or nullptr
  float* z;
  size_t rows, columns;
};

size_t PanelBytes(size_t k) { return kStart + (k + kDepthAlignment - 1) / kDepthAlignment * kDepthAlignment * kPanel; }

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_LINEAR_INT8_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

using SumD = hn::CappedTag<int32_t, kPanel>;
using SumV = hn::Vec<SumD>;
constexpr size_t kPanelLanes = hn::MaxLanes(SumD());
constexpr size_t kPanelVecs = kPanel / kPanelLanes;

// The largest tile: as many accumulators as the registers hold beside what the target widens codes with.
#if HWY_TARGET <= HWY_AVX3_DL  // four products and their sum in one instruction
constexpr size_t kTileRows = 8;
constexpr size_t kTilePanels = 3;
#elif HWY_TARGET <= HWY_AVX3
constexpr size_t kTileRows = 6;
constexpr size_t kTilePanels = 3;
#elif HWY_TARGET == HWY_AVX2
constexpr size_t kTileRows = 4;
constexpr size_t kTilePanels = 1;
#else
constexpr size_t kTileRows = 2;
constexpr size_t kTilePanels = 1;
#endif

// sum += four products each
HWY_INLINE SumV AddProducts(const uint8_t* x, const std::byte* w, SumV sum) {
  const SumD d;
  const hn::Repartition<uint8_t, SumD> du8;
  const hn::Repartition<int8_t, SumD> di8;
  int32_t quad;
  std::memcpy(&quad, x, sizeof(quad));
  return hn::SumOfMulQuadAccumulate(d, hn::BitCast(du8, hn::Set(d, quad)),
                                    hn::LoadU(di8, reinterpret_cast<const int8_t*>(w)), sum);
}

HWY_INLINE SumV LoadStart(const std::byte* panel, size_t v) {
  return hn::LoadU(SumD(), reinterpret_cast<const int32_t*>(panel) + v * kPanelLanes);
}

// Rows of x times panels that stay in the cache.
template <size_t kRows, size_t kPanels>
HWY_NOINLINE void RunInt8Tile(const Tile& t) {
  const SumD d;
  SumV acc[kRows][kPanels * kPanelVecs];
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kPanels * kPanelVecs; ++v) {
      acc[r][v] = LoadStart(t.panel + v / kPanelVecs * t.panel_bytes, v % kPanelVecs);
    }
  }
  const std::byte* HWY_RESTRICT w = t.panel + kStart;
  for (size_t k = 0; k < t.k; k += kQuad, w += kStep) {
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kPanels * kPanelVecs; ++v) {
        const std::byte* from = w + v / kPanelVecs * t.panel_bytes + v % kPanelVecs * kPanelLanes * kQuad;
        acc[r][v] = AddProducts(t.x + r * t.ldx + k, from, acc[r][v]);
      }
    }
  }
  HWY_UNROLL(16)
  for (size_t r = 0; r < kRows; ++r) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kPanels * kPanelVecs; ++v) hn::StoreU(acc[r][v], d, t.sums + r * kLdSums + v * kPanelLanes);
  }
}

// The same, panel after panel, so that weights stream from memory in the order in which they lie there. One sum a
// column keeps up with memory; several would run ahead of what is fetched, and wait for it with more loads under way
// than the core has room for.
template <size_t kRows>
HWY_NOINLINE void RunInt8Stream(const Tile& t) {
  const SumD d;
  const std::byte* HWY_RESTRICT panel = t.panel;
  for (size_t p = 0; p < t.panels; ++p, panel += t.panel_bytes) {
    SumV acc[kRows][kPanelVecs];
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kPanelVecs; ++v) acc[r][v] = LoadStart(panel, v);
    }
    const std::byte* HWY_RESTRICT w = panel + kStart;
    for (size_t k = 0; k < t.k; k += kQuad, w += kStep) {
      PrefetchStream(w + kPrefetchBytes);
      HWY_UNROLL(16)
      for (size_t r = 0; r < kRows; ++r) {
        HWY_UNROLL(16)
        for (size_t v = 0; v < kPanelVecs; ++v) {
          acc[r][v] = AddProducts(t.x + r * t.ldx + k, w + v * kPanelLanes * kQuad, acc[r][v]);
        }
      }
    }
    HWY_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kPanelVecs; ++v) {
        hn::StoreU(acc[r][v], d, t.sums + r * kLdSums + p * kPanel + v * kPanelLanes);
      }
    }
  }
}

using TileFn = void (*)(const Tile&);

template <size_t... kIndices>
constexpr auto MakeTiles(std::index_sequence<kIndices...>) {
  return std::array<TileFn, sizeof...(kIndices)>{
      &RunInt8Tile<kIndices / kTilePanels + 1, kIndices % kTilePanels + 1>...};
}
// [(rows - 1) * kTilePanels + panels - 1]
constexpr auto kTiles = MakeTiles(std::make_index_sequence<kTileRows * kTilePanels>());

template <size_t... kIndices>
constexpr auto MakeStreams(std::index_sequence<kIndices...>) {
  return std::array<TileFn, sizeof...(kIndices)>{&RunInt8Stream<kIndices + 1>...};
}
constexpr auto kStreams = MakeStreams(std::make_index_sequence<kStreamRows>());

void StreamInt8Sums(const Tile& t, size_t rows) { kStreams[rows - 1](t); }

// Sums of any number of rows and panels.
void TileInt8Sums(const Tile& t, size_t rows) {
  for (size_t p = 0; p < t.panels; p += kTilePanels) {
    const size_t panels = std::min(kTilePanels, t.panels - p);
    for (size_t row = 0; row < rows; row += kTileRows) {
      const size_t tile_rows = std::min(kTileRows, rows - row);
      Tile tile = t;
      tile.x += row * t.ldx;
      tile.panel += p * t.panel_bytes;
      tile.sums += row * kLdSums + p * kPanel;
      kTiles[(tile_rows - 1) * kTilePanels + panels - 1](tile);
    }
  }
}

// Each operation rounds once: this file is compiled without contraction of products and sums.
void ScaleSums(const Scaling& s) {
  const FloatD d;
  const hn::RebindToSigned<FloatD> di;
  for (size_t r = 0; r < s.rows; ++r) {
    const int32_t* sums = s.sums + r * kLdSums;
    float* z = s.z + r * kLdSums;
    const auto x_scale = hn::Set(d, s.x_scale[r]);
    ForEachVector(s.columns, [&](size_t i, auto vector) HWY_ATTR {
      const auto sum = hn::ConvertTo(d, hn::LoadU(di, sums + i));  // rows have room for a whole vector
      auto v = hn::Mul(sum, hn::Mul(x_scale, vector.Load(s.weight_scale + i)));
      if (s.bias != nullptr) v = hn::Add(v, vector.Load(s.bias + i));
      vector.Store(v, z + i);
    });
  }
}

void RunInt8Epilogue(const Epilogue& e) { FinishLinear(e); }

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(StreamInt8Sums);
HWY_EXPORT(TileInt8Sums);
HWY_EXPORT(ScaleSums);
HWY_EXPORT(RunInt8Epilogue);

constexpr int64_t kGrain = int64_t{1} << 17;  // multiply-adds below which a task is not worth its start
// Tasks of a thread at most, so that one which is held up does not hold up all: so many, or of so many bytes of weights
// where those are what takes the time.
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kStreamTaskBytes = int64_t{256} << 10;

// A thread's scratch: sums, then z, and gated the other half of z.
struct Scratch {
  int32_t sums[kBlockRows * kLdSums];
  float z[kBlockRows * kLdSums];
  float up[kBlockRows * kLdSums];
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes);

// A task: some rows and columns of y.
class Block {
 public:
  Block(const Int8LinearProblem& problem, bool amx, Scratch* scratch)
      : problem_(problem),
        columns_(problem.gated ? problem.n / 2 : problem.n),
        k_(static_cast<size_t>(problem.k + 63) / kDepthAlignment * kDepthAlignment),
        panel_bytes_(PanelBytes(static_cast<size_t>(problem.k))),
        ldx_(static_cast<size_t>(Int8RowBytes(problem.k))),
        stream_(problem.m <= static_cast<int64_t>(kStreamRows)),
        amx_(amx && !stream_),
        scratch_(scratch) {}

  void Run(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) const {
    std::optional<AmxScope> tiles;
    if (amx_) tiles.emplace();
    constexpr auto kRows = static_cast<int64_t>(kBlockRows);
    const auto block_columns = static_cast<int64_t>(stream_ ? kStreamColumns : kBlockColumns);
    for (int64_t c = column_begin; c < column_end; c += block_columns) {
      for (int64_t row = row_begin; row < row_end; row += kRows) {
        RunPart(row, std::min(kRows, row_end - row), c, std::min(block_columns, column_end - c));
      }
    }
  }

 private:
  void RunPart(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    const float* z = Products(row, rows, column, columns, scratch_->z);
    const float* up = problem_.gated ? Products(row, rows, columns_ + column, columns, scratch_->up) : nullptr;
    const int64_t at = row * columns_ + column;
    HWY_DYNAMIC_DISPATCH(RunInt8Epilogue)
    ({.activation = problem_.activation,
      .z = z,
      .ldz = kLdSums,
      .up = up,
      .residual = problem_.residual == nullptr ? nullptr : problem_.residual + at,
      .y = problem_.y + at,
      .ldy = static_cast<size_t>(columns_),
      .rows = static_cast<size_t>(rows),
      .columns = static_cast<size_t>(columns)});
  }

  // z of some rows and columns, at most a block's; returns where the first of them is, rows kLdSums apart.
  const float* Products(int64_t row, int64_t rows, int64_t column, int64_t columns, float* z) const {
    const auto first_panel = static_cast<size_t>(column) / kPanel;
    const size_t skipped = static_cast<size_t>(column) % kPanel;
    const auto count = static_cast<size_t>(columns);
    const Tile tile = {.x = problem_.x + static_cast<size_t>(row) * ldx_,
                       .ldx = ldx_,
                       .panel = static_cast<const std::byte*>(problem_.weight) + first_panel * panel_bytes_,
                       .panel_bytes = panel_bytes_,
                       .panels = (skipped + count + kPanel - 1) / kPanel,
                       .k = k_,
                       .sums = scratch_->sums};
    Sum(tile, static_cast<size_t>(rows));
    HWY_DYNAMIC_DISPATCH(ScaleSums)
    ({.sums = scratch_->sums + skipped,
      .x_scale = problem_.x_scale + row,
      .weight_scale = problem_.weight_scale + column,
      .bias = problem_.bias == nullptr ? nullptr : problem_.bias + column,
      .z = z,
      .rows = static_cast<size_t>(rows),
      .columns = count});
    return z;
  }

  void Sum(const Tile& tile, size_t rows) const {
    if (stream_) return HWY_DYNAMIC_DISPATCH(StreamInt8Sums)(tile, rows);
    size_t row = 0;
    while (amx_ && rows - row >= kAmxRows) {
      const bool two = rows - row >= 2 * kAmxRows;
      for (size_t p = 0; p < tile.panels; p += 2) {
        (two ? AmxTile32 : AmxTile16)(tile.x + row * ldx_, ldx_, tile.panel + p * panel_bytes_, panel_bytes_,
                                      std::min<size_t>(2, tile.panels - p), k_, tile.sums + row * kLdSums + p * kPanel,
                                      kLdSums);
      }
      row += two ? 2 * kAmxRows : kAmxRows;
    }
    if (row == rows) return;
    Tile rest = tile;
    rest.x += row * ldx_;
    rest.sums += row * kLdSums;
    HWY_DYNAMIC_DISPATCH(TileInt8Sums)(rest, rows - row);
  }

  const Int8LinearProblem& problem_;
  const int64_t columns_;  // of y
  const size_t k_, panel_bytes_, ldx_;
  const bool stream_, amx_;
  Scratch* scratch_;
};

}  // namespace

void Int8Linear(const Int8LinearProblem& problem, ThreadPool* pool, MatrixUnit matrix_unit) {
  const int64_t m = problem.m;
  const int64_t n = problem.gated ? problem.n / 2 : problem.n;
  if (m == 0 || n == 0) return;
  const bool amx = matrix_unit == MatrixUnit::kIfThere && HasAmx();
  const int64_t threads = pool->num_threads();
  int64_t tasks = std::max<int64_t>(m * problem.n * problem.k / kGrain, 1);
  const bool stream = m <= static_cast<int64_t>(kStreamRows);
  const int64_t most =
      stream ? std::max(kTasksPerThread, problem.n * problem.k / threads / kStreamTaskBytes) : kTasksPerThread;
  if (tasks > threads) tasks = std::min(tasks / threads, most) * threads;
  // Columns first: then each thread reads weights of its own.
  const auto columns = static_cast<int64_t>(stream ? kPanel : kBlockColumns);
  const int64_t units = (n + columns - 1) / columns;
  const int64_t column_parts = std::min(tasks, units);
  const auto block_rows = static_cast<int64_t>(kBlockRows);
  const int64_t row_units = (m + block_rows - 1) / block_rows;
  const int64_t row_parts = std::clamp<int64_t>(tasks / column_parts, 1, row_units);
  pool->Run(
      column_parts * row_parts,
      [&](int64_t i, int thread) {
        const int64_t column_part = i / row_parts;
        const int64_t row_part = i % row_parts;
        const Block block(problem, amx, static_cast<Scratch*>(pool->scratch(thread)));
        block.Run(row_units * row_part / row_parts * block_rows,
                  std::min(row_units * (row_part + 1) / row_parts * block_rows, m),
                  units * column_part / column_parts * columns,
                  std::min(units * (column_part + 1) / column_parts * columns, n));
      },
      problem.next);
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
