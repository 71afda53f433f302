#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                        // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/tile_product-inl.h"
#include "kernels/cpu/vector_loop-inl.h"

#ifndef KERNELS_CPU_ATTENTION_ONCE_
#define KERNELS_CPU_ATTENTION_ONCE_
namespace flashflow::cpu {
namespace {

constexpr int64_t kQueryBlock = 32;
constexpr int64_t kKeyBlock = 64;

// The keys that query i of a block sees are those of [begin(i), end(i)).
struct VisibleKeys {
  explicit VisibleKeys(const AttentionShape& shape)
      : keys(shape.keys), shift(shape.keys - shape.queries), causal(shape.causal), window(shape.window) {}
  int64_t end(int64_t query) const { return causal ? std::clamp<int64_t>(query + shift + 1, 0, keys) : keys; }
  int64_t begin(int64_t query) const {
    return window > 0 ? std::clamp<int64_t>(query + shift - window + 1, 0, keys) : 0;
  }
  int64_t keys, shift;
  bool causal;
  int64_t window;
};

// A thread's working memory.
struct Scratch {
  explicit Scratch(void* memory) : keys(static_cast<float*>(memory)), values(keys + kMaxAttentionHeadDim * kKeyBlock) {
    scores = values + kMaxAttentionHeadDim * kKeyBlock;
    largest = scores + kQueryBlock * kKeyBlock;
    sum = largest + kQueryBlock;
    bias = sum + kQueryBlock;
  }
  static constexpr size_t kBytes =
      sizeof(float) * (2 * kMaxAttentionHeadDim * kKeyBlock + kQueryBlock * kKeyBlock + 2 * kQueryBlock + kKeyBlock);
  float* keys;    // a block's, as panels
  float* values;  // the same
  float* scores;  // [kQueryBlock][kKeyBlock]
  float* largest;
  float* sum;
  float* bias;  // of a query's keys in a block
};
static_assert(Scratch::kBytes <= ThreadPool::kScratchBytes);

// What the mask adds to the scores of `count` keys of one query.
inline void ReadMask(const AttentionMask& mask, int64_t first, size_t count, float* bias) {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < count; ++i) {
    const int64_t at = first + static_cast<int64_t>(i) * mask.key_stride;
    bias[i] = mask.is_bool ? (static_cast<const bool*>(mask.data)[at] ? 0.0f : kHidden)
                           : static_cast<const float*>(mask.data)[at];
  }
}

}  // namespace
}  // namespace flashflow::cpu
#endif  // KERNELS_CPU_ATTENTION_ONCE_

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

// Turns a query's scores of keys [begin, end) of a block into weights relative to the running maximum, and the rest
// into zeros; brings the running sum and the query's row of y to the new maximum. bias: of the block's keys, or
// nullptr.
void AddScores(float* scores, size_t begin, size_t end, float scale, const float* bias, float* largest, float* sum,
               float* y, size_t value_dim) {
  const FloatD d;
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  float* const visible = scores + begin;
  const size_t count = end - begin;
  const auto scales = hn::Set(d, scale);
  auto most = hn::Set(d, kMinusInf);
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
    auto s = hn::Mul(vector.Load(visible + i), scales);
    if (bias != nullptr) {  // a hidden key's score does not matter, not even if it is NaN
      const auto b = vector.Load(bias + begin + i);
      const auto hidden = hn::Set(d, kMinusInf);
      s = hn::IfThenElse(hn::Eq(b, hidden), hidden, hn::Add(s, b));
    }
    most = hn::Max(most, vector.Or(s, most));
    vector.Store(s, visible + i);
  });
  const float before = *largest;
  const float after = std::max(before, hn::ReduceMax(d, most));
  const float shift = after == kMinusInf ? 0.0f : after;
  const auto shifts = hn::Set(d, shift);
  auto added = hn::Zero(d);  // NaN if any score is, though the maximum may have lost it
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
    const auto e = ExpAll(d, hn::Sub(vector.Load(visible + i), shifts));
    added = hn::Add(added, vector.Or(e, hn::Zero(d)));
    vector.Store(e, visible + i);
  });
  std::fill(scores, visible, 0.0f);
  std::fill(scores + end, scores + kKeyBlock, 0.0f);
  *largest = after;
  const float total = hn::ReduceSum(d, added);
  if (before == after || before == kMinusInf) {
    *sum += total;
    return;
  }
  const auto correction = hn::GetLane(ExpAll(d, hn::Set(d, before - shift)));
  *sum = *sum * correction + total;
  const auto factor = hn::Set(d, correction);
  ForEachVector(value_dim,
                [&](size_t i, auto vector) HWY_ATTR { vector.Store(hn::Mul(vector.Load(y + i), factor), y + i); });
}

// Queries [first, last) of one head, at most kQueryBlock; the mask's data are those of the head.
void AttendBlock(const float* q, const float* k, const float* v, const AttentionMask& mask, float* y,
                 const AttentionShape& shape, int64_t first, int64_t last, void* memory) {
  const Scratch scratch(memory);
  const VisibleKeys visible(shape);
  const size_t queries = static_cast<size_t>(last - first);
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  const size_t value_dim = static_cast<size_t>(shape.value_dim);
  q += first * shape.head_dim;
  y += first * shape.value_dim;
  std::fill_n(scratch.largest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.sum, queries, 0.0f);
  std::fill_n(y, queries * value_dim, 0.0f);
  const int64_t keys_end = visible.end(last - 1);
  for (int64_t block = visible.begin(first) / kKeyBlock * kKeyBlock; block < keys_end; block += kKeyBlock) {
    const size_t keys = static_cast<size_t>(std::min(kKeyBlock, shape.keys - block));
    const Panels key_panels =
        PackPanels(k + block * shape.head_dim, /*k_stride=*/1, shape.head_dim, head_dim, keys, scratch.keys);
    TileProduct(q, head_dim, key_panels, /*bias=*/nullptr, scratch.scores, kKeyBlock, queries, keys, head_dim,
                /*accumulate=*/false);
    for (size_t i = 0; i < queries; ++i) {
      const auto within = [&](int64_t key) {
        return static_cast<size_t>(std::clamp<int64_t>(key - block, 0, static_cast<int64_t>(keys)));
      };
      const int64_t query = first + static_cast<int64_t>(i);
      const size_t end = within(visible.end(query));
      if (mask.data != nullptr) ReadMask(mask, query * mask.query_stride + block * mask.key_stride, end, scratch.bias);
      AddScores(scratch.scores + i * kKeyBlock, std::min(within(visible.begin(query)), end), end, shape.scale,
                mask.data == nullptr ? nullptr : scratch.bias, scratch.largest + i, scratch.sum + i, y + i * value_dim,
                value_dim);
    }
    const float* values = v + block * shape.value_dim;
    const Panels value_panels = value_dim % kPanel == 0
                                    ? Panels{values, value_dim, kPanel}
                                    : PackPanels(values, shape.value_dim, 1, keys, value_dim, scratch.values);
    TileProduct(scratch.scores, kKeyBlock, value_panels, /*bias=*/nullptr, y, value_dim, queries, value_dim, keys,
                /*accumulate=*/true);
  }
  const FloatD d;
  for (size_t i = 0; i < queries; ++i) {
    float* const row = y + i * value_dim;
    const float sum = scratch.sum[i];
    if (sum == 0.0f) continue;  // no key in sight: zeros
    const auto divisor = hn::Set(d, sum);
    ForEachVector(value_dim, [&](size_t c, auto vector)
                                 HWY_ATTR { vector.Store(hn::Div(vector.Load(row + c), divisor), row + c); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(AttendBlock);

}  // namespace

void Attention(const float* q, const float* k, const float* v, const AttentionMask& mask, float* y,
               const AttentionShape& shape, ThreadPool* pool) {
  HWY_ASSERT(shape.head_dim <= kMaxAttentionHeadDim && shape.value_dim <= kMaxAttentionHeadDim);
  const int64_t heads = shape.batch * shape.heads;
  if (heads == 0 || shape.queries == 0 || shape.value_dim == 0) return;
  const auto attend = HWY_DYNAMIC_POINTER(AttendBlock);
  const int64_t blocks = (shape.queries + kQueryBlock - 1) / kQueryBlock;
  pool->Run(heads * blocks, [&](int64_t i, int thread) {
    const int64_t head = i / blocks;
    // The last blocks of a causal head see the most keys: they go first.
    const int64_t first = (blocks - 1 - i % blocks) * kQueryBlock;
    const int64_t kv_head = head / shape.heads * shape.kv_heads + head % shape.heads / (shape.heads / shape.kv_heads);
    AttentionMask own = mask;
    if (mask.data != nullptr) {
      const int64_t at = head / shape.heads * mask.batch_stride + head % shape.heads * mask.head_stride;
      own.data = mask.is_bool ? static_cast<const void*>(static_cast<const bool*>(mask.data) + at)
                              : static_cast<const void*>(static_cast<const float*>(mask.data) + at);
    }
    attend(q + head * shape.queries * shape.head_dim, k + kv_head * shape.keys * shape.head_dim,
           v + kv_head * shape.keys * shape.value_dim, own, y + head * shape.queries * shape.value_dim, shape, first,
           std::min(first + kQueryBlock, shape.queries), pool->scratch(thread));
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
