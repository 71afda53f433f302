#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow::cpu {
namespace {

TEST(ThreadPoolTest, CountsTheCaller) {
  EXPECT_EQ(ThreadPool(1).num_threads(), 1);
  EXPECT_EQ(ThreadPool(3).num_threads(), 3);
  EXPECT_GE(ThreadPool().num_threads(), 1);
}

TEST(ThreadPoolTest, RunCallsEachTaskOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 3, 5, 17, 1000}) {
      std::vector<std::atomic<int>> calls(count);
      std::atomic<bool> thread_in_range = true;
      pool.Run(count, [&](int64_t i, int thread) {
        ++calls[i];
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      for (const auto& n : calls) EXPECT_EQ(n, 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
}

TEST(ThreadPoolTest, ParallelForPartitionsByGrain) {
  ThreadPool pool(4);
  const auto ranges = [&](int64_t count, int64_t grain) {
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> seen;
    pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
      std::lock_guard<std::mutex> lock(mutex);
      seen.emplace(begin, end);
    });
    return seen;
  };
  using Ranges = std::set<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(ranges(0, 1), Ranges{});
  EXPECT_EQ(ranges(10, 1), (Ranges{{0, 2}, {2, 5}, {5, 7}, {7, 10}}));
  EXPECT_EQ(ranges(10, 5), (Ranges{{0, 5}, {5, 10}}));
  EXPECT_EQ(ranges(10, 6), (Ranges{{0, 10}}));
  EXPECT_EQ(ranges(2, 0), (Ranges{{0, 1}, {1, 2}}));
}

TEST(ThreadPoolTest, SpinScopesNestAndTheWorkIsDoneInEither) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum = 0;
  const auto add = [&](int64_t i, int) { sum += i; };
  for (int round = 0; round < 3; ++round) {
    pool.Run(100, add);
    ThreadPool::SpinScope outer(&pool);
    pool.Run(100, add);
    {
      ThreadPool::SpinScope inner(&pool);
      pool.Run(100, add);
    }
    pool.Run(100, add);
  }
  EXPECT_EQ(sum, 3 * 4 * 4950);
}

TEST(ThreadPoolTest, ScratchIsEachThreadsOwn) {
  ThreadPool pool(3);
  for (int t = 0; t < 3; ++t) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.scratch(t)) % 64, 0u);
    std::memset(pool.scratch(t), t + 1, ThreadPool::kScratchBytes);
  }
  for (int t = 0; t < 3; ++t) {
    const auto* bytes = static_cast<const unsigned char*>(pool.scratch(t));
    EXPECT_EQ(bytes[0], t + 1);
    EXPECT_EQ(bytes[ThreadPool::kScratchBytes - 1], t + 1);
  }
}

}  // namespace
}  // namespace flashflow::cpu
