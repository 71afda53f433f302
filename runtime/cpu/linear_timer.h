// Times linear layers on this machine's CPU, with weights that no cache holds.
#ifndef RUNTIME_CPU_LINEAR_TIMER_H_
#define RUNTIME_CPU_LINEAR_TIMER_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/problem.h"
#include "kernels/registry/tactic.h"
#include "runtime/core/autotuner.h"

namespace flashflow::runtime {

// The threads and the memory that timers take turns with.
class TimingMemory {
 public:
  // threads: 0 for one a core. bytes: more than the caches hold; at most a quarter of the free memory is taken, and
  // filled with small numbers. The errors of ThreadCount and of the allocation.
  static absl::StatusOr<std::unique_ptr<TimingMemory>> Create(int threads, int64_t bytes);

  cpu::ThreadPool* pool() { return &pool_; }
  const cpu::HugeBuffer& weights() const { return weights_; }

 private:
  TimingMemory(int threads, cpu::HugeBuffer weights) : pool_(threads), weights_(std::move(weights)) {}
  cpu::ThreadPool pool_;
  cpu::HugeBuffer weights_;
};

// For problems "linear" and "fused_linear" of f32 and bf16 weights. Each run takes the next of the layers that the
// memory holds, as in a model whose layers come one after the other; a sample is the mean of as many runs as make about
// a millisecond. `memory` must outlive the timer and is used by one at a time. InvalidArgument for another problem, or
// one whose layer the memory does not hold.
absl::StatusOr<std::unique_ptr<Timer>> CreateLinearTimer(const kernels::Problem& problem, TimingMemory* memory);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CPU_LINEAR_TIMER_H_
