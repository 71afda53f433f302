#include "kernels/cpu/bandwidth.h"

#include <limits>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

TEST(BandwidthTest, IsARateForAnyBuffer) {
  ThreadPool pool(2);
  for (size_t bytes : {size_t{1}, size_t{3} << 20, size_t{64} << 20}) {
    const auto rate = MeasureReadBandwidth(bytes, 2, &pool);
    ASSERT_TRUE(rate.ok());
    EXPECT_GT(*rate, 0);
    EXPECT_LT(*rate, 1e15);
  }
}

TEST(BandwidthTest, SaysWhenThereIsNoMemory) {
  ThreadPool pool(1);
  EXPECT_EQ(MeasureReadBandwidth(std::numeric_limits<size_t>::max() / 2, 1, &pool).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace flashflow::cpu
