// y = x W^T + b over packed weights: matrix-vector for decode, matrix-matrix for prefill, one arithmetic for both.
//
// Every y[m, n] is the sum over k in ascending order in one fp32 accumulator, then plus the bias. So a row's bits do
// not depend on the other rows, on how many there are, or on the number of threads.
#ifndef KERNELS_CPU_LINEAR_H_
#define KERNELS_CPU_LINEAR_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// x[m, k] and y[m, n] are row-major and must not overlap; bias[n] may be nullptr. m, n, k >= 0.
// weight: [n, k] packed as kernels/registry/catalog.h says of panel16, aligned to 64 bytes.
void LinearF32(const float* x, const float* weight, const float* bias, float* y, int64_t m, int64_t n, int64_t k,
               ThreadPool* pool);
// The same with bf16 weights in panel16_vnni2, widened exactly to fp32; x is not rounded.
void LinearBF16(const float* x, const uint16_t* weight, const float* bias, float* y, int64_t m, int64_t n, int64_t k,
                ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_H_
