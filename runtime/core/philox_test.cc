#include "runtime/core/philox.h"

#include <array>
#include <cstdint>

#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using Words = std::array<uint32_t, 4>;

// The known-answer vectors that the authors publish with Random123.
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformIsInTheHalfOpenUnitIntervalAndCentered) {
  double sum = 0;
  constexpr int kDraws = 10000;
  for (int n = 0; n < kDraws; ++n) {
    const double u = PhiloxUniform(7, n);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  // The mean of n uniforms has standard deviation 1 / sqrt(12 n) = 0.0029; five of them.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * 0.0029);
}

TEST(PhiloxTest, AllBitsOfSeedAndCounterCount) {
  const double base = PhiloxUniform(1, 1);
  EXPECT_NE(base, PhiloxUniform(1 | uint64_t{1} << 63, 1));
  EXPECT_NE(base, PhiloxUniform(1, 1 | uint64_t{1} << 63));
  EXPECT_NE(base, PhiloxUniform(2, 1));
  EXPECT_NE(base, PhiloxUniform(1, 2));
}

}  // namespace
}  // namespace flashflow::runtime
