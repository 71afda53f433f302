// Matrix products as plain C functions, for programs that load them from the shared library. Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/quantize.h"

using flashflow::cuda::Activation;
using flashflow::cuda::GemmArgs;

namespace {

// Contiguous operands. activation: 0 none, 1 GELU (tanh), 2 GELU (erf), 3 SiLU.
GemmArgs Contiguous(const void* a, const void* w, const float* bias, const void* residual, void* d, int m, int n, int k,
                    int activation) {
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
  return args;
}

}  // namespace

extern "C" {

// tile_n: 0 lets the kernel choose, -1 is the kernel for few rows, -2 the one for every GPU; -3 chooses among all.
int ff_gemm(const void* a, const void* w, const float* bias, const void* residual, void* d, int m, int n, int k,
            int activation, int gated, int f32_output, int tile_n, void* stream) {
  GemmArgs args = Contiguous(a, w, bias, residual, d, m, n, k, activation);
  args.gated = gated != 0;
  args.f32_output = f32_output != 0;
  if (tile_n == -3) return Gemm(args, static_cast<cudaStream_t>(stream));
  if (tile_n == -2) return GemmPortable(args, static_cast<cudaStream_t>(stream));
  if (tile_n < 0) return GemmSkinny(args, static_cast<cudaStream_t>(stream));
  return GemmSm90(args, {tile_n}, static_cast<cudaStream_t>(stream));
}

// The same by the kernel for up to 64 rows; split_k and tile_rows: 0 lets the kernel choose.
int ff_gemm_rows(const void* a, const void* w, const float* bias, const void* residual, void* d, int m, int n, int k,
                 int activation, int split_k, int tile_rows, void* stream) {
  const GemmArgs args = Contiguous(a, w, bias, residual, d, m, n, k, activation);
  return GemmRowsSm90(args, {split_k, tile_rows}, static_cast<cudaStream_t>(stream));
}

// Codes of 8 bits, bf16 out. kernel: 0 for many rows, 1 for few by mma, 2 for few by wgmma, 3 to choose.
int ff_gemm_s8(const void* a, const float* a_scale, const void* w, const float* w_scale, const float* bias, void* d,
               int m, int n, int k, int activation, int kernel, int tile_n, void* stream) {
  GemmArgs args = Contiguous(a, w, bias, nullptr, d, m, n, k, activation);
  args.dtype = flashflow::cuda::Dtype::kS8;
  args.a_scale = a_scale;
  args.w_scale = w_scale;
  if (kernel == 3) return Gemm(args, static_cast<cudaStream_t>(stream));
  if (kernel == 1) return GemmSkinny(args, static_cast<cudaStream_t>(stream));
  if (kernel == 2) return GemmRowsSm90(args, {}, static_cast<cudaStream_t>(stream));
  return GemmSm90(args, {tile_n}, static_cast<cudaStream_t>(stream));
}

// bf16 rows to codes and scales.
int ff_quantize(const void* x, void* codes, float* scale, int rows, int columns, void* stream) {
  flashflow::cuda::QuantizeArgs args;
  args.x = x;
  args.codes = static_cast<int8_t*>(codes);
  args.scale = scale;
  args.rows = rows;
  args.columns = columns;
  args.ldx = args.ld_codes = columns;
  return Quantize(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
