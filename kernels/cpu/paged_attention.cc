#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                              // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
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
// From so many queries on, values are worth being copied together before they are multiplied.
constexpr int64_t kManyQueries = 16;
// Up to so many queries, slots make better lanes than queries for q . k.
constexpr int64_t kFewQueries = 4;

// A block of consecutive queries of one row on one kv head. Query i of the row is token i / group of it, head
// kv_head * group + i % group.
struct Block {
  const float* q;  // of the row's first token
  int64_t q_stride;
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

// Working memory of a block. Queries are lanes: scores and their weights are [slot][query].
struct Scratch {
  alignas(64) float q[kBlockQueries * kMaxHeadDim];  // scaled, in panels [head_dim][16]
  alignas(64) float k[kChunk * kMaxHeadDim];         // keys as fp32
  alignas(64) float v[kChunk * (kMaxHeadDim)];       // values, rows of head_dim rounded up to whole panels
  alignas(64) float scores[kChunk * kBlockQueries];
  alignas(64) float out[kBlockQueries * kMaxHeadDim];  // rows as those of v
  alignas(64) float largest[kBlockQueries];
  alignas(64) float sum[kBlockQueries];
  alignas(64) float rescale[kBlockQueries];
  alignas(64) int32_t begin[kBlockQueries];  // the slots that a query sees
  alignas(64) int32_t end[kBlockQueries];
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes);

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_PAGED_ATTENTION_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

using TileFn = void (*)(const PanelTile<float>&);

template <XLayout kX, size_t... kIndices>
constexpr auto MakeTiles(std::index_sequence<kIndices...>) {
  return std::array<TileFn, sizeof...(kIndices)>{
      &RunTile<kIndices / kTilePanels + 1, kIndices % kTilePanels + 1, /*kPrefetches=*/0, kX, float>...};
}
// [(rows - 1) * kTilePanels + panels - 1]
template <XLayout kX>
constexpr auto kTiles = MakeTiles<kX>(std::make_index_sequence<kTileRows * kTilePanels>());

// y[rows, panels * 16] (+)= x[rows, k] w; w's element (k, c) of panel p is at p * panel_stride + k * k_stride + c.
template <XLayout kX>
void Multiply(const float* x, size_t ldx, const float* w, size_t k_stride, size_t panel_stride, size_t k, float* y,
              size_t ldy, size_t rows, size_t panels, bool accumulate) {
  const size_t groups = (panels + kTilePanels - 1) / kTilePanels;
  for (size_t g = 0; g < groups; ++g) {
    const size_t p = panels * g / groups;
    const size_t tile_panels = panels * (g + 1) / groups - p;
    for (size_t r = 0; r < rows; r += kTileRows) {
      const size_t tile_rows = std::min(kTileRows, rows - r);
      kTiles<kX>[(tile_rows - 1) * kTilePanels + tile_panels - 1]({
          .x = x + (kX == XLayout::kRowMajor ? r * ldx : r),
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

// Slots that lie side by side in a page, each a row of `dim` elements; of int8 codes, with a scale each.
template <typename T>
struct Slots {
  const T* rows;
  const float* scales;
};

template <typename T>
HWY_INLINE Slots<T> SlotsOf(const PagedLayer& cache, char* head, int64_t slot) {
  const T* rows = reinterpret_cast<const T*>(head) + slot * cache.head_dim;
  return {rows, std::is_same_v<T, int8_t> ? cache.Scales(head) + slot : nullptr};
}

// to[count rows of `padded`] = from[count rows of `dim`] as fp32, then zeros.
void CopyRows(Slots<float> slots, int64_t count, int64_t dim, int64_t padded, float* to) {
  const float* from = slots.rows;
  if (dim == padded) {
    std::copy_n(from, count * dim, to);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(from + i * dim, dim, to + i * padded);
    std::fill_n(to + i * padded + dim, padded - dim, 0.0f);
  }
}

void CopyRows(Slots<hwy::bfloat16_t> slots, int64_t count, int64_t dim, int64_t padded, float* to) {
  const PanelD d;
  const hn::Rebind<hwy::bfloat16_t, PanelD> dbf;
  constexpr int64_t kLanes = static_cast<int64_t>(kPanelLanes);
  const hwy::bfloat16_t* from = slots.rows;
  for (int64_t i = 0; i < count; ++i) {
    int64_t c = 0;
    for (; c + kLanes <= dim; c += kLanes) {
      hn::StoreU(hn::PromoteTo(d, hn::LoadU(dbf, from + i * dim + c)), d, to + i * padded + c);
    }
    for (; c < dim; ++c) to[i * padded + c] = hwy::F32FromBF16(from[i * dim + c]);
    for (; c < padded; ++c) to[i * padded + c] = 0.0f;
  }
}

void CopyRows(Slots<int8_t> slots, int64_t count, int64_t dim, int64_t padded, float* to) {
  const PanelD d;
  const hn::RebindToSigned<PanelD> di;
  const hn::Rebind<int8_t, PanelD> dc;
  constexpr int64_t kLanes = static_cast<int64_t>(kPanelLanes);
  for (int64_t i = 0; i < count; ++i) {
    const int8_t* from = slots.rows + i * dim;
    const float scale = slots.scales[i];
    const PanelV vscale = hn::Set(d, scale);
    int64_t c = 0;
    for (; c + kLanes <= dim; c += kLanes) {
      const PanelV codes = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(dc, from + c)));
      hn::StoreU(hn::Mul(codes, vscale), d, to + i * padded + c);
    }
    for (; c < dim; ++c) to[i * padded + c] = static_cast<float>(from[c]) * scale;
    for (; c < padded; ++c) to[i * padded + c] = 0.0f;
  }
}

// Rows of `dim` as fp32: where they are, or copied to `to`.
HWY_INLINE const float* AsF32(Slots<float> slots, int64_t, int64_t, float*) { return slots.rows; }
template <typename T>
HWY_INLINE const float* AsF32(Slots<T> slots, int64_t count, int64_t dim, float* to) {
  CopyRows(slots, count, dim, dim, to);
  return to;
}

// The four elements at `at` of rows 0, 4, 8, ... as one vector.
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const float* const* rows, int64_t at) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, rows[0] + at);
  } else {
    const hn::Half<D> half;
    constexpr size_t kRows = hn::MaxLanes(hn::Half<D>());
    return hn::Combine(d, LoadBlocks(half, rows + kRows, at), LoadBlocks(half, rows, at));
  }
}

// panel[dim][16] from 16 rows of `dim`.
void PackKeys(const float* const* rows, int64_t dim, float* panel) {
  const PanelD d;
  const hn::RepartitionToWide<PanelD> dw;
  int64_t i = 0;
  for (; i + 4 <= dim; i += 4) {
    HWY_UNROLL(4)
    for (size_t lane = 0; lane < kPanel; lane += kPanelLanes) {
      // 4x4 transposes side by side, of rows first .. first + 3, first + 4 .. first + 7, ...
      const float* const* first = rows + lane;
      const PanelV row0 = LoadBlocks(d, first + 0, i);
      const PanelV row1 = LoadBlocks(d, first + 1, i);
      const PanelV row2 = LoadBlocks(d, first + 2, i);
      const PanelV row3 = LoadBlocks(d, first + 3, i);
      const auto lower01 = hn::BitCast(dw, hn::InterleaveLower(d, row0, row1));
      const auto lower23 = hn::BitCast(dw, hn::InterleaveLower(d, row2, row3));
      const auto upper01 = hn::BitCast(dw, hn::InterleaveUpper(d, row0, row1));
      const auto upper23 = hn::BitCast(dw, hn::InterleaveUpper(d, row2, row3));
      float* to = panel + i * 16 + lane;
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, lower01, lower23)), d, to);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, lower01, lower23)), d, to + kPanel);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, upper01, upper23)), d, to + 2 * kPanel);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, upper01, upper23)), d, to + 3 * kPanel);
    }
  }
  for (; i < dim; ++i) {
    for (size_t row = 0; row < kPanel; ++row) panel[i * 16 + row] = rows[row][i];
  }
}

// exp(x) for x <= 0 to 2 ulp; exactly 0 below ln of the smallest normal float, NaN for NaN.
HWY_INLINE PanelV ExpNegative(PanelV x) {
  const PanelD d;
  const hn::RebindToSigned<PanelD> di;
  const PanelV lowest = hn::Set(d, -87.33654f);
  // x = n ln 2 + r, ln 2 in two parts. Max in this order keeps NaN.
  const PanelV clamped = hn::Max(lowest, x);
  const PanelV n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.442695041f)));
  const PanelV r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped));
  // (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2, to a relative error of the result of 1e-8.
  PanelV p = hn::Set(d, 0.0013814539f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.008368745f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.04166839f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.16666521f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994f));
  const PanelV y = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(di, n));
  const PanelV scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, y), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), scaled);
}

// Turns `slots` rows of a panel's scores into weights exp(score - largest so far), and brings `largest` and `sum` to
// it; *rescale is what earlier weights, and so the output, shrink by. With kMasked, only slots begin <= slot < end
// count, a query each; slot numbers start at `first`.
template <bool kMasked>
HWY_INLINE void SoftmaxPanel(float* scores, int64_t slots, int64_t first, const int32_t* begin, const int32_t* end,
                             float* largest, float* sum, float* rescale) {
  const PanelD d;
  const hn::RebindToSigned<PanelD> di;
  const PanelV minus_inf = hn::Neg(hn::Inf(d));
  for (size_t lane = 0; lane < kPanel; lane += kPanelLanes) {
    const PanelV before = hn::Load(d, largest + lane);
    PanelV now = before;
    for (int64_t s = 0; s < slots; ++s) {
      float* row = scores + s * kBlockQueries + lane;
      PanelV score = hn::Load(d, row);
      if constexpr (kMasked) {
        const auto slot = hn::Set(di, static_cast<int32_t>(first + s));
        const auto seen = hn::And(hn::Ge(slot, hn::Load(di, begin + lane)), hn::Lt(slot, hn::Load(di, end + lane)));
        score = hn::IfThenElse(hn::RebindMask(d, seen), score, minus_inf);
        hn::Store(score, d, row);
      }
      now = hn::Max(now, score);
    }
    // A query that has seen no slot yet has nothing to scale, and all its scores are -inf: any finite shift will do.
    const PanelV shift = hn::IfThenElse(hn::Eq(now, minus_inf), hn::Zero(d), now);
    const PanelV scale = ExpNegative(hn::Sub(before, shift));
    PanelV total = hn::Mul(hn::Load(d, sum + lane), scale);
    for (int64_t s = 0; s < slots; ++s) {
      float* row = scores + s * kBlockQueries + lane;
      const PanelV weight = ExpNegative(hn::Sub(hn::Load(d, row), shift));
      total = hn::Add(total, weight);
      hn::Store(weight, d, row);
    }
    hn::Store(now, d, largest + lane);
    hn::Store(total, d, sum + lane);
    hn::Store(scale, d, rescale + lane);
  }
}

// row[padded] *= scale
HWY_INLINE void ScaleRow(float* row, float scale, int64_t padded) {
  const PanelD d;
  const PanelV vscale = hn::Set(d, scale);
  for (int64_t c = 0; c < padded; c += static_cast<int64_t>(kPanelLanes)) {
    hn::Store(hn::Mul(hn::Load(d, row + c), vscale), d, row + c);
  }
}

template <typename T>
void RunBlock(const Block& block, Scratch& scratch) {
  const PagedLayer& cache = *block.cache;
  const int64_t dim = cache.head_dim;
  const int64_t padded = (dim + 15) / 16 * 16;
  const int64_t queries = block.query_end - block.query_begin;
  const int64_t query_panels = (queries + 15) / 16;
  const bool few = queries <= kFewQueries;
  const auto element_of = [&](int64_t i, int64_t stride) {  // of q or out, whose tokens are `stride` apart
    const int64_t query = block.query_begin + i;
    return query / block.group * stride + (block.kv_head * block.group + query % block.group) * dim;
  };

  for (int64_t i = 0; i < query_panels * 16; ++i) {
    // Lanes without a query do as the last one.
    const int64_t query = std::min(i, queries - 1);
    const float* q = block.q + element_of(query, block.q_stride);
    if (!few) {
      float* lane = scratch.q + i / 16 * 16 * dim + i % 16;
      for (int64_t c = 0; c < dim; ++c) lane[c * 16] = q[c] * block.scale;
    } else if (i < queries) {
      for (int64_t c = 0; c < dim; ++c) scratch.q[i * dim + c] = q[c] * block.scale;
    }
    const int64_t slot = block.first_slot + (block.query_begin + query) / block.group;
    scratch.begin[i] = static_cast<int32_t>(block.window > 0 ? std::max<int64_t>(slot + 1 - block.window, 0) : 0);
    scratch.end[i] = static_cast<int32_t>(slot + 1);
    scratch.largest[i] = -std::numeric_limits<float>::infinity();
    scratch.sum[i] = 0.0f;
  }
  std::fill_n(scratch.out, queries * padded, 0.0f);
  // Lanes that no query fills below are to hold numbers all the same.
  for (int64_t s = 0; few && s < kChunk; ++s) std::fill_n(scratch.scores + s * kBlockQueries, kPanel, 0.0f);

  const int64_t all_begin = scratch.begin[0];
  const int64_t all_end = scratch.end[queries - 1];
  const bool copy_values = !std::is_same_v<T, float> || dim != padded || queries >= kManyQueries;
  for (int64_t chunk = all_begin / kChunk * kChunk; chunk < all_end; chunk += kChunk) {
    const int64_t slots = std::min(kChunk, all_end - chunk);
    // Calls run(slots from the chunk's first, how many, their elements) for what lies side by side in a page.
    const auto for_each_run = [&](bool v, const auto& run) {
      for (int64_t at = 0; at < slots;) {
        const int64_t slot = chunk + at;
        const int64_t count = std::min(cache.page_size - slot % cache.page_size, slots - at);
        const int32_t page = block.pages[slot / cache.page_size];
        run(at, count, SlotsOf<T>(cache, cache.Head(page, v, block.kv_head), slot % cache.page_size));
        at += count;
      }
    };

    if (few) {
      const int64_t slot_panels = (slots + 15) / 16;
      const float* keys[kChunk];
      for_each_run(false, [&](int64_t at, int64_t count, Slots<T> run) {
        const float* rows = AsF32(run, count, dim, scratch.v + at * dim);
        for (int64_t i = 0; i < count; ++i) keys[at + i] = rows + i * dim;
      });
      for (int64_t i = slots; i < slot_panels * 16; ++i) keys[i] = keys[0];  // scores that nobody reads
      for (int64_t p = 0; p < slot_panels; ++p) {
        PackKeys(keys + p * 16, dim, scratch.k + p * 16 * dim);
      }
      alignas(64) float by_query[kFewQueries * kChunk];
      Multiply<XLayout::kRowMajor>(scratch.q, dim, scratch.k, kPanel, kPanel * dim, dim, by_query, kChunk, queries,
                                   slot_panels, /*accumulate=*/false);
      for (int64_t i = 0; i < queries; ++i) {
        for (int64_t s = 0; s < slots; ++s) scratch.scores[s * kBlockQueries + i] = by_query[i * kChunk + s];
      }
    } else {
      for_each_run(false, [&](int64_t at, int64_t count, Slots<T> keys) {
        Multiply<XLayout::kRowMajor>(AsF32(keys, count, dim, scratch.k), dim, scratch.q, kPanel, kPanel * dim, dim,
                                     scratch.scores + at * kBlockQueries, kBlockQueries, count, query_panels,
                                     /*accumulate=*/false);
      });
    }

    for (int64_t p = 0; p < query_panels; ++p) {
      const int64_t i = p * 16;
      // Queries are in the order of their slots: the last begins to see last, the first ceases first.
      const bool masked = scratch.begin[i + 15] > chunk || scratch.end[i] < chunk + slots;
      const auto softmax = masked ? SoftmaxPanel<true> : SoftmaxPanel<false>;
      softmax(scratch.scores + i, slots, chunk, scratch.begin + i, scratch.end + i, scratch.largest + i,
              scratch.sum + i, scratch.rescale + i);
    }
    for (int64_t i = 0; i < queries; ++i) {
      if (scratch.rescale[i] != 1.0f) ScaleRow(scratch.out + i * padded, scratch.rescale[i], padded);
    }

    const auto add_values = [&](int64_t at, int64_t count, const float* values) {
      Multiply<XLayout::kTransposed>(scratch.scores + at * kBlockQueries, kBlockQueries, values, padded, kPanel, count,
                                     scratch.out, padded, queries, padded / 16, /*accumulate=*/true);
    };
    if (copy_values) {
      for_each_run(true, [&](int64_t at, int64_t count, Slots<T> values) {
        CopyRows(values, count, dim, padded, scratch.v + at * padded);
      });
      add_values(0, slots, scratch.v);
    } else if constexpr (std::is_same_v<T, float>) {
      for_each_run(true, [&](int64_t at, int64_t count, Slots<T> values) { add_values(at, count, values.rows); });
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    ScaleRow(scratch.out + i * padded, 1.0f / scratch.sum[i], padded);
    std::copy_n(scratch.out + i * padded, dim, block.out + element_of(i, block.heads * dim));
  }
}

void RunBlockF32(const Block& block, Scratch& scratch) { RunBlock<float>(block, scratch); }
void RunBlockBF16(const Block& block, Scratch& scratch) { RunBlock<hwy::bfloat16_t>(block, scratch); }
void RunBlockInt8(const Block& block, Scratch& scratch) { RunBlock<int8_t>(block, scratch); }

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(RunBlockF32);
HWY_EXPORT(RunBlockBF16);
HWY_EXPORT(RunBlockInt8);

auto RunBlockOf(CacheType type) {
  if (type == CacheType::kInt8) return HWY_DYNAMIC_POINTER(RunBlockInt8);
  return type == CacheType::kBF16 ? HWY_DYNAMIC_POINTER(RunBlockBF16) : HWY_DYNAMIC_POINTER(RunBlockF32);
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void PagedAttention(const float* q, int64_t q_stride, int64_t heads, const PagedRows& rows, const PagedLayer& cache,
                    float scale, int64_t window, float* out, ThreadPool* pool) {
  const auto run_block = RunBlockOf(cache.type);
  const int64_t group = heads / cache.kv_heads;
  const int64_t token_elements = heads * cache.head_dim;
  int64_t blocks = 0;
  for (int64_t r = 0; r < rows.rows(); ++r) blocks += CeilDiv(rows.tokens(r) * group, kBlockQueries);
  pool->Run(blocks * cache.kv_heads, [&](int64_t task, int thread) {
    // Head by head: a head's keys and values are to stay in the L2 cache while a prompt's blocks pass over them.
    int64_t block_of_row = task % blocks;
    int64_t row = 0;
    for (;; ++row) {
      const int64_t here = CeilDiv(rows.tokens(row) * group, kBlockQueries);
      if (block_of_row < here) break;
      block_of_row -= here;
    }
    const int64_t queries = rows.tokens(row) * group;
    const int64_t row_blocks = CeilDiv(queries, kBlockQueries);
    const Block block = {
        .q = q + rows.row_start[row] * q_stride,
        .q_stride = q_stride,
        .out = out + rows.row_start[row] * token_elements,
        .heads = heads,
        .group = group,
        .kv_head = task / blocks,
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
