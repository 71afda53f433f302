// kv_append and paged_attention against attention over each row's whole sequence.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/builder.h"
#include "compiler/ir/float_convert.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::interpreter {
namespace {

using ir::Op;
using ::testing::HasSubstr;

constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kDim = 3;
constexpr int64_t kPageSize = 4;
constexpr int64_t kPages = 16;
constexpr double kScale = 0.7;
const ir::CacheType kCacheType{2, kKvHeads, kDim, DType::kF32};

// cache, q, k, v and rows -> cache and, for layer 1 with a window and without, the attention.
std::unique_ptr<ir::Graph> StepGraph(ir::CacheType type, int64_t window) {
  ir::GraphBuilder builder("step");
  const DimExpr t = builder.Symbol("T", 1, 64);
  const DimExpr r = builder.Symbol("R", 1, 8);
  const DimExpr p = builder.Symbol("P", 1, 16);
  ir::Value* cache = builder.CacheInput("cache", type);
  ir::Value* q = builder.Input("q", DType::kF32, {t, kHeads, kDim});
  ir::Value* k = builder.Input("k", DType::kF32, {t, kKvHeads, kDim});
  ir::Value* v = builder.Input("v", DType::kF32, {t, kKvHeads, kDim});
  ir::Value* row_start = builder.Input("row_start", DType::kI32, {r + 1});
  ir::Value* kv_len = builder.Input("kv_len", DType::kI32, {r});
  ir::Value* table = builder.Input("block_table", DType::kI32, {r, p});
  // Layer 0 gets keys and values exchanged: whoever mixes up layers, or keys and values, reads them.
  ir::Value* first = builder.Add(Op::kKvAppend, {cache, v, k, row_start, kv_len, table}, {{"layer", 0}});
  ir::Value* second = builder.Add(Op::kKvAppend, {first, k, v, row_start, kv_len, table}, {{"layer", 1}});
  builder.Output("y", builder.Add(Op::kPagedAttention, {second, q, row_start, kv_len, table},
                                  {{"layer", 1}, {"scale", kScale}, {"window", window}}));
  builder.Output("cache", second);
  return builder.Build();
}

struct Sequence {
  std::vector<double> q, k, v;  // of all its tokens, [length, heads, dim]
  std::vector<double> got;      // what the steps gave, the same layout as q
  int64_t done = 0;             // tokens already in the cache
  std::vector<int64_t> pages;
  int64_t length() const { return static_cast<int64_t>(k.size()) / (kKvHeads * kDim); }
};

// Attention by its definition over the whole sequence: an independent formula, no paging and no softmax shift.
std::vector<double> Reference(const Sequence& s, int64_t window) {
  std::vector<double> y(s.q.size());
  for (int64_t i = 0; i < s.length(); ++i) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const int64_t kv_head = h * kKvHeads / kHeads;
      double sum = 0;
      for (int64_t j = 0; j <= i; ++j) {
        if (window > 0 && j <= i - window) continue;
        double dot = 0;
        for (int64_t d = 0; d < kDim; ++d) {
          dot += s.q[(i * kHeads + h) * kDim + d] * s.k[(j * kKvHeads + kv_head) * kDim + d];
        }
        const double weight = std::exp(dot * kScale);
        sum += weight;
        for (int64_t d = 0; d < kDim; ++d) {
          y[(i * kHeads + h) * kDim + d] += weight * s.v[(j * kKvHeads + kv_head) * kDim + d];
        }
      }
      for (int64_t d = 0; d < kDim; ++d) y[(i * kHeads + h) * kDim + d] /= sum;
    }
  }
  return y;
}

// One step that appends counts[r] tokens to each sequence r.
absl::StatusOr<Cache> RunStep(const ir::Graph& graph, Cache cache, std::vector<Sequence>& rows,
                              const std::vector<int64_t>& counts, Mode mode) {
  std::vector<double> q, k, v;
  std::vector<int64_t> row_start = {0};
  std::vector<int64_t> kv_len, table;
  int64_t width = 1;
  for (const Sequence& s : rows) width = std::max<int64_t>(width, s.pages.size());
  auto append = [](std::vector<double>& to, const std::vector<double>& from, int64_t begin, int64_t count,
                   int64_t heads) {
    to.insert(to.end(), from.begin() + begin * heads * kDim, from.begin() + (begin + count) * heads * kDim);
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    Sequence& s = rows[r];
    append(q, s.q, s.done, counts[r], kHeads);
    append(k, s.k, s.done, counts[r], kKvHeads);
    append(v, s.v, s.done, counts[r], kKvHeads);
    s.done += counts[r];
    row_start.push_back(row_start.back() + counts[r]);
    kv_len.push_back(s.done);
    for (int64_t i = 0; i < width; ++i) table.push_back(i < static_cast<int64_t>(s.pages.size()) ? s.pages[i] : -1);
  }
  const int64_t tokens = row_start.back();
  const auto count = static_cast<int64_t>(rows.size());
  Values inputs;
  inputs.emplace("cache", std::move(cache));
  inputs.emplace("q", Tensor::Floats({tokens, kHeads, kDim}, q));
  inputs.emplace("k", Tensor::Floats({tokens, kKvHeads, kDim}, k));
  inputs.emplace("v", Tensor::Floats({tokens, kKvHeads, kDim}, v));
  inputs.emplace("row_start", Tensor::Ints({count + 1}, row_start));
  inputs.emplace("kv_len", Tensor::Ints({count}, kv_len));
  inputs.emplace("block_table", Tensor::Ints({count, width}, table));
  absl::StatusOr<Values> outputs = Interpret(graph, std::move(inputs), WeightsFrom({}), mode);
  if (!outputs.ok()) return outputs.status();
  const Tensor& y = std::get<Tensor>(outputs->at("y"));
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].got.insert(rows[r].got.end(), y.floats.begin() + row_start[r] * kHeads * kDim,
                       y.floats.begin() + row_start[r + 1] * kHeads * kDim);
  }
  return std::get<Cache>(std::move(outputs->at("cache")));
}

std::vector<Sequence> RandomRows(const std::vector<int64_t>& lengths, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<int64_t> pages(kPages);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  std::vector<Sequence> rows(lengths.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int64_t i = 0; i < lengths[r] * kHeads * kDim; ++i) rows[r].q.push_back(normal(random));
    for (int64_t i = 0; i < lengths[r] * kKvHeads * kDim; ++i) {
      rows[r].k.push_back(normal(random));
      rows[r].v.push_back(normal(random));
    }
    for (int64_t slot = 0; slot < lengths[r]; slot += kPageSize) {
      rows[r].pages.push_back(pages.back());
      pages.pop_back();
    }
  }
  return rows;
}

class PagedAttentionTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(PagedAttentionTest, EqualsAttentionOnTheFullSequence) {
  const int64_t window = GetParam();
  const std::unique_ptr<ir::Graph> graph = StepGraph(kCacheType, window);
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::vector<Sequence> rows = RandomRows({1, 13, 4, 9}, random);
    Cache cache = Cache::Empty(kCacheType, kPages, kPageSize);
    // Prefill, chunks, decode, rows that wait: in any mixture until each sequence is through.
    while (std::any_of(rows.begin(), rows.end(), [](const Sequence& s) { return s.done < s.length(); })) {
      std::vector<int64_t> counts;
      for (const Sequence& s : rows) counts.push_back(random() % (std::min<int64_t>(s.length() - s.done, 6) + 1));
      if (std::accumulate(counts.begin(), counts.end(), 0) == 0) continue;
      absl::StatusOr<Cache> next = RunStep(*graph, std::move(cache), rows, counts, Mode::kWide);
      ASSERT_TRUE(next.ok()) << next.status();
      cache = *std::move(next);
    }
    for (const Sequence& s : rows) {
      const std::vector<double> expected = Reference(s, window);
      ASSERT_EQ(s.got.size(), expected.size());
      // Sums of at most 13 terms of about unit size, in double.
      for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(s.got[i], expected[i], 64 * 0x1p-53 * 10) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Windows, PagedAttentionTest, ::testing::Values(0, 1, 5));

TEST(PagedAttention, TypedModeRoundsToTheCachesDType) {
  ir::CacheType type = kCacheType;
  type.dtype = DType::kBF16;
  const std::unique_ptr<ir::Graph> graph = StepGraph(type, 0);
  std::mt19937 random(1);
  std::vector<Sequence> rows = RandomRows({7}, random);
  absl::StatusOr<Cache> cache = RunStep(*graph, Cache::Empty(type, kPages, kPageSize), rows, {7}, Mode::kTyped);
  ASSERT_TRUE(cache.ok()) << cache.status();
  Sequence& s = rows[0];
  EXPECT_EQ(*cache->Slot(1, s.pages[1], 0, 1, 2), RoundTo(DType::kBF16, s.k[(6 * kKvHeads + 1) * kDim]));
  for (double& x : s.q) x = RoundTo(DType::kF32, x);
  for (double& x : s.k) x = RoundTo(DType::kBF16, RoundTo(DType::kF32, x));
  for (double& x : s.v) x = RoundTo(DType::kBF16, RoundTo(DType::kF32, x));
  const std::vector<double> expected = Reference(s, 0);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(s.got[i], expected[i], 0x1p-24 * std::abs(expected[i]) + 1e-14) << i;
  }
}

// Each head's key and value on its own: codes of at most 127 steps of the largest element, by the rules of quantize.
TEST(PagedAttention, TypedModeReadsCodesTimesTheirScale) {
  ir::CacheType type = kCacheType;
  type.dtype = DType::kI8;
  const std::unique_ptr<ir::Graph> graph = StepGraph(type, 0);
  std::mt19937 random(1);
  std::vector<Sequence> rows = RandomRows({7}, random);
  Sequence& s = rows[0];
  for (auto* values : {&s.q, &s.k, &s.v}) {
    for (double& x : *values) x = static_cast<float>(x);
  }
  // What has rules of its own: ties, a head of zeros, one below 2^-100.
  const double ties[kDim] = {127, 2.5, -3.5}, tiny[kDim] = {0x1p-101, -0x1p-102, 0};
  std::copy_n(ties, kDim, s.k.begin());
  std::fill_n(s.k.begin() + kDim, kDim, 0.0);
  std::copy_n(tiny, kDim, s.v.begin());
  absl::StatusOr<Cache> cache = RunStep(*graph, Cache::Empty(type, kPages, kPageSize), rows, {7}, Mode::kTyped);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const auto coded = [](std::vector<double>& values) {
    for (size_t head = 0; head < values.size(); head += kDim) {
      float most = 0;
      for (size_t i = head; i < head + kDim; ++i) most = std::max(most, static_cast<float>(std::abs(values[i])));
      const float r = 127.0f / most, scale = most / 127.0f;
      for (size_t i = head; i < head + kDim; ++i) {
        const float code = std::nearbyint(static_cast<float>(values[i]) * r);
        values[i] = most < 0x1p-100f ? 0.0f : code * scale;
      }
    }
  };
  coded(s.k);
  coded(s.v);
  EXPECT_EQ(s.k[1], 2.0);
  EXPECT_EQ(s.k[2], -4.0);
  for (int64_t t = 0; t < 7; ++t) {
    for (int64_t head = 0; head < kKvHeads; ++head) {
      for (int64_t k_or_v : {0, 1}) {
        const double* got = cache->Slot(1, s.pages[t / kPageSize], k_or_v, head, t % kPageSize);
        const double* want = (k_or_v == 0 ? s.k : s.v).data() + (t * kKvHeads + head) * kDim;
        EXPECT_EQ(std::vector(got, got + kDim), std::vector(want, want + kDim)) << t << ", " << head << ", " << k_or_v;
      }
    }
  }
  const std::vector<double> expected = Reference(s, 0);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(s.got[i], expected[i], 0x1p-24 * std::abs(expected[i]) + 1e-14) << i;
  }
}

TEST(PagedAttention, CodesOfWhatIsNotFiniteAreNoNumbers) {
  double coded[3];
  const double values[3] = {1, std::numeric_limits<double>::infinity(), 2};
  CodeHead(values, 3, coded);
  for (double value : coded) EXPECT_TRUE(std::isnan(value));
}

// cached_attention is slices, rope, kv_append and paged_attention in one, to the bit.
TEST(CachedAttention, EqualsItsParts) {
  constexpr int64_t kEven = 4;
  constexpr int64_t kQ = kHeads * kEven;
  constexpr int64_t kKv = kKvHeads * kEven;
  DType cache_dtype = DType::kBF16;
  const AttrMap layer = {{"layer", 1}};
  const AttrMap scores = {{"layer", 1}, {"scale", kScale}, {"window", 5}};
  auto run = [&](bool fused, bool turned, Mode mode) {
    const ir::CacheType type{2, kKvHeads, kEven, cache_dtype};
    ir::GraphBuilder builder("step");
    ir::Value* cache = builder.CacheInput("cache", type);
    ir::Value* qkv = builder.Input("qkv", DType::kF32, {9, kQ + 2 * kKv});
    ir::Value* row_start = builder.Input("row_start", DType::kI32, {3});
    ir::Value* kv_len = builder.Input("kv_len", DType::kI32, {2});
    ir::Value* table = builder.Input("block_table", DType::kI32, {2, 3});
    ir::Value* cos = builder.Input("cos", DType::kF32, {9, kEven});
    ir::Value* sin = builder.Input("sin", DType::kF32, {9, kEven});
    if (fused) {
      AttrMap attrs = scores;
      attrs["heads"] = kHeads;
      std::vector<ir::Value*> operands = {cache, qkv, row_start, kv_len, table};
      if (turned) operands.insert(operands.end(), {cos, sin});
      ir::Value* next = builder.Add(Op::kCachedAttention, operands, attrs);
      builder.Output("cache", next);
      builder.Output("y", next->def()->result(1));
    } else {
      auto part = [&](int64_t start, int64_t heads, bool turn) {
        ir::Value* x = builder.Add(Op::kSlice, {qkv},
                                   {{"axis", 1}, {"start", DimExpr(start)}, {"stop", DimExpr(start + heads * kEven)}});
        x = builder.Add(Op::kReshape, {x}, {{"shape", Dims{9, heads, kEven}}});
        if (!turn) return x;
        const AttrMap broadcast = {{"shape", Dims{9, 1, kEven}}};
        return builder.Add(
            Op::kRope, {x, builder.Add(Op::kReshape, {cos}, broadcast), builder.Add(Op::kReshape, {sin}, broadcast)});
      };
      ir::Value* k = part(kQ, kKvHeads, turned);
      ir::Value* v = part(kQ + kKv, kKvHeads, false);
      ir::Value* next = builder.Add(Op::kKvAppend, {cache, k, v, row_start, kv_len, table}, layer);
      builder.Output("cache", next);
      ir::Value* y =
          builder.Add(Op::kPagedAttention, {next, part(0, kHeads, turned), row_start, kv_len, table}, scores);
      builder.Output("y", builder.Add(Op::kReshape, {y}, {{"shape", Dims{9, kQ}}}));
    }
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    auto floats = [&](Shape shape) {
      Tensor x = Tensor::Zeros(DType::kF32, std::move(shape));
      for (double& value : x.floats) value = normal(random);
      return x;
    };
    Values inputs;
    inputs.emplace("cache", Cache::Empty(type, 6, kPageSize));
    inputs.emplace("qkv", floats({9, kQ + 2 * kKv}));
    inputs.emplace("cos", floats({9, kEven}));
    inputs.emplace("sin", floats({9, kEven}));
    inputs.emplace("row_start", Tensor::Ints({3}, {0, 2, 9}));
    inputs.emplace("kv_len", Tensor::Ints({2}, {2, 7}));
    inputs.emplace("block_table", Tensor::Ints({2, 3}, {5, -1, -1, 0, 3, -1}));
    return Interpret(*builder.Build(), std::move(inputs), WeightsFrom({}), mode);
  };
  for (const DType dtype : {DType::kBF16, DType::kI8}) {
    cache_dtype = dtype;
    for (const Mode mode : {Mode::kTyped, Mode::kWide}) {
      for (const bool turned : {false, true}) {
        const absl::StatusOr<Values> whole = run(true, turned, mode);
        const absl::StatusOr<Values> parts = run(false, turned, mode);
        ASSERT_TRUE(whole.ok()) << whole.status();
        ASSERT_TRUE(parts.ok()) << parts.status();
        EXPECT_EQ(std::get<Tensor>(whole->at("y")).floats, std::get<Tensor>(parts->at("y")).floats);
        EXPECT_THAT(std::get<Cache>(whole->at("cache")).data,
                    ::testing::Pointwise(::testing::NanSensitiveDoubleEq(), std::get<Cache>(parts->at("cache")).data));
      }
    }
  }
}

TEST(PagedAttention, LeavesOtherSlotsAlone) {
  const std::unique_ptr<ir::Graph> graph = StepGraph(kCacheType, 0);
  std::mt19937 random(2);
  std::vector<Sequence> rows = RandomRows({5, 2}, random);
  absl::StatusOr<Cache> cache = RunStep(*graph, Cache::Empty(kCacheType, kPages, kPageSize), rows, {5, 2}, Mode::kWide);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const auto written = std::count_if(cache->data.begin(), cache->data.end(), [](double x) { return !std::isnan(x); });
  EXPECT_EQ(written, 2 * 2 * (5 + 2) * kKvHeads * kDim);
}

TEST(PagedAttention, RefusesRowsThatContradict) {
  const std::unique_ptr<ir::Graph> graph = StepGraph(kCacheType, 0);
  auto error = [&graph](std::vector<int64_t> row_start, std::vector<int64_t> kv_len, std::vector<int64_t> table) {
    const auto rows = static_cast<int64_t>(kv_len.size());
    Values inputs;
    inputs.emplace("cache", Cache::Empty(kCacheType, kPages, kPageSize));
    inputs.emplace("q", Tensor::Zeros(DType::kF32, {6, kHeads, kDim}));
    inputs.emplace("k", Tensor::Zeros(DType::kF32, {6, kKvHeads, kDim}));
    inputs.emplace("v", Tensor::Zeros(DType::kF32, {6, kKvHeads, kDim}));
    inputs.emplace("row_start", Tensor::Ints({rows + 1}, std::move(row_start)));
    inputs.emplace("kv_len", Tensor::Ints({rows}, std::move(kv_len)));
    inputs.emplace("block_table", Tensor::Ints({rows, 2}, std::move(table)));
    return std::string(Interpret(*graph, std::move(inputs), WeightsFrom({}), Mode::kWide).status().message());
  };
  EXPECT_EQ(error({0, 2, 6}, {2, 8}, {0, -1, 1, 2}), "");
  EXPECT_THAT(error({0, 2, 5}, {2, 8}, {0, 1, 2, 3}),
              HasSubstr("%7 = kv_append: row_start: expected to rise from 0 to 6"));
  EXPECT_THAT(error({1, 2, 6}, {2, 8}, {0, 1, 2, 3}), HasSubstr("row_start"));
  EXPECT_THAT(error({0, 7, 6}, {7, 8}, {0, 1, 2, 3}), HasSubstr("row_start falls after row 1"));
  EXPECT_THAT(error({0, 2, 6}, {1, 8}, {0, 1, 2, 3}), HasSubstr("kv_len: row 0 has length 1, 2 new tokens"));
  EXPECT_THAT(error({0, 2, 6}, {2, 9}, {0, 1, 2, 3}), HasSubstr("kv_len: row 1 has length 9"));
  EXPECT_THAT(error({0, 2, 6}, {2, 8}, {0, 1, 2, kPages}), HasSubstr("block_table: row 1 names page 16 of 16"));
  EXPECT_THAT(error({0, 2, 6}, {2, 8}, {0, 1, -1, 3}), HasSubstr("block_table: row 1 names page -1"));
}

}  // namespace
}  // namespace flashflow::interpreter
