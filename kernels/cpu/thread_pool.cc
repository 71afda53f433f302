#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

// hwy counts the threads that it adds to the caller's.
size_t AddedThreads(int threads) {
  return threads > 0 ? static_cast<size_t>(threads - 1) : hwy::ThreadPool::MaxThreads();
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : pool_(AddedThreads(threads)), scratch_(hwy::AllocateAligned<uint8_t>(pool_.NumWorkers() * kScratchBytes)) {
  HWY_ASSERT(scratch_ != nullptr);
}

ThreadPool::SpinScope::SpinScope(ThreadPool* pool) : pool_(pool) {
  if (pool_->spin_scopes_++ == 0 && pool_->num_threads() > 1) pool_->pool_.SetWaitMode(hwy::PoolWaitMode::kSpin);
}

ThreadPool::SpinScope::~SpinScope() {
  if (--pool_->spin_scopes_ == 0 && pool_->num_threads() > 1) pool_->pool_.SetWaitMode(hwy::PoolWaitMode::kBlock);
}

}  // namespace flashflow::cpu
