// What may follow a linear layer's products in the same pass.
#ifndef KERNELS_CPU_LINEAR_EPILOGUE_H_
#define KERNELS_CPU_LINEAR_EPILOGUE_H_

#include <cstddef>
#include <cstdint>

namespace flashflow::cpu {

enum class Activation : uint8_t { kNone, kGelu, kGeluTanh, kSilu, kRelu };

// y = f(z) or f(z) * up, plus residual, for a block of rows and columns. z may be y.
struct Epilogue {
  Activation activation;
  const float* z;
  size_t ldz;
  const float* up;  // nullptr: not gated; rows ldz apart
  const float* residual;
  float* y;
  size_t ldy;  // of residual too
  size_t rows, columns;
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_EPILOGUE_H_
