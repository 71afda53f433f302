#include "kernels/cpu/softmax.h"

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

constexpr double kU = 0x1p-24;  // the relative error of one fp32 operation
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t outer, axis, inner;
  int64_t count() const { return outer * axis * inner; }
};

// Around a number that only the shift by the largest keeps exp from overflowing or vanishing for.
std::vector<float> Values(int64_t count, float center, float spread) {
  std::vector<float> values(count);
  std::mt19937 random(static_cast<uint32_t>(count));
  std::normal_distribution<float> normal(center, spread);
  for (float& v : values) v = normal(random);
  return values;
}

// One softmax over elements `stride` apart against double. exp(x - m) is off by 3 u for the function (1.5 ulp) and by
// |x - m| u for the rounded difference, the sum by its terms' mean of that and u for each addition in a row, at most
// n + 2; then there are the reciprocal and the product.
void ExpectSoftmax(const float* x, const float* y, int64_t n, int64_t stride) {
  float largest = -kInf;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, x[i * stride]);
  double sum = 0;
  double weighted_distance = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double distance = static_cast<double>(largest) - x[i * stride];
    sum += std::exp(-distance);
    if (distance < kInf) weighted_distance += std::exp(-distance) * distance;
  }
  for (int64_t i = 0; i < n; ++i) {
    const double distance = static_cast<double>(largest) - x[i * stride];
    const double want = std::exp(-distance) / sum;
    const double roundings =
        want == 0 ? 0 : 3 + distance + 3 + weighted_distance / sum + static_cast<double>(n + 2) + 2;
    // Results may be subnormal, as may exp.
    ASSERT_LE(std::abs(y[i * stride] - want), 1.01 * want * roundings * kU + 0x1p-148)
        << "element " << i << " of " << n << " is " << y[i * stride] << ", not " << want;
  }
}

void ExpectSoftmaxes(const Shape& shape, const float* x, const float* y) {
  for (int64_t o = 0; o < shape.outer; ++o) {
    for (int64_t i = 0; i < shape.inner && !testing::Test::HasFailure(); ++i) {
      const int64_t at = o * shape.axis * shape.inner + i;
      ExpectSoftmax(x + at, y + at, shape.axis, shape.inner);
    }
  }
}

TEST(SoftmaxTest, IsAsExactAsItsSum) {
  ThreadPool pool(2);
  for (const auto& [center, spread] : {std::pair(1000.0f, 0.1f), {-1000.0f, 3.0f}, {0.0f, 40.0f}}) {
    for (int64_t size : kOddSizes) {
      for (const Shape& shape : {Shape{3, size, 1}, Shape{2, size, 7}, Shape{2, 3, size}}) {
        const std::vector<float> values = Values(shape.count(), center, spread);
        ForEachTarget([&] {
          SCOPED_TRACE(testing::Message() << shape.outer << ", " << shape.axis << ", " << shape.inner);
          Guarded<float> x(shape.count()), y(shape.count());
          std::copy(values.begin(), values.end(), x.begin());
          Softmax(x.data(), y.data(), shape.outer, shape.axis, shape.inner, &pool);
          ExpectSoftmaxes(shape, x.data(), y.data());
          Softmax(x.data(), x.data(), shape.outer, shape.axis, shape.inner, &pool);
          EXPECT_TRUE(SameBits(x, y)) << "in place";
        });
      }
    }
  }
}

TEST(SoftmaxTest, InfinitiesAndNaN) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  ThreadPool pool(1);
  ForEachTarget([&] {
    for (int64_t inner : {1, 3}) {
      for (int64_t at : {0, 8, 17, 18}) {
        SCOPED_TRACE(testing::Message() << "at " << at << ", inner " << inner);
        const auto run = [&](float fill, float special) {
          std::vector<float> x(19 * inner, fill);
          x[at * inner] = special;
          std::vector<float> y(x.size());
          Softmax(x.data(), y.data(), 1, 19, inner, &pool);
          return y;
        };
        const std::vector<float> masked = run(2.0f, -kInf);
        for (int64_t i = 0; i < 19; ++i) EXPECT_NEAR(masked[i * inner], i == at ? 0.0 : 1.0 / 18, 1e-7);
        const std::vector<float> one_left = run(-kInf, 2.0f);
        for (int64_t i = 0; i < 19; ++i) EXPECT_EQ(one_left[i * inner], i == at ? 1.0f : 0.0f);
        for (const auto& [fill, special] : {std::pair(1.0f, kNan), {-kInf, -kInf}, {1.0f, kInf}}) {
          const std::vector<float> y = run(fill, special);
          for (int64_t i = 0; i < 19; ++i) EXPECT_TRUE(std::isnan(y[i * inner])) << special;
        }
      }
    }
  });
}

TEST(SoftmaxTest, ThreadsDoNotChangeBits) {
  for (const Shape& shape : {Shape{301, 211, 1}, Shape{1, 17, 5003}, Shape{11, 17, 401}}) {
    const std::vector<float> x = Values(shape.count(), -500.0f, 2.0f);
    std::vector<float> first;
    for (int threads : kThreadCounts) {
      ThreadPool pool(threads);
      Guarded<float> y(shape.count());
      Softmax(x.data(), y.data(), shape.outer, shape.axis, shape.inner, &pool);
      ExpectSoftmaxes(shape, x.data(), y.data());
      if (threads == 1) first.assign(y.begin(), y.end());
      EXPECT_TRUE(SameBits(y, first)) << threads << " threads";
    }
  }
}

TEST(SoftmaxTest, EmptyIsFine) {
  ThreadPool pool(2);
  Softmax(nullptr, nullptr, 0, 3, 4, &pool);
  Softmax(nullptr, nullptr, 3, 0, 4, &pool);
  Softmax(nullptr, nullptr, 3, 4, 0, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
