#include "kernels/cpu/fill.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

template <typename T>
void ExpectFills(T value) {
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (int64_t count : {1, 17, 1023, 300000}) {
      Guarded<T> y(static_cast<size_t>(count));
      Fill(&value, sizeof(T), y.data(), count, &pool);
      EXPECT_EQ(std::count(y.begin(), y.end(), value), count);
    }
    Fill(&value, sizeof(T), nullptr, 0, &pool);
  }
}

TEST(FillTest, EveryElementSize) {
  ExpectFills<uint8_t>(0x12);
  ExpectFills<uint16_t>(0x1234);
  ExpectFills<uint32_t>(0x12345678);
  ExpectFills<uint64_t>(0x123456789ABCDEF0);
}

template <typename T>
void ExpectCounts(DType dtype) {
  Guarded<T> y(2 * 3 * 2);
  Iota(dtype, y.data(), 2, 3, 2);
  EXPECT_THAT(std::vector<T>(y.begin(), y.end()), testing::ElementsAre(0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2));
  Iota(dtype, nullptr, 2, 0, 3);
}

TEST(IotaTest, EveryDType) {
  ExpectCounts<float>(DType::kF32);
  ExpectCounts<int32_t>(DType::kI32);
  ExpectCounts<int64_t>(DType::kI64);
}

}  // namespace
}  // namespace flashflow::cpu
