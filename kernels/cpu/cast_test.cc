#include "kernels/cpu/cast.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "compiler/ir/dtype.h"
#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename To, typename From>
std::vector<To> CastAll(const std::vector<From>& x, DType from, DType to, int threads = 1) {
  ThreadPool pool(threads);
  const auto count = static_cast<int64_t>(x.size());
  Guarded<From> in(x.size());
  Guarded<To> out(x.size());
  std::memcpy(in.data(), x.data(), x.size() * sizeof(From));
  Cast(in.data(), from, out.data(), to, count, &pool);
  return {out.begin(), out.end()};
}

// A format of 16 bits with `mantissa` stored bits, by its definition.
struct Format {
  DType dtype;
  int mantissa;
  int bias;

  int exponent_max() const { return (1 << (15 - mantissa)) - 1; }

  double Value(uint16_t bits) const {
    const int exponent = (bits & 0x7FFF) >> mantissa;
    const int fraction = bits & ((1 << mantissa) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == exponent_max()) return fraction == 0 ? sign * kInf : static_cast<double>(kNan);
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - mantissa);
    return sign * std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
  }

  // The nearest value's bits, the even one of two: the bits of a format's positive values are in their order.
  uint16_t Nearest(long double v) const {
    const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    const long double magnitude = std::abs(v);
    uint16_t low = 0;
    uint16_t infinity = static_cast<uint16_t>(exponent_max() << mantissa);
    uint16_t high = infinity;
    while (high - low > 1) {  // low <= magnitude < high
      const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
      (Value(middle) <= magnitude ? low : high) = middle;
    }
    if (magnitude == static_cast<long double>(kInf)) return sign | infinity;
    // Beyond the largest value the next would have been 2^(exponent_max - bias).
    const long double above = high == infinity ? std::ldexp(1.0L, exponent_max() - bias) : Value(high);
    const long double middle = (Value(low) + above) / 2;
    const bool up = magnitude > middle || (magnitude == middle && low % 2 == 1);
    return sign | (up ? high : low);
  }
};

constexpr Format kFormats[] = {{DType::kF16, 10, 15}, {DType::kBF16, 7, 127}};

TEST(CastTest, WidensEvery16BitFloatExactly) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(DTypeName(format.dtype));
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    ForEachTarget([&] {
      const std::vector<float> wide = CastAll<float>(all, format.dtype, DType::kF32);
      const std::vector<uint16_t> back = CastAll<uint16_t>(wide, DType::kF32, format.dtype);
      for (size_t i = 0; i < all.size(); ++i) {
        const double want = format.Value(all[i]);
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(wide[i])) << i;
          ASSERT_TRUE(std::isnan(format.Value(back[i]))) << i;
        } else {
          ASSERT_EQ(wide[i], want) << i;
          ASSERT_EQ(back[i], all[i]) << i;
        }
      }
    });
  }
}

TEST(CastTest, NarrowsToTheNearestEven) {
  for (const Format& format : kFormats) {
    SCOPED_TRACE(DTypeName(format.dtype));
    std::vector<float> x = {kInf, -kInf, 65519.99f, 65520.0f, 3.3961775e38f, 3.4028235e38f, 0.0f, -0.0f};
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 30011) {
      const float v = std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (!std::isnan(v)) x.push_back(v);
    }
    for (uint32_t bits = 0; bits < 0x7FFF; bits += 5) {  // midpoints and their neighbors
      const double low = format.Value(static_cast<uint16_t>(bits));
      const double high = format.Value(static_cast<uint16_t>(bits + 1));
      if (!std::isfinite(low) || !std::isfinite(high)) continue;
      const auto middle = static_cast<float>((low + high) / 2);
      for (float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, kInf)}) {
        x.push_back(v);
        x.push_back(-v);
      }
    }
    std::vector<uint16_t> want(x.size());
    for (size_t i = 0; i < x.size(); ++i) want[i] = format.Nearest(x[i]);
    ForEachTarget([&] {
      const std::vector<uint16_t> y = CastAll<uint16_t>(x, DType::kF32, format.dtype);
      for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], want[i]) << x[i];
    });
  }
}

TEST(CastTest, KeepsNaN) {
  std::vector<float> x;
  for (uint32_t bits : {0x7F800001u, 0x7F80FFFFu, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu, 0x7FC00000u, 0xFFFF8000u}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  x.resize(40, x[0]);
  ForEachTarget([&] {
    for (const Format& format : kFormats) {
      for (uint16_t bits : CastAll<uint16_t>(x, DType::kF32, format.dtype)) {
        EXPECT_TRUE(std::isnan(format.Value(bits))) << DTypeName(format.dtype) << " " << bits;
      }
    }
  });
}

TEST(CastTest, OddSizes) {
  for (int64_t count : kOddSizes) {
    std::vector<float> x(count);
    for (int64_t i = 0; i < count; ++i) x[i] = 1.37f * static_cast<float>(i) - 20.0f;
    ForEachTarget([&] {
      const std::vector<uint16_t> narrow = CastAll<uint16_t>(x, DType::kF32, DType::kBF16);
      const std::vector<float> wide = CastAll<float>(narrow, DType::kBF16, DType::kF32);
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(narrow[i], kFormats[1].Nearest(x[i])) << i << " of " << count;
        ASSERT_EQ(wide[i], kFormats[1].Value(narrow[i])) << i << " of " << count;
      }
    });
  }
}

TEST(CastTest, IntegersRoundOnce) {
  // 2^24 + 2^16 + 1 is above the middle of two bf16 values; by way of the nearest float it would be in the middle.
  std::vector<int64_t> x = {0,
                            1,
                            -1,
                            16842753,
                            -16842753,
                            (int64_t{1} << 53) + 1,
                            65519,
                            65520,
                            -65521,
                            int64_t{1} << 62,
                            std::numeric_limits<int64_t>::min(),
                            std::numeric_limits<int64_t>::max()};
  for (int shift = 0; shift < 62; ++shift) {
    for (int64_t part : {0x81, 0x83, 0xFF, 0x801, 0x803, 0x1FF}) {
      for (int64_t near : {-1, 0, 1}) x.push_back((part << shift >> 2) + near);
    }
  }
  for (const Format& format : kFormats) {
    const std::vector<uint16_t> y = CastAll<uint16_t>(x, DType::kI64, format.dtype);
    for (size_t i = 0; i < x.size(); ++i) {
      const uint16_t want = format.Nearest(static_cast<long double>(x[i]));
      EXPECT_EQ(y[i], want) << x[i] << " to " << DTypeName(format.dtype);
    }
  }
  const std::vector<float> y = CastAll<float>(x, DType::kI64, DType::kF32);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], static_cast<float>(x[i]));
}

TEST(CastTest, FloatsToIntegers) {
  const std::vector<float> x = {0.0f,    -0.0f,   0.99f,    -0.99f, 1.5f,         -1.5f,        126.9f,        127.0f,
                                128.0f,  -128.9f, -129.0f,  1e9f,   2147483520.f, 2147483648.f, -2147483648.f, -3e9f,
                                9.2e18f, 9.3e18f, -9.3e18f, kInf,   -kInf,        kNan};
  const auto check = [&]<typename T>(DType dtype, T) {
    const std::vector<T> y = CastAll<T>(x, DType::kF32, dtype);
    for (size_t i = 0; i < x.size(); ++i) {
      T want = 0;
      if (x[i] >= std::ldexp(1.0f, std::numeric_limits<T>::digits)) {
        want = std::numeric_limits<T>::max();
      } else if (x[i] <= -std::ldexp(1.0f, std::numeric_limits<T>::digits)) {
        want = std::numeric_limits<T>::min();
      } else if (!std::isnan(x[i])) {
        want = static_cast<T>(std::trunc(x[i]));
      }
      EXPECT_EQ(y[i], want) << x[i] << " to " << DTypeName(dtype);
    }
  };
  check(DType::kI8, int8_t{});
  check(DType::kI32, int32_t{});
  check(DType::kI64, int64_t{});
}

TEST(CastTest, IntegersWrap) {
  const std::vector<int64_t> x = {0, 127, 128, -129, 255, 256, int64_t{1} << 31, (int64_t{5} << 32) + 7, -1};
  const std::vector<int8_t> small = CastAll<int8_t>(x, DType::kI64, DType::kI8);
  EXPECT_EQ(small, (std::vector<int8_t>{0, 127, -128, 127, -1, 0, 0, 7, -1}));
  const std::vector<int32_t> middle = CastAll<int32_t>(x, DType::kI64, DType::kI32);
  EXPECT_EQ(middle, (std::vector<int32_t>{0, 127, 128, -129, 255, 256, std::numeric_limits<int32_t>::min(), 7, -1}));
  EXPECT_EQ(CastAll<int64_t>(small, DType::kI8, DType::kI64),
            (std::vector<int64_t>{0, 127, -128, 127, -1, 0, 0, 7, -1}));
}

TEST(CastTest, Bools) {
  EXPECT_EQ(CastAll<uint8_t>(std::vector<float>{0.0f, -0.0f, 1e-45f, kNan, -2.0f}, DType::kF32, DType::kBool),
            (std::vector<uint8_t>{0, 0, 1, 1, 1}));
  EXPECT_EQ(CastAll<uint8_t>(std::vector<int64_t>{0, 256, -1}, DType::kI64, DType::kBool),
            (std::vector<uint8_t>{0, 1, 1}));
  // Memory may hold any byte.
  const std::vector<uint8_t> bytes = {0, 1, 2, 255};
  EXPECT_EQ(CastAll<float>(bytes, DType::kBool, DType::kF32), (std::vector<float>{0, 1, 1, 1}));
  EXPECT_EQ(CastAll<int8_t>(bytes, DType::kBool, DType::kI8), (std::vector<int8_t>{0, 1, 1, 1}));
  EXPECT_EQ(CastAll<uint8_t>(bytes, DType::kBool, DType::kBool), (std::vector<uint8_t>{0, 1, 1, 1}));
}

// Every pair of types, with numbers that all of them hold.
TEST(CastTest, EveryPair) {
  ThreadPool pool(1);
  const std::vector<float> numbers = {0, 1, 1, 0, 1};
  for (DType from : kAllDTypes) {
    Guarded<int64_t> x(numbers.size());  // aligned for every type
    Cast(numbers.data(), DType::kF32, x.data(), from, std::ssize(numbers), &pool);
    for (DType to : kAllDTypes) {
      Guarded<int64_t> y(numbers.size());
      Guarded<float> back(numbers.size());
      Cast(x.data(), from, y.data(), to, std::ssize(numbers), &pool);
      Cast(y.data(), to, back.data(), DType::kF32, std::ssize(numbers), &pool);
      EXPECT_TRUE(SameBits(back, numbers)) << DTypeName(from) << " to " << DTypeName(to);
    }
  }
}

TEST(CastTest, ThreadsDoNotChangeBits) {
  std::vector<float> x(100003);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.123f * static_cast<float>(i);
  for (DType to : {DType::kBF16, DType::kF16}) {
    const std::vector<uint16_t> first = CastAll<uint16_t>(x, DType::kF32, to);
    for (int threads : kThreadCounts) EXPECT_EQ(CastAll<uint16_t>(x, DType::kF32, to, threads), first) << threads;
  }
}

}  // namespace
}  // namespace flashflow::cpu
