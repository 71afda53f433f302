// Which row of a step a token is of.
#ifndef KERNELS_CUDA_ROW_OF_CUH_
#define KERNELS_CUDA_ROW_OF_CUH_

#include <cuda_runtime.h>

#include "kernels/cuda/paged_rows.h"

namespace flashflow::cuda {

// The row that owns the token. With one token a row, the usual step, it is the first guess.
__device__ __forceinline__ int RowOf(const PagedRows& rows, int token) {
  if (token < rows.rows && rows.row_start[token] <= token && token < rows.row_start[token + 1]) return token;
  int low = 0, high = rows.rows;  // row_start[low] <= token < row_start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (rows.row_start[middle] <= token ? low : high) = middle;
  }
  return low;
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ROW_OF_CUH_
