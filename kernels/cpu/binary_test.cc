#include "kernels/cpu/binary.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr BinaryOp kOps[] = {BinaryOp::kAdd,     BinaryOp::kSub,     BinaryOp::kMul, BinaryOp::kDiv,
                             BinaryOp::kMaximum, BinaryOp::kMinimum, BinaryOp::kPow};

double Exact(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      return a / b;
    case BinaryOp::kMaximum:
      return std::isnan(a) || std::isnan(b) ? a + b : std::max(a, b);
    case BinaryOp::kMinimum:
      return std::isnan(a) || std::isnan(b) ? a + b : std::min(a, b);
    case BinaryOp::kPow:
      return std::pow(a, b);
  }
  return 0;
}

// Rounding once from double gives what one fp32 operation gives; only pow may be an ulp off.
void ExpectIs(float got, BinaryOp op, float a, float b) {
  const auto want = static_cast<float>(Exact(op, a, b));
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got)) << a << ", " << b << " gives " << got;
  } else if (op == BinaryOp::kPow) {
    EXPECT_TRUE(got == want || got == std::nextafter(want, got)) << a << ", " << b << " gives " << got;
  } else {
    EXPECT_EQ(got, want) << a << ", " << b;
  }
}

struct Broadcast {
  std::vector<int64_t> dims;
  std::vector<int64_t> a_strides;
  std::vector<int64_t> b_strides;
};

std::vector<Broadcast> Broadcasts() {
  std::vector<Broadcast> cases = {
      {{}, {}, {}},
      {{5, 9, 64}, {576, 64, 1}, {64, 0, 1}},  // x[T, H, D] with cos[T, 1, D]
      {{5, 9, 17}, {17, 0, 1}, {153, 17, 1}},  // the other way round
      {{7, 33}, {33, 1}, {1, 0}},              // a column
      {{7, 33}, {0, 1}, {33, 1}},              // a row
      {{7, 33}, {1, 0}, {0, 1}},               // an outer product
      {{7, 33}, {0, 0}, {0, 0}},               // two scalars
      {{3, 1, 4, 1, 18}, {72, 0, 18, 18, 1}, {0, 0, 18, 0, 1}},
      {{19, 23}, {1, 19}, {23, 1}},  // a transposed operand
      {{40}, {3}, {-1}},             // any steps
      {{2, 2, 2, 2, 2, 2, 2, 2}, {128, 64, 32, 16, 8, 4, 2, 1}, {0, 64, 0, 16, 0, 4, 0, 1}},
  };
  for (int64_t n : kOddSizes) {
    cases.push_back({{n}, {1}, {1}});
    cases.push_back({{3, n}, {n, 1}, {0, 1}});
    cases.push_back({{n}, {1}, {0}});
  }
  return cases;
}

TEST(BinaryTest, BroadcastsEitherOperand) {
  ThreadPool pool(2);
  for (const Broadcast& c : Broadcasts()) {
    int64_t count = 1;
    for (int64_t dim : c.dims) count *= dim;
    Guarded<float> a(4096), b(4096);
    for (int64_t i = 0; i < 4096; ++i) {
      a[i] = 0.25f + 0.37f * static_cast<float>(i % 101);
      b[i] = -3.0f + 0.11f * static_cast<float>(i % 53);
    }
    const float* a_start = a.data() + 100;
    const float* b_start = b.data() + 100;
    ForEachTarget([&] {
      for (BinaryOp op : kOps) {
        SCOPED_TRACE(testing::Message() << "op " << static_cast<int>(op) << ", " << testing::PrintToString(c.dims)
                                        << testing::PrintToString(c.b_strides));
        Guarded<float> y(count);
        Binary(op, a_start, c.a_strides, b_start, c.b_strides, y.data(), c.dims, &pool);
        for (int64_t i = 0; i < count; ++i) {
          int64_t a_at = 0;
          int64_t b_at = 0;
          int64_t rest = i;
          for (size_t axis = c.dims.size(); axis-- > 0; rest /= c.dims[axis]) {
            a_at += rest % c.dims[axis] * c.a_strides[axis];
            b_at += rest % c.dims[axis] * c.b_strides[axis];
          }
          ExpectIs(y[i], op, a_start[a_at], b_start[b_at]);
          if (HasFailure()) return;
        }
      }
    });
  }
}

TEST(BinaryTest, SpecialValues) {
  ThreadPool pool(1);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kValues[] = {
      0.0f, -0.0f, 1.0f, -2.5f, kInf, -kInf, 1e-40f, 3e38f, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<int64_t> dims = {std::size(kValues), std::size(kValues)};
  const std::vector<int64_t> down = {1, 0};
  const std::vector<int64_t> across = {0, 1};
  ForEachTarget([&] {
    for (BinaryOp op : kOps) {
      SCOPED_TRACE(static_cast<int>(op));
      Guarded<float> y(std::size(kValues) * std::size(kValues));
      Binary(op, kValues, down, kValues, across, y.data(), dims, &pool);
      size_t i = 0;
      for (float a : kValues) {
        for (float b : kValues) ExpectIs(y[i++], op, a, b);
      }
    }
  });
}

TEST(BinaryTest, InPlace) {
  ThreadPool pool(1);
  const std::vector<int64_t> dims = {4, 19};
  const std::vector<int64_t> dense = {19, 1};
  const std::vector<int64_t> row = {0, 1};
  for (bool into_a : {true, false}) {
    Guarded<float> large(76), small(19), want(76);
    for (int64_t i = 0; i < 76; ++i) large[i] = static_cast<float>(i);
    for (int64_t i = 0; i < 19; ++i) small[i] = 0.5f * static_cast<float>(i);
    const auto run = [&](float* y) {
      if (into_a) {
        Binary(BinaryOp::kSub, large.data(), dense, small.data(), row, y, dims, &pool);
      } else {
        Binary(BinaryOp::kSub, small.data(), row, large.data(), dense, y, dims, &pool);
      }
    };
    run(want.data());
    run(large.data());
    EXPECT_TRUE(SameBits(large, want)) << into_a;
  }
}

TEST(BinaryTest, ThreadsDoNotChangeBits) {
  struct Shape {
    std::vector<int64_t> dims, a_strides, b_strides;
  };
  // One long run, with a broadcast operand as well, and many short ones.
  for (const Shape& shape : {Shape{{200003}, {1}, {1}}, Shape{{200003}, {0}, {1}}, Shape{{200003}, {1}, {0}},
                             Shape{{1009, 3, 67}, {201, 67, 1}, {67, 0, 1}}}) {
    int64_t count = 1;
    for (int64_t dim : shape.dims) count *= dim;
    std::vector<float> a(count), b(count);
    for (int64_t i = 0; i < count; ++i) {
      a[i] = 1.0f + static_cast<float>(i % 977);
      b[i] = 0.1f * static_cast<float>(i % 613);
    }
    for (BinaryOp op : kOps) {
      std::vector<float> first;
      for (int threads : kThreadCounts) {
        ThreadPool pool(threads);
        Guarded<float> y(count);
        Binary(op, a.data(), shape.a_strides, b.data(), shape.b_strides, y.data(), shape.dims, &pool);
        if (threads == 1) first.assign(y.begin(), y.end());
        EXPECT_TRUE(SameBits(y, first)) << static_cast<int>(op) << ", " << threads << " threads";
      }
    }
  }
}

TEST(BinaryTest, NoElementsAreFine) {
  ThreadPool pool(1);
  const std::vector<int64_t> dims = {3, 0, 2};
  const std::vector<int64_t> strides = {0, 2, 1};
  Binary(BinaryOp::kAdd, nullptr, strides, nullptr, strides, nullptr, dims, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
