// Kernels of the paged KV cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/cuda_launchers_testing.h"

namespace flashflow::kernels {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kHeads = 4, kKvHeads = 2, kDim = 8, kPageSize = 4, kPages = 8, kLayers = 2, kPagesPerRow = 3;
constexpr int64_t kWidth = (kHeads + 2 * kKvHeads) * kDim;

// What a step is about, beside its queries, keys and values.
struct Rows {
  Values row_start, kv_len, block_table;
};

class CudaCacheLaunchersTest : public CudaLaunchersTest {
 protected:
  // Empty caches: of the dtype on the "GPU", and of f32 on the CPU, but of codes on both.
  void StartCaches(DType dtype, int64_t page_size = kPageSize, int64_t dim = kDim) {
    view_ = {.dtype = dtype,
             .layers = kLayers,
             .num_pages = kPages,
             .kv_heads = kKvHeads,
             .page_size = page_size,
             .head_dim = dim};
    const auto elements = static_cast<size_t>(kLayers * kPages * 2 * kKvHeads * page_size * dim);
    view_.data = Allocate(static_cast<size_t>(kLayers * view_.LayerBytes()));
    cpu_memory_.resize(elements);
    std::memset(cpu_memory_.data(), 0xff, elements * sizeof(float));  // NaN, as on the "GPU"
    cpu_view_ = view_;
    if (dtype != DType::kI8) cpu_view_.dtype = kF32;
    cpu_view_.data = cpu_memory_.data();
    cache_ = &view_;
    kv_len_.assign(3, 0);
  }

  // The next step: so many tokens of each of three rows.
  Rows Step(const std::vector<int>& tokens) {
    Rows rows = {.row_start = Given(kI32, {4}, {0}), .kv_len = {kI32, {3}}, .block_table = {kI32, {3, kPagesPerRow}}};
    rows_ = {};
    for (int row = 0; row < 3; ++row) {
      kv_len_[row] += static_cast<float>(tokens[row]);
      rows.row_start.elements.push_back(rows.row_start.elements.back() + static_cast<float>(tokens[row]));
      rows_.max_row_tokens = std::max<int64_t>(rows_.max_row_tokens, tokens[row]);
    }
    rows.kv_len.elements = kv_len_;
    // Page 3 is in nobody's reach.
    rows.block_table.elements = {5, 0, 3, 7, 3, 3, 1, 6, 2};
    return rows;
  }

  AttrMap Attrs(int64_t window = 0, int64_t layer = 1) {
    return {{"layer", layer}, {"heads", kHeads}, {"scale", 0.25}, {"window", window}};
  }

  CacheView view_, cpu_view_;
  std::vector<float> cpu_memory_, kv_len_;
};

int64_t Tokens(const Rows& rows) { return static_cast<int64_t>(rows.row_start.elements.back()); }

// cos and sin of angles that differ by token and channel, channels of a pair included.
std::vector<Values> Angles(DType dtype, int64_t tokens, int64_t dim = kDim) {
  std::vector<Values> angles(2, Values{dtype, {tokens, dim}, {}});
  for (int64_t i = 0; i < tokens * dim; ++i) {
    const auto angle = static_cast<float>(i * i);
    angles[0].elements.push_back(cuda::testing::Rounded(FloatOf(dtype), std::cos(angle)));
    angles[1].elements.push_back(cuda::testing::Rounded(FloatOf(dtype), std::sin(angle)));
  }
  return angles;
}

// A prompt in chunks, and then tokens one by one, beside others.
TEST_F(CudaCacheLaunchersTest, CachedAttentionIsThatOfTheCpu) {
  for (const DType dtype : {kF32, kF16, kBF16}) {
    for (const bool turned : {false, true}) {
      for (const int64_t window : {0, 3}) {
        for (const std::string kernel : {"cuda.cached_attention", "cuda.cached_attention.invariant"}) {
          SCOPED_TRACE(testing::Message() << kernel << " " << DTypeName(dtype) << " " << turned << " " << window);
          StartCaches(dtype);
          uint32_t seed = 0;
          for (const std::vector<int>& tokens : {std::vector<int>{5, 1, 3}, {2, 0, 1}, {1, 1, 1}, {3, 1, 6}}) {
            const Rows rows = Step(tokens);
            std::vector<Values> inputs = {Random(dtype, {Tokens(rows), kWidth}, ++seed), rows.row_start, rows.kv_len,
                                          rows.block_table};
            if (turned) {
              for (const Values& angles : Angles(seed % 2 == 0 ? dtype : kF32, Tokens(rows))) inputs.push_back(angles);
            }
            const Values result = {dtype, {Tokens(rows), kHeads * kDim}};
            host_->TakeKernels();
            const std::vector<float> got = Run(kernel, "cached_attention", Attrs(window), inputs, result);
            // Turned queries and keys, of elements up to sqrt(2), are rounded once more than on the CPU: a score moves
            // by 2 eps * 2 dim * scale, and a mean of values below 1 by twice that.
            ExpectClose(got,
                        RunCpu("cpu.cached_attention", "cached_attention", Attrs(window), inputs, result, &cpu_view_),
                        EpsOf(dtype), 1e-5f + (turned ? EpsOf(dtype) * 4 * 2 * kDim * 0.25f : 0));
            const bool prefill = rows_.max_row_tokens > 1 && dtype != kF32 && kernel == "cuda.cached_attention";
            EXPECT_THAT(host_->TakeKernels(),
                        ElementsAre("rope_append", prefill ? "paged_prefill" : "paged_attention"));
          }
        }
      }
    }
  }
}

// One launch, where the kernel for it takes the heads: with what two launches compute.
TEST_F(CudaCacheLaunchersTest, StepsOfOneTokenARowAreOneLaunch) {
  constexpr int64_t kWideDim = 64, kLongPage = 16;
  for (const bool turned : {false, true}) {
    for (const std::string kernel : {"cuda.cached_attention", "cuda.cached_attention.invariant"}) {
      SCOPED_TRACE(testing::Message() << kernel << " " << turned);
      StartCaches(kBF16, kLongPage, kWideDim);
      uint32_t seed = 0;
      for (const std::vector<int>& tokens : {std::vector<int>{17, 1, 3}, {1, 1, 1}, {1, 0, 1}}) {
        const Rows rows = Step(tokens);
        const int64_t count = Tokens(rows);
        std::vector<Values> inputs = {Random(kBF16, {count, (kHeads + 2 * kKvHeads) * kWideDim}, ++seed),
                                      rows.row_start, rows.kv_len, rows.block_table};
        if (turned) {
          for (const Values& angles : Angles(kF32, count, kWideDim)) inputs.push_back(angles);
        }
        const Values result = {kBF16, {count, kHeads * kWideDim}};
        host_->TakeKernels();
        const std::vector<float> got = Run(kernel, "cached_attention", Attrs(2), inputs, result);
        ExpectClose(got, RunCpu("cpu.cached_attention", "cached_attention", Attrs(2), inputs, result, &cpu_view_),
                    EpsOf(kBF16), 1e-5f + (turned ? EpsOf(kBF16) * 4 * 2 * kWideDim * 0.25f : 0));
        const std::vector<std::string> kernels = host_->TakeKernels();
        if (rows_.max_row_tokens == 1) {
          EXPECT_THAT(kernels, ElementsAre("paged_decode"));
        } else {
          EXPECT_EQ(kernels.front(), "rope_append");
        }
      }
    }
  }
}

// The same codes and scales as the CPU's, by kernels of their own whatever the step; what they give in f32 or bf16.
TEST_F(CudaCacheLaunchersTest, CachesOfCodesAreThoseOfTheCpu) {
  for (const DType dtype : {kF32, kF16, kBF16}) {
    for (const std::string kernel : {"cuda.cached_attention", "cuda.cached_attention.invariant"}) {
      SCOPED_TRACE(testing::Message() << kernel << " " << DTypeName(dtype));
      StartCaches(DType::kI8);
      uint32_t seed = 0;
      for (const std::vector<int>& tokens : {std::vector<int>{5, 1, 3}, {2, 0, 1}, {1, 1, 1}, {3, 1, 6}}) {
        const Rows rows = Step(tokens);
        const std::vector<Values> inputs = {Random(dtype, {Tokens(rows), kWidth}, ++seed), rows.row_start, rows.kv_len,
                                            rows.block_table};
        const Values result = {dtype, {Tokens(rows), kHeads * kDim}};
        host_->TakeKernels();
        const std::vector<float> got = Run(kernel, "cached_attention", Attrs(3), inputs, result);
        EXPECT_THAT(host_->TakeKernels(), ElementsAre("int8_append", "int8_attention"));
        ExpectClose(got, RunCpu("cpu.cached_attention", "cached_attention", Attrs(3), inputs, result, &cpu_view_),
                    EpsOf(dtype), 1e-5f);
        // Turned queries and keys: no other kernel than these two.
        std::vector<Values> turned = inputs;
        for (const Values& angles : Angles(kF32, Tokens(rows))) turned.push_back(angles);
        Run(kernel, "cached_attention", Attrs(3, /*layer=*/0), turned, result);
        EXPECT_THAT(host_->TakeKernels(), ElementsAre("int8_append", "int8_attention"));
      }
      const int64_t layer = view_.LayerBytes();
      EXPECT_EQ(std::memcmp(static_cast<const char*>(view_.data) + layer,
                            static_cast<const char*>(cpu_view_.data) + layer, static_cast<size_t>(layer)),
                0);
    }
  }
}

TEST_F(CudaCacheLaunchersTest, CachedAttentionEqualsItsParts) {
  for (const DType dtype : {kF32, kBF16}) {
    StartCaches(dtype);
    const Rows rows = Step({5, 1, 3});
    const int64_t tokens = Tokens(rows);
    const Values qkv = Random(dtype, {tokens, kWidth}, 1);
    const std::vector<float> want =
        Run("cuda.cached_attention", "cached_attention", Attrs(), {qkv, rows.row_start, rows.kv_len, rows.block_table},
            {dtype, {tokens, kHeads * kDim}});
    const auto part = [&](int64_t first, int64_t heads) {
      Values values = {dtype, {tokens, heads, kDim}, {}};
      for (int64_t token = 0; token < tokens; ++token) {
        const auto* begin = qkv.elements.data() + token * kWidth + first * kDim;
        values.elements.insert(values.elements.end(), begin, begin + heads * kDim);
      }
      return values;
    };
    StartCaches(dtype);  // a new one
    Step({5, 1, 3});
    std::vector<TensorView> append;
    for (const Values& values :
         {part(kHeads, kKvHeads), part(kHeads + kKvHeads, kKvHeads), rows.row_start, rows.kv_len, rows.block_table}) {
      append.push_back(Upload(values));
    }
    ASSERT_EQ(Launch("cuda.kv_append", "kv_append", {{"layer", int64_t{1}}}, append, {}), absl::OkStatus());
    for (const std::string kernel : {"cuda.paged_attention", "cuda.paged_attention.invariant"}) {
      host_->TakeKernels();
      EXPECT_EQ(Run(kernel, "paged_attention", Attrs(),
                    {part(0, kHeads), rows.row_start, rows.kv_len, rows.block_table}, {dtype, {tokens, kHeads, kDim}}),
                want);
      const bool prefill = dtype == kBF16 && kernel == "cuda.paged_attention";
      EXPECT_THAT(host_->TakeKernels(), ElementsAre(prefill ? "paged_prefill" : "paged_attention"));
    }
    // The other layer is as it was.
    const std::vector<float> cache =
        Download({.data = view_.data, .dtype = dtype, .rank = 1, .dims = {kPages * 2 * kKvHeads * kPageSize * kDim}});
    for (const float element : cache) EXPECT_TRUE(std::isnan(element));
  }
}

TEST_F(CudaCacheLaunchersTest, ThereMayBeNoTokens) {
  StartCaches(kBF16);
  const Rows rows = Step({0, 0, 0});
  EXPECT_THAT(Run("cuda.cached_attention", "cached_attention", Attrs(),
                  {{kBF16, {0, kWidth}}, rows.row_start, rows.kv_len, rows.block_table}, {kBF16, {0, kHeads * kDim}}),
              IsEmpty());
  EXPECT_THAT(host_->TakeKernels(), IsEmpty());
}

TEST_F(CudaCacheLaunchersTest, OperandsThatDoNotFitAreRefused) {
  StartCaches(kBF16);
  const Rows rows = Step({1, 1, 1});
  const Values r = rows.row_start, l = rows.kv_len, b = rows.block_table;
  const Values qkv = Random(kBF16, {3, kWidth}, 1), y = {kBF16, {3, kHeads * kDim}};
  const Values k = Random(kBF16, {3, kKvHeads, kDim}, 1), q = Random(kBF16, {3, kHeads, kDim}, 1);
  const AttrMap layer = {{"layer", int64_t{0}}};
  const auto append = [&](const std::vector<Values>& inputs, const std::string& message) {
    ExpectRefused("cuda.kv_append", "kv_append", layer, inputs, {}, message);
  };
  append({Random(kBF16, {6, kDim}, 1), k, r, l, b}, "k is bf16[6, 8], expected rank 3");
  append({q, k, r, l, b}, "k is bf16[3, 4, 8], expected [3, 2, 8]");
  append({k, q, r, l, b}, "v is bf16[3, 4, 8], expected [3, 2, 8]");
  append({k, Random(kF32, {3, kKvHeads, kDim}, 1), r, l, b}, "k and v differ in dtype");
  append({Random(kF16, {3, kKvHeads, kDim}, 1), Random(kF16, {3, kKvHeads, kDim}, 1), r, l, b},
         "a KV cache of bf16 for values of f16");
  append({k, k, r, Given(kI32, {3, 1}, {1, 1, 1}), b}, "kv_len is i32[3, 1], expected rank 1");
  append({k, k, l, l, b}, "row_start is i32[3], expected [4]");
  append({k, k, r, l, Given(kI32, {3}, {0, 1, 2})}, "block_table is i32[3], expected [3, pages]");
  append({k, k, r, l, Given(kI32, {2, 2}, {0, 1, 2, 3})}, "block_table is i32[2, 2], expected [3, pages]");
  append({k, k, r, l, {kI32, {3, 0}}}, "refuses bf16[3, 2, 8]");
  ExpectRefused("cuda.kv_append", "kv_append", {{"layer", int64_t{2}}}, {k, k, r, l, b}, {},
                "layer 2 of a KV cache of 2", absl::StatusCode::kOutOfRange);

  const auto attend = [&](const std::vector<Values>& inputs, const Values& result, const std::string& message) {
    ExpectRefused("cuda.paged_attention", "paged_attention", Attrs(), inputs, {result}, message);
  };
  attend({Random(kBF16, {3, 3, kDim}, 1), r, l, b}, q, "expected [tokens, a multiple of 2, 8]");
  attend({Random(kBF16, {3, kHeads, 4}, 1), r, l, b}, q, "q is bf16[3, 4, 4]");
  attend({q, r, l, b}, k, "result is bf16[3, 2, 8]");
  attend({q, r, l, b}, {kF32, {3, kHeads, kDim}}, "q and the result differ in dtype");

  const std::string_view cached = "cuda.cached_attention", op = "cached_attention";
  const auto refused = [&](const std::vector<Values>& inputs, const Values& result, const std::string& message,
                           absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    ExpectRefused(cached, op, Attrs(), inputs, {result}, message, code);
  };
  const Values cos = Random(kBF16, {3, kDim}, 1), wide = Random(kF32, {3, kDim}, 1);
  refused({Random(kBF16, {3, kWidth - 1}, 1), r, l, b}, y, "qkv is bf16[3, 63], expected [tokens, 64]");
  refused({qkv, r, l, b}, q, "result is bf16[3, 4, 8], expected [3, 32]");
  refused({qkv, r, l, b}, {kF32, {3, kHeads * kDim}}, "qkv and the result differ in dtype");
  refused({qkv, r, l, b, cos}, y, "cos and sin differ in dtype, or one is missing");
  refused({qkv, r, l, b, Absent(), cos}, y, "cos and sin differ in dtype, or one is missing");
  refused({qkv, r, l, b, cos, wide}, y, "cos and sin differ in dtype, or one is missing");
  refused({qkv, r, l, b, Random(kBF16, {2, kDim}, 1), cos}, y, "cos is bf16[2, 8], expected [3, 8]");
  refused({qkv, r, l, b, cos, Random(kBF16, {2, kDim}, 1)}, y, "sin is bf16[2, 8], expected [3, 8]");
  const Values half = Random(kF16, {3, kDim}, 1);
  refused({qkv, r, l, b, half, half}, y, "no CUDA kernel on this GPU takes bf16[3, 64]",
          absl::StatusCode::kUnimplemented);
  AttrMap attrs = Attrs();
  attrs["heads"] = int64_t{3};
  ExpectRefused(cached, op, attrs, {qkv, r, l, b}, {y}, "3 heads over 2 in the cache");
  attrs["heads"] = int64_t{0};
  ExpectRefused(cached, op, attrs, {qkv, r, l, b}, {y}, "heads is 0");
  attrs = Attrs(/*window=*/-1);
  ExpectRefused(cached, op, attrs, {qkv, r, l, b}, {y}, "window is -1");
  attrs = Attrs(0, /*layer=*/-1);
  ExpectRefused(cached, op, attrs, {qkv, r, l, b}, {y}, "layer -1", absl::StatusCode::kOutOfRange);
  workspace_bytes_ = 3 * kHeads * kDim * 2 - 1;
  refused({qkv, r, l, b, cos, cos}, y, "its working memory has 191 bytes, expected 192");
}

TEST_F(CudaCacheLaunchersTest, HeadsThatNoKernelTakesAreNamed) {
  StartCaches(kBF16);
  const Rows rows = Step({1, 1, 1});
  view_.head_dim = 4;
  const Values q = Random(kBF16, {3, kHeads, 4}, 1);
  ExpectRefused("cuda.paged_attention", "paged_attention", Attrs(), {q, rows.row_start, rows.kv_len, rows.block_table},
                {q}, "i32[3, 3], heads of 4 in pages of 4: run the model on the CPU", absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace flashflow::kernels
