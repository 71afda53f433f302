// The threads that the CPU kernels run on.
//
// Kernels split their work by output element and never by reduction, so that results do not depend on the number of
// threads, nor on which thread took which task.
#ifndef KERNELS_CPU_THREAD_POOL_H_
#define KERNELS_CPU_THREAD_POOL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/aligned_allocator.h"
#include "hwy/contrib/thread_pool/thread_pool.h"

namespace flashflow::cpu {

// Used by one caller at a time: kernels are not to be launched on one pool from two threads.
class ThreadPool {
 public:
  // Per-thread working memory for kernels, so that they allocate nothing.
  static constexpr size_t kScratchBytes = size_t{768} << 10;

  // threads: how many compute, the caller included; 0 = one for each CPU that this process may use.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(pool_.NumWorkers()); }

  // Calls task(i, thread) once for each i in [0, count), 0 <= thread < num_threads(). Threads that finish early take
  // tasks from others.
  template <typename Task>
  void Run(int64_t count, const Task& task) {
    if (count <= 0) return;
    pool_.Run(0, static_cast<uint64_t>(count),
              [&task](uint64_t i, size_t thread) { task(static_cast<int64_t>(i), static_cast<int>(thread)); });
  }

  // Calls range(begin, end) on consecutive ranges that make up [0, count): one for each thread, fewer where that
  // would give a range less than `grain` elements (waking a thread costs microseconds).
  template <typename Range>
  void ParallelFor(int64_t count, int64_t grain, const Range& range) {
    if (count <= 0) return;
    const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, num_threads());
    if (parts == 1) return range(0, count);
    Run(parts, [&](int64_t i, int) { range(count * i / parts, count * (i + 1) / parts); });
  }

  // Thread `thread`'s kScratchBytes, aligned to a cache line. Contents are undefined between kernels.
  void* scratch(int thread) { return scratch_.get() + static_cast<size_t>(thread) * kScratchBytes; }

  // While one lives, waiting threads spin instead of sleeping, which makes launches several times cheaper. For the
  // duration of a model's step; not while the caller waits for something else. Nests.
  class SpinScope {
   public:
    explicit SpinScope(ThreadPool* pool);
    ~SpinScope();
    SpinScope(const SpinScope&) = delete;
    SpinScope& operator=(const SpinScope&) = delete;

   private:
    ThreadPool* pool_;
  };

 private:
  hwy::ThreadPool pool_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> scratch_;
  int spin_scopes_ = 0;
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_THREAD_POOL_H_
