#include "kernels/cpu/kv_append.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/base.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/paged_cache_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

TEST(KvAppendTest, WritesTheNewTokensSlotsAndNothingElse) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (CacheType type : {CacheType::kF32, CacheType::kBF16, CacheType::kInt8}) {
    for (int64_t page_size : {1, 5, 16}) {
      if (type == CacheType::kInt8 && page_size % 4 != 0) continue;
      for (int64_t head_dim : {1, 5, 64}) {
        constexpr int64_t kHeads = 3;
        // A decode, a prompt, a row that waits, a chunk in the middle of a prompt.
        const TestRows rows({33, 40, 9, 71}, {1, 40, 0, 30}, page_size, &random);
        const int64_t width = kHeads * head_dim;
        const int64_t stride = width + 3;  // of the values; the keys are dense
        std::vector<float> k(static_cast<size_t>(rows.tokens() * width));
        std::vector<float> v(static_cast<size_t>(rows.tokens() * stride));
        for (float& value : k) value = normal(random);
        for (float& value : v) value = normal(random);
        // What codes have rules of their own for: a row of zeros, one below 2^-100, ties, what is not finite.
        std::fill_n(k.begin(), head_dim, 0.0f);
        std::fill_n(k.begin() + head_dim, head_dim, 0x1p-101f);
        for (int64_t i = 0; i < head_dim; ++i) k[2 * head_dim + i] = i == 0 ? 127.0f : static_cast<float>(i % 9) - 3.5f;
        v[0] = std::numeric_limits<float>::infinity();

        TestCache expected(type, rows.pages, kHeads, page_size, head_dim);
        for (int64_t r = 0; r < 4; ++r) {
          for (int64_t t = rows.row_start[r]; t < rows.row_start[r + 1]; ++t) {
            const int64_t slot = rows.kv_len[r] - (rows.row_start[r + 1] - t);
            const int64_t page = rows.block_table[r * rows.pages_per_row + slot / page_size];
            for (int64_t head = 0; head < kHeads; ++head) {
              expected.Set(page, false, head, slot % page_size, &k[t * width + head * head_dim]);
              expected.Set(page, true, head, slot % page_size, &v[t * stride + head * head_dim]);
            }
          }
        }
        for (int threads : kThreadCounts) {
          ThreadPool pool(threads);
          TestCache cache(type, rows.pages, kHeads, page_size, head_dim);
          KvAppend({k.data(), width}, {v.data(), stride}, rows.view(), cache.layer(), &pool);
          EXPECT_TRUE(SameBits(cache.bytes(), expected.bytes()))
              << "type " << static_cast<int>(type) << ", page_size " << page_size << ", head_dim " << head_dim;
        }
      }
    }
  }
}

TEST(KvAppendTest, NothingToAppend) {
  ThreadPool pool(2);
  TestCache cache(CacheType::kF32, 2, 1, 4, 8);
  const std::vector<int32_t> row_start = {0};
  KvAppend({}, {}, {row_start, {}, {}, 0}, cache.layer(), &pool);
}

}  // namespace
}  // namespace flashflow::cpu
