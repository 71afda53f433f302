// Conversion between element types.
#ifndef KERNELS_CPU_CAST_H_
#define KERNELS_CPU_CAST_H_

#include <cstdint>

#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// y[i] = x[i] as `to`: to a narrower float, to nearest even; float to integer, toward zero, saturating at the type's
// ends, NaN to 0; integer to narrower integer, modulo 2^bits; anything to bool, x != 0.
void Cast(const void* x, DType from, void* y, DType to, int64_t count, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_CAST_H_
