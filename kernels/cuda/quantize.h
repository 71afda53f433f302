// Rows to codes of 8 bits and a scale: what the s8 products of gemm.h take.
#ifndef KERNELS_CUDA_QUANTIZE_H_
#define KERNELS_CUDA_QUANTIZE_H_

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// Per row, with fl rounding to f32 and a = min(max_j |x[j]|, clip):
//
//   a < 2^-100:  codes 0, scale 0
//   otherwise:   codes[j] = clamp(rint(fl(x[j] * fl(127 / a))), -127, 127), ties to even; scale = fl(a / 127)
//
// A row with an element that is not finite has codes 0 and the scale NaN. The same bits on every machine.
struct QuantizeArgs {
  const void* x = nullptr;  // [rows, columns], rows ldx elements apart
  int8_t* codes = nullptr;  // [rows, columns], rows ld_codes apart
  float* scale = nullptr;   // [rows]
  int rows = 0, columns = 0;
  int64_t ldx = 0, ld_codes = 0;
  float clip = INFINITY;  // positive
  Dtype dtype = Dtype::kBf16;
};

// Supports (else cudaErrorNotSupported):
//   dtype kBf16, kF16 and kF32; columns <= 32768
//   columns, ldx and ld_codes multiples of 8, x 16-byte and codes 8-byte aligned
// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Quantize(const QuantizeArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_QUANTIZE_H_
