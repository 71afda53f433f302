#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon() / 2;

struct Operands {
  explicit Operands(const AttentionShape& s)
      : shape(s),
        q(s.batch * s.heads * s.queries * s.head_dim),
        k(s.batch * s.kv_heads * s.keys * s.head_dim),
        v(s.batch * s.kv_heads * s.keys * s.value_dim) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (Guarded<float>* values : {&q, &k, &v}) {
      for (float& x : *values) x = uniform(random);
    }
  }
  int64_t result_size() const { return shape.batch * shape.heads * shape.queries * shape.value_dim; }
  void Run(float* y, ThreadPool* pool, const AttentionMask& mask = {}) const {
    Attention(q.data(), k.data(), v.data(), mask, y, shape, pool);
  }

  // Expects y to be near the double-precision result. A score is off by (head_dim + 1) eps * |scale| * head_dim (all
  // values are at most 1), which moves each weight by that factor twice (numerator and sum); the sums over keys and the
  // exponentials add a few eps a key.
  void Check(const Guarded<float>& y, const AttentionMask& mask = {}) const {
    const AttentionShape& s = shape;
    const double score_error = static_cast<double>((s.head_dim + 2) * s.head_dim) * std::abs(s.scale) * kEps;
    const double tolerance = 2 * (score_error + kLargestBias * kEps) + static_cast<double>(2 * s.keys + 16) * kEps;
    std::vector<double> weights(static_cast<size_t>(s.keys));
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t head = b * s.heads + h;
        const int64_t kv_head = b * s.kv_heads + h / (s.heads / s.kv_heads);
        for (int64_t i = 0; i < s.queries; ++i) {
          const int64_t own = i + s.keys - s.queries;
          const int64_t end = s.causal ? std::clamp<int64_t>(own + 1, 0, s.keys) : s.keys;
          const int64_t begin = s.window > 0 ? std::clamp<int64_t>(own - s.window + 1, 0, end) : 0;
          double largest = -std::numeric_limits<double>::infinity(), sum = 0;
          for (int64_t j = begin; j < end; ++j) {
            double score = 0;
            for (int64_t d = 0; d < s.head_dim; ++d) {
              score += double{q[(head * s.queries + i) * s.head_dim + d]} * k[(kv_head * s.keys + j) * s.head_dim + d];
            }
            weights[j] = score * double{s.scale} + Bias(mask, b, h, i, j);
            largest = std::max(largest, weights[j]);
          }
          const bool sees = largest > -std::numeric_limits<double>::infinity();
          for (int64_t j = begin; j < end; ++j) sum += weights[j] = sees ? std::exp(weights[j] - largest) : 0.0;
          if (!sees) sum = 1;  // zeros
          for (int64_t c = 0; c < s.value_dim; ++c) {
            double exact = 0;
            for (int64_t j = begin; j < end; ++j)
              exact += weights[j] / sum * v[(kv_head * s.keys + j) * s.value_dim + c];
            ASSERT_NEAR(y[(head * s.queries + i) * s.value_dim + c], exact, tolerance)
                << "batch " << b << ", head " << h << ", query " << i << ", channel " << c;
          }
        }
      }
    }
  }

  static double Bias(const AttentionMask& mask, int64_t b, int64_t h, int64_t i, int64_t j) {
    if (mask.data == nullptr) return 0;
    const int64_t at = b * mask.batch_stride + h * mask.head_stride + i * mask.query_stride + j * mask.key_stride;
    if (!mask.is_bool) return static_cast<const float*>(mask.data)[at];
    return static_cast<const bool*>(mask.data)[at] ? 0 : -std::numeric_limits<double>::infinity();
  }

  static constexpr double kLargestBias = 4;
  AttentionShape shape;
  Guarded<float> q, k, v;
};

TEST(AttentionTest, IsNearTheExactResult) {
  ThreadPool pool(2);
  for (const AttentionShape& shape : std::vector<AttentionShape>{
           {1, 1, 1, 1, 1, 1, 1, true, 0, 1.0f},
           {2, 4, 4, 7, 7, 16, 16, true, 0, 0.25f},
           {2, 6, 2, 33, 33, 24, 24, true, 0, 0.2f},    // heads share keys; a partial panel of values
           {1, 4, 1, 5, 131, 64, 64, true, 0, 0.125f},  // keys from before: an offset mask, three blocks
           {1, 2, 2, 65, 65, 20, 17, false, 0, 0.22f},  // every key; values of another width
           {1, 2, 1, 3, 200, 16, 16, false, 0, -0.25f},
           {1, 2, 2, 130, 130, 16, 16, true, 70, 0.25f},  // a window over whole blocks that nobody sees
           {1, 1, 1, 40, 40, 8, 8, true, 1, 0.35f},       // itself alone
           {1, 2, 2, 9, 4, 8, 8, true, 0, 0.35f},         // the first five queries see no key
           {1, 1, 1, 12, 30, 8, 8, false, 5, 0.35f},      // a window alone
           {1, 2, 1, 3, 9, 512, 512, true, 0, 0.05f}}) {
    SCOPED_TRACE(testing::Message() << shape.heads << "/" << shape.kv_heads << " heads, " << shape.queries
                                    << " queries, " << shape.keys << " keys of " << shape.head_dim);
    const Operands operands(shape);
    ForEachTarget([&] {
      Guarded<float> y(operands.result_size());
      operands.Run(y.data(), &pool);
      operands.Check(y);
    });
  }
}

TEST(AttentionTest, AMaskHidesKeysOrMovesScores) {
  ThreadPool pool(2);
  const AttentionShape shape = {2, 4, 2, 9, 131, 24, 24, false, 0, 0.2f};
  Operands operands(shape);
  // By batch and key, as padding is; and one of all four indices. The first query of the second batch sees nothing.
  Guarded<bool> padding(2 * 131);
  for (int64_t i = 0; i < 2 * 131; ++i) padding[i] = i % 131 >= (i < 131 ? 40 : 77);
  Guarded<float> bias(2 * 4 * 9 * 131);
  for (int64_t i = 0; i < 2 * 4 * 9 * 131; ++i) {
    const bool hidden = i % 3 == 1 || (i / 131 % 36 == 0 && i >= 4 * 9 * 131);
    bias[i] = hidden ? -std::numeric_limits<float>::infinity() : std::sin(0.1f * static_cast<float>(i)) * 4;
  }
  for (const bool causal : {false, true}) {
    operands.shape.causal = causal;
    for (const AttentionMask& mask : {AttentionMask{padding.data(), true, 131, 0, 0, 1},
                                      AttentionMask{bias.data(), false, 4 * 9 * 131, 9 * 131, 131, 1}}) {
      ForEachTarget([&] {
        Guarded<float> y(operands.result_size());
        operands.Run(y.data(), &pool, mask);
        operands.Check(y, mask);
      });
    }
  }
  // What a hidden key's score is does not matter.
  for (int64_t i = 0; i < 24; ++i) operands.k[i] = std::numeric_limits<float>::quiet_NaN();
  Guarded<float> y(operands.result_size());
  operands.Run(y.data(), &pool, {padding.data(), true, 131, 0, 0, 1});
  for (float value : y) ASSERT_FALSE(std::isnan(value));
}

TEST(AttentionTest, LargeScoresDoNotOverflow) {
  Operands operands({1, 1, 1, 3, 100, 4, 4, true, 0, 1.0f});
  for (float& x : operands.k) x *= 200.0f;
  ThreadPool pool(1);
  ForEachTarget([&] {
    Guarded<float> y(operands.result_size());
    operands.Run(y.data(), &pool);
    for (float value : y) EXPECT_LE(std::abs(value), 1.0f);
  });
}

// The maximum is of the scores alone, not of what lies in a vector's lanes behind them: relative to zero, each weight
// would be zero.
TEST(AttentionTest, SmallScoresDoNotVanish) {
  ThreadPool pool(1);
  for (int64_t keys : {1, 5, 17}) {
    Operands operands({1, 1, 1, 1, keys, 4, 4, false, 0, 1.0f});
    for (float& x : operands.q) x = 1;
    for (float& x : operands.k) x = -50;
    ForEachTarget([&] {
      Guarded<float> y(operands.result_size());
      operands.Run(y.data(), &pool);
      for (int64_t c = 0; c < 4; ++c) {  // all keys weigh the same: sums and quotients are off by an eps each
        double mean = 0;
        for (int64_t j = 0; j < keys; ++j) mean += operands.v[j * 4 + c] / static_cast<double>(keys);
        EXPECT_NEAR(y[c], mean, static_cast<double>(keys + 2) * kEps);
      }
    });
  }
}

// Blocks that are not whole, and values that are no whole panel, end where their memory does.
TEST(AttentionTest, ReadsNothingBehindItsOperands) {
  ThreadPool pool(1);
  for (int64_t value_dim : {24, 32, 3}) {
    const AttentionShape shape = {1, 1, 1, 5, 67, 9, value_dim, true, 0, 0.2f};
    Fenced<float> q(5 * 9), k(67 * 9), v(67 * value_dim), mask(5 * 67), y(5 * value_dim);
    ForEachTarget([&] {
      Attention(q.data(), k.data(), v.data(), {mask.data(), false, 0, 0, 67, 1}, y.data(), shape, &pool);
      for (int64_t i = 0; i < 5 * value_dim; ++i) ASSERT_EQ(y.data()[i], 0.0f);
    });
  }
}

TEST(AttentionTest, ANanInAScoreIsNotLost) {
  Operands operands({1, 1, 1, 2, 70, 4, 4, true, 0, 0.5f});
  operands.k[68 * 4 + 1] = std::numeric_limits<float>::quiet_NaN();
  ThreadPool pool(1);
  ForEachTarget([&] {
    Guarded<float> y(operands.result_size());
    operands.Run(y.data(), &pool);
    for (float value : y) EXPECT_TRUE(std::isnan(value));
  });
}

TEST(AttentionTest, NeitherThreadsNorOtherQueriesChangeBits) {
  // The window of the last query, and that of the first beside it, begin within a block of keys and end in the next.
  for (const auto& [keys, window] : {std::pair<int64_t, int64_t>(67, 0), {150, 100}}) {
    const AttentionShape shape = {2, 3, 1, keys, keys, 24, 24, true, window, 0.2f};
    const Operands operands(shape);
    Guarded<float> first(operands.result_size());
    ThreadPool one(1);
    operands.Run(first.data(), &one);
    for (int threads : kThreadCounts) {
      ThreadPool pool(threads);
      Guarded<float> y(operands.result_size());
      operands.Run(y.data(), &pool);
      EXPECT_TRUE(SameBits(y, first)) << threads << " threads";
    }
    AttentionShape last = shape;  // the last query of the first head alone
    last.batch = last.heads = last.queries = 1;
    Guarded<float> y(shape.value_dim);
    Attention(operands.q.data() + (keys - 1) * 24, operands.k.data(), operands.v.data(), {}, y.data(), last, &one);
    for (int64_t c = 0; c < shape.value_dim; ++c) EXPECT_EQ(y[c], first[(keys - 1) * 24 + c]) << "window " << window;
  }
}

TEST(AttentionTest, NoKeysGiveZerosAndNoQueriesNothing) {
  ThreadPool pool(1);
  Guarded<float> q(8), y(8);
  for (float& x : q) x = 1;
  Attention(q.data(), nullptr, nullptr, {}, y.data(), {1, 1, 1, 2, 0, 4, 4, false, 0, 1.0f}, &pool);
  for (float value : y) EXPECT_EQ(value, 0.0f);
  Attention(nullptr, nullptr, nullptr, {}, nullptr, {1, 1, 1, 0, 5, 4, 4, true, 0, 1.0f}, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
