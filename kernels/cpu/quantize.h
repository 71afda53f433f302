// Symmetric int8 codes of rows, by the arithmetic of the IR's `quantize` (docs/ir.md): the same bits on every target.
#ifndef KERNELS_CPU_QUANTIZE_H_
#define KERNELS_CPU_QUANTIZE_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// Of each of the rows x[rows, k]: with a = min(max|x|, clip), codes rint(x * fl(127 / a)) clamped to +-127 and the
// scale fl(a / 127); codes and scale are 0 where a < 2^-100; codes 0 and a scale of NaN where an element is not finite.
// clip > 0.
void QuantizeRows(const float* x, int64_t rows, int64_t k, float clip, int8_t* codes, float* scales, ThreadPool* pool);

// One row; returns its scale.
float QuantizeRow(const float* x, int64_t k, float clip, int8_t* codes);

// The same as kernels/cpu/linear_int8.h reads its rows: each code plus 128, rows of Int8RowBytes(k), of which those
// past k are 128.
int64_t Int8RowBytes(int64_t k);
void QuantizeLinearRows(const float* x, int64_t rows, int64_t k, float clip, uint8_t* codes, float* scales,
                        ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_QUANTIZE_H_
