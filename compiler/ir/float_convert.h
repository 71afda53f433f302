// Exact conversion between double and the narrow float formats. Rounding is to nearest, ties to even, once: straight
// from double, with no stop at f32 in between. For oracles and loaders; kernels convert in SIMD.
#ifndef COMPILER_IR_FLOAT_CONVERT_H_
#define COMPILER_IR_FLOAT_CONVERT_H_

#include <cstdint>

#include "compiler/ir/dtype.h"

namespace flashflow {

// Overflow gives infinity; a NaN stays a NaN of its sign, quiet, without its payload.
uint16_t DoubleToBF16(double value);
uint16_t DoubleToF16(double value);

double BF16ToDouble(uint16_t bits);
double F16ToDouble(uint16_t bits);

// The value of `dtype` nearest to `value`. Precondition: IsFloat(dtype).
double RoundTo(DType dtype, double value);

}  // namespace flashflow

#endif  // COMPILER_IR_FLOAT_CONVERT_H_
