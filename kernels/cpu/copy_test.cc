#include "kernels/cpu/copy.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

struct Layout {
  const char* name;
  std::vector<int64_t> dims;
  int64_t src_start;
  std::vector<int64_t> src_strides;
  int64_t dst_start;
  std::vector<int64_t> dst_strides;
  int64_t dst_count;
};

const Layout kLayouts[] = {
    {"scalar", {}, 3, {}, 2, {}, 5},
    {"whole", {5, 7, 9}, 0, {63, 9, 1}, 0, {63, 9, 1}, 315},
    {"transpose", {17, 65}, 0, {1, 17}, 0, {65, 1}, 1105},
    {"transpose of outer axes", {3, 5, 16}, 0, {16, 48, 1}, 0, {80, 16, 1}, 240},
    {"slice of the last axis", {6, 15}, 2, {63, 1}, 0, {15, 1}, 90},
    {"slice in steps", {6, 15}, 1, {63, 4}, 0, {15, 1}, 90},
    {"expand of the last axis", {6, 17}, 0, {1, 0}, 0, {17, 1}, 102},
    {"expand of the first axis", {6, 17}, 0, {0, 1}, 0, {17, 1}, 102},
    {"one part of a concat", {6, 7}, 0, {7, 1}, 10, {23, 1}, 138},
    {"fill of a strided run", {9}, 1, {0}, 2, {3}, 30},
    {"dense into strided", {9}, 1, {1}, 2, {3}, 30},
    {"both strided", {4, 9}, 5, {20, 2}, 1, {37, 4}, 160},
    {"eight dims", {2, 2, 2, 2, 2, 2, 2, 2}, 0, {1, 2, 4, 8, 16, 32, 64, 128}, 0, {128, 64, 32, 16, 8, 4, 2, 1}, 256},
    {"large enough for threads", {300, 3, 257}, 0, {257, 77100, 1}, 0, {771, 257, 1}, 231300},
    {"one large strided run", {70001}, 1, {2}, 2, {3}, 210003},
    {"long rows", {2, 140001}, 0, {140002, 1}, 0, {140001, 1}, 280002},
    {"one large run", {250007}, 4, {1}, 0, {1}, 250007},
};

template <typename T>
class CopyTest : public testing::Test {};
using Elements = testing::Types<uint8_t, uint16_t, uint32_t, uint64_t>;
TYPED_TEST_SUITE(CopyTest, Elements);

TYPED_TEST(CopyTest, MovesEachElementAndNothingElse) {
  for (int threads : kThreadCounts) {
    ThreadPool pool(threads);
    for (const Layout& c : kLayouts) {
      SCOPED_TRACE(testing::Message() << c.name << ", " << threads << " threads");
      int64_t count = 1;
      int64_t src_count = c.src_start + 1;
      for (size_t axis = 0; axis < c.dims.size(); ++axis) {
        count *= c.dims[axis];
        src_count += (c.dims[axis] - 1) * c.src_strides[axis];
      }
      Guarded<TypeParam> src(src_count), dst(c.dst_count), want(c.dst_count);
      for (int64_t i = 0; i < src_count; ++i) src[i] = static_cast<TypeParam>(0x9E3779B97F4A7C15u * (i + 1) >> 8);
      for (int64_t i = 0; i < count; ++i) {
        int64_t from = c.src_start;
        int64_t to = c.dst_start;
        int64_t rest = i;
        for (size_t axis = c.dims.size(); axis-- > 0; rest /= c.dims[axis]) {
          from += rest % c.dims[axis] * c.src_strides[axis];
          to += rest % c.dims[axis] * c.dst_strides[axis];
        }
        want[to] = src[from];
      }
      StridedCopy(src.data() + c.src_start, c.src_strides, dst.data() + c.dst_start, c.dst_strides, c.dims,
                  sizeof(TypeParam), &pool);
      EXPECT_TRUE(SameBits(dst, want));
    }
  }
}

TYPED_TEST(CopyTest, NoElementsAreFine) {
  ThreadPool pool(1);
  const std::vector<int64_t> dims = {3, 0};
  for (const std::vector<int64_t>& strides : {std::vector<int64_t>{0, 1}, std::vector<int64_t>{7, 1}}) {
    StridedCopy(nullptr, strides, nullptr, strides, dims, sizeof(TypeParam), &pool);
  }
}

TEST(CopyDeathTest, RefusesOtherElementSizes) {
  ThreadPool pool(1);
  uint8_t bytes[6] = {};
  EXPECT_DEATH(StridedCopy(bytes, {}, bytes + 3, {}, {}, 3, &pool), "elements of 3 bytes");
}

}  // namespace
}  // namespace flashflow::cpu
