// Batched products of fp32 matrices that both are computed.
#ifndef KERNELS_CPU_MATMUL_H_
#define KERNELS_CPU_MATMUL_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

struct MatMulShape {
  int64_t m, n, k;
  // Of b: element (k, n) of a matrix lies at k * b_k_stride + n * b_n_stride. (n, 1) is row-major, (1, k) transposed.
  int64_t b_k_stride, b_n_stride;
};

// y[i] = a[i] b[i] (+ bias) for every index i of `batch`: a[i] is row-major [m, k], y[i] [m, n], bias [n] or nullptr.
// a_strides and b_strides give, for each dim of the batch, the operand's step in elements: 0 where it is broadcast. y
// is dense. At most 6 dims. Each element is a chain of fused multiply-adds in ascending k, then the bias.
void MatMul(const float* a, std::span<const int64_t> a_strides, const float* b, std::span<const int64_t> b_strides,
            const float* bias, float* y, std::span<const int64_t> batch, const MatMulShape& shape, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_MATMUL_H_
