#include "kernels/cpu/pack.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

// Element (n, k) of the test's weights: never zero, unlike the padding.
int Value(int64_t n, int64_t k) { return static_cast<int>((n * 131 + k * 7) % 30011 + 1); }

constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 63, 65, 127};

template <int64_t kPack, typename T, typename PackFn>
void ExpectPacked(const PackFn& pack) {
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t n : kSizes) {
      for (int64_t k : kSizes) {
        SCOPED_TRACE(testing::Message() << "[" << n << ", " << k << "], threads " << threads);
        const int64_t panels = (n + 15) / 16;
        const int64_t padded = (k + kPack - 1) / kPack * kPack;
        Guarded<T> src(static_cast<size_t>(n * k));
        for (int64_t i = 0; i < n * k; ++i) src[i] = static_cast<T>(Value(i / k, i % k));
        Guarded<T> dst(static_cast<size_t>(panels * 16 * padded));
        pack(src.data(), n, k, dst.data(), &pool, false);
        std::vector<T> expected(dst.size(), T{0});
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            expected[(i / 16 * (padded / kPack) + j / kPack) * 16 * kPack + i % 16 * kPack + j % kPack] =
                static_cast<T>(Value(i, j));
          }
        }
        EXPECT_TRUE(SameBits(dst, expected));

        Guarded<T> exchanged(static_cast<size_t>(n * k));
        for (int64_t i = 0; i < n * k; ++i) exchanged[i] = static_cast<T>(Value(i % n, i / n));
        Guarded<T> from_exchanged(dst.size());
        pack(exchanged.data(), n, k, from_exchanged.data(), &pool, true);
        EXPECT_TRUE(SameBits(from_exchanged, expected)) << "transposed";
      }
    }
  }
}

TEST(PackTest, Panel16) { ExpectPacked<1, float>(PackPanel16); }
TEST(PackTest, Panel16Vnni2) { ExpectPacked<2, uint16_t>(PackPanel16Vnni2); }

TEST(PackTest, Transposed) {
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t n : kSizes) {
      for (int64_t k : kSizes) {
        Guarded<uint16_t> src(static_cast<size_t>(n * k)), dst(static_cast<size_t>(n * k));
        std::vector<uint16_t> expected;
        for (int64_t i = 0; i < n * k; ++i) src[i] = static_cast<uint16_t>(Value(i % n, i / n));
        for (int64_t i = 0; i < n * k; ++i) expected.push_back(static_cast<uint16_t>(Value(i / k, i % k)));
        PackTransposed(reinterpret_cast<const std::byte*>(src.data()), n, k, sizeof(uint16_t),
                       reinterpret_cast<std::byte*>(dst.data()), &pool);
        EXPECT_TRUE(SameBits(dst, expected)) << n << " x " << k;
      }
    }
  }
}

TEST(PackTest, CodesOfGroupsAndTheirScales) {
  for (const int64_t n : {1, 16, 37}) {
    for (const int64_t k : {32, 96}) {
      ThreadPool pool(2);
      Guarded<std::byte> src(static_cast<size_t>(n * k / 2)), dst(static_cast<size_t>((n + 15) / 16 * 16 * k / 2));
      for (size_t i = 0; i < src.size(); ++i) src[i] = static_cast<std::byte>(i * 37 + i / 256);
      PackPanel16Int4(src.data(), n, k, dst.data(), &pool);
      std::vector<std::byte> expected(dst.size());
      for (int64_t i = 0; i < n * k / 2; ++i) {
        const int64_t row = i / (k / 2), byte = i % (k / 2);
        expected[row / 16 * 8 * k + byte / 4 * 64 + row % 16 * 4 + byte % 4] = src[i];
      }
      EXPECT_TRUE(SameBits(dst, expected)) << n << " x " << k;

      const int64_t groups = k / 32;
      Guarded<uint16_t> scales(static_cast<size_t>(n * groups * 2)),
          packed(static_cast<size_t>((n + 15) / 16 * 16 * groups * 2));
      for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<uint16_t>(i + 1);
      PackPanel16Groups(scales.data(), n, groups, packed.data(), &pool);
      std::vector<uint16_t> wanted(packed.size());
      for (int64_t i = 0; i < n * groups * 2; ++i) {
        const int64_t row = i / 2 / groups, group = i / 2 % groups;
        wanted[(row / 16 * groups + group) * 32 + i % 2 * 16 + row % 16] = scales[i];
      }
      EXPECT_TRUE(SameBits(packed, wanted)) << n << " x " << k;
    }
  }
}

}  // namespace
}  // namespace flashflow::cpu
