#include <cstdint>

#include "kernels/cuda/attention_params.cuh"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/paged_attention.cuh"
#include "kernels/cuda/paged_attention.h"

namespace flashflow::cuda {
namespace paged_attention {

template <>
cudaError_t LaunchTensorCores<__nv_bfloat16>(Params& params, int head_dim, int64_t columns, int blocks,
                                             cudaStream_t stream);
template <>
cudaError_t LaunchTensorCores<__half>(Params& params, int head_dim, int64_t columns, int blocks, cudaStream_t stream);

}  // namespace paged_attention

namespace {

cudaError_t MajorCapability(int* major) {
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device);
}

// How many blocks share a row where `alone` blocks would have one each: eight where all of them run at once; two where
// there would be few blocks alone, which read fastest. More columns are more sums to hand over.
int ChooseBlocks(int64_t alone, int64_t columns, int64_t sms) {
  constexpr int64_t kResident = 4;  // of a cluster of eight, on a multiprocessor
  if (paged_attention::kSplits * alone <= kResident * sms) return paged_attention::kSplits;
  return alone < (columns > 1 ? 1 : 2) * sms ? 2 : 1;
}

// cudaErrorNotSupported where the tensor-core kernel does not take the arguments, which are otherwise checked.
cudaError_t LaunchOnTensorCores(const PagedAttentionArgs& args, const paged_attention::Append& append,
                                cudaStream_t stream) {
  namespace impl = paged_attention;
  if (args.dtype == Dtype::kF32 || args.page_size % impl::kTileKeys != 0) return cudaErrorNotSupported;
  int device = 0, major = 0, sms = 0;
  if (cudaError_t error = MajorCapability(&major)) return error;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device)) return error;
  const PagedRows& rows = args.rows;
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
  params.append = append;
  const int64_t columns = int64_t{params.group} * args.max_row_tokens;
  const int64_t alone = int64_t{rows.rows} * args.kv_heads * ((columns + 15) / 16);
  const int blocks = args.blocks_per_row != 0 ? args.blocks_per_row
                     : major == 9             ? ChooseBlocks(alone, columns, sms)
                                              : 1;
  return args.dtype == Dtype::kBf16
             ? impl::LaunchTensorCores<__nv_bfloat16>(params, args.head_dim, columns, blocks, stream)
             : impl::LaunchTensorCores<__half>(params, args.head_dim, columns, blocks, stream);
}

cudaError_t Check(const PagedAttentionArgs& args) {
  const PagedRows& rows = args.rows;
  for (const void* pointer :
       {args.q, static_cast<const void*>(args.o), args.cache, static_cast<const void*>(rows.row_start),
        static_cast<const void*>(rows.kv_len), static_cast<const void*>(rows.block_table)}) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
  }
  if (rows.rows < 1 || rows.pages_per_row < 1 || args.max_row_tokens < 1 || args.kv_heads < 1 || args.heads < 1 ||
      args.heads % args.kv_heads != 0 || args.page_size < 1 || args.head_dim < 1 || !(args.scale > 0) ||
      args.window < 0 ||
      (args.blocks_per_row != 0 && args.blocks_per_row != 1 && args.blocks_per_row != 2 &&
       args.blocks_per_row != paged_attention::kSplits)) {
    return cudaErrorInvalidValue;
  }
  const int bytes = ElementBytes(args.dtype);
  for (const void* pointer : {args.q, static_cast<const void*>(args.o), args.cache}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return cudaErrorNotSupported;
  }
  if (args.dtype == Dtype::kS8 || args.head_dim % 8 != 0 || args.head_dim > 256 || args.q_stride * bytes % 16 != 0) {
    return cudaErrorNotSupported;
  }
  int major = 0;
  if (cudaError_t error = MajorCapability(&major)) return error;
  return major < 8 || (major < 9 && args.blocks_per_row > 1) ? cudaErrorNotSupported : cudaSuccess;
}

}  // namespace

cudaError_t PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream) {
  if (cudaError_t error = Check(args)) return error;
  if (cudaError_t error = LaunchOnTensorCores(args, {}, stream); error != cudaErrorNotSupported) return error;
  AttentionParams plain;
  plain.q = {const_cast<void*>(args.q), 0, args.q_stride, args.head_dim};
  plain.o = {args.o, 0, int64_t{args.heads} * args.head_dim, args.head_dim};
  plain.cache = args.cache;
  plain.rows = args.rows;
  plain.page_size = args.page_size;
  plain.batch = args.rows.rows;
  plain.heads = args.heads;
  plain.kv_heads = args.kv_heads;
  plain.q_tokens = args.max_row_tokens;
  plain.head_dim = args.head_dim;
  plain.window = args.window;
  plain.scale_log2 = args.scale * kLog2E;
  return LaunchPlainAttention(plain, args.dtype, /*paged=*/true, stream);
}

cudaError_t PagedDecode(const PagedDecodeArgs& args, cudaStream_t stream) {
  const RopeAppendArgs& from = args.append;
  PagedAttentionArgs attend;
  attend.dtype = from.dtype;
  attend.q = from.q.data;
  attend.q_stride = from.q.stride;
  attend.o = args.o;
  attend.cache = from.cache;
  attend.rows = from.rows;
  attend.heads = from.heads;
  attend.kv_heads = from.kv_heads;
  attend.head_dim = from.head_dim;
  attend.page_size = from.page_size;
  attend.scale = args.scale;
  attend.window = args.window;
  attend.blocks_per_row = args.blocks_per_row;
  if (from.k.data == nullptr || from.v.data == nullptr || (from.cos != nullptr) != (from.sin != nullptr)) {
    return cudaErrorInvalidValue;
  }
  if (cudaError_t error = Check(attend)) return error;
  for (const void* pointer :
       {static_cast<const void*>(from.k.data), static_cast<const void*>(from.v.data), from.cos, from.sin}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return cudaErrorNotSupported;
  }
  const int bytes = ElementBytes(from.dtype);
  if (from.k.stride * bytes % 16 != 0 || from.v.stride * bytes % 16 != 0 ||
      (from.angle_dtype != Dtype::kF32 && from.angle_dtype != from.dtype)) {
    return cudaErrorNotSupported;
  }
  paged_attention::Append append;
  append.k = from.k.data;
  append.v = from.v.data;
  append.k_stride = from.k.stride;
  append.v_stride = from.v.stride;
  append.cos = from.cos;
  append.sin = from.sin;
  append.f32_angles = from.angle_dtype == Dtype::kF32;
  append.cache = from.cache;
  return LaunchOnTensorCores(attend, append, stream);
}

}  // namespace flashflow::cuda
