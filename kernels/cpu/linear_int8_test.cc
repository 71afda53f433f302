#include "kernels/cpu/linear_int8.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/aligned_allocator.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/unary.h"

namespace flashflow::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Rows around each tile's height and a block of rows; columns around a panel, a block of columns and more.
constexpr int64_t kRows[] = {1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 63, 70};
constexpr int64_t kColumns[] = {1, 15, 16, 17, 31, 33, 49, 97, 200};
constexpr int64_t kDepths[] = {1, 3, 4, 63, 64, 65, 200, 576};

constexpr MatrixUnit kUnits[] = {MatrixUnit::kIfThere, MatrixUnit::kNever};

// A layer, and z by the plainest loops.
struct Operands {
  Operands(int64_t m, int64_t n, int64_t k, const std::function<int()>& next, uint32_t seed = 1)
      : m(m),
        n(n),
        k(k),
        x(static_cast<size_t>(m * k)),
        weight(static_cast<size_t>(n * k)),
        rows(static_cast<size_t>(m * Int8RowBytes(k))),
        x_scale(static_cast<size_t>(m)),
        weight_scale(static_cast<size_t>(n)),
        bias(static_cast<size_t>(n)) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(0.001f, 1.0f);
    for (int8_t& code : x) code = static_cast<int8_t>(next());
    for (int8_t& code : weight) code = static_cast<int8_t>(next());
    std::fill(rows.begin(), rows.end(), uint8_t{77});  // past k anything may stand: weights are zero there
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t i = 0; i < k; ++i) rows[r * Int8RowBytes(k) + i] = static_cast<uint8_t>(x[r * k + i] + 128);
    }
    for (float& scale : x_scale) scale = uniform(random);
    for (float& scale : weight_scale) scale = uniform(random);
    for (float& b : bias) b = uniform(random) - 0.5f;
    const int64_t bytes = (n + 15) / 16 * (64 + (k + 63) / 64 * 64 * 16);
    packed = hwy::AllocateAligned<std::byte>(static_cast<size_t>(std::max<int64_t>(bytes, 1)));
    ThreadPool pool(1);
    PackPanel16Int8(weight.data(), n, k, packed.get(), &pool);
  }

  // Each operation rounds to float by itself: volatile keeps the compiler from joining them.
  std::vector<float> Z(int64_t rows, bool with_bias) const {
    std::vector<float> z;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        int64_t sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += int64_t{x[r * k + i]} * weight[c * k + i];
        const volatile float scale = x_scale[r] * weight_scale[c];
        const volatile float product = static_cast<float>(sum) * scale;
        const volatile float biased = with_bias ? product + bias[c] : product;
        z.push_back(float{biased});
      }
    }
    return z;
  }

  Int8LinearProblem Problem(int64_t row, int64_t count, bool with_bias, float* y) const {
    return {.x = rows.data() + row * Int8RowBytes(k),
            .x_scale = x_scale.data() + row,
            .weight = packed.get(),
            .weight_scale = weight_scale.data(),
            .bias = with_bias ? bias.data() : nullptr,
            .y = y,
            .m = count,
            .n = n,
            .k = k};
  }

  int64_t m, n, k;
  std::vector<int8_t> x, weight;
  Guarded<uint8_t> rows;
  Guarded<float> x_scale, weight_scale, bias;
  hwy::AlignedFreeUniquePtr<std::byte[]> packed;
};

std::function<int()> AnyCode(uint32_t seed) {
  return [random = std::mt19937(seed), any = std::uniform_int_distribution<int>(-127, 127)]() mutable {
    return any(random);
  };
}

void ExpectEach(const Operands& operands, int64_t m, bool with_bias, const std::vector<float>& z, ThreadPool* pool) {
  for (const MatrixUnit unit : kUnits) {
    ForEachTarget([&] {
      Guarded<float> y(static_cast<size_t>(m * operands.n));
      Int8Linear(operands.Problem(0, m, with_bias, y.data()), pool, unit);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(y[i], z[i]) << "element " << i << " of " << m << " rows, " << operands.n << " columns, depth "
                              << operands.k << ", bias " << with_bias << ", unit " << static_cast<int>(unit);
      }
    });
  }
}

TEST(LinearInt8Test, HasTheBitsOfItsDefinition) {
  ThreadPool pool(2);
  for (int64_t n : kColumns) {
    for (int64_t k : kDepths) {
      const Operands operands(kRows[std::size(kRows) - 1], n, k, AnyCode(static_cast<uint32_t>(n * 1000 + k)));
      for (const bool with_bias : {false, true}) {
        const std::vector<float> z = operands.Z(operands.m, with_bias);
        for (int64_t m : kRows) ExpectEach(operands, m, with_bias, z, &pool);
      }
    }
  }
}

// The largest sums: nothing saturates on the way, and the offset of 128 wraps around without a trace.
TEST(LinearInt8Test, TheLargestCodesOfDeepLayers) {
  ThreadPool pool(2);
  for (const int64_t k : {int64_t{16384}, kMaxInt8Depth}) {
    for (const int sign : {1, -1}) {
      int i = 0;
      // The codes of x, 127 each, then those of the weight.
      const Operands operands(k == kMaxInt8Depth ? 1 : 17, 17, k,
                              [&, rows = (k == kMaxInt8Depth ? 1 : 17)] { return i++ < rows * k ? 127 : sign * 127; });
      ExpectEach(operands, operands.m, false, operands.Z(operands.m, false), &pool);
    }
  }
}

TEST(LinearInt8Test, RowsDoNotDependOnEachOtherOrOnThreads) {
  const Operands operands(130, 577, 300, AnyCode(3));
  ThreadPool alone(1);
  for (const MatrixUnit unit : kUnits) {
    ForEachTarget([&] {
      Guarded<float> rows(static_cast<size_t>(operands.m * operands.n));
      for (int64_t r = 0; r < operands.m; ++r) {
        Int8Linear(operands.Problem(r, 1, true, rows.data() + r * operands.n), &alone, unit);
      }
      for (int threads : kThreadCounts) {
        ThreadPool pool(threads);
        Guarded<float> y(rows.size());
        Int8Linear(operands.Problem(0, operands.m, true, y.data()), &pool, unit);
        EXPECT_TRUE(SameBits(y, rows)) << threads << " threads";
      }
    });
  }
}

TEST(LinearInt8Test, ARowThatIsNotFiniteIsNaNAlone) {
  Operands operands(3, 33, 65, AnyCode(4));
  operands.x_scale[1] = std::numeric_limits<float>::quiet_NaN();
  ThreadPool pool(1);
  ForEachTarget([&] {
    Guarded<float> y(static_cast<size_t>(operands.m * operands.n));
    Int8Linear(operands.Problem(0, operands.m, true, y.data()), &pool);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 33 == 1);
  });
}

// At sizes where gate and up meet inside a panel: z, then each function and sum on its own.
TEST(LinearInt8Test, WhatFollowsEqualsItsParts) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  ThreadPool alone(1);
  for (const int64_t n : {2, 30, 34, 96, 430}) {
    const Operands operands(70, n, 65, AnyCode(static_cast<uint32_t>(n)));
    for (const bool gated : {false, true}) {
      const int64_t columns = gated ? n / 2 : n;
      Guarded<float> residual(static_cast<size_t>(operands.m * columns));
      for (float& v : residual) v = normal(random);
      for (const int64_t m : {1, 3, 70}) {
        const std::vector<float> z = operands.Z(m, true);
        ForEachTarget([&] {
          for (const auto& [activation, unary] :
               {std::pair(Activation::kNone, UnaryOp::kNeg), std::pair(Activation::kGelu, UnaryOp::kGelu),
                std::pair(Activation::kGeluTanh, UnaryOp::kGeluTanh), std::pair(Activation::kSilu, UnaryOp::kSilu),
                std::pair(Activation::kRelu, UnaryOp::kRelu)}) {
            std::vector<float> f = z;
            if (activation != Activation::kNone) Unary(unary, z.data(), f.data(), m * n, &alone);
            for (const bool with_residual : {false, true}) {
              ThreadPool pool(3);
              Guarded<float> y(static_cast<size_t>(m * columns));
              Int8LinearProblem problem = operands.Problem(0, m, true, y.data());
              problem.activation = activation;
              problem.gated = gated;
              problem.residual = with_residual ? residual.data() : nullptr;
              Int8Linear(problem, &pool);
              for (int64_t i = 0; i < m * columns; ++i) {
                const int64_t at = i / columns * n + i % columns;
                float expected = f[at];
                if (gated) expected *= z[at + columns];
                if (with_residual) expected += residual[i];
                // f by another target's arithmetic, then a product and a sum at most.
                ASSERT_NEAR(y[i], expected, 1e-5f * (1 + std::abs(z[at]) + std::abs(expected)))
                    << m << " rows, n " << n << ", gated " << gated << ", activation " << static_cast<int>(activation);
              }
            }
          }
        });
      }
    }
  }
}

// From floats, as a model runs it: codes of rows, then the layer.
TEST(LinearInt8Test, TakesWhatQuantizeGives) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  Operands operands(20, 40, 100, AnyCode(6));
  std::vector<float> x(static_cast<size_t>(operands.m * operands.k));
  for (float& v : x) v = normal(random);
  ThreadPool pool(2);
  QuantizeRows(x.data(), operands.m, operands.k, kInf, operands.x.data(), operands.x_scale.data(), &pool);
  QuantizeLinearRows(x.data(), operands.m, operands.k, kInf, operands.rows.data(), operands.x_scale.data(), &pool);
  ExpectEach(operands, operands.m, true, operands.Z(operands.m, true), &pool);
}

TEST(LinearInt8Test, TransposedWeightsArePackedAlike) {
  const Operands operands(1, 33, 70, AnyCode(7));
  std::vector<int8_t> transposed(operands.weight.size());
  for (int64_t c = 0; c < operands.n; ++c) {
    for (int64_t i = 0; i < operands.k; ++i) transposed[i * operands.n + c] = operands.weight[c * operands.k + i];
  }
  const size_t bytes = 3 * (64 + 128 * 16);
  const auto packed = hwy::AllocateAligned<std::byte>(bytes);
  ThreadPool pool(2);
  PackPanel16Int8(transposed.data(), operands.n, operands.k, packed.get(), &pool, /*transposed=*/true);
  EXPECT_TRUE(std::equal(packed.get(), packed.get() + bytes, operands.packed.get()));
}

TEST(LinearInt8Test, EmptyProblems) {
  ThreadPool pool(2);
  const Operands no_depth(3, 17, 0, [] { return 1; });
  ExpectEach(no_depth, 3, true, no_depth.Z(3, true), &pool);
  Int8Linear(no_depth.Problem(0, 0, true, nullptr), &pool);
}

}  // namespace
}  // namespace flashflow::cpu
