#include "runtime/core/page_pool.h"

#include <cstdint>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

TEST(PagePoolTest, GivesDistinctPagesUntilNoneAreLeft) {
  PagePool pool(5);
  const auto a = pool.Allocate(2), b = pool.Allocate(3);
  ASSERT_TRUE(a && b);
  std::set<int32_t> all(a->begin(), a->end());
  all.insert(b->begin(), b->end());
  EXPECT_EQ(all, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.Allocate(1), std::nullopt);
  EXPECT_EQ(pool.Allocate(0), std::vector<int32_t>());
}

TEST(PagePoolTest, RefusalChangesNothing) {
  PagePool pool(3);
  const auto a = pool.Allocate(1);
  EXPECT_EQ(pool.Allocate(3), std::nullopt);
  EXPECT_EQ(pool.num_free(), 2);
  pool.Free(*a);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_TRUE(pool.Allocate(3));
}

TEST(PagePoolDeathTest, FreeingTwiceIsABug) {
  PagePool pool(3);
  const auto a = pool.Allocate(1);
  pool.Free(*a);
  EXPECT_DEATH(pool.Free(*a), "was not allocated");
  EXPECT_DEATH(pool.Free({7}), "was not allocated");
}

}  // namespace
}  // namespace flashflow::runtime
