#include "kernels/cuda/device_info.h"

#include <cstring>

#include "gtest/gtest.h"

namespace flashflow::cuda {
namespace {

bool IsZero(const DeviceInfo& info) {
  const DeviceInfo zero = {};
  return std::memcmp(&info, &zero, sizeof(zero)) == 0;
}

DeviceInfo Poisoned() {
  DeviceInfo info;
  std::memset(&info, 0xa5, sizeof(info));
  return info;
}

TEST(DeviceInfoTest, EveryFactOfTheFirstDeviceIsFilledIn) {
  DeviceInfo info = Poisoned();
  ASSERT_EQ(GetDeviceInfo(0, &info), cudaSuccess);
  EXPECT_GT(std::strlen(info.name), 0u);
  EXPECT_LT(std::strlen(info.name), sizeof(info.name));
  EXPECT_GE(info.compute_capability, 75) << "CUDA 13's floor";
  EXPECT_LE(info.binary_capability, info.compute_capability);
  EXPECT_EQ(info.binary_capability / 10, info.compute_capability / 10) << "code runs within its major version only";
  EXPECT_GT(info.sm_count, 0);
  EXPECT_GT(info.sm_clock_khz, 100'000);
  EXPECT_GT(info.memory_clock_khz, 100'000);
  EXPECT_EQ(info.memory_bus_bits % 64, 0);
  EXPECT_GT(info.memory_bytes, int64_t{1} << 30);
  EXPECT_GT(info.l2_bytes, 0);
  EXPECT_LT(info.l2_bytes, info.memory_bytes);
  EXPECT_GE(info.shared_bytes_per_block, 48 * 1024);
  EXPECT_GE(info.driver_version, info.runtime_version);
  EXPECT_EQ(info.runtime_version, CUDART_VERSION);
}

TEST(DeviceInfoTest, NoSuchDeviceIsAnErrorAndLeavesZeros) {
  for (int device : {-1, 1 << 20}) {
    DeviceInfo info = Poisoned();
    EXPECT_EQ(GetDeviceInfo(device, &info), cudaErrorInvalidDevice);
    EXPECT_TRUE(IsZero(info));
  }
}

TEST(DeviceInfoTest, NullIsAnError) { EXPECT_EQ(GetDeviceInfo(0, nullptr), cudaErrorInvalidValue); }

}  // namespace
}  // namespace flashflow::cuda
