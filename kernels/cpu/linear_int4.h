// Rows of 8-bit codes times weights of 4-bit codes, both in groups of 32 along k: the products of Linear's kInt4.
//
// Of each group, P is the sum of the 32 products of codes and Q that of x's codes, exact in i32; with x's scale d and
// the weight's scale s and least value l, z is the sum of fl(d * fl(fl(s * P) + l * Q)) over the groups in ascending
// order in one f32, then plus the bias, every sum rounded. l * Q needs no rounding; s and l are finite, while d may be
// NaN. So z has the same bits on every target, and for a row alone as for one of many.
#ifndef KERNELS_CPU_LINEAR_INT4_H_
#define KERNELS_CPU_LINEAR_INT4_H_

#include <cstddef>
#include <cstdint>

namespace flashflow::cpu {

// z of the columns of panels [begin, end).
struct Int4Panels {
  const uint8_t* x = nullptr;       // of the first row, as QuantizeInt4Rows makes them
  const uint8_t* weight = nullptr;  // panel16_int4 (kernels/registry/catalog.h)
  const void* groups = nullptr;     // panel16_groups
  const float* bias = nullptr;      // of all columns, or nullptr
  float* z = nullptr;               // of the first row and the first of the columns
  size_t ldz = 0;                   // between rows
  size_t m = 0, n = 0, k = 0;       // of the whole layer but for m
  size_t begin = 0, end = 0;
  size_t block_rows = 0;      // rows that meet all panels before the next; the speed alone, as what follows
  size_t prefetch_bytes = 0;  // how far ahead a stream of weights is fetched
};
void MultiplyInt4(const Int4Panels& problem);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_INT4_H_
