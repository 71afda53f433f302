// A block of 256 threads has 64 x 64 of a product, a thread 4 x 4 of these.
#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/loop_nest.cuh"
#include "kernels/cuda/matmul.h"

namespace flashflow::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kBlockK = 16;
constexpr int kThreads = 256;
constexpr int kPitch = kTile + 4;

int64_t Tiles(int extent) { return (int64_t{extent} + kTile - 1) / kTile; }

template <class E>
__global__ void __launch_bounds__(kThreads)
    MatMulKernel(const __grid_constant__ MatMulArgs args, const LoopNest<2> batch, int tiles_m, int tiles_n) {
  __shared__ __align__(16) float a_block[kBlockK][kPitch];
  __shared__ __align__(16) float b_block[kBlockK][kPitch];
  const int column_y = blockIdx.x % tiles_n * kTile;
  const int row_y = blockIdx.x / tiles_n % tiles_m * kTile;
  const int64_t matrix = blockIdx.x / tiles_n / tiles_m;
  LetNextKernelStart();
  AwaitPreviousKernel();
  int64_t at[2];
  Offsets(batch, matrix, at);
  const E* a = static_cast<const E*>(args.a) + at[0];
  const E* b = static_cast<const E*>(args.b) + at[1];
  const bool k_is_inner = args.b_k_stride == 1;  // neighboring threads then read neighboring k of b
  const int thread_row = threadIdx.x / 16 * 4, thread_column = threadIdx.x % 16 * 4;

  float sums[4][4] = {};
  for (int base = 0; base < args.k; base += kBlockK) {
#pragma unroll
    for (int i = 0; i < kTile * kBlockK / kThreads; ++i) {
      const int element = threadIdx.x + i * kThreads;
      const int row = element / kBlockK, k = element % kBlockK;
      a_block[k][row] =
          base + k < args.k && row_y + row < args.m ? ToFloat(a[int64_t{row_y + row} * args.k + base + k]) : 0.0f;
      const int b_k = k_is_inner ? k : element / kTile;
      const int column = k_is_inner ? row : element % kTile;
      b_block[b_k][column] = base + b_k < args.k && column_y + column < args.n
                                 ? ToFloat(b[(base + b_k) * args.b_k_stride + (column_y + column) * args.b_n_stride])
                                 : 0.0f;
    }
    __syncthreads();
    const int end = min(kBlockK, args.k - base);  // products past k would turn an infinity of the other into NaN
    for (int k = 0; k < end; ++k) {
      const float4 rows = *reinterpret_cast<const float4*>(&a_block[k][thread_row]);
      const float4 columns = *reinterpret_cast<const float4*>(&b_block[k][thread_column]);
      const float p[4] = {rows.x, rows.y, rows.z, rows.w}, q[4] = {columns.x, columns.y, columns.z, columns.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(p[i], q[j], sums[i][j]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = row_y + thread_row + i, column = column_y + thread_column + j;
      if (row >= args.m || column >= args.n) continue;
      const float value = args.bias == nullptr ? sums[i][j] : sums[i][j] + args.bias[column];
      static_cast<E*>(args.y)[(matrix * args.m + row) * args.n + column] = FromFloat<E>(value);
    }
  }
}

template <class E>
cudaError_t Launch(const MatMulArgs& args, cudaStream_t stream) {
  const LoopNest<2> batch = MakeLoopNest(args.batch, {args.a_strides, args.b_strides});
  if (batch.count == 0 || args.m == 0 || args.n == 0) return cudaSuccess;
  if (args.y == nullptr || (args.k > 0 && (args.a == nullptr || args.b == nullptr))) return cudaErrorInvalidValue;
  const int64_t tiles = Tiles(args.m) * Tiles(args.n);
  if (tiles > INT32_MAX || batch.count > INT32_MAX / tiles) return cudaErrorNotSupported;
  return LaunchOverlapped(MatMulKernel<E>, static_cast<int>(batch.count * tiles), 1, kThreads, 0, stream, args, batch,
                          static_cast<int>(Tiles(args.m)), static_cast<int>(Tiles(args.n)));
}

}  // namespace

cudaError_t MatMul(const MatMulArgs& args, cudaStream_t stream) {
  if (!IsValid(args.batch) || args.m < 0 || args.n < 0 || args.k < 0) return cudaErrorInvalidValue;
  switch (args.dtype) {
    case Dtype::kF32:
      return Launch<float>(args, stream);
    case Dtype::kF16:
      return Launch<__half>(args, stream);
    case Dtype::kBf16:
      return Launch<__nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
