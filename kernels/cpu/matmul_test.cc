#include "kernels/cpu/matmul.h"

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

struct Case {
  int64_t m, n, k;
  bool transposed;  // b lies as [n, k]
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  // Around tiles, blocks of columns, blocks of k (512) and of rows (96).
  for (int64_t m : {1, 5, 9, 97}) {
    for (int64_t n : {1, 16, 17, 48, 65}) {
      for (int64_t k : {0, 1, 33, 513}) {
        cases.push_back({m, n, k, false});
        cases.push_back({m, n, k, true});
      }
    }
  }
  return cases;
}

void Fill(Guarded<float>& values, int seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& v : values) v = uniform(random);
}

// A batch of [2, 3] where a is broadcast over the first dim and b over the second.
TEST(MatMulTest, IsWithinTheBoundOfAChainOfProducts) {
  const std::vector<int64_t> batch = {2, 3};
  ThreadPool pool(2);
  for (const Case& c : Cases()) {
    SCOPED_TRACE(testing::Message() << c.m << " x " << c.n << " x " << c.k << (c.transposed ? " transposed" : ""));
    Guarded<float> a(3 * c.m * c.k), b(2 * c.n * c.k), bias(c.n);
    Fill(a, 1);
    Fill(b, 2);
    Fill(bias, 3);
    const MatMulShape shape = {c.m, c.n, c.k, c.transposed ? 1 : c.n, c.transposed ? c.k : 1};
    const std::vector<int64_t> a_strides = {0, c.m * c.k}, b_strides = {c.n * c.k, 0};
    for (const bool with_bias : {false, true}) {
      ForEachTarget([&] {
        Guarded<float> y(6 * c.m * c.n);
        MatMul(a.data(), a_strides, b.data(), b_strides, with_bias ? bias.data() : nullptr, y.data(), batch, shape,
               &pool);
        for (int64_t i = 0; i < 6; ++i) {
          const float* x = a.data() + i % 3 * c.m * c.k;
          const float* w = b.data() + i / 3 * c.n * c.k;
          for (int64_t row = 0; row < c.m; ++row) {
            for (int64_t column = 0; column < c.n; ++column) {
              double exact = with_bias ? bias[column] : 0.0, magnitude = std::abs(exact);
              for (int64_t k = 0; k < c.k; ++k) {
                const double product = double{x[row * c.k + k]} * w[k * shape.b_k_stride + column * shape.b_n_stride];
                exact += product;
                magnitude += std::abs(product);
              }
              ASSERT_NEAR(y[(i * c.m + row) * c.n + column], exact, static_cast<double>(c.k + 1) * kEps * magnitude)
                  << "matrix " << i << " at " << row << ", " << column;
            }
          }
        }
      });
    }
  }
}

TEST(MatMulTest, NeitherThreadsNorNeighborsChangeBits) {
  constexpr int64_t kM = 101, kN = 131, kK = 600;
  Guarded<float> a(kM * kK), b(kN * kK), first(kM * kN);
  Fill(a, 4);
  Fill(b, 5);
  const MatMulShape shape = {kM, kN, kK, kN, 1};
  ThreadPool one(1);
  MatMul(a.data(), {}, b.data(), {}, nullptr, first.data(), {}, shape, &one);
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    Guarded<float> y(kM * kN);
    MatMul(a.data(), {}, b.data(), {}, nullptr, y.data(), {}, shape, &pool);
    EXPECT_TRUE(SameBits(y, first)) << threads << " threads";
  }
  for (int64_t row : {0, 57, 100}) {  // alone, a row is read in place where many are copied
    MatMulShape single = shape;
    single.m = 1;
    Guarded<float> y(kN);
    MatMul(a.data() + row * kK, {}, b.data(), {}, nullptr, y.data(), {}, single, &one);
    for (int64_t n = 0; n < kN; ++n) ASSERT_EQ(y[n], first[row * kN + n]) << row << ", " << n;
  }
}

// A row of a panel that is not whole is no row of a whole one, not even where nothing of the rest is kept.
TEST(MatMulTest, ReadsNothingBehindItsOperands) {
  ThreadPool pool(1);
  for (int64_t m : {1, 13}) {
    for (int64_t n : {16, 17, 3}) {
      Fenced<float> a(m * 5), b(5 * n), bias(n), y(m * n);
      for (const auto& [k_stride, n_stride] : {std::pair(n, int64_t{1}), std::pair(int64_t{1}, int64_t{5})}) {
        ForEachTarget([&] {
          MatMul(a.data(), {}, b.data(), {}, bias.data(), y.data(), {}, {m, n, 5, k_stride, n_stride}, &pool);
          for (int64_t i = 0; i < m * n; ++i) ASSERT_EQ(y.data()[i], 0.0f);
        });
      }
    }
  }
}

TEST(MatMulTest, NoElementsAreFine) {
  ThreadPool pool(2);
  const std::vector<int64_t> batch = {3, 0}, strides = {0, 0};
  MatMul(nullptr, strides, nullptr, strides, nullptr, nullptr, batch, {4, 4, 4, 4, 1}, &pool);
  MatMul(nullptr, {}, nullptr, {}, nullptr, nullptr, {}, {0, 4, 4, 4, 1}, &pool);
  MatMul(nullptr, {}, nullptr, {}, nullptr, nullptr, {}, {4, 0, 4, 0, 1}, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
