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
#include "kernels/cpu/prefetch.h"

namespace flashflow::cpu {
namespace {

// Pauses before a waiting thread sleeps: some 50 microseconds, longer than it takes to come from one kernel to the
// next.
constexpr int kSpins = 1500;

// Of the next job's memory, by every thread whether it waits or not: a stream's first lines are what it waits for.
constexpr int kFirstFetches = 8;

int CountCpus() {
  hwy::LogicalProcessorSet cpus;
  if (hwy::GetThreadAffinity(cpus)) return static_cast<int>(cpus.Count());
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

// What may wait in a thread's second-level cache: a quarter of it.
int64_t ReadAheadBytes() {
  constexpr int64_t kLeast = int64_t{64} << 10;
  const hwy::Cache* caches = hwy::DataCaches();
  return caches == nullptr ? kLeast : std::max<int64_t>(kLeast, int64_t{caches[2].size_kib} << 8);
}

}  // namespace

void ThreadPool::Reader::Start(const ReadAhead& next, int thread, int threads, int64_t most_bytes) {
  const auto parts = std::min<int64_t>(next.parts, static_cast<int64_t>(next_.size()));
  for (int64_t part = 0; part < static_cast<int64_t>(next_.size()); ++part) {
    next_[part] = end_[part] = nullptr;
    if (part >= parts || next.data == nullptr) continue;
    const int64_t first = next.units * thread / threads;
    const int64_t units = next.units * (thread + 1) / threads - first;
    next_[part] = static_cast<const char*>(next.data) + (part * next.units + first) * next.unit_bytes;
    end_[part] = next_[part] + std::min(units * next.unit_bytes, most_bytes / parts);
  }
}

bool ThreadPool::Reader::Fetch() {
  constexpr int kLines = 4;
  constexpr int64_t kLineBytes = 64;
  bool more = false;
  for (size_t part = 0; part < next_.size(); ++part) {
    if (next_[part] >= end_[part]) continue;
    for (int i = 0; i < kLines; ++i) PrefetchStream(next_[part] + i * kLineBytes);
    next_[part] += kLines * kLineBytes;
    more = true;
  }
  return more;
}

// Returns once `value` is no longer `old`.
void ThreadPool::WaitForChange(const std::atomic<uint32_t>& value, uint32_t old, Reader* reader) {
  for (int i = 0; i < kSpins;) {
    if (value.load(std::memory_order_acquire) != old) return;
    if (reader->Fetch()) continue;
    hwy::Pause();
    ++i;
  }
  value.wait(old, std::memory_order_acquire);
}

ThreadPool::ThreadPool(int threads)
    : num_threads_(threads > 0 ? threads : CountCpus()),
      read_ahead_bytes_(ReadAheadBytes()),
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
  TakeTasks(0, &caller_reader_);
  for (uint32_t left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) {
    WaitForChange(unfinished_, left, &caller_reader_);
  }
}

void ThreadPool::TakeTasks(int thread, Reader* reader) {
  bool took_any = false;
  for (int i = 0; i < num_threads_; ++i) {
    std::atomic<uint64_t>& tasks = shares_[(thread + i) % num_threads_].tasks;
    uint64_t now = tasks.load(std::memory_order_acquire);
    for (;;) {
      const uint64_t next = now & 0xFFFFFFFF;
      if (next >= now >> 32) break;
      if (!tasks.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
      if (!took_any && job_.next.data != nullptr) reader->Start(job_.next, thread, num_threads_, read_ahead_bytes_);
      took_any = true;
      job_.call(job_.task, static_cast<int64_t>(next), thread);
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      now = tasks.load(std::memory_order_acquire);
    }
  }
  if (!took_any) return;
  for (int i = 0; i < kFirstFetches; ++i) reader->Fetch();
}

void ThreadPool::WorkerLoop(int thread) {
  Reader reader;
  for (uint32_t seen = 0;;) {
    WaitForChange(jobs_, seen, &reader);
    seen = jobs_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    TakeTasks(thread, &reader);
  }
}

}  // namespace flashflow::cpu
