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

// The same of each group of 32 of a row, without a clip, as kernels/cpu/linear_int4.h reads them: rows of
// Int4RowBytes(k), k a multiple of 32, in which a group takes 40 bytes, 32 codes, its scale and their sum, both f32. Of
// each 8 codes those at even places come first, as two codes of a weight share a byte.
inline constexpr int64_t kInt4XGroup = 32;
inline constexpr int64_t kInt4XGroupBytes = 40;
constexpr int64_t Int4RowBytes(int64_t k) { return k / kInt4XGroup * kInt4XGroupBytes; }
void QuantizeInt4Rows(const float* x, int64_t rows, int64_t k, uint8_t* codes, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_QUANTIZE_H_
