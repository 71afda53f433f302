#include "kernels/cpu/cumsum.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

template <typename T>
void CheckDType(DType dtype, T step) {
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (const auto& [outer, axis, inner] : std::vector<std::array<int64_t, 3>>{
             {1, 1, 1}, {3, 17, 1}, {2, 9, 5}, {1, 4, 33}, {700, 129, 1}, {1, 129, 700}, {0, 3, 2}, {2, 0, 3}}) {
      Guarded<T> x(static_cast<size_t>(outer * axis * inner)), y(x.size());
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(static_cast<int64_t>(i % 13) - 5) * step;
      Cumsum(dtype, x.data(), y.data(), outer, axis, inner, &pool);
      for (int64_t o = 0; o < outer; ++o) {
        for (int64_t c = 0; c < inner; ++c) {
          T sum = 0;
          for (int64_t a = 0; a < axis; ++a) {
            const int64_t at = (o * axis + a) * inner + c;
            sum = static_cast<T>(sum + x[at]);
            ASSERT_EQ(y[at], sum) << o << ", " << a << ", " << c;
          }
        }
      }
      Cumsum(dtype, x.data(), x.data(), outer, axis, inner, &pool);
      EXPECT_TRUE(SameBits(x, y)) << "in place";
    }
  }
}

TEST(CumsumTest, AddsOneByOne) {
  CheckDType<float>(DType::kF32, 0.1f);
  CheckDType<int32_t>(DType::kI32, 1000);
  CheckDType<int64_t>(DType::kI64, int64_t{1} << 40);
}

TEST(CumsumTest, TheFirstElementIsItself) {
  ThreadPool pool(1);
  float x[] = {-0.0f, -0.0f};
  Cumsum(DType::kF32, x, x, 1, 2, 1, &pool);
  EXPECT_TRUE(std::signbit(x[0]));
  EXPECT_TRUE(std::signbit(x[1]));
}

TEST(CumsumTest, IntegersWrapAround) {
  ThreadPool pool(1);
  int64_t x[] = {std::numeric_limits<int64_t>::max(), 1, 1};
  Cumsum(DType::kI64, x, x, 1, 3, 1, &pool);
  EXPECT_EQ(x[1], std::numeric_limits<int64_t>::min());
  EXPECT_EQ(x[2], std::numeric_limits<int64_t>::min() + 1);
}

}  // namespace
}  // namespace flashflow::cpu
