// The norms as plain C functions, for programs that load them from the shared library. Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include "kernels/cuda/norm.h"

extern "C" {

// Contiguous. residual, sum and beta may be null.
int ff_norm(const void* x, const void* residual, void* sum, const float* gamma, const float* beta, void* y, int rows,
            int columns, float epsilon, int rms, void* stream) {
  flashflow::cuda::NormArgs args;
  args.x = x;
  args.residual = residual;
  args.sum = sum;
  args.gamma = gamma;
  args.beta = beta;
  args.y = y;
  args.rows = rows;
  args.columns = columns;
  args.ld = columns;
  args.epsilon = epsilon;
  args.rms = rms != 0;
  return Norm(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
