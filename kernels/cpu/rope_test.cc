#include "kernels/cpu/rope.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

// Tokens whose heads lie inside wider rows, angles shared by a token's heads: against doubles, within the two products'
// and the sum's roundings.
TEST(RopeTest, TurnsEachHeadByItsTokensAngles) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  constexpr int64_t kTokens = 5, kHeads = 3;
  for (const int64_t channels : {2, 6, 32, 34, 64, 130}) {
    const int64_t width = (kHeads + 2) * channels;  // of x's tokens; of y's it is kHeads * channels
    Guarded<float> x(static_cast<size_t>(kTokens * width));
    Guarded<float> cos(static_cast<size_t>(kTokens * channels));
    Guarded<float> sin(cos.size());
    for (auto* values : {&x, &cos, &sin}) {
      for (float& v : *values) v = normal(random);
    }
    ForEachTarget([&] {
      for (const int threads : kThreadCounts) {
        ThreadPool pool(threads);
        Guarded<float> y(static_cast<size_t>(kTokens * kHeads * channels));
        const std::array<int64_t, 2> dims = {kTokens, kHeads};
        const std::array<int64_t, 2> x_strides = {width, channels};
        const std::array<int64_t, 2> angle_strides = {channels, 0};
        const std::array<int64_t, 2> y_strides = {kHeads * channels, channels};
        Rope({x.data(), x_strides}, {cos.data(), angle_strides}, {sin.data(), angle_strides}, y.data(), y_strides, dims,
             channels, &pool);
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t h = 0; h < kHeads; ++h) {
            const float* row = &x[t * width + h * channels];
            for (int64_t i = 0; i < channels; ++i) {
              const int64_t half = channels / 2;
              const double a = double{row[i]} * cos[t * channels + i];
              const double b = (i < half ? -double{row[i + half]} : double{row[i - half]}) * sin[t * channels + i];
              ASSERT_NEAR(y[(t * kHeads + h) * channels + i], a + b, 2 * 0x1p-24 * (std::abs(a) + std::abs(b)))
                  << "channels " << channels << ", token " << t << ", head " << h << ", element " << i;
            }
          }
        }
      }
    });
  }
}

TEST(RopeTest, NothingToTurn) {
  ThreadPool pool(2);
  const std::array<int64_t, 1> none = {0};
  const std::array<int64_t, 1> strides = {4};
  Rope({nullptr, strides}, {nullptr, strides}, {nullptr, strides}, nullptr, strides, none, 4, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
