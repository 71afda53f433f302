#include "kernels/cpu/gather.h"

#include <sys/mman.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

TEST(GatherTest, FindsTheFirstIndexOutOfRange) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
  const auto first = [](std::vector<int32_t> indices, int64_t limit) { return FirstOutOfRange(indices, limit); };
  EXPECT_EQ(first({}, 0), std::nullopt);
  EXPECT_EQ(first({0, 4, 2}, 5), std::nullopt);
  EXPECT_EQ(first({kMax}, int64_t{kMax} + 1), std::nullopt);
  EXPECT_EQ(first({0, 5, -1}, 5), 1);
  EXPECT_EQ(first({0, 0, -1}, 5), 2);
  EXPECT_EQ(first({kMin}, 5), 0);
  EXPECT_EQ(first({kMax}, kMax), 0);
  EXPECT_EQ(first({0}, 0), 0);
  const std::vector<int64_t> wide = {3, int64_t{1} << 32};  // 0 if it were narrowed
  EXPECT_EQ(FirstOutOfRange(wide, 5), 1);
}

// Repeated, out of order, the first and the last.
std::vector<int32_t> SomeRows(int64_t count, int64_t table_rows) {
  std::vector<int32_t> rows(count);
  for (int64_t i = 0; i < count; ++i)
    rows[i] = static_cast<int32_t>((table_rows - 1) * (i % 3) / 2 + i % 2) % table_rows;
  return rows;
}

TEST(GatherTest, CopiesRows) {
  constexpr int64_t kTableRows = 11;
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t row_bytes : kOddSizes) {
      // The last count is large enough for several threads with long rows.
      for (int64_t count : {0, 1, 7, 1024}) {
        Guarded<uint8_t> src(kTableRows * row_bytes), dst(count * row_bytes);
        for (size_t i = 0; i < src.size(); ++i) src[i] = static_cast<uint8_t>(i * 131 >> 3);
        const std::vector<int32_t> rows = SomeRows(count, kTableRows);
        GatherRows(src.data(), row_bytes, rows, dst.data(), &pool);
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(std::memcmp(dst.data() + i * row_bytes, src.data() + rows[i] * row_bytes, row_bytes), 0)
              << "row " << i << " of " << row_bytes << " bytes, " << threads << " threads";
        }
        Guarded<uint8_t> same(count * row_bytes);
        GatherRows(src.data(), row_bytes, std::vector<int64_t>(rows.begin(), rows.end()), same.data(), &pool);
        EXPECT_TRUE(SameBits(dst, same)) << "i64 indices";
      }
    }
  }
}

TEST(GatherTest, WidensBF16ExactlyNaNsIncluded) {
  constexpr int64_t kTableRows = 5;
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t columns : kOddSizes) {
      for (int64_t count : {0, 1, 7, 256}) {
        Guarded<uint16_t> table(kTableRows * columns);
        Guarded<float> dst(count * columns);
        for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint16_t>(i * 40503);
        const std::vector<int32_t> rows = SomeRows(count, kTableRows);
        GatherRowsBF16ToF32(table.data(), columns, rows, dst.data(), &pool);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t c = 0; c < columns; ++c) {
            const uint32_t want = uint32_t{table[rows[i] * columns + c]} << 16;
            ASSERT_EQ(std::bit_cast<uint32_t>(dst[i * columns + c]), want) << i << ", " << c << " of " << columns;
          }
        }
      }
    }
  }
}

// Rows of nothing, and rows longer than what is worth a thread.
TEST(GatherTest, RowsOfAnyLength) {
  ThreadPool pool(2);
  const std::vector<int32_t> rows = {2, 0, 1};
  GatherRows(nullptr, 0, rows, nullptr, &pool);
  GatherRowsBF16ToF32(nullptr, 0, rows, nullptr, &pool);
  constexpr int64_t kLong = 140001;
  std::vector<uint16_t> table(3 * kLong);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint16_t>(i * 40503 & 0x7F7F);  // no NaN
  Guarded<uint16_t> copied(3 * kLong);
  Guarded<float> widened(3 * kLong);
  GatherRows(table.data(), 2 * kLong, rows, copied.data(), &pool);
  GatherRowsBF16ToF32(table.data(), kLong, rows, widened.data(), &pool);
  for (int64_t i = 0; i < 3 * kLong; ++i) {
    const uint16_t want = table[rows[static_cast<size_t>(i / kLong)] * kLong + i % kLong];
    ASSERT_EQ(copied[i], want) << i;
    ASSERT_EQ(std::bit_cast<uint32_t>(widened[i]), uint32_t{want} << 16) << i;
  }
}

TEST(GatherTest, FindsRowsBeyondTwoGiB) {
  constexpr int64_t kRowBytes = int64_t{1} << 20;
  constexpr int32_t kRows = 3 * 1024;
  // Memory is taken only for the pages that are touched: the last row's.
  void* table = mmap(nullptr, kRows * kRowBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                     /*fd=*/-1, /*offset=*/0);
  ASSERT_NE(table, MAP_FAILED);
  std::memset(static_cast<char*>(table) + (kRows - 1) * kRowBytes, 42, kRowBytes);
  ThreadPool pool(1);
  const int32_t rows[] = {kRows - 1};
  std::vector<uint8_t> dst(kRowBytes);
  GatherRows(table, kRowBytes, rows, dst.data(), &pool);
  EXPECT_EQ(dst, std::vector<uint8_t>(kRowBytes, 42));
  munmap(table, kRows * kRowBytes);
}

}  // namespace
}  // namespace flashflow::cpu
