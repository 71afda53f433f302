// Softmax along one axis.
#ifndef KERNELS_CPU_SOFTMAX_H_
#define KERNELS_CPU_SOFTMAX_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// x and y are [outer, axis, inner], row-major; the sum over `axis` of y is 1. x and y may be the same. A softmax with a
// NaN or an infinity, or of -inf alone, is all NaN; other elements may be -inf.
void Softmax(const float* x, float* y, int64_t outer, int64_t axis, int64_t inner, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_SOFTMAX_H_
