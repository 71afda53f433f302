// Sums, means and maxima over axes of fp32 tensors.
#ifndef KERNELS_CPU_REDUCE_H_
#define KERNELS_CPU_REDUCE_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

enum class ReduceOp : uint8_t { kSum, kMean, kMax };

// One y for each index of the kept axes, dense row-major, over all elements along the reduced axes: sizes and, in
// elements of x, strides of both. kMax wants at least one element and gives NaN if any is NaN; a mean of nothing is
// NaN. Where x is contiguous along the last reduced axis its elements are summed in the lanes of a vector, otherwise
// one after the other; runs along that axis are added in order. At most 8 axes of each kind.
void Reduce(ReduceOp op, const float* x, std::span<const int64_t> kept, std::span<const int64_t> kept_strides,
            std::span<const int64_t> reduced, std::span<const int64_t> reduced_strides, float* y, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_REDUCE_H_
