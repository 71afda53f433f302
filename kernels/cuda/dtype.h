// The element types of the kernels' operands.
#ifndef KERNELS_CUDA_DTYPE_H_
#define KERNELS_CUDA_DTYPE_H_

namespace flashflow::cuda {

enum class Dtype { kF32, kF16, kBf16, kS8 };

constexpr int ElementBytes(Dtype dtype) { return dtype == Dtype::kF32 ? 4 : dtype == Dtype::kS8 ? 1 : 2; }

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_DTYPE_H_
