#include "runtime/api/plan_cache.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;

class PlanCacheTest : public ::testing::Test {
 protected:
  PlanCacheTest() : folder_(fs::path(::testing::TempDir()) / "plans" / "of someone") {
    fs::remove_all(folder_);
    plan_.device_key = "cuda/1";
    plan_.graph_sha256 = "abc";
  }
  fs::path TheFile() const { return fs::directory_iterator(folder_)->path(); }

  fs::path folder_;
  plan::Plan plan_;  // of a rectangular graph without steps: valid
};

TEST_F(PlanCacheTest, FindsWhatWasKeptForThisGraphAndDevice) {
  const PlanCache cache(folder_.string());
  EXPECT_FALSE(cache.Find("abc", "cuda/1"));
  cache.Keep(plan_);
  const auto found = cache.Find("abc", "cuda/1");
  ASSERT_TRUE(found);
  EXPECT_EQ(plan::ToJson(*found), plan::ToJson(plan_));
  EXPECT_FALSE(cache.Find("abd", "cuda/1"));
  EXPECT_FALSE(cache.Find("abc", "cuda/2"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);  // no partial files
}

TEST_F(PlanCacheTest, WhatIsDamagedOrForeignIsNotThere) {
  const PlanCache cache(folder_.string());
  cache.Keep(plan_);
  const fs::path file = TheFile();
  std::ofstream(file) << "{";
  EXPECT_FALSE(cache.Find("abc", "cuda/1"));
  plan::Plan other = plan_;
  other.graph_sha256 = "xyz";
  std::ofstream(file) << plan::ToJson(other);
  EXPECT_FALSE(cache.Find("abc", "cuda/1"));
  cache.Keep(plan_);  // and is replaced
  EXPECT_TRUE(cache.Find("abc", "cuda/1"));
}

TEST_F(PlanCacheTest, AFolderThatCannotBeMadeIsNoError) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  const PlanCache cache((folder_ / "file" / "below").string());
  cache.Keep(plan_);
  EXPECT_FALSE(cache.Find("abc", "cuda/1"));
  PlanCache("").Keep(plan_);
  EXPECT_FALSE(PlanCache("").Find("abc", "cuda/1"));
}

}  // namespace
}  // namespace flashflow::runtime
