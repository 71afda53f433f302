#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
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

// A thread that is held up in its first task loses the others: here that task waits for all of them.
TEST(ThreadPoolTest, ThreadsTakeTasksFromOneThatIsHeldUp) {
  ThreadPool pool(2);
  for (int64_t held : {0, 7}) {  // of the caller's share and of the other thread's
    std::atomic<int> others = 0;
    std::atomic<bool> gave_up = false;
    pool.Run(8, [&](int64_t i, int) {
      if (i != held) {
        ++others;
        return;
      }
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (others < 7 && !gave_up) gave_up = std::chrono::steady_clock::now() > deadline;
    });
    EXPECT_FALSE(gave_up);
  }
}

TEST(ThreadPoolTest, ManyJobsOneAfterTheOther) {
  for (int threads : {2, 4}) {
    ThreadPool pool(threads);
    std::vector<uint64_t> values(16, 0);
    for (int64_t job = 1; job <= 20000; ++job) {
      const int64_t count = 1 + job % 16;
      // Each job must see what the one before wrote, and its own function must be called.
      pool.Run(count, [&, job](int64_t i, int) { values[i] = values[i] * 3 + static_cast<uint64_t>(job); });
    }
    std::vector<uint64_t> expected(16, 0);
    for (int64_t job = 1; job <= 20000; ++job) {
      for (int64_t i = 0; i < 1 + job % 16; ++i) {
        expected[i] = expected[i] * 3 + static_cast<uint64_t>(job);
      }
    }
    EXPECT_EQ(values, expected);
  }
}

// Whatever is to be read ahead, jobs are as without it: memory that ends, that is not there, none.
TEST(ThreadPoolTest, ReadingAheadChangesNothing) {
  const std::vector<char> memory(100000, 1);
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const ReadAhead& next : {ReadAhead{memory.data(), 1000, 50, 2}, ReadAhead{memory.data(), 100000, 1, 1},
                                  ReadAhead{reinterpret_cast<const void*>(64), 4096, 1000, 1},
                                  ReadAhead{memory.data(), 64, 0, 1}, ReadAhead{}}) {
      std::vector<std::atomic<int>> calls(7);
      for (int job = 0; job < 50; ++job) {
        pool.Run(7, [&](int64_t i, int) { ++calls[i]; }, next);
        pool.Run(2, [&](int64_t i, int) { ++calls[i]; });
      }
      for (size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i], i < 2 ? 100 : 50);
    }
  }
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
