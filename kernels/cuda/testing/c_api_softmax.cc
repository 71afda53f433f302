// Softmax as plain C functions, for programs that load them from the shared library. Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include "kernels/cuda/softmax.h"

extern "C" {

// Contiguous.
int ff_softmax(const void* x, void* y, int rows, int columns, float scale, void* stream) {
  flashflow::cuda::SoftmaxArgs args;
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.columns = columns;
  args.ldx = args.ldy = columns;
  args.scale = scale;
  return Softmax(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
