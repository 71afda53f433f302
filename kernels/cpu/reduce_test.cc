#include "kernels/cpu/reduce.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax};

struct Axes {
  std::vector<int64_t> kept, kept_strides, reduced, reduced_strides;
};

std::vector<Axes> SomeAxes() {
  std::vector<Axes> axes = {
      {{5, 7}, {91, 13}, {13}, {1}},        // [5, 7, 13] over the last
      {{7, 13}, {13, 1}, {5}, {91}},        // over the first
      {{7}, {13}, {5, 13}, {91, 1}},        // over both ends
      {{}, {}, {5, 7, 13}, {91, 13, 1}},    // over all: one run
      {{5, 7, 13}, {91, 13, 1}, {1}, {1}},  // over a dim of one
      {{13}, {1}, {5, 7}, {91, 13}},
  };
  for (int64_t n : kOddSizes) axes.push_back({{3}, {n}, {n}, {1}});
  return axes;
}

TEST(ReduceTest, IsWithinTheBoundOfASum) {
  constexpr double kEps = std::numeric_limits<float>::epsilon() / 2;
  ThreadPool pool(2);
  Guarded<float> x(4096);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7f * static_cast<float>(i)) - 0.3f;
  for (const Axes& axes : SomeAxes()) {
    int64_t results = 1, elements = 1;
    for (int64_t dim : axes.kept) results *= dim;
    for (int64_t dim : axes.reduced) elements *= dim;
    for (ReduceOp op : kOps) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(op) << testing::PrintToString(axes.kept)
                                      << testing::PrintToString(axes.reduced));
      ForEachTarget([&] {
        Guarded<float> y(results);
        Reduce(op, x.data(), axes.kept, axes.kept_strides, axes.reduced, axes.reduced_strides, y.data(), &pool);
        for (int64_t i = 0; i < results; ++i) {
          double sum = 0, magnitude = 0, most = -std::numeric_limits<double>::infinity();
          for (int64_t j = 0; j < elements; ++j) {
            int64_t at = 0, rest = i;
            for (size_t d = axes.kept.size(); d-- > 0; rest /= axes.kept[d]) {
              at += rest % axes.kept[d] * axes.kept_strides[d];
            }
            rest = j;
            for (size_t d = axes.reduced.size(); d-- > 0; rest /= axes.reduced[d]) {
              at += rest % axes.reduced[d] * axes.reduced_strides[d];
            }
            sum += x[at];
            magnitude += std::abs(x[at]);
            most = std::max<double>(most, x[at]);
          }
          if (op == ReduceOp::kMax) {
            ASSERT_EQ(y[i], most);
          } else {
            const double count = op == ReduceOp::kMean ? static_cast<double>(elements) : 1.0;
            ASSERT_NEAR(y[i], sum / count, static_cast<double>(elements) * kEps * magnitude / count);
          }
        }
      });
    }
  }
}

TEST(ReduceTest, ANanIsNotLost) {
  ThreadPool pool(1);
  const std::vector<int64_t> dims = {19}, one = {1}, two = {2};
  for (int at = 0; at < 19; ++at) {
    Guarded<float> x(38);
    for (float& v : x) v = 1;
    x[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
    for (ReduceOp op : kOps) {
      ForEachTarget([&] {
        Guarded<float> y(1);
        y[0] = 0;
        Reduce(op, x.data(), {}, {}, dims, one, y.data(), &pool);
        EXPECT_TRUE(std::isnan(y[0])) << at;
        Reduce(op, x.data(), {}, {}, dims, two, y.data(), &pool);
        EXPECT_EQ(std::isnan(y[0]), at % 2 == 0) << at;
      });
    }
  }
}

// Zero is greater than any of them: it must come from nowhere.
TEST(ReduceTest, TheLargestOfNegativeNumbersIsNegative) {
  ThreadPool pool(1);
  for (int64_t n : kOddSizes) {
    Guarded<float> x(2 * n);
    for (int64_t i = 0; i < 2 * n; ++i) x[i] = -1.0f - static_cast<float>((i * 7) % (2 * n));
    for (const int64_t stride : {1, 2}) {
      const std::vector<int64_t> dims = {n}, strides = {stride};
      float most = -std::numeric_limits<float>::infinity();
      for (int64_t i = 0; i < n; ++i) most = std::max(most, x[i * stride]);
      ForEachTarget([&] {
        Guarded<float> y(1);
        Reduce(ReduceOp::kMax, x.data(), {}, {}, dims, strides, y.data(), &pool);
        EXPECT_EQ(y[0], most) << n << " by " << stride;
      });
    }
  }
}

TEST(ReduceTest, NothingToReduce) {
  ThreadPool pool(1);
  const std::vector<int64_t> two = {2}, none = {0}, one = {1};
  Guarded<float> y(2);
  Reduce(ReduceOp::kSum, nullptr, two, none, none, one, y.data(), &pool);
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_EQ(y[1], 0.0f);
  Reduce(ReduceOp::kMean, nullptr, two, none, none, one, y.data(), &pool);
  EXPECT_TRUE(std::isnan(y[1]));
  Reduce(ReduceOp::kSum, nullptr, none, one, two, one, nullptr, &pool);
}

TEST(ReduceTest, ThreadsDoNotChangeBits) {
  constexpr int64_t kRows = 200, kColumns = 1023;
  Guarded<float> x(kRows * kColumns), first(kRows);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 1e-3f * static_cast<float>(i % 7919);
  const std::vector<int64_t> rows = {kRows}, row_stride = {kColumns}, columns = {kColumns}, column_stride = {1};
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    Guarded<float> y(kRows);
    Reduce(ReduceOp::kSum, x.data(), rows, row_stride, columns, column_stride, y.data(), &pool);
    if (threads == 1) std::copy(y.begin(), y.end(), first.begin());
    EXPECT_TRUE(SameBits(y, first)) << threads << " threads";
  }
}

}  // namespace
}  // namespace flashflow::cpu
