// Elementwise functions of two operands with numpy broadcasting: arithmetic, comparisons, logic.
#ifndef KERNELS_CUDA_BINARY_H_
#define KERNELS_CUDA_BINARY_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

enum class BinaryOp {
  // Results of the operands' dtype. Floats in f32, rounded once: kMaximum and kMinimum give NaN where either operand
  // is; kPow is at most 8 ulp off. Integers (no kDiv and kPow) wrap around.
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMaximum,
  kMinimum,
  kPow,
  // Results are bool. With a NaN only kNe holds.
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  // Of bool.
  kAnd,
  kOr,
};

// y = op(a, b), y dense row-major.
struct BinaryArgs {
  BinaryOp op = BinaryOp::kAdd;
  Dtype dtype = Dtype::kF32;  // of a and b: any but kS8
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;  // may be a or b where that is not broadcast and of the same element size
  Shape shape = {};   // of y
  Strides a_strides = {}, b_strides = {};
};

// cudaErrorNotSupported for a dtype that the op does not take. Launches on `stream`; allocates nothing and does not
// wait.
cudaError_t Binary(const BinaryArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_BINARY_H_
