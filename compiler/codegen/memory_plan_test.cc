#include "compiler/codegen/memory_plan.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "compiler/analysis/liveness.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::codegen {
namespace {

using analysis::LiveRange;
using ::testing::ElementsAre;

constexpr int64_t kAlignment = 256;

void ExpectSound(const MemoryPlan& plan, const std::vector<LiveRange>& ranges, const std::vector<int64_t>& bytes) {
  ASSERT_EQ(plan.offsets.size(), ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].first < 0) {
      EXPECT_EQ(plan.offsets[i], -1);
      continue;
    }
    ASSERT_GE(plan.offsets[i], 0);
    ASSERT_EQ(plan.offsets[i] % kAlignment, 0);
    ASSERT_LE(plan.offsets[i] + bytes[i], plan.arena_bytes);
    for (size_t j = 0; j < i; ++j) {
      if (ranges[j].first < 0 || !ranges[i].Overlaps(ranges[j])) continue;
      const bool apart = plan.offsets[i] + bytes[i] <= plan.offsets[j] || plan.offsets[j] + bytes[j] <= plan.offsets[i];
      ASSERT_TRUE(apart || bytes[i] == 0 || bytes[j] == 0) << "buffers " << i << " and " << j << " share bytes";
    }
  }
}

void ExpectNearBound(const MemoryPlan& plan, const std::vector<LiveRange>& ranges, const std::vector<int64_t>& bytes) {
  const int64_t bound = analysis::PeakLiveBytes(ranges, bytes);
  const auto buffers = std::count_if(ranges.begin(), ranges.end(), [](const LiveRange& r) { return r.first >= 0; });
  const int64_t slack = std::max<int64_t>(bound / 20, kAlignment * buffers);
  EXPECT_LE(plan.arena_bytes, bound + slack);
}

TEST(MemoryPlanTest, BuffersThatDoNotMeetShareMemory) {
  const std::vector<LiveRange> ranges = {{0, 1}, {1, 2}, {2, 3}, {-1, -1}};
  const MemoryPlan plan = PlanMemory(ranges, {512, 256, 512, 99}, kAlignment);
  EXPECT_THAT(plan.offsets, ElementsAre(0, 512, 0, -1));
  EXPECT_EQ(plan.arena_bytes, 768);
}

TEST(MemoryPlanTest, SizesAreRoundedUpToTheAlignment) {
  const MemoryPlan plan = PlanMemory({{0, 1}, {0, 1}}, {1, 300}, kAlignment);
  EXPECT_THAT(plan.offsets, ElementsAre(512, 0));
  EXPECT_EQ(plan.arena_bytes, 768);
}

TEST(MemoryPlanTest, NothingToPlace) { EXPECT_EQ(PlanMemory({}, {}, kAlignment).arena_bytes, 0); }

// The shape of a transformer's step: a residual stream that lives through each block, and short-lived values beside it
// whose sizes are small multiples of it.
TEST(MemoryPlanTest, TransformersAreNearTheBound) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    std::vector<LiveRange> ranges;
    std::vector<int64_t> bytes;
    const int64_t unit = pick(1, 4000) * 64;
    int32_t step = 0;
    for (int layer = 0; layer < pick(1, 12); ++layer) {
      const int32_t start = step;
      const int chain = pick(3, 15);
      for (int i = 0; i < chain; ++i, ++step) {
        ranges.push_back({step, step + pick(1, 2)});
        bytes.push_back(unit * pick(1, 6) / 2);
      }
      ranges.push_back({start, step});
      bytes.push_back(unit);
    }
    const MemoryPlan plan = PlanMemory(ranges, bytes, kAlignment);
    ExpectSound(plan, ranges, bytes);
    ExpectNearBound(plan, ranges, bytes);
  }
}

TEST(MemoryPlanTest, ArbitraryLifetimesAreSound) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 500; ++trial) {
    const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    std::vector<LiveRange> ranges;
    std::vector<int64_t> bytes;
    for (int i = 0; i < pick(0, 60); ++i) {
      const int32_t first = pick(0, 40);
      ranges.push_back(pick(0, 9) == 0 ? LiveRange{} : LiveRange{first, first + pick(0, 10)});
      bytes.push_back(pick(0, 5) == 0 ? 0 : pick(1, 100000));
    }
    ExpectSound(PlanMemory(ranges, bytes, kAlignment), ranges, bytes);
  }
}

}  // namespace
}  // namespace flashflow::codegen
