// What arithmetic the linear kernel can do: the yardstick for steps that are not bound by memory.
#ifndef KERNELS_CPU_LINEAR_RATE_H_
#define KERNELS_CPU_LINEAR_RATE_H_

#include "absl/status/statusor.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// FLOP per second (a multiply-add is two) of all the pool's threads in a linear layer of f32 or bf16 weights whose
// operands stay in the caches: the best of as many runs as fit into `budget_s`, three at least.
absl::StatusOr<double> MeasureLinearFlopPerS(LinearWeight weight_type, double budget_s, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_RATE_H_
