// Conversion between the floating-point formats that checkpoints come in.
#ifndef RUNTIME_ENGINE_CONVERT_H_
#define RUNTIME_ENGINE_CONVERT_H_

#include <cstdint>

#include "compiler/ir/dtype.h"

namespace flashflow::engine {

// Writes `count` elements of `src` as `dst_dtype`, each rounded once to the nearest, ties to even; overflow becomes
// infinity and a NaN stays a (quiet) NaN. Precondition: both dtypes are floats; the arrays do not overlap. Pointers
// need no alignment.
void ConvertFloats(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count);

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_CONVERT_H_
