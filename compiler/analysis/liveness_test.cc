#include "compiler/analysis/liveness.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::analysis {
namespace {

using plan::Storage;
using ::testing::ElementsAre;

TEST(LivenessTest, RangesRunFromTheWriterToTheLastReaderOfAnyAlias) {
  plan::Plan plan;
  plan.tensors = {
      {.storage = Storage::kInput, .index = 0},                  // 0
      {.storage = Storage::kArena},                              // 1
      {.storage = Storage::kArena, .alias_of = 1},               // 2
      {.storage = Storage::kArena},                              // 3
      {.storage = Storage::kArena},                              // 4: written, never read
      {.dtype = DType::kI8, .storage = Storage::kArena},         // 5: workspace
      {.storage = Storage::kOutput, .index = 0, .alias_of = -1}  // 6
  };
  plan.steps = {
      {.op = "a", .inputs = {0}, .outputs = {1}},
      {.op = "b", .inputs = {1, -1}, .outputs = {3}, .workspace = 5},
      {.op = "c", .inputs = {3}, .outputs = {4}},
      {.op = "d", .inputs = {2}, .outputs = {6}},
  };
  const LiveRange none;
  EXPECT_THAT(ArenaLiveRanges(plan),
              ElementsAre(none, LiveRange{0, 3}, none, LiveRange{1, 2}, LiveRange{2, 2}, LiveRange{1, 1}, none));
}

TEST(LivenessTest, WhatIsWrittenInPlaceLivesOnInTheSameBuffer) {
  plan::Plan plan;
  plan.tensors = {
      {.storage = Storage::kInput, .index = 0},     // 0
      {.storage = Storage::kArena},                 // 1
      {.storage = Storage::kArena},                 // 2
      {.storage = Storage::kArena},                 // 3
      {.storage = Storage::kArena, .alias_of = 3},  // 4
      {.storage = Storage::kArena},                 // 5
  };
  plan.tensors[2].in_place_of = 1;
  plan.tensors[3].in_place_of = 2;
  plan.steps = {
      {.op = "a", .inputs = {0}, .outputs = {1}},
      {.op = "b", .inputs = {1}, .outputs = {2}},
      {.op = "c", .inputs = {2}, .outputs = {3}},
      {.op = "d", .inputs = {4}, .outputs = {5}},
  };
  const LiveRange none;
  EXPECT_THAT(ArenaLiveRanges(plan), ElementsAre(none, LiveRange{0, 3}, none, none, none, LiveRange{3, 3}));
}

TEST(LivenessTest, PeakIsTheLargestSumAtOneStep) {
  const std::vector<LiveRange> ranges = {{0, 1}, {1, 2}, {2, 3}, {-1, -1}};
  EXPECT_EQ(PeakLiveBytes(ranges, {10, 20, 5, 1000}), 30);   // step 1
  EXPECT_EQ(PeakLiveBytes(ranges, {10, 20, 15, 1000}), 35);  // step 2
  EXPECT_EQ(PeakLiveBytes({}, {}), 0);
}

}  // namespace
}  // namespace flashflow::analysis
