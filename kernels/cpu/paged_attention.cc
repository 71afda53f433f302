#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                              // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/panel_tile-inl.h"

#ifndef KERNELS_CPU_PAGED_ATTENTION_ONCE_
#define KERNELS_CPU_PAGED_ATTENTION_ONCE_
namespace flashflow::cpu {
namespace {

// Queries that are taken through the slots together, and slots that are taken at once. Chunks are counted from slot 0
// of the row, and chunks in which a query sees nothing leave its state as it is: so which queries share a block does
// not matter to the result.
constexpr int64_t kBlockQueries = 48;
constexpr int64_t kChunk = 64;

// A block of consecutive queries of one row on one kv head. Query i of the row is token i / group of it, head
// kv_head * group + i % group.
struct Block {
  const float* q;  // of the row's first token
  float* out;
  int64_t heads;
  int64_t group;  // query heads a kv head
  int64_t kv_head;
  int64_t query_begin;
  int64_t query_end;
  int64_t first_slot;  // of the row's first token
  const int32_t* pages;
  const PagedLayer* cache;
  float scale;
  int64_t window;
};

// Working memory of a block.
struct Scratch {
  static constexpr size_t kMaxDim = kMaxHeadDim;
  alignas(64) float q[kBlockQueries * kMaxDim];  // scaled; rows of head_dim
  alignas(64) float k[kChunk * kMaxDim];         // panels [head_dim][16] of 16 slots
  alignas(64) float v[kChunk * kMaxDim];         // rows of head_dim rounded up to whole panels
  alignas(64) float scores[kBlockQueries * kChunk];
  alignas(64) float out[kBlockQueries * kMaxDim];  // rows as those of v
  float largest[kBlockQueries];
  float sum[kBlockQueries];
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes);

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_PAGED_ATTENTION_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

using D4 = hn::FixedTag<float, 4>;

HWY_INLINE hn::Vec<D4> Load4(const float* p) { return hn::LoadU(D4(), p); }
HWY_INLINE hn::Vec<D4> Load4(const hwy::bfloat16_t* p) {
  return hn::PromoteTo(D4(), hn::LoadU(hn::Rebind<hwy::bfloat16_t, D4>(), p));
}
HWY_INLINE float Load1(float v) { return v; }
HWY_INLINE float Load1(hwy::bfloat16_t v) { return hwy::F32FromBF16(v); }

// The 4-lane blocks p[0][0..3], p[4][0..3], p[8][0..3], ... as one vector.
template <class D, typename T>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const T* const* p, int64_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return Load4(p[0] + at);
  } else {
    const hn::Half<D> half;
    constexpr size_t kSlots = hn::MaxLanes(hn::Half<D>());
    return hn::Combine(d, LoadBlocks(half, p + kSlots, at), LoadBlocks(half, p, at));
  }
}

// panel[d][16] from 16 slots' keys.
template <typename T>
void PackKeys(const T* const (&slots)[kPanel], int64_t head_dim, float* panel) {
  const PanelD d;
  const hn::RepartitionToWide<PanelD> dw;
  int64_t i = 0;
  for (; i + 4 <= head_dim; i += 4) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < kPanelVecs; ++v) {
      // 4x4 transposes side by side: row r holds elements i..i+3 of slots r, r + 4, ...
      const T* const* first = slots + v * kPanelLanes;
      const auto row0 = LoadBlocks(d, first + 0, i);
      const auto row1 = LoadBlocks(d, first + 1, i);
      const auto row2 = LoadBlocks(d, first + 2, i);
      const auto row3 = LoadBlocks(d, first + 3, i);
      const auto lo01 = hn::BitCast(dw, hn::InterleaveLower(d, row0, row1));
      const auto lo23 = hn::BitCast(dw, hn::InterleaveLower(d, row2, row3));
      const auto hi01 = hn::BitCast(dw, hn::InterleaveUpper(d, row0, row1));
      const auto hi23 = hn::BitCast(dw, hn::InterleaveUpper(d, row2, row3));
      float* to = panel + i * kPanel + v * kPanelLanes;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, lo01, lo23)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, lo01, lo23)), d, to + kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, hi01, hi23)), d, to + 2 * kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, hi01, hi23)), d, to + 3 * kPanel);
    }
  }
  for (; i < head_dim; ++i) {
    for (size_t s = 0; s < kPanel; ++s) panel[i * kPanel + s] = Load1(slots[s][i]);
  }
}

// row[padded] = values[head_dim], then zeros.
template <typename T>
void CopyValues(const T* values, int64_t head_dim, int64_t padded, float* row) {
  const D4 d;
  int64_t i = 0;
  for (; i + 4 <= head_dim; i += 4) hn::StoreU(Load4(values + i), d, row + i);
  for (; i < head_dim; ++i) row[i] = Load1(values[i]);
  for (; i < padded; ++i) row[i] = 0.0f;
}

using TileFn = void (*)(const PanelTile<float>&);

template <size_t... kIndices>
constexpr auto MakeTiles(std::index_sequence<kIndices...>) {
  return std::array<TileFn, sizeof...(kIndices)>{
      &RunTile<kIndices / kTilePanels + 1, kIndices % kTilePanels + 1, /*kPrefetch=*/false, float>...};
}
constexpr auto kTiles = MakeTiles(std::make_index_sequence<kTileRows * kTilePanels>());

// y[rows, panels * 16] (+)= x[rows, k] w, w's element (k, c) of panel p at p * panel_stride + k * k_stride + c.
void Multiply(const float* x, size_t ldx, const float* w, size_t k_stride, size_t panel_stride, size_t k, float* y,
              size_t ldy, size_t rows, size_t panels, bool accumulate) {
  for (size_t p = 0; p < panels; p += kTilePanels) {
    const size_t tile_panels = std::min(kTilePanels, panels - p);
    for (size_t r = 0; r < rows; r += kTileRows) {
      const size_t tile_rows = std::min(kTileRows, rows - r);
      kTiles[(tile_rows - 1) * kTilePanels + tile_panels - 1]({
          .x = x + r * ldx,
          .ldx = ldx,
          .weight = w + p * panel_stride,
          .k_stride = k_stride,
          .panel_stride = panel_stride,
          .k = k,
          .y = y + r * ldy + p * kPanel,
          .ldy = ldy,
          .bias = nullptr,
          .columns = tile_panels * kPanel,
          .accumulate = accumulate,
          .prefetch = 0,
          .prefetch_panel = 0,
          .prefetch_step = 0,
      });
    }
  }
}

// Turns a query's scores of a chunk into weights exp(score - largest so far), zero outside [begin, end), and brings
// the query's state (largest, sum, out) to the new largest.
HWY_INLINE void SoftmaxStep(float* scores, int64_t begin, int64_t end, float* largest, float* sum, float* out,
                            int64_t padded) {
  const PanelD d;
  const hn::RebindToSigned<PanelD> di;
  const auto vbegin = hn::Set(di, static_cast<int32_t>(begin));
  const auto vend = hn::Set(di, static_cast<int32_t>(end));
  const auto minus_inf = hn::Neg(hn::Inf(d));
  constexpr int64_t kLanes = static_cast<int64_t>(kPanelLanes);
  auto chunk_largest = minus_inf;
  for (int64_t i = 0; i < kChunk; i += kLanes) {
    const auto slot = hn::Iota(di, static_cast<int32_t>(i));
    const auto seen = hn::RebindMask(d, hn::And(hn::Ge(slot, vbegin), hn::Lt(slot, vend)));
    const auto s = hn::IfThenElse(seen, hn::LoadU(d, scores + i), minus_inf);
    chunk_largest = hn::Max(chunk_largest, s);
    hn::StoreU(s, d, scores + i);
  }
  const float before = *largest;
  const float now = std::max(before, hn::ReduceMax(d, chunk_largest));
  const auto shift = hn::Set(d, now);
  auto chunk_sum = hn::Zero(d);
  for (int64_t i = 0; i < kChunk; i += kLanes) {
    const auto s = hn::LoadU(d, scores + i);
    const auto e = hn::IfThenZeroElse(hn::Eq(s, minus_inf), ExpAll(d, hn::Sub(s, shift)));
    chunk_sum = hn::Add(chunk_sum, e);
    hn::StoreU(e, d, scores + i);
  }
  *largest = now;
  const float added = hn::ReduceSum(d, chunk_sum);
  if (now == before) {
    *sum += added;
    return;
  }
  // Nothing is scaled before the first slot that the query sees: exp(-inf) is zero, as are sum and out.
  const float rescale = hn::GetLane(ExpAll(d, hn::Set(d, before - now)));
  *sum = *sum * rescale + added;
  const auto vrescale = hn::Set(d, rescale);
  for (int64_t i = 0; i < padded; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, out + i), vrescale), d, out + i);
  }
}

template <typename T>
void RunBlock(const Block& block, Scratch& scratch) {
  static const T kZeros[kMaxHeadDim] = {};  // the key of a slot past the end
  const PagedLayer& cache = *block.cache;
  const int64_t dim = cache.head_dim;
  const int64_t padded = (dim + 15) / 16 * 16;
  const int64_t queries = block.query_end - block.query_begin;
  const auto token_of = [&](int64_t i) { return (block.query_begin + i) / block.group; };
  const auto row_of = [&](int64_t i) {  // of q and out
    const int64_t head = block.kv_head * block.group + (block.query_begin + i) % block.group;
    return (token_of(i) * block.heads + head) * dim;
  };
  const auto slots_begin = [&](int64_t i) {  // the slots that a query sees
    return block.window > 0 ? std::max<int64_t>(block.first_slot + token_of(i) + 1 - block.window, 0) : 0;
  };
  const auto slots_end = [&](int64_t i) { return block.first_slot + token_of(i) + 1; };

  for (int64_t i = 0; i < queries; ++i) {
    const float* q = block.q + row_of(i);
    for (int64_t c = 0; c < dim; ++c) scratch.q[i * dim + c] = q[c] * block.scale;
  }
  std::fill_n(scratch.largest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.sum, queries, 0.0f);
  std::fill_n(scratch.out, queries * padded, 0.0f);

  const T* data = static_cast<const T*>(cache.data);
  const int64_t end = slots_end(queries - 1);
  for (int64_t chunk = slots_begin(0) / kChunk * kChunk; chunk < end; chunk += kChunk) {
    const int64_t slots = std::min(kChunk, end - chunk);
    const int64_t panels = (slots + 15) / 16;
    for (int64_t p = 0; p < panels; ++p) {
      const T* keys[kPanel];
      for (int64_t s = 0; s < static_cast<int64_t>(kPanel); ++s) {
        const int64_t in_chunk = p * 16 + s;
        if (in_chunk >= slots) {
          keys[s] = kZeros;
          continue;
        }
        const int64_t slot = chunk + in_chunk;
        const int64_t page = block.pages[slot / cache.page_size];
        const int64_t at = slot % cache.page_size;
        keys[s] = data + cache.Offset(page, false, block.kv_head, at);
        CopyValues(data + cache.Offset(page, true, block.kv_head, at), dim, padded, scratch.v + in_chunk * padded);
      }
      PackKeys(keys, dim, scratch.k + p * 16 * dim);
    }
    Multiply(scratch.q, dim, scratch.k, kPanel, kPanel * dim, dim, scratch.scores, kChunk, queries, panels, false);
    for (int64_t i = 0; i < queries; ++i) {
      SoftmaxStep(scratch.scores + i * kChunk, slots_begin(i) - chunk, slots_end(i) - chunk, &scratch.largest[i],
                  &scratch.sum[i], scratch.out + i * padded, padded);
    }
    Multiply(scratch.scores, kChunk, scratch.v, padded, kPanel, slots, scratch.out, padded, queries, padded / 16, true);
  }
  for (int64_t i = 0; i < queries; ++i) {
    const float scale = 1.0f / scratch.sum[i];
    float* out = block.out + row_of(i);
    for (int64_t c = 0; c < dim; ++c) out[c] = scratch.out[i * padded + c] * scale;
  }
}

void RunBlockF32(const Block& block, Scratch& scratch) { RunBlock<float>(block, scratch); }
void RunBlockBF16(const Block& block, Scratch& scratch) { RunBlock<hwy::bfloat16_t>(block, scratch); }

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(RunBlockF32);
HWY_EXPORT(RunBlockBF16);

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void PagedAttention(const float* q, int64_t heads, const PagedRows& rows, const PagedLayer& cache, float scale,
                    int64_t window, float* out, ThreadPool* pool) {
  const auto run_block = cache.bf16 ? HWY_DYNAMIC_POINTER(RunBlockBF16) : HWY_DYNAMIC_POINTER(RunBlockF32);
  const int64_t group = heads / cache.kv_heads;
  const int64_t token_elements = heads * cache.head_dim;
  int64_t blocks = 0;
  for (int64_t r = 0; r < rows.rows(); ++r) blocks += CeilDiv(rows.tokens(r) * group, kBlockQueries);
  pool->Run(blocks * cache.kv_heads, [&](int64_t task, int thread) {
    int64_t block_of_row = task / cache.kv_heads;
    int64_t row = 0;
    for (;; ++row) {
      const int64_t here = CeilDiv(rows.tokens(row) * group, kBlockQueries);
      if (block_of_row < here) break;
      block_of_row -= here;
    }
    const int64_t queries = rows.tokens(row) * group;
    const int64_t row_blocks = CeilDiv(queries, kBlockQueries);
    const Block block = {
        .q = q + rows.row_start[row] * token_elements,
        .out = out + rows.row_start[row] * token_elements,
        .heads = heads,
        .group = group,
        .kv_head = task % cache.kv_heads,
        .query_begin = queries * block_of_row / row_blocks,
        .query_end = queries * (block_of_row + 1) / row_blocks,
        .first_slot = rows.first_slot(row),
        .pages = rows.pages(row),
        .cache = &cache,
        .scale = scale,
        .window = window,
    };
    run_block(block, *static_cast<Scratch*>(pool->scratch(thread)));
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
