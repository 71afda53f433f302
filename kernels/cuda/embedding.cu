#include <cstdint>
#include <type_traits>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 128;

// Codes as f32: one, or 8 at an 8-byte aligned address.
template <int kCount>
__device__ __forceinline__ void LoadCodes(const int8_t* from, float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    x[0] = static_cast<float>(*from);
  } else {
    static_assert(kCount == 8);
    const int2 codes = *reinterpret_cast<const int2*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x[i] = static_cast<float>(static_cast<int8_t>((i < 4 ? codes.x : codes.y) >> (i % 4 * 8)));
    }
  }
}

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
    const In* from = static_cast<const In*>(args.table) + id * args.channels + channel;
    if constexpr (!std::is_same_v<In, int8_t>) {
      LoadChunk(from, x);
    } else {
      LoadCodes(from, x);
      const float scale = args.scale[id];
#pragma unroll
      for (int i = 0; i < kCount; ++i) x[i] *= scale;
    }
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
      args.channels < 1 || (args.table_dtype == Dtype::kS8) != (args.scale != nullptr)) {
    return cudaErrorInvalidValue;
  }
  if (!Aligned(args.table, ElementBytes(args.table_dtype)) || !Aligned(args.out, ElementBytes(args.out_dtype)) ||
      !Aligned(args.ids, args.wide_ids ? 8 : 4) || !Aligned(args.scale, 4)) {
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
    case Dtype::kS8:
      return LaunchFrom<int8_t>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
