#include "kernels/cpu/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Row {
  std::vector<int> codes;
  float scale = 0;
};

// One rounding a line: volatile keeps each from being joined with the next.
Row Expected(const std::vector<float>& x, float clip) {
  Row row = {std::vector<int>(x.size()), 0};
  float most = 0;
  for (float v : x) {
    if (!std::isfinite(v)) return {std::vector<int>(x.size()), kNaN};
    most = std::max(most, std::abs(v));
  }
  const float a = std::min(most, clip);
  if (a < std::ldexp(1.0f, -100)) return row;
  const volatile float r = 127.0f / a;
  for (size_t i = 0; i < x.size(); ++i) {
    const volatile float scaled = x[i] * r;
    row.codes[i] = static_cast<int>(std::clamp(std::nearbyint(static_cast<double>(scaled)), -127.0, 127.0));
  }
  row.scale = a / 127.0f;
  return row;
}

// Both forms of the codes of equally long rows, on every target.
void Check(const std::vector<std::vector<float>>& rows, float clip) {
  const auto m = static_cast<int64_t>(rows.size());
  const auto k = static_cast<int64_t>(rows[0].size());
  const int64_t row_bytes = Int8RowBytes(k);
  EXPECT_GE(row_bytes, k);
  EXPECT_EQ(row_bytes % 64, 0);
  ThreadPool pool(2);
  Guarded<float> x(static_cast<size_t>(m * k));
  for (int64_t r = 0; r < m; ++r) std::copy(rows[r].begin(), rows[r].end(), x.data() + r * k);
  ForEachTarget([&] {
    Guarded<int8_t> codes(static_cast<size_t>(m * k));
    Guarded<float> scales(static_cast<size_t>(m));
    QuantizeRows(x.data(), m, k, clip, codes.data(), scales.data(), &pool);
    Guarded<uint8_t> shifted(static_cast<size_t>(m * row_bytes));
    Guarded<float> same_scales(static_cast<size_t>(m));
    QuantizeLinearRows(x.data(), m, k, clip, shifted.data(), same_scales.data(), &pool);
    EXPECT_TRUE(SameBits(scales, same_scales));
    for (int64_t r = 0; r < m; ++r) {
      const Row expected = Expected(rows[r], clip);
      if (std::isnan(expected.scale)) {
        EXPECT_TRUE(std::isnan(scales[r]));
      } else {
        EXPECT_EQ(scales[r], expected.scale) << "row " << r;
      }
      for (int64_t i = 0; i < k; ++i) {
        ASSERT_EQ(codes[r * k + i], expected.codes[i]) << rows[r][i] << " at " << i << " of row " << r;
        ASSERT_EQ(shifted[r * row_bytes + i], expected.codes[i] + 128);
      }
      for (int64_t i = k; i < row_bytes; ++i) ASSERT_EQ(shifted[r * row_bytes + i], 128);
    }
  });
}

TEST(QuantizeTest, OfAnyLengthAndSize) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const int64_t k : {1, 3, 15, 16, 17, 63, 64, 65, 576, 1023}) {
    for (const float clip : {kInf, 1.5f}) {
      std::vector<std::vector<float>> rows(40);
      for (size_t r = 0; r < rows.size(); ++r) {
        for (int64_t i = 0; i < k; ++i) rows[r].push_back(std::ldexp(normal(random), static_cast<int>(r * 6) - 120));
      }
      Check(rows, clip);
    }
  }
}

// With 127 in the row its scale is one: halves are ties.
TEST(QuantizeTest, TiesGoToEven) {
  std::vector<float> row = {127, -127};
  for (int i = -126; i < 126; ++i) row.push_back(static_cast<float>(i) + 0.5f);
  Check({row}, kInf);
}

TEST(QuantizeTest, ZerosAndWhatCountsAsZeros) {
  const float least = std::ldexp(1.0f, -100);
  const float below = std::nextafter(least, 0.0f);
  Check({{0, -0.0f, 0}, {least, 0, -least}, {below, -below, 0}, {1e-45f, 0, 0}}, kInf);
  Check({{1, 2, 3}}, below);
}

TEST(QuantizeTest, ElementsThatAreNotFiniteMakeTheScaleNaN) {
  for (size_t at = 0; at < 20; ++at) {
    for (const float bad : {kInf, -kInf, kNaN, -kNaN}) {
      std::vector<float> row(20, 1.0f);
      row[at] = bad;
      Check({row, std::vector<float>(20, 2.0f)}, kInf);
      Check({row}, 0.5f);
    }
  }
}

TEST(QuantizeTest, ClipsWhatIsLarger) {
  Check({{1, -1, 0.25f, 3e38f, -3e38f, 0.75f}}, 0.5f);
  Check({{1, -1, 0.25f, 3e38f, -3e38f, 0.75f}}, std::ldexp(1.0f, -99));
}

TEST(QuantizeTest, EmptyRows) {
  ThreadPool pool(1);
  float scales[2] = {1, 1};
  QuantizeRows(nullptr, 2, 0, kInf, nullptr, scales, &pool);
  EXPECT_EQ(scales[0], 0.0f);
  EXPECT_EQ(scales[1], 0.0f);
}

}  // namespace
}  // namespace flashflow::cpu
