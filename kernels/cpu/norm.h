// LayerNorm and RMSNorm over the last axis.
#ifndef KERNELS_CPU_NORM_H_
#define KERNELS_CPU_NORM_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// y[r, c] = (x[r, c] - mean_r) / sqrt(var_r + eps) * weight[c] + bias[c], var biased. weight and bias may be nullptr
// (1 and 0). x and y may be the same.
void LayerNorm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t rows,
               int64_t columns, ThreadPool* pool);

// y[r, c] = x[r, c] / sqrt(mean_c(x[r, c]^2) + eps) * weight[c]. weight may be nullptr. x and y may be the same.
void RmsNorm(const float* x, const float* weight, float eps, float* y, int64_t rows, int64_t columns, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_NORM_H_
