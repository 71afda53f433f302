#include <cstdint>

#include "kernels/cuda/attention_params.cuh"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/paged_attention.cuh"
#include "kernels/cuda/paged_attention.h"

namespace flashflow::cuda {
namespace paged_attention {

template <>
cudaError_t LaunchTensorCores<__nv_bfloat16>(Params& params, int head_dim, int64_t columns, bool cluster,
                                             cudaStream_t stream);
template <>
cudaError_t LaunchTensorCores<__half>(Params& params, int head_dim, int64_t columns, bool cluster, cudaStream_t stream);

}  // namespace paged_attention

namespace {

// Up to so many slots one block is as fast as eight.
constexpr int64_t kShortContext = 256;

}  // namespace

cudaError_t PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream) {
  namespace impl = paged_attention;
  const PagedRows& rows = args.rows;
  for (const void* pointer :
       {args.q, static_cast<const void*>(args.o), args.cache, static_cast<const void*>(rows.row_start),
        static_cast<const void*>(rows.kv_len), static_cast<const void*>(rows.block_table)}) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
  }
  if (rows.rows < 1 || rows.pages_per_row < 1 || args.max_row_tokens < 1 || args.kv_heads < 1 || args.heads < 1 ||
      args.heads % args.kv_heads != 0 || args.page_size < 1 || args.head_dim < 1 || !(args.scale > 0) ||
      args.window < 0 ||
      (args.blocks_per_row != 0 && args.blocks_per_row != 1 && args.blocks_per_row != impl::kSplits)) {
    return cudaErrorInvalidValue;
  }
  const int bytes = ElementBytes(args.dtype);
  for (const void* pointer : {args.q, static_cast<const void*>(args.o), args.cache}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return cudaErrorNotSupported;
  }
  if (args.dtype == Dtype::kS8 || args.head_dim % 8 != 0 || args.head_dim > 256 || args.q_stride * bytes % 16 != 0) {
    return cudaErrorNotSupported;
  }
  int device = 0, major = 0, sms = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device)) return error;
  if (major < 8 || (major < 9 && args.blocks_per_row > 1)) return cudaErrorNotSupported;

  if (args.dtype != Dtype::kF32 && args.page_size % impl::kTileKeys == 0) {
    impl::Params params;
    params.q = args.q;
    params.o = args.o;
    params.cache = args.cache;
    params.rows = rows;
    params.q_stride = args.q_stride;
    params.heads = args.heads;
    params.kv_heads = args.kv_heads;
    params.group = args.heads / args.kv_heads;
    params.page_size = args.page_size;
    params.window = args.window;
    params.scale_log2 = args.scale * kLog2E;
    const int64_t columns = int64_t{params.group} * args.max_row_tokens;
    // A block alone reads faster, but takes longer to start and to end: it wins where most multiprocessors get two.
    const int64_t alone = int64_t{rows.rows} * args.kv_heads * ((columns + 15) / 16);
    const int64_t slots = int64_t{rows.pages_per_row} * args.page_size;
    const bool cluster = args.blocks_per_row != 0 ? args.blocks_per_row > 1
                                                  : major == 9 && slots > kShortContext && 2 * alone < 3 * int64_t{sms};
    const cudaError_t error =
        args.dtype == Dtype::kBf16
            ? impl::LaunchTensorCores<__nv_bfloat16>(params, args.head_dim, columns, cluster, stream)
            : impl::LaunchTensorCores<__half>(params, args.head_dim, columns, cluster, stream);
    if (error != cudaErrorNotSupported) return error;
  }
  AttentionParams plain;
  plain.q = {const_cast<void*>(args.q), 0, args.q_stride, args.head_dim};
  plain.o = {args.o, 0, int64_t{args.heads} * args.head_dim, args.head_dim};
  plain.cache = args.cache;
  plain.rows = rows;
  plain.page_size = args.page_size;
  plain.batch = rows.rows;
  plain.heads = args.heads;
  plain.kv_heads = args.kv_heads;
  plain.q_tokens = args.max_row_tokens;
  plain.head_dim = args.head_dim;
  plain.window = args.window;
  plain.scale_log2 = args.scale * kLog2E;
  return LaunchPlainAttention(plain, args.dtype, /*paged=*/true, stream);
}

}  // namespace flashflow::cuda
