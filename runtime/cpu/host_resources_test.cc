#include "runtime/cpu/host_resources.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;

class HostResourcesTest : public ::testing::Test {
 protected:
  HostResourcesTest() : root_(fs::path(::testing::TempDir()) / "cgroup") { fs::remove_all(root_); }
  void Put(const std::string& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text << "\n";
  }
  fs::path root_;
};

TEST_F(HostResourcesTest, NoGroupNoLimit) {
  EXPECT_EQ(CpuQuota(root_), std::nullopt);
  EXPECT_EQ(MemoryLeftInGroup(root_), std::nullopt);
  EXPECT_EQ(MemAvailable(root_ / "meminfo"), std::nullopt);
}

TEST_F(HostResourcesTest, Version2) {
  Put("cpu.max", "150000 100000");
  EXPECT_EQ(CpuQuota(root_), 2);  // a CPU and a half: two threads, the second of them half the time
  Put("cpu.max", "max 100000");
  EXPECT_EQ(CpuQuota(root_), std::nullopt);
  Put("memory.max", "1000");
  Put("memory.current", "300");
  EXPECT_EQ(MemoryLeftInGroup(root_), 700);
  Put("memory.current", "1001");
  EXPECT_EQ(MemoryLeftInGroup(root_), 0);
  Put("memory.max", "max");
  EXPECT_EQ(MemoryLeftInGroup(root_), std::nullopt);
}

TEST_F(HostResourcesTest, Version1) {
  Put("cpu/cpu.cfs_quota_us", "300000");
  Put("cpu/cpu.cfs_period_us", "100000");
  EXPECT_EQ(CpuQuota(root_), 3);
  Put("cpu/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(CpuQuota(root_), std::nullopt);
  Put("memory/memory.limit_in_bytes", "4096");
  Put("memory/memory.usage_in_bytes", "96");
  EXPECT_EQ(MemoryLeftInGroup(root_), 4000);
  Put("memory/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(MemoryLeftInGroup(root_), std::nullopt);
}

TEST_F(HostResourcesTest, MemInfoIsInKibibytes) {
  Put("meminfo", "MemTotal:       24000000 kB\nMemAvailable:   1024 kB");
  EXPECT_EQ(MemAvailable(root_ / "meminfo"), 1024 * 1024);
}

TEST_F(HostResourcesTest, ThisMachineHasSome) {
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  EXPECT_GE(DefaultThreads(), 1);
  EXPECT_LE(DefaultThreads(), CPU_COUNT(&mask));
  EXPECT_GT(AvailableMemoryBytes(), 0);
}

}  // namespace
}  // namespace flashflow::runtime
