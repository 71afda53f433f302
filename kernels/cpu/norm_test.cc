#include "kernels/cpu/norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr double kU = 0x1p-24;  // the relative error of one fp32 operation
constexpr float kEps = 1e-5f;

enum class Norm { kLayer, kRms };

struct Data {
  Data(int64_t rows, int64_t columns, float offset)
      : rows(rows), columns(columns), x(rows * columns), weight(columns), bias(columns) {
    std::mt19937 random(static_cast<uint32_t>(rows * 7919 + columns));
    std::normal_distribution<float> normal;
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = r % 3 == 2 ? 0.0f : std::exp2(static_cast<float>(r % 5 - 2));  // some rows are constant
      for (int64_t c = 0; c < columns; ++c) x[r * columns + c] = offset + scale * normal(random);
    }
    for (float& v : weight) v = normal(random);
    for (float& v : bias) v = normal(random);
  }

  int64_t rows, columns;
  Guarded<float> x, weight, bias;
};

// One row in double, and how far fp32 may be off.
//
// A sum of n terms takes at most n / 8 + 6 additions in a row on the narrowest vectors (two sums of 4 lanes), so its
// relative error is below s = (n / 8 + 6) u.
void ExpectRow(Norm norm, const float* x, const float* weight, const float* bias, const float* y, int64_t n) {
  double mean = 0;
  double mean_abs = 0;
  if (norm == Norm::kLayer) {
    for (int64_t c = 0; c < n; ++c) mean += x[c];
    for (int64_t c = 0; c < n; ++c) mean_abs += std::abs(x[c]);
    mean /= static_cast<double>(n);
    mean_abs /= static_cast<double>(n);
  }
  double squares = 0;
  for (int64_t c = 0; c < n; ++c) squares += (x[c] - mean) * (x[c] - mean);
  const double variance = squares / static_cast<double>(n) + kEps;
  const double scale = 1 / std::sqrt(variance);
  const double sum_error = (static_cast<double>(n) / 8 + 6) * kU;
  const double mean_error = (sum_error + kU) * mean_abs;
  // The variance about a mean that is off is larger by the square of that; each difference adds its own rounding.
  const double variance_error =
      sum_error + 5 * kU + (mean_error + kU * std::sqrt(variance)) * (mean_error + kU * std::sqrt(variance)) / variance;
  for (int64_t c = 0; c < n; ++c) {
    const double w = weight == nullptr ? 1 : weight[c];
    const double b = bias == nullptr ? 0 : bias[c];
    const double scaled = (x[c] - mean) * scale * w;
    const double want = scaled + b;
    const double bound = 1.01 * (std::abs(scaled) * (variance_error / 2 + 6 * kU) + std::abs(scale * w) * mean_error +
                                 kU * std::abs(want)) +
                         0x1p-149;
    ASSERT_LE(std::abs(y[c] - want), bound) << "column " << c << " of " << n << " is " << y[c] << ", not " << want;
  }
}

void RunNorm(Norm norm, const Data& data, const float* weight, const float* bias, float* y, ThreadPool* pool) {
  if (norm == Norm::kLayer) {
    LayerNorm(data.x.data(), weight, bias, kEps, y, data.rows, data.columns, pool);
  } else {
    RmsNorm(data.x.data(), weight, kEps, y, data.rows, data.columns, pool);
  }
}

TEST(NormTest, IsAsExactAsItsSums) {
  ThreadPool pool(2);
  for (Norm norm : {Norm::kLayer, Norm::kRms}) {
    for (int64_t columns : kOddSizes) {
      for (float offset : {0.0f, 300.0f}) {
        const Data data(5, columns, offset);
        for (bool has_weight : {false, true}) {
          for (bool has_bias : {false, true}) {
            if (has_bias && norm == Norm::kRms) continue;
            const float* weight = has_weight ? data.weight.data() : nullptr;
            const float* bias = has_bias ? data.bias.data() : nullptr;
            ForEachTarget([&] {
              SCOPED_TRACE(testing::Message() << (norm == Norm::kLayer ? "layer" : "rms") << " norm, offset " << offset
                                              << (has_weight ? ", weight" : "") << (has_bias ? ", bias" : ""));
              Guarded<float> y(data.x.size());
              RunNorm(norm, data, weight, bias, y.data(), &pool);
              for (int64_t r = 0; r < data.rows && !HasFailure(); ++r) {
                ExpectRow(norm, data.x.data() + r * columns, weight, bias, y.data() + r * columns, columns);
              }
            });
          }
        }
      }
    }
  }
}

TEST(NormTest, ARowsResultDependsOnNothingElse) {
  for (Norm norm : {Norm::kLayer, Norm::kRms}) {
    const Data data(211, 577, 1.5f);  // enough rows for several threads
    const float* weight = data.weight.data();
    const float* bias = norm == Norm::kLayer ? data.bias.data() : nullptr;
    ForEachTarget([&] {
      Guarded<float> alone(data.x.size());
      ThreadPool one(1);
      for (int64_t r = 0; r < data.rows; ++r) {
        const float* x = data.x.data() + r * data.columns;
        float* y = alone.data() + r * data.columns;
        if (norm == Norm::kLayer) {
          LayerNorm(x, weight, bias, kEps, y, 1, data.columns, &one);
        } else {
          RmsNorm(x, weight, kEps, y, 1, data.columns, &one);
        }
      }
      for (int threads : kThreadCounts) {
        ThreadPool pool(threads);
        Guarded<float> y(data.x.size());
        RunNorm(norm, data, weight, bias, y.data(), &pool);
        EXPECT_TRUE(SameBits(y, alone)) << threads << " threads";
      }
    });
  }
}

TEST(NormTest, InPlace) {
  ThreadPool pool(1);
  Data data(3, 127, 0.5f);
  Guarded<float> y(data.x.size()), x(data.x.size());
  LayerNorm(data.x.data(), data.weight.data(), data.bias.data(), kEps, y.data(), 3, 127, &pool);
  std::copy(data.x.begin(), data.x.end(), x.begin());
  LayerNorm(x.data(), data.weight.data(), data.bias.data(), kEps, x.data(), 3, 127, &pool);
  EXPECT_TRUE(SameBits(x, y));
  RmsNorm(data.x.data(), data.weight.data(), kEps, y.data(), 3, 127, &pool);
  std::copy(data.x.begin(), data.x.end(), x.begin());
  RmsNorm(x.data(), data.weight.data(), kEps, x.data(), 3, 127, &pool);
  EXPECT_TRUE(SameBits(x, y));
}

TEST(NormTest, EmptyIsFine) {
  ThreadPool pool(2);
  LayerNorm(nullptr, nullptr, nullptr, kEps, nullptr, 0, 8, &pool);
  LayerNorm(nullptr, nullptr, nullptr, kEps, nullptr, 8, 0, &pool);
  RmsNorm(nullptr, nullptr, kEps, nullptr, 0, 8, &pool);
  RmsNorm(nullptr, nullptr, kEps, nullptr, 8, 0, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
