#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>

#include "hwy/aligned_allocator.h"
#include "hwy/base.h"
#include "hwy/cache_control.h"
#include "hwy/contrib/thread_pool/topology.h"

namespace flashflow::cpu {
namespace {

// Pauses before a waiting thread sleeps: some 50 microseconds, longer than it takes to come from one kernel to the
// next.
constexpr int kSpins = 1500;

int CountCpus() {
  hwy::LogicalProcessorSet cpus;
  if (hwy::GetThreadAffinity(cpus)) return static_cast<int>(cpus.Count());
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

// Returns once `value` is no longer `old`.
void WaitForChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    hwy::Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : num_threads_(threads > 0 ? threads : CountCpus()),
      scratch_(hwy::AllocateAligned<uint8_t>(static_cast<size_t>(num_threads_) * kScratchBytes)),
      shares_(std::make_unique<Share[]>(static_cast<size_t>(num_threads_))) {
  HWY_ASSERT(scratch_ != nullptr);
  for (int t = 1; t < num_threads_; ++t) workers_.emplace_back([this, t] { WorkerLoop(t); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunJob(int64_t count, Job job) {
  HWY_ASSERT(count <= std::numeric_limits<int32_t>::max());
  // All tasks of the job before are finished, so nobody reads job_ until the shares below are filled.
  job_ = job;
  unfinished_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  for (int64_t t = 0; t < num_threads_; ++t) {
    const auto begin = static_cast<uint64_t>(count * t / num_threads_);
    const auto end = static_cast<uint64_t>(count * (t + 1) / num_threads_);
    shares_[t].tasks.store(end << 32 | begin, std::memory_order_release);
  }
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  TakeTasks(0);
  for (uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) WaitForChange(unfinished_, left);
}

void ThreadPool::TakeTasks(int thread) {
  for (int i = 0; i < num_threads_; ++i) {
    std::atomic<uint64_t>& tasks = shares_[(thread + i) % num_threads_].tasks;
    uint64_t now = tasks.load(std::memory_order_acquire);
    for (;;) {
      const uint64_t next = now & 0xFFFFFFFF;
      if (next >= now >> 32) break;
      if (!tasks.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
      job_.call(job_.task, static_cast<int64_t>(next), thread);
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      now = tasks.load(std::memory_order_acquire);
    }
  }
}

void ThreadPool::WorkerLoop(int thread) {
  for (uint32_t seen = 0;;) {
    WaitForChange(jobs_, seen);
    seen = jobs_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    TakeTasks(thread);
  }
}

}  // namespace flashflow::cpu
