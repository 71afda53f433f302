#include "compiler/ir/float_convert.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow {
namespace {

struct Case {
  const char* name;
  uint16_t (*encode)(double);
  double (*decode)(uint16_t);
  uint16_t infinity;
};

class FloatConvertTest : public ::testing::TestWithParam<Case> {};

TEST_P(FloatConvertTest, EveryPatternRoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const double value = GetParam().decode(pattern);
    const bool is_nan = (pattern & 0x7FFF) > GetParam().infinity;
    ASSERT_EQ(std::isnan(value), is_nan) << bits;
    if (is_nan) {
      const uint16_t back = GetParam().encode(value);
      EXPECT_GT(back & 0x7FFF, GetParam().infinity) << "a NaN must not become an infinity";
      EXPECT_EQ(back & 0x8000, pattern & 0x8000);
    } else {
      ASSERT_EQ(GetParam().encode(value), pattern) << value;
    }
  }
}

// Between each pair of neighbours: the middle goes to the even one, and the least bit of a double decides beside it.
TEST_P(FloatConvertTest, EveryMidpointRoundsToEven) {
  const auto [name, encode, decode, infinity] = GetParam();
  for (uint16_t low = 0; low < infinity; ++low) {
    const uint16_t high = low + 1;
    // Past the largest value stands the power of two that infinity's pattern would have as one more exponent.
    const double high_value = high == infinity ? 2 * decode(low) - decode(low - 1) : decode(high);
    const double middle = (decode(low) + high_value) / 2;
    ASSERT_EQ(encode(middle), low % 2 == 0 ? low : high) << name << " " << low;
    ASSERT_EQ(encode(std::nextafter(middle, 0.0)), low) << name << " " << low;
    ASSERT_EQ(encode(std::nextafter(middle, 1e300)), high) << name << " " << low;
    ASSERT_EQ(encode(-middle), (low % 2 == 0 ? low : high) | 0x8000) << name << " " << low;
  }
}

TEST_P(FloatConvertTest, Extremes) {
  const auto [name, encode, decode, infinity] = GetParam();
  EXPECT_EQ(encode(std::numeric_limits<double>::infinity()), infinity);
  EXPECT_EQ(encode(-std::numeric_limits<double>::max()), infinity | 0x8000);
  EXPECT_EQ(encode(std::numeric_limits<double>::denorm_min()), 0);
  EXPECT_EQ(encode(-0.0), 0x8000);
}

INSTANTIATE_TEST_SUITE_P(Formats, FloatConvertTest,
                         ::testing::Values(Case{"bf16", DoubleToBF16, BF16ToDouble, 0x7F80},
                                           Case{"f16", DoubleToF16, F16ToDouble, 0x7C00}),
                         [](const auto& info) { return info.param.name; });

TEST(FloatConvert, BF16IsTheTopOfF32) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = std::bit_cast<float>(bits << 16);
    if (!std::isnan(value)) {
      ASSERT_EQ(BF16ToDouble(static_cast<uint16_t>(bits)), value);
    }
  }
}

TEST(FloatConvert, F16KnownValues) {
  EXPECT_EQ(F16ToDouble(0x3C00), 1.0);
  EXPECT_EQ(F16ToDouble(0xC000), -2.0);
  EXPECT_EQ(F16ToDouble(0x7BFF), 65504.0);
  EXPECT_EQ(F16ToDouble(0x0400), 0x1p-14);
  EXPECT_EQ(F16ToDouble(0x0001), 0x1p-24);
}

TEST(FloatConvert, RoundToRoundsOnce) {
  EXPECT_EQ(RoundTo(DType::kF32, 0.1), static_cast<double>(0.1f));
  EXPECT_EQ(RoundTo(DType::kBF16, 1.0 + 0x1p-8), 1.0);
  // Just above bf16's tie: rounding to f32 first would make it the tie, and then 1.
  EXPECT_EQ(RoundTo(DType::kBF16, 1.0 + 0x1p-8 + 0x1p-40), 1.0 + 0x1p-7);
  EXPECT_EQ(RoundTo(DType::kF16, 1.0 + 0x1p-11 + 0x1p-40), 1.0 + 0x1p-10);
  EXPECT_EQ(RoundTo(DType::kF16, 1e6), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace flashflow
