#include "runtime/engine/convert.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow::engine {
namespace {

template <typename To, typename From>
To Convert(From value, DType from, DType to) {
  To out{};
  ConvertFloats(&value, from, &out, to, 1);
  return out;
}

// The meaning of the bits, by the formats' definition and in double.
double Decode(uint16_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  const double significand = exponent == 0 ? fraction : fraction + (1 << fraction_bits);
  return sign * std::ldexp(significand, (exponent == 0 ? 1 : exponent) - bias - fraction_bits);
}

struct Format {
  DType dtype;
  int exponent_bits, fraction_bits;
  double Decoded(uint16_t bits) const { return Decode(bits, exponent_bits, fraction_bits); }
};
constexpr Format kF16 = {DType::kF16, 5, 10};
constexpr Format kBF16 = {DType::kBF16, 8, 7};

class FormatTest : public ::testing::TestWithParam<Format> {};

TEST_P(FormatTest, WidensEveryValueExactlyAndBack) {
  const Format& format = GetParam();
  for (uint32_t i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const auto wide = Convert<float>(bits, format.dtype, DType::kF32);
    const double expected = format.Decoded(bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << i;
      ASSERT_TRUE(std::isnan(format.Decoded(Convert<uint16_t>(wide, DType::kF32, format.dtype)))) << i;
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << i;
    ASSERT_EQ(Convert<uint16_t>(wide, DType::kF32, format.dtype), bits);
  }
}

// Between each two neighbours: just below the middle goes down, the middle goes to the even one, just above goes up.
TEST_P(FormatTest, NarrowsToTheNearestWithTiesToEven) {
  const Format& format = GetParam();
  const auto infinity = static_cast<uint16_t>(((1 << format.exponent_bits) - 1) << format.fraction_bits);
  for (uint16_t low = 0; low < infinity; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const double step = format.Decoded(low) - (low == 0 ? 0 : format.Decoded(static_cast<uint16_t>(low - 1)));
    const double high_value = high == infinity ? format.Decoded(low) + step : format.Decoded(high);
    const auto middle = static_cast<float>((format.Decoded(low) + high_value) / 2);
    ASSERT_EQ(static_cast<double>(middle), (format.Decoded(low) + high_value) / 2);
    const auto narrow = [&](float value) { return Convert<uint16_t>(value, DType::kF32, format.dtype); };
    ASSERT_EQ(narrow(std::nextafter(middle, 0.0f)), low);
    ASSERT_EQ(narrow(middle), low % 2 == 0 ? low : high) << low;
    ASSERT_EQ(narrow(std::nextafter(middle, INFINITY)), high);
    ASSERT_EQ(narrow(-middle), narrow(middle) | 0x8000);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, FormatTest, ::testing::Values(kF16, kBF16));

TEST(ConvertTest, BetweenTheHalvesRoundsOnce) {
  EXPECT_EQ(Convert<uint16_t>(uint16_t{0x3c01}, DType::kF16, DType::kBF16), 0x3f80);  // 1 + 2^-10 -> 1
  EXPECT_EQ(Convert<uint16_t>(uint16_t{0x3c0c}, DType::kF16, DType::kBF16), 0x3f82);  // 1 + 12/1024, a tie -> even
  EXPECT_EQ(Convert<uint16_t>(uint16_t{0x7f7f}, DType::kBF16, DType::kF16), 0x7c00);  // 3.4e38 -> infinity
  EXPECT_EQ(Convert<uint16_t>(uint16_t{0x3f81}, DType::kBF16, DType::kF16), 0x3c08);
}

TEST(ConvertTest, ArraysNeedNoAlignment) {
  std::vector<unsigned char> src(1 + 3 * 4), dst(1 + 3 * 2);
  const float values[3] = {1.0f, -2.0f, 0.5f};
  std::memcpy(src.data() + 1, values, sizeof(values));
  ConvertFloats(src.data() + 1, DType::kF32, dst.data() + 1, DType::kBF16, 3);
  uint16_t out[3];
  std::memcpy(out, dst.data() + 1, sizeof(out));
  EXPECT_EQ(out[0], 0x3f80);
  EXPECT_EQ(out[1], 0xc000);
  EXPECT_EQ(out[2], 0x3f00);
}

}  // namespace
}  // namespace flashflow::engine
