#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 128;

// A thread has kCount channels of a token.
template <class In, class Out, int kCount>
__global__ void __launch_bounds__(kThreads) EmbeddingKernel(const __grid_constant__ EmbeddingArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t chunks = args.channels / kCount;
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t token = index / chunks;
  const int64_t channel = index % chunks * kCount;
  if (token >= args.tokens) return;
  const int64_t id =
      args.wide_ids ? static_cast<const int64_t*>(args.ids)[token] : static_cast<const int32_t*>(args.ids)[token];
  float x[kCount];
  if (id >= 0 && id < args.table_rows) {
    LoadChunk(static_cast<const In*>(args.table) + id * args.channels + channel, x);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = __int_as_float(0x7fffffff);
  }
  SaveChunk(static_cast<Out*>(args.out) + token * args.channels + channel, x);
}

template <class In, class Out>
cudaError_t Launch(const EmbeddingArgs& args, cudaStream_t stream) {
  const bool vectors = args.channels % 8 == 0 && reinterpret_cast<uintptr_t>(args.table) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(args.out) % 16 == 0;
  const int64_t chunks = vectors ? args.channels / 8 : args.channels;
  if (chunks > INT64_MAX / 2 / args.tokens) return cudaErrorNotSupported;
  const int64_t blocks = (args.tokens * chunks + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  const auto kernel = vectors ? EmbeddingKernel<In, Out, 8> : EmbeddingKernel<In, Out, 1>;
  return LaunchOverlapped(kernel, static_cast<int>(blocks), 1, kThreads, 0, stream, args);
}

template <class In>
cudaError_t LaunchFrom(const EmbeddingArgs& args, cudaStream_t stream) {
  switch (args.out_dtype) {
    case Dtype::kF32:
      return Launch<In, float>(args, stream);
    case Dtype::kF16:
      return Launch<In, __half>(args, stream);
    case Dtype::kBf16:
      return Launch<In, __nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

bool Aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

cudaError_t Embedding(const EmbeddingArgs& args, cudaStream_t stream) {
  if (args.table == nullptr || args.ids == nullptr || args.out == nullptr || args.table_rows < 1 || args.tokens < 0 ||
      args.channels < 1) {
    return cudaErrorInvalidValue;
  }
  if (!Aligned(args.table, ElementBytes(args.table_dtype)) || !Aligned(args.out, ElementBytes(args.out_dtype)) ||
      !Aligned(args.ids, args.wide_ids ? 8 : 4)) {
    return cudaErrorNotSupported;
  }
  if (args.tokens == 0) return cudaSuccess;
  switch (args.table_dtype) {
    case Dtype::kF32:
      return LaunchFrom<float>(args, stream);
    case Dtype::kF16:
      return LaunchFrom<__half>(args, stream);
    case Dtype::kBf16:
      return LaunchFrom<__nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
