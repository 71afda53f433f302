#include <cassert>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"

namespace flashflow {
namespace {

static_assert(__cplusplus >= 202002L, "FlashFlow is C++20");

absl::StatusOr<int> First(std::span<const int> values) {
  if (values.empty()) return absl::InvalidArgumentError("values is empty");
  return values.front();
}

TEST(ToolchainTest, AbseilStatusCrossesTheLibraryBoundary) {
  EXPECT_EQ(First({}).status().code(), absl::StatusCode::kInvalidArgument);
  const int values[] = {7, 8};
  EXPECT_EQ(First(values).value(), 7);
}

TEST(ToolchainDeathTest, AssertionsAreOnInTheOptimizedBuild) {
  int checked = 0;
  assert(++checked);
  EXPECT_EQ(checked, 1);
#ifndef __OPTIMIZE__
  FAIL() << "not an optimized build";
#endif
}

}  // namespace
}  // namespace flashflow
