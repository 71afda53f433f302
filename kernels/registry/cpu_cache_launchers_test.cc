// Kernels of the paged KV cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/cpu_launchers_testing.h"

namespace flashflow::kernels {
namespace {

using testing::HasSubstr;

// Two layers of a cache of 4 pages of 2 slots, 1 kv head of 2 elements; one row on pages 3 and 1.
class CpuCacheKernelsTest : public CpuLaunchersTest {
 protected:
  CpuCacheKernelsTest() { cache_ = &view_; }

  absl::Status Append(int64_t layer) {
    return Run("cpu.kv_append", "kv_append", {{"layer", layer}},
               {k_.view(), v_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {});
  }
  absl::Status Attend(int64_t layer, int64_t window = 0) {
    return Run("cpu.paged_attention", "paged_attention", {{"layer", layer}, {"scale", 2.0}, {"window", window}},
               {q_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {out_.view()});
  }

  std::vector<float> memory_ = std::vector<float>(2 * 4 * 2 * 2 * 2, NAN);
  CacheView view_{
      .data = memory_.data(), .dtype = kF32, .layers = 2, .num_pages = 4, .kv_heads = 1, .page_size = 2, .head_dim = 2};
  F k_{{3, 1, 2}, {1, 0, 0, 1, 1, 1}}, v_{{3, 1, 2}, {1, 2, 3, 4, 5, 6}};
  F q_{{3, 2, 2}, {0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 9, 9}}, out_{{3, 2, 2}, std::vector<float>(12)};
  I row_start_{{2}, {0, 3}}, kv_len_{{1}, {3}}, block_table_{{1, 2}, {3, 1}};
};

TEST_F(CpuCacheKernelsTest, AppendThenAttend) {
  ASSERT_TRUE(Append(1).ok());
  // Layer 1 begins at 32; its page 3, keys: slots 0 and 1; values 4 later.
  EXPECT_EQ(memory_[32 + 3 * 8], 1);
  EXPECT_EQ(memory_[32 + 3 * 8 + 3], 1);
  EXPECT_EQ(memory_[32 + 3 * 8 + 4], 1);
  EXPECT_EQ(memory_[32 + 1 * 8 + 4], 5);
  EXPECT_TRUE(std::isnan(memory_[32 + 1 * 8 + 6]));
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(std::isnan(memory_[i]));
  ASSERT_TRUE(Attend(1).ok());
  const float e2 = std::exp(2.0f);
  EXPECT_FLOAT_EQ(out_.data[0], 1);                        // token 0 sees itself
  EXPECT_FLOAT_EQ(out_.data[4], (e2 * 1 + 3) / (e2 + 1));  // token 1, head 0: scores 2 and 0
  EXPECT_FLOAT_EQ(out_.data[6], (1 + e2 * 3) / (e2 + 1));  // head 1: 0 and 2
  EXPECT_FLOAT_EQ(out_.data[8], 3);                        // token 2, head 0: all alike
  EXPECT_NEAR(out_.data[10], 5, 1e-5);                     // head 1: 18, 18 and 36
  ASSERT_TRUE(Attend(1, /*window=*/2).ok());
  EXPECT_FLOAT_EQ(out_.data[8], 4);  // slots 1 and 2 only
}

TEST_F(CpuCacheKernelsTest, StepsThatLeaveTheCacheAreRefused) {
  ASSERT_TRUE(Append(0).ok());
  const auto both = [&](const std::string& message, absl::StatusCode code = absl::StatusCode::kOutOfRange) {
    ExpectError(Append(0), message, code);
    ExpectError(Attend(0), message, code);
  };
  block_table_.data = {3, 4};
  both("block_table[0, 1] is 4, but the cache has 4 pages");
  block_table_.data = {-1, 1};
  both("block_table[0, 0] is -1");
  block_table_.data = {3, 1};
  kv_len_.data = {5};
  both("kv_len[0] is 5");
  kv_len_.data = {2};
  both("kv_len[0] is 2");
  kv_len_.data = {3};
  row_start_.data = {0, 2};
  both("row_start ends with 2 for 3 tokens");
  row_start_.data = {0, 3};
  block_table_ = {{2, 1}, {3, 1}};
  both("block_table is i32[2, 1], expected [1, pages]", absl::StatusCode::kInvalidArgument);
  block_table_ = {{1, 2}, {3, 1}};
  row_start_ = {{3}, {0, 3, 3}};
  both("row_start is i32[3], expected [2]", absl::StatusCode::kInvalidArgument);
  row_start_ = {{2}, {0, 3}};
  ExpectError(Append(2), "layer 2 of a KV cache of 2", absl::StatusCode::kOutOfRange);
  ExpectError(Attend(-1), "layer -1", absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Attend(0).ok());
}

TEST_F(CpuCacheKernelsTest, OperandsThatDoNotFitTheCacheAreRefused) {
  v_.dims = {3, 2, 1};
  ExpectError(Append(0), "v is f32[3, 2, 1], expected [3, 1, 2]");
  v_.dims = {3, 1, 2};
  k_.dims = {3, 2, 1};
  ExpectError(Append(0), "k is f32[3, 2, 1], expected [3, 1, 2]");
  q_.dims = {3, 1, 4};
  ExpectError(Attend(0), "q is f32[3, 1, 4]");
  view_.head_dim = 257;
  ExpectError(Attend(0), "head_dim 257", absl::StatusCode::kUnimplemented);
  view_.head_dim = 0;
  ExpectError(Attend(0), "empty dims");
  view_.head_dim = 2;
  view_.dtype = DType::kF16;
  ExpectError(Append(0), "a KV cache of f16");
  view_.dtype = DType::kI8;
  ExpectError(Append(0), "a KV cache of i8 with pages of 2 tokens, expected whole fours");
  cache_ = nullptr;
  ExpectError(Append(0), "without a KV cache");
  ExpectBindError("cpu.paged_attention", "paged_attention",
                  {{"layer", int64_t{0}}, {"scale", 1.0}, {"window", int64_t{-1}}}, {kF32, kI32, kI32, kI32}, {kF32},
                  "window is -1");
}

// cached_attention is rope of queries and keys, kv_append and paged_attention.
TEST_F(CpuCacheKernelsTest, CachedAttentionEqualsItsParts) {
  // Per token two query heads, a key, a value.
  F qkv{{3, 8}, {1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 4, 1, 5, 9, 3, 4, 2, 7, 1, 8, 2, 8, 5, 6}};
  F cos{{3, 2}, {1, 1, 0.5, 0.5, 0, 0}}, sin{{3, 2}, {0, 0, 2, 2, 1, 1}};
  const AttrMap attrs = {{"layer", int64_t{1}}, {"heads", int64_t{2}}, {"scale", 0.25}, {"window", int64_t{2}}};
  const auto fused = [&](bool turned) {
    std::vector<TensorView> inputs = {qkv.view(), row_start_.view(), kv_len_.view(), block_table_.view()};
    if (turned) inputs.insert(inputs.end(), {cos.view(), sin.view()});
    F out{{3, 4}, std::vector<float>(12, NAN)};
    EXPECT_EQ(Run("cpu.cached_attention", "cached_attention", attrs, inputs, {out.view()}), absl::OkStatus());
    return out.data;
  };
  for (const bool turned : {false, true}) {
    std::fill(memory_.begin(), memory_.end(), NAN);
    const std::vector<float> got = fused(turned);
    const std::vector<float> filled = memory_;
    std::fill(memory_.begin(), memory_.end(), NAN);
    for (int t = 0; t < 3; ++t) {
      for (int head = 0; head < 4; ++head) {
        float* x = qkv.data.data() + t * 8 + head * 2;
        float turn[2] = {x[0], x[1]};
        if (turned && head < 3) {
          turn[0] = x[0] * cos.data[t * 2] - x[1] * sin.data[t * 2];
          turn[1] = x[1] * cos.data[t * 2 + 1] + x[0] * sin.data[t * 2 + 1];
        }
        float* to = head < 2 ? &q_.data[t * 4 + head * 2] : head == 2 ? &k_.data[t * 2] : &v_.data[t * 2];
        std::copy_n(turn, 2, to);
      }
    }
    ASSERT_TRUE(Append(1).ok());
    EXPECT_EQ(std::memcmp(filled.data(), memory_.data(), memory_.size() * sizeof(float)), 0);
    ASSERT_EQ(
        Run("cpu.paged_attention", "paged_attention", {{"layer", int64_t{1}}, {"scale", 0.25}, {"window", int64_t{2}}},
            {q_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {out_.view()}),
        absl::OkStatus());
    EXPECT_EQ(got, out_.data) << "turned " << turned;
  }

  const auto error = [&](const std::vector<TensorView>& inputs, const std::string& message) {
    F out{{3, 4}, std::vector<float>(12)};
    const absl::Status status = Run("cpu.cached_attention", "cached_attention", attrs, inputs, {out.view()});
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  F narrow{{3, 6}, std::vector<float>(18)}, few{{2, 2}, std::vector<float>(4)};
  const TensorView r = row_start_.view(), l = kv_len_.view(), b = block_table_.view();
  error({narrow.view(), r, l, b}, "qkv is f32[3, 6], expected [tokens, 8]");
  error({qkv.view(), r, l, b, cos.view()}, "cos without sin");
  error({qkv.view(), r, l, b, cos.view(), few.view()}, "sin is f32[2, 2]");
  error({qkv.view(), r, l, b, few.view(), sin.view()}, "cos is f32[2, 2]");
  workspace_.resize(17);
  error({qkv.view(), r, l, b, cos.view(), sin.view()}, "its working memory has 68 bytes, expected 72");
  block_table_.data = {3, 4};
  error({qkv.view(), r, l, b}, "the cache has 4 pages");
}

TEST_F(CpuCacheKernelsTest, CachesWithoutDataOrDimsAreRefused) {
  const CacheView right = view_;
  for (int64_t CacheView::* const dim :
       {&CacheView::layers, &CacheView::kv_heads, &CacheView::page_size, &CacheView::head_dim}) {
    view_ = right;
    view_.*dim = 0;
    ExpectError(Append(0), "a KV cache without data or with empty dims");
  }
  view_ = right;
  view_.num_pages = -1;
  ExpectError(Append(0), "a KV cache without data or with empty dims");
  view_ = right;
  view_.data = nullptr;
  ExpectError(Append(0), "a KV cache without data or with empty dims");
}

TEST_F(CpuCacheKernelsTest, HeadsThatDoNotFitTheCacheAreRefused) {
  view_.kv_heads = 2;
  view_.head_dim = 1;
  const AttrMap layer = {{"layer", int64_t{0}}};
  const auto attention = [](int64_t layer, int64_t heads) -> AttrMap {
    return {{"layer", layer}, {"heads", heads}, {"scale", 1.0}, {"window", int64_t{0}}};
  };
  const TensorView r = row_start_.view(), l = kv_len_.view(), b = block_table_.view();
  const TensorView k = Zeros({3, 2, 1}), q = Zeros({3, 4, 1}), qkv = Zeros({3, 8}), y = Zeros({3, 4});
  const std::string_view cached = "cpu.cached_attention", op = "cached_attention";
  ExpectRefused({
      {"cpu.kv_append", "kv_append", layer, {Zeros({6, 1}), k, r, l, b}, {}, "k is f32[6, 1], expected rank 3"},
      {"cpu.kv_append", "kv_append", layer, {k, k, r, Zeros({1, 1}, kI32), b}, {}, "kv_len is i32[1, 1]"},
      {"cpu.kv_append", "kv_append", layer, {k, k, r, l, Zeros({1}, kI32)}, {}, "expected [1, pages]"},
      {"cpu.paged_attention",
       "paged_attention",
       attention(0, 0),
       {Zeros({3, 3, 1}), r, l, b},
       {Zeros({3, 3, 1})},
       "expected [tokens, a multiple of 2, 1]"},
      {"cpu.paged_attention",
       "paged_attention",
       attention(0, 0),
       {Zeros({3, 4, 1, 1}), r, l, b},
       {Zeros({3, 4, 1, 1})},
       "q is f32[3, 4, 1, 1]"},
      {"cpu.paged_attention", "paged_attention", attention(0, 0), {q, r, l, b}, {k}, "result is f32[3, 2, 1]"},
      {cached, op, attention(2, 4), {qkv, r, l, b}, {y}, "layer 2 of a KV cache of 2", absl::StatusCode::kOutOfRange},
      {cached, op, attention(0, 3), {Zeros({3, 7}), r, l, b}, {Zeros({3, 3})}, "3 heads over 2 in the cache"},
      {cached, op, attention(0, 4), {Zeros({3, 8, 1}), r, l, b}, {y}, "qkv is f32[3, 8, 1], expected [tokens, 8]"},
      {cached, op, attention(0, 4), {qkv, r, l, b}, {Zeros({3, 8})}, "result is f32[3, 8], expected [3, 4]"},
      {cached, op, attention(0, 4), {qkv, r, l, b, Zeros({3, 1}), Zeros({3, 1})}, {y}, "head_dim 1 is odd"},
      {cached, op, attention(0, 4), {qkv, r, l, b, Absent(), Zeros({3, 1})}, {y}, "sin without cos"},
  });
  const std::vector<std::optional<DType>> inputs = {kF32, kI32, kI32, kI32};
  ExpectBindError(cached, op, attention(0, 0), inputs, {kF32}, "heads is 0");
  ExpectBindError(cached, op, attention(0, (1 << 20) + 1), inputs, {kF32}, "heads is 1048577");
  AttrMap window = attention(0, 4);
  window["window"] = int64_t{-1};
  ExpectBindError(cached, op, window, inputs, {kF32}, "window is -1");
  view_.head_dim = 257;
  ExpectRefused({{cached,
                  op,
                  attention(0, 2),
                  {Zeros({3, 6 * 257}), r, l, b},
                  {Zeros({3, 2 * 257})},
                  "head_dim 257",
                  absl::StatusCode::kUnimplemented}});
}

}  // namespace
}  // namespace flashflow::kernels
