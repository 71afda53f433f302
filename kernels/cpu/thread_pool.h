// The threads that the CPU kernels run on.
//
// Kernels split their work by output element and never by reduction, so that results do not depend on the number of
// threads, nor on which thread took which task.
#ifndef KERNELS_CPU_THREAD_POOL_H_
#define KERNELS_CPU_THREAD_POOL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "hwy/aligned_allocator.h"

namespace flashflow::cpu {

// What the job after this one reads: `parts` blocks that lie one after the other, each of `units` units, of which
// thread t of n reads those from units * t / n on.
struct ReadAhead {
  const void* data = nullptr;  // nullptr: unknown
  int64_t unit_bytes = 0;
  int64_t units = 0;
  int64_t parts = 1;
};

// A model's step is hundreds of kernels of microseconds each, so threads spin for a while before they sleep, and on a
// busy machine the caller does not wait for threads that do not get to run: it takes their tasks.
//
// Used by one caller at a time. Tasks must not use their own pool.
class ThreadPool {
 public:
  // Per-thread working memory for kernels, so that they allocate nothing.
  static constexpr size_t kScratchBytes = size_t{512} << 10;

  // threads: how many compute, the caller included; 0 = one for each CPU that this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls task(i, thread) once for each i in [0, count), 0 <= thread < num_threads(), and returns when all are done.
  // Each thread begins with a consecutive share and then takes tasks from others. count < 2^31.
  //
  // Threads that have nothing left to do fetch the beginning of their share of `next` into their caches until they are
  // wanted again: from the first byte on, memory never rests. What a step's other kernels leave of that time is used
  // too, up to the next Run with something to read ahead.
  template <typename Task>
  void Run(int64_t count, const Task& task, const ReadAhead& next = {}) {
    if (count > 1 && num_threads_ > 1) {
      RunJob(count,
             {&task, [](const void* t, int64_t i, int thread) { (*static_cast<const Task*>(t))(i, thread); }, next});
    } else {
      for (int64_t i = 0; i < count; ++i) task(i, 0);
    }
  }

  // Calls range(begin, end) on consecutive ranges that make up [0, count): one for each thread, fewer where that
  // would give a range less than `grain` elements (waking a thread costs microseconds).
  template <typename Range>
  void ParallelFor(int64_t count, int64_t grain, const Range& range) {
    if (count <= 0) return;
    const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, num_threads_);
    if (parts == 1) return range(0, count);
    Run(parts, [&](int64_t i, int) { range(count * i / parts, count * (i + 1) / parts); });
  }

  // Thread `thread`'s kScratchBytes, aligned to a cache line. Contents are undefined between kernels.
  void* scratch(int thread) { return scratch_.get() + static_cast<size_t>(thread) * kScratchBytes; }

 private:
  struct Job {
    const void* task;
    void (*call)(const void* task, int64_t i, int thread);
    ReadAhead next;
  };
  // What one thread still has to read ahead.
  class Reader {
   public:
    void Start(const ReadAhead& next, int thread, int threads, int64_t most_bytes);
    // Fetches a few cache lines; false if there is nothing left.
    bool Fetch();

   private:
    std::array<const char*, 2> next_{};
    std::array<const char*, 2> end_{};
  };
  // Tasks next <= i < end that nobody has taken yet, as end << 32 | next: taking one is one compare-and-swap.
  struct alignas(HWY_ALIGNMENT) Share {
    std::atomic<uint64_t> tasks{0};
  };

  void RunJob(int64_t count, Job job);
  void TakeTasks(int thread, Reader* reader);
  void WorkerLoop(int thread);
  static void WaitForChange(const std::atomic<uint32_t>& value, uint32_t old, Reader* reader);

  const int num_threads_;
  const int64_t read_ahead_bytes_;  // of a thread at most
  hwy::AlignedFreeUniquePtr<uint8_t[]> scratch_;
  std::unique_ptr<Share[]> shares_;                             // a thread each
  Job job_{};                                                   // read only by who has taken one of its tasks
  alignas(HWY_ALIGNMENT) std::atomic<uint32_t> jobs_{0};        // counts jobs; workers wait for it to change
  alignas(HWY_ALIGNMENT) std::atomic<uint32_t> unfinished_{0};  // tasks; the caller waits for none
  std::atomic<bool> stop_{false};
  Reader caller_reader_;
  std::vector<std::thread> workers_;
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_THREAD_POOL_H_
