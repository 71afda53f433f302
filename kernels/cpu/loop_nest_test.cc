#include "kernels/cpu/loop_nest.h"

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow::cpu {
namespace {

using Offsets = std::vector<std::pair<int64_t, int64_t>>;

// The offsets of every element, run by run.
Offsets Elements(const LoopNest<2>& nest, int64_t begin, int64_t end) {
  Offsets seen;
  nest.ForEachRun(begin, end, [&](const std::array<int64_t, 2>& at) {
    for (int64_t i = 0; i < nest.inner_count(); ++i) {
      seen.emplace_back(at[0] + i * nest.inner_stride(0), at[1] + i * nest.inner_stride(1));
    }
  });
  return seen;
}

TEST(LoopNestTest, MergesLoopsThatAllOperandsRunThroughEvenly) {
  const std::vector<int64_t> dims = {2, 1, 3, 4};
  const std::vector<int64_t> dense = {12, 77, 4, 1};
  const LoopNest<2> both(dims, {dense, dense});
  EXPECT_EQ(both.outer_count(), 1);
  EXPECT_EQ(both.inner_count(), 24);
  EXPECT_EQ(both.inner_stride(0), 1);

  const std::vector<int64_t> broadcast = {0, 77, 4, 1};  // over the first dim
  const LoopNest<2> one(dims, {dense, broadcast});
  EXPECT_EQ(one.outer_count(), 2);
  EXPECT_EQ(one.inner_count(), 12);
}

TEST(LoopNestTest, AScalarIsOneRunOfOneElement) {
  const LoopNest<2> scalar({}, {});
  EXPECT_EQ(Elements(scalar, 0, scalar.outer_count()), (Offsets{{0, 0}}));
}

TEST(LoopNestTest, VisitsEveryElementInOrderWhereverTheRunsAreSplit) {
  const std::vector<int64_t> dims = {3, 2, 1, 5, 4};
  const std::vector<int64_t> a = {8, 4, 0, 0, 1};     // the fourth dim is broadcast
  const std::vector<int64_t> b = {100, 1, 9, 20, 2};  // no two neighbors merge
  Offsets expected;
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 2; ++j) {
      for (int64_t k = 0; k < 5; ++k) {
        for (int64_t l = 0; l < 4; ++l) expected.emplace_back(i * 8 + j * 4 + l, i * 100 + j + k * 20 + l * 2);
      }
    }
  }
  const LoopNest<2> nest(dims, {a, b});
  ASSERT_EQ(nest.outer_count() * nest.inner_count(), 120);
  for (int64_t split = 0; split <= nest.outer_count(); ++split) {
    Offsets seen = Elements(nest, 0, split);
    const Offsets rest = Elements(nest, split, nest.outer_count());
    seen.insert(seen.end(), rest.begin(), rest.end());
    EXPECT_EQ(seen, expected) << split;
  }
}

}  // namespace
}  // namespace flashflow::cpu
