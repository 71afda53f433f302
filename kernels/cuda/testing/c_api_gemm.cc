// Matrix products as plain C functions, for programs that load them from the shared library. Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include "kernels/cuda/gemm.h"

using flashflow::cuda::Activation;
using flashflow::cuda::GemmArgs;

extern "C" {

// Contiguous operands. activation: 0 none, 1 GELU (tanh), 2 GELU (erf), 3 SiLU. tile_n: 0 lets the kernel choose, -1 is
// the kernel for few rows.
int ff_gemm(const void* a, const void* w, const void* bias, const void* residual, void* d, int m, int n, int k,
            int activation, int gated, int f32_output, int tile_n, void* stream) {
  GemmArgs args;
  args.a = a;
  args.w = w;
  args.bias = bias;
  args.residual = residual;
  args.d = d;
  args.m = m;
  args.n = n;
  args.k = k;
  args.lda = args.ldw = k;
  args.ldd = args.ld_residual = n;
  args.activation = static_cast<Activation>(activation);
  args.gated = gated != 0;
  args.f32_output = f32_output != 0;
  if (tile_n < 0) return GemmSkinny(args, static_cast<cudaStream_t>(stream));
  return GemmSm90(args, {tile_n}, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
