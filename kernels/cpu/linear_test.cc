#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/aligned_allocator.h"
#include "hwy/base.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/unary.h"

namespace flashflow::cpu {
namespace {

// Rows around each tile's height and around a block of rows; columns around a panel, a group of panels and more.
constexpr int64_t kRows[] = {1, 2, 3, 5, 6, 7, 8, 9, 15, 127, 129, 257};
constexpr int64_t kColumns[] = {1, 15, 16, 17, 63, 65, 127, 192};
constexpr int64_t kDepths[] = {1, 7, 16, 17, 65, 512, 1023};

// Weights of 4-bit codes: rows are whole groups, the depths above rounded up.
struct Int4 {};

template <typename W>
struct Operands {
  static constexpr bool kInt4 = std::is_same_v<W, Int4>;

  Operands(int64_t m, int64_t n, int64_t depth, const std::function<float()>& next)
      : m(m),
        n(n),
        k(kInt4 ? (depth + kInt4Group - 1) / kInt4Group * kInt4Group : depth),
        x(static_cast<size_t>(m * k)),
        weight(static_cast<size_t>(n * k)),
        bias(static_cast<size_t>(n)),
        codes(kInt4 ? static_cast<size_t>(m * Int4RowBytes(k)) : 0) {
    for (float& v : x) v = next();
    for (float& v : bias) v = next();
    ThreadPool pool(1);
    if constexpr (kInt4) {
      MakeCodable();
      QuantizeInt4Rows(x.data(), m, k, codes.data(), &pool);
      PackCodes(next, &pool);
    } else {
      PackFloats(next, &pool);
    }
  }

  void PackFloats(const std::function<float()>& next, ThreadPool* pool) {
    std::vector<W> stored(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) {
      if constexpr (std::is_same_v<W, float>) {
        weight[i] = stored[i] = next();
      } else {
        const hwy::bfloat16_t rounded = hwy::BF16FromF32(next());
        weight[i] = hwy::F32FromBF16(rounded);
        std::memcpy(&stored[i], &rounded, sizeof(W));
      }
    }
    constexpr int64_t kPack = sizeof(float) / sizeof(W);
    const int64_t packed_size = (n + 15) / 16 * 16 * ((k + kPack - 1) / kPack * kPack);
    packed = hwy::AllocateAligned<W>(static_cast<size_t>(std::max<int64_t>(packed_size, 1)));
    if constexpr (std::is_same_v<W, float>) {
      PackPanel16(stored.data(), n, k, packed.get(), pool);
    } else {
      PackPanel16Vnni2(stored.data(), n, k, packed.get(), pool);
    }
  }

  // Brings each group of x to integers times a power of two of its own, 127 the largest: codes lose nothing of it.
  void MakeCodable() {
    for (size_t i = 0; i < x.size(); ++i) {
      const float step = i / kInt4Group % 3 == 0 ? 2 : 1;
      x[i] = i % kInt4Group == i / kInt4Group % kInt4Group ? 127 * step : step * std::nearbyint(x[i]);
    }
  }

  // Integers: steps of 1 or 2 from -7 or -14 on.
  void PackCodes(const std::function<float()>& next, ThreadPool* pool) {
    std::vector<std::byte> codes(weight.size() / 2);
    std::vector<uint16_t> scales(weight.size() / kInt4Group * 2);
    for (size_t i = 0; i < weight.size(); ++i) {
      const size_t group = i / kInt4Group;
      const float step = group % 3 == 0 ? 2 : 1;
      const float code = std::clamp(std::nearbyint(next()) + 7, 0.0f, 15.0f);
      const hwy::float16_t range[] = {hwy::F16FromF32(step), hwy::F16FromF32(-7 * step)};
      std::memcpy(&scales[2 * group], range, sizeof(range));
      codes[i / 2] |= static_cast<std::byte>(code) << (i % 2 * 4);
      weight[i] = step * (code - 7);
    }
    SetCodes(codes, scales, pool);
  }

  void SetCodes(const std::vector<std::byte>& codes, const std::vector<uint16_t>& scales, ThreadPool* pool) {
    const auto columns = static_cast<size_t>((n + 15) / 16 * 16);
    packed = hwy::AllocateAligned<W>(columns * static_cast<size_t>(k) / 2 + 1);
    groups = hwy::AllocateAligned<uint16_t>(columns * static_cast<size_t>(k) / kInt4Group * 2 + 1);
    PackPanel16Int4(codes.data(), n, k, reinterpret_cast<std::byte*>(packed.get()), pool);
    PackPanel16Groups(scales.data(), n, k / kInt4Group, groups.get(), pool);
  }

  // y for the rows from `row` on.
  void Run(int64_t row, int64_t rows, bool with_bias, float* y, ThreadPool* pool) const {
    Linear(Problem(row, rows, with_bias, y), pool);
  }

  LinearProblem Problem(int64_t row, int64_t rows, bool with_bias, float* y) const {
    return {.x = kInt4 ? nullptr : x.data() + row * k,
            .codes = kInt4 ? codes.data() + row * Int4RowBytes(k) : nullptr,
            .weight = packed.get(),
            .weight_type = kInt4                      ? LinearWeight::kInt4
                           : std::is_same_v<W, float> ? LinearWeight::kF32
                                                      : LinearWeight::kBF16,
            .groups = groups.get(),
            .bias = with_bias ? bias.data() : nullptr,
            .y = y,
            .m = rows,
            .n = n,
            .k = k};
  }

  int64_t m, n, k;
  Guarded<float> x;
  std::vector<float> weight;  // row-major, as rounded
  Guarded<float> bias;
  Guarded<uint8_t> codes;  // of x, for Int4
  hwy::AlignedFreeUniquePtr<W[]> packed;
  hwy::AlignedFreeUniquePtr<uint16_t[]> groups;  // of Int4
};

template <typename W>
class LinearTest : public testing::Test {};
using WeightTypes = testing::Types<float, uint16_t, Int4>;
TYPED_TEST_SUITE(LinearTest, WeightTypes);

// On small integers every sum is exact, and one missing or doubled product shows.
TYPED_TEST(LinearTest, IsExactOnIntegers) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> integer(-7, 7);
  ThreadPool pool(2);
  for (int64_t n : kColumns) {
    for (int64_t k : kDepths) {
      const Operands<TypeParam> operands(kRows[std::size(kRows) - 1], n, k, [&] { return integer(random); });
      std::vector<float> expected(static_cast<size_t>(operands.m * n));
      for (int64_t r = 0; r < operands.m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          int sum = 0;
          for (int64_t i = 0; i < operands.k; ++i) {
            sum += static_cast<int>(operands.x[r * operands.k + i]) *
                   static_cast<int>(operands.weight[c * operands.k + i]);
          }
          expected[r * n + c] = static_cast<float>(sum);
        }
      }
      for (bool with_bias : {false, true}) {
        if (with_bias) {
          for (int64_t i = 0; i < operands.m * n; ++i) expected[i] += operands.bias[i % n];
        }
        for (int64_t m : kRows) {
          ForEachTarget([&] {
            Guarded<float> y(static_cast<size_t>(m * n));
            operands.Run(0, m, with_bias, y.data(), &pool);
            EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0)
                << m << " rows, " << n << " columns, depth " << k << ", bias " << with_bias;
          });
        }
      }
    }
  }
}

// k + 1 roundings (2 k + 1 without fused multiply-add), each of at most u times the sum of the terms' sizes.
TYPED_TEST(LinearTest, IsAsCloseAsItsRoundings) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  ThreadPool pool(2);
  const Operands<TypeParam> operands(9, 65, 1023, [&] { return normal(random); });
  ForEachTarget([&] {
    Guarded<float> y(static_cast<size_t>(operands.m * operands.n));
    operands.Run(0, operands.m, true, y.data(), &pool);
    for (int64_t r = 0; r < operands.m; ++r) {
      for (int64_t c = 0; c < operands.n; ++c) {
        double sum = operands.bias[c];
        double size = std::abs(sum);
        for (int64_t i = 0; i < operands.k; ++i) {
          const double term = double{operands.x[r * operands.k + i]} * operands.weight[c * operands.k + i];
          sum += term;
          size += std::abs(term);
        }
        const double u = std::ldexp(1.0, -24);
        ASSERT_NEAR(y[r * operands.n + c], sum, (2.0 * operands.k + 1) * u * size);
      }
    }
  });
}

// The bits of a row: alone, among others, on one thread or several.
TYPED_TEST(LinearTest, RowsDoNotDependOnEachOtherOrOnThreads) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const Operands<TypeParam> operands(130, 577, 1023, [&] { return normal(random); });
  ThreadPool alone(1);
  ForEachTarget([&] {
    Guarded<float> rows(static_cast<size_t>(operands.m * operands.n));
    for (int64_t r = 0; r < operands.m; ++r) operands.Run(r, 1, true, rows.data() + r * operands.n, &alone);
    for (int threads : kThreadCounts) {
      ThreadPool pool(threads);
      Guarded<float> y(rows.size());
      operands.Run(0, operands.m, true, y.data(), &pool);
      EXPECT_TRUE(SameBits(y, rows)) << threads << " threads";
    }
  });
}

// What follows the product, at sizes where gate and up meet inside a panel: the same bits as the layer alone, then each
// function and sum on its own.
TYPED_TEST(LinearTest, WhatFollowsEqualsItsParts) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  ThreadPool alone(1);
  for (const int64_t n : {2, 30, 34, 96, 866, 1600}) {
    const Operands<TypeParam> operands(130, n, 65, [&] { return normal(random); });
    for (const bool gated : {false, true}) {
      const int64_t columns = gated ? n / 2 : n;
      Guarded<float> residual(static_cast<size_t>(operands.m * columns));
      for (float& v : residual) v = normal(random);
      for (const int64_t m : {1, 3, 130}) {
        ForEachTarget([&] {
          Guarded<float> z(static_cast<size_t>(m * n));
          operands.Run(0, m, true, z.data(), &alone);
          for (const auto& [activation, unary] :
               {std::pair(Activation::kNone, UnaryOp::kNeg), std::pair(Activation::kGelu, UnaryOp::kGelu),
                std::pair(Activation::kGeluTanh, UnaryOp::kGeluTanh), std::pair(Activation::kSilu, UnaryOp::kSilu),
                std::pair(Activation::kRelu, UnaryOp::kRelu)}) {
            std::vector<float> f(z.begin(), z.end());
            if (activation != Activation::kNone) Unary(unary, z.data(), f.data(), m * n, &alone);
            for (const bool with_residual : {false, true}) {
              std::vector<float> expected(static_cast<size_t>(m * columns));
              for (int64_t i = 0; i < m * columns; ++i) {
                const int64_t at = i / columns * n + i % columns;
                expected[i] = f[at];
                if (gated) expected[i] *= z[at + columns];
                if (with_residual) expected[i] += residual[i];
              }
              for (const int threads : {1, 3}) {
                ThreadPool pool(threads);
                Guarded<float> y(expected.size());
                LinearProblem problem = operands.Problem(0, m, true, y.data());
                problem.activation = activation;
                problem.gated = gated;
                problem.residual = with_residual ? residual.data() : nullptr;
                Linear(problem, &pool);
                EXPECT_TRUE(SameBits(y, expected))
                    << m << " rows, n " << n << ", gated " << gated << ", activation " << static_cast<int>(activation)
                    << ", residual " << with_residual << ", threads " << threads;
              }
            }
          }
        });
      }
    }
  }
}

// The config decides the speed alone, whatever its values: each by itself, then all at random.
TYPED_TEST(LinearTest, ConfigsChangeNoBits) {
  const std::pair<int64_t LinearConfig::*, std::vector<int64_t>> kValues[] = {
      {&LinearConfig::tile_rows, {1, 3, 4, 100}},    {&LinearConfig::tile_panels, {1, 2, 3, 100}},
      {&LinearConfig::block_rows, {1, 7, 64, 1000}}, {&LinearConfig::block_k, {1, 5, 100, 10000}},
      {&LinearConfig::prefetch_bytes, {1, 1 << 20}}, {&LinearConfig::tasks_per_thread, {1, 100}},
      {&LinearConfig::task_columns, {16, 48, 1024}}};
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<LinearConfig> configs;
  for (const auto& [field, values] : kValues) {
    for (int64_t value : values) {
      configs.emplace_back();
      configs.back().*field = value;
    }
  }
  for (int i = 0; i < 8; ++i) {
    configs.emplace_back();
    for (const auto& [field, values] : kValues) configs.back().*field = values[random() % values.size()];
  }
  const Operands<TypeParam> operands(259, 226, 201, [&] { return normal(random); });
  ThreadPool pool(3);
  for (const bool gated : {false, true}) {
    const int64_t columns = gated ? operands.n / 2 : operands.n;
    Guarded<float> residual(static_cast<size_t>(operands.m * columns));
    for (float& v : residual) v = normal(random);
    for (const int64_t m : {1, 5, 20, 259}) {
      ForEachTarget([&] {
        Guarded<float> expected(static_cast<size_t>(m * columns));
        LinearProblem problem = operands.Problem(0, m, true, expected.data());
        problem.gated = gated;
        problem.activation = gated ? Activation::kSilu : Activation::kNone;
        problem.residual = gated ? residual.data() : nullptr;
        Linear(problem, &pool);
        for (size_t i = 0; i < configs.size(); ++i) {
          Guarded<float> y(expected.size());
          problem.y = y.data();
          Linear(problem, &pool, configs[i]);
          EXPECT_TRUE(SameBits(y, expected)) << "config " << i << ", " << m << " rows, gated " << gated;
        }
      });
    }
  }
}

// A gated layer's blocks pass through a thread's scratch, whatever rows the config asks for.
TYPED_TEST(LinearTest, GatedBlocksFitTheScratch) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  const Operands<TypeParam> operands(700, 1600, 3, [&] { return normal(random); });
  ThreadPool pool(1);
  Guarded<float> expected(static_cast<size_t>(operands.m * operands.n / 2));
  LinearProblem problem = operands.Problem(0, operands.m, true, expected.data());
  problem.gated = true;
  Linear(problem, &pool);
  Guarded<float> y(expected.size());
  problem.y = y.data();
  Linear(problem, &pool, {.block_rows = 1000});
  EXPECT_TRUE(SameBits(y, expected));
}

// Scales of many sizes, groups of x of zeros and one that is not finite: the bits of the arithmetic that linear_int4.h
// states, on every target.
TEST(LinearInt4Test, HasTheBitsOfItsArithmetic) {
  constexpr int64_t kM = 19, kN = 75, kK = 1056, kGroups = kK / kInt4Group;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  ThreadPool pool(3);
  Operands<Int4> operands(kM, kN, kK, [&] { return normal(random); });
  std::vector<std::byte> weight(static_cast<size_t>(kN * kK / 2));
  for (std::byte& pair : weight) pair = static_cast<std::byte>(random());
  std::vector<uint16_t> scales(static_cast<size_t>(kN * kGroups * 2));
  for (size_t i = 0; i < scales.size(); ++i) {
    const hwy::float16_t value = hwy::F16FromF32(std::ldexp(normal(random), static_cast<int>(i % 23) - 14));
    std::memcpy(&scales[i], &value, sizeof(value));
  }
  operands.SetCodes(weight, scales, &pool);
  for (size_t i = 0; i < operands.x.size(); ++i) {
    const auto group = static_cast<int>(i / kInt4Group);
    operands.x[i] = group % 7 == 0 ? 0 : std::ldexp(normal(random), group % 29 - 20);
  }
  std::fill_n(operands.x.begin() + kK, kInt4Group, 0x1p-101f);
  operands.x[2 * kK + 40] = std::numeric_limits<float>::infinity();
  std::fill_n(operands.x.begin() + 3 * kK, kInt4Group, -127.0f);
  QuantizeInt4Rows(operands.x.data(), kM, kK, operands.codes.data(), &pool);

  Guarded<float> expected(static_cast<size_t>(kM * kN));
  for (int64_t r = 0; r < kM; ++r) {
    int8_t q[kK];
    float scale[kGroups];
    for (int64_t g = 0; g < kGroups; ++g) {
      scale[g] = QuantizeRow(operands.x.data() + r * kK + g * kInt4Group, kInt4Group,
                             std::numeric_limits<float>::infinity(), q + g * kInt4Group);
    }
    for (int64_t c = 0; c < kN; ++c) {
      float z = 0;
      for (int64_t g = 0; g < kGroups; ++g) {
        int products = 0, sum = 0;
        for (int64_t i = g * kInt4Group; i < (g + 1) * kInt4Group; ++i) {
          const int code = std::to_integer<int>(weight[(c * kK + i) / 2] >> (i % 2 * 4) & std::byte{15});
          products += code * q[i];
          sum += q[i];
        }
        hwy::float16_t range[2];
        std::memcpy(range, &scales[(c * kGroups + g) * 2], sizeof(range));
        // volatile keeps each rounding from being joined with the next
        const volatile float scaled = hwy::F32FromF16(range[0]) * static_cast<float>(products);
        const volatile float least = hwy::F32FromF16(range[1]) * static_cast<float>(sum);
        const volatile float both = scaled + least;
        const volatile float term = scale[g] * both;
        z += term;
      }
      const volatile float before = z;
      expected[r * kN + c] = before + operands.bias[c];
    }
  }
  EXPECT_TRUE(std::isnan(expected[2 * kN])) << "x is not finite";
  EXPECT_TRUE(std::isfinite(expected[kN]));
  const auto same = [](float a, float b) { return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, 4) == 0; };
  for (const int64_t m : {1, 2, 6, 8, 19}) {
    ForEachTarget([&] {
      QuantizeInt4Rows(operands.x.data(), kM, kK, operands.codes.data(), &pool);
      Guarded<float> y(static_cast<size_t>(m * kN));
      operands.Run(0, m, true, y.data(), &pool);
      for (int64_t i = 0; i < m * kN; ++i) {
        ASSERT_TRUE(same(expected[i], y[i])) << m << " rows, at " << i << ": " << expected[i] << " and " << y[i];
      }
    });
  }
}

TYPED_TEST(LinearTest, EmptyProblems) {
  ThreadPool pool(2);
  const Operands<TypeParam> no_depth(3, 17, 0, [] { return 1.0f; });
  Guarded<float> y(3 * 17);
  no_depth.Run(0, 3, true, y.data(), &pool);
  for (float v : y) EXPECT_EQ(v, 1.0f);
  no_depth.Run(0, 3, false, y.data(), &pool);
  for (float v : y) EXPECT_EQ(v, 0.0f);
  no_depth.Run(0, 0, true, nullptr, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
