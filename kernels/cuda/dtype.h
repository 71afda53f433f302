// The element types of the kernels' operands.
#ifndef KERNELS_CUDA_DTYPE_H_
#define KERNELS_CUDA_DTYPE_H_

namespace flashflow::cuda {

enum class Dtype {
  kF32,
  kF16,
  kBf16,
  kS8,
  // Where a header names them:
  kS32,
  kS64,
  kBool,  // a byte, 0 or 1; any but 0 is true
};

constexpr int ElementBytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kS64:
      return 8;
    case Dtype::kF32:
    case Dtype::kS32:
      return 4;
    case Dtype::kF16:
    case Dtype::kBf16:
      return 2;
    case Dtype::kS8:
    case Dtype::kBool:
      return 1;
  }
  return 0;
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_DTYPE_H_
