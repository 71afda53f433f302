#include "kernels/cpu/index.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

TEST(IndexTest, LooksUpRunsByBroadcastIndices) {
  constexpr int64_t kRows = 7, kColumns = 5;
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t run : kOddSizes) {
      Guarded<uint8_t> x(kRows * kColumns * run);
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 131 >> 3);
      // [3, 40]: rows by a column of i64, columns by a row of i32, both with negative ones.
      std::vector<int64_t> rows = {6, -7, 2};
      std::vector<int32_t> columns(40);
      for (int32_t i = 0; i < 40; ++i) columns[static_cast<size_t>(i)] = i % 10 - 5;
      const std::vector<int64_t> dims = {3, 40}, down = {1, 0}, across = {0, 1};
      const std::vector<AxisIndex> indices = {{rows.data(), true, down, kRows, 3},
                                              {columns.data(), false, across, kColumns, 40}};
      for (const AxisIndex& index : indices) EXPECT_FALSE(FirstOutOfRange(index).has_value());
      Guarded<uint8_t> y(3 * 40 * run);
      Index(x.data(), indices, dims, run, y.data(), &pool);
      for (int64_t i = 0; i < 3 * 40; ++i) {
        const int64_t row = (rows[i / 40] + kRows) % kRows, column = (columns[i % 40] + kColumns) % kColumns;
        ASSERT_EQ(std::memcmp(y.data() + i * run, x.data() + (row * kColumns + column) * run, run), 0) << i;
      }
    }
  }
}

TEST(IndexTest, FindsTheFirstIndexOutOfRange) {
  const std::vector<int64_t> wide = {4, -5, 5, -6}, far = {0, int64_t{1} << 32};
  const std::vector<int32_t> narrow = {0, std::numeric_limits<int32_t>::min()};
  const std::vector<int64_t> strides = {1};
  EXPECT_EQ(FirstOutOfRange({wide.data(), true, strides, 5, 4}), 2);
  EXPECT_EQ(FirstOutOfRange({wide.data(), true, strides, 5, 2}), std::nullopt);
  EXPECT_EQ(FirstOutOfRange({wide.data(), true, strides, 4, 4}), 0);
  EXPECT_EQ(FirstOutOfRange({far.data(), true, strides, 5, 2}), 1);
  EXPECT_EQ(FirstOutOfRange({narrow.data(), false, strides, 5, 2}), 1);
}

TEST(IndexTest, NoElementsAreFine) {
  ThreadPool pool(1);
  const std::vector<int64_t> none = {0}, one = {1};
  Index(nullptr, {}, none, 4, nullptr, &pool);
  Index(nullptr, {}, one, 0, nullptr, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
