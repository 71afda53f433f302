#include "runtime/api/kv_cache_size.h"

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using ::testing::HasSubstr;

// Pages of 4 tokens take 2 * 3 * 2 * 4 * 8 * 4 = 1,536 bytes; a row of 18 tokens takes 5 pages.
plan::Plan SmallPlan() {
  plan::Plan plan;
  plan.limits.context_length = 18;
  plan.cache = {.layers = 3, .kv_heads = 2, .head_dim = 8, .page_size = 4, .dtype = DType::kF32};
  return plan;
}
constexpr int64_t kPage = 1536, kPlenty = int64_t{1} << 40;

TEST(KvCacheSizeTest, PageBytes) {
  EXPECT_EQ(PageBytes(SmallPlan().cache), kPage);
  plan::CacheSpec narrow = SmallPlan().cache;
  narrow.dtype = DType::kBF16;
  EXPECT_EQ(PageBytes(narrow), kPage / 2);
  narrow.dtype = DType::kI8;
  EXPECT_EQ(PageBytes(narrow), kPage / 4 + 2 * 3 * 2 * 4 * 4) << "a scale of four bytes a head, token, key and value";
}

TEST(KvCacheSizeTest, ByDefaultEveryRowFitsWhereAQuarterOfTheMemoryAllows) {
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 0, kPlenty).value(), 20);
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 0, 4 * 12 * kPage + 5).value(), 12);
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 0, 6 * kPage).value(), 5);  // one row, though it is more than a quarter
  const absl::Status status = KvCachePages(SmallPlan(), 4, 0, 5 * kPage - 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("set kv_cache_bytes"));
}

TEST(KvCacheSizeTest, ARequestIsHonoredOrRefused) {
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 3 * kPage + 1, 3 * kPage).value(), 3);
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 1000 * kPage, kPlenty).value(), 20);  // more could never be used
  EXPECT_EQ(KvCachePages(SmallPlan(), 4, 4 * kPage, 3 * kPage).status().code(), absl::StatusCode::kResourceExhausted);
  for (int64_t bytes : {int64_t{-1}, int64_t{1}, kPage - 1}) {
    const absl::Status status = KvCachePages(SmallPlan(), 4, bytes, kPlenty).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes;
    EXPECT_THAT(std::string(status.message()), HasSubstr("kv_cache_bytes is")) << bytes;
  }
}

}  // namespace
}  // namespace flashflow::runtime
