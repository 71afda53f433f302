#include <cstdint>

#include "kernels/cuda/attention_params.cuh"
#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/fused_attention_sm80.cuh"
#include "kernels/cuda/paged_attention.h"

namespace flashflow::cuda {
namespace attention_sm80 {

template <>
cudaError_t Launch<__nv_bfloat16>(const AttentionParams& params, bool paged, cudaStream_t stream);
template <>
cudaError_t Launch<__half>(const AttentionParams& params, bool paged, cudaStream_t stream);

}  // namespace attention_sm80

namespace attention_sm90 {

// Defined a head_dim a file, fused_attention_sm90_d*.cu; args.head_dim is at most kHeadDim.
template <int kHeadDim>
cudaError_t LaunchPaged(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t LaunchPaged<64>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t LaunchPaged<80>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t LaunchPaged<96>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t LaunchPaged<128>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <int kHeadDim>
cudaError_t Launch(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t Launch<64>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t Launch<80>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t Launch<96>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <>
cudaError_t Launch<128>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);

}  // namespace attention_sm90

namespace {

bool Aligned(const AttentionTensor& tensor, Dtype dtype) {
  const int elements = 16 / ElementBytes(dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.batch_stride % elements == 0 &&
         tensor.token_stride % elements == 0 && tensor.head_stride % elements == 0;
}

bool Valid(const AttentionArgs& args) {
  for (const AttentionTensor* tensor : {&args.q, &args.k, &args.v, &args.o}) {
    if (tensor->data == nullptr) return false;
  }
  return args.batch >= 1 && args.kv_heads >= 1 && args.heads >= 1 && args.heads % args.kv_heads == 0 &&
         args.q_tokens >= 1 && args.kv_tokens >= 1 && args.head_dim >= 1 && args.scale > 0 && args.window >= 0 &&
         (!args.causal || args.kv_tokens >= args.q_tokens) && (args.causal || args.window == 0) &&
         (args.q_start == nullptr) == (args.kv_start == nullptr);
}

AttentionParams ParamsOf(const AttentionArgs& args) {
  AttentionParams params;
  params.q = args.q;
  params.k = args.k;
  params.v = args.v;
  params.o = args.o;
  params.q_start = args.q_start;
  params.kv_start = args.kv_start;
  params.batch = args.batch;
  params.heads = args.heads;
  params.kv_heads = args.kv_heads;
  params.q_tokens = args.q_tokens;
  params.kv_tokens = args.kv_tokens;
  params.head_dim = args.head_dim;
  params.window = args.window;
  params.causal = args.causal;
  params.scale_log2 = args.scale * kLog2E;
  return params;
}

// What every kernel here needs; cudaSuccess if it is there.
cudaError_t Check(const AttentionArgs& args, int most_head_dim) {
  if (!Valid(args)) return cudaErrorInvalidValue;
  for (const AttentionTensor* tensor : {&args.q, &args.k, &args.v, &args.o}) {
    if (!Aligned(*tensor, args.dtype)) return cudaErrorNotSupported;
  }
  return args.head_dim % 8 == 0 && args.head_dim <= most_head_dim && args.dtype != Dtype::kS8 ? cudaSuccess
                                                                                              : cudaErrorNotSupported;
}

cudaError_t Attribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(value, attribute, device);
}

cudaError_t LaunchSm80(AttentionParams params, Dtype dtype, bool paged, cudaStream_t stream) {
  int major = 0;
  if (cudaError_t error = Attribute(cudaDevAttrComputeCapabilityMajor, &major)) return error;
  if (major < 8) return cudaErrorNotSupported;
  params.tiles = (params.q_tokens + attention_sm80::kTileQueries - 1) / attention_sm80::kTileQueries;
  return dtype == Dtype::kBf16 ? attention_sm80::Launch<__nv_bfloat16>(params, paged, stream)
                               : attention_sm80::Launch<__half>(params, paged, stream);
}

// Launches what `launch` has for head_dim 64, 80, 96 and 128.
template <class Args>
cudaError_t LaunchSm90(cudaError_t (*const (&launch)[4])(const Args&, int, int64_t, cudaStream_t), const Args& args,
                       cudaStream_t stream) {
  int major = 0, sms = 0, l2_bytes = 0;
  if (cudaError_t error = Attribute(cudaDevAttrComputeCapabilityMajor, &major)) return error;
  if (cudaError_t error = Attribute(cudaDevAttrMultiProcessorCount, &sms)) return error;
  if (cudaError_t error = Attribute(cudaDevAttrL2CacheSize, &l2_bytes)) return error;
  if (major != 9 || args.dtype != Dtype::kBf16) return cudaErrorNotSupported;
  const int d = args.head_dim;
  return launch[d <= 64 ? 0 : d <= 80 ? 1 : d <= 96 ? 2 : 3](args, sms, l2_bytes, stream);
}

// What prefill over pages needs; cudaSuccess if it is there. Then `whole` has all but the cache and the rows.
cudaError_t CheckPaged(const PagedAttentionArgs& args, AttentionArgs* whole) {
  const int64_t o_stride = int64_t{args.heads} * args.head_dim;
  whole->dtype = args.dtype;
  whole->q = {const_cast<void*>(args.q), 0, args.q_stride, args.head_dim};
  whole->o = {args.o, 0, o_stride, args.head_dim};
  whole->k = whole->v = {const_cast<void*>(args.cache), 0, 0, 0};  // for the checks
  whole->batch = args.rows.rows;
  whole->heads = args.heads;
  whole->kv_heads = args.kv_heads;
  whole->q_tokens = whole->kv_tokens = args.max_row_tokens;
  whole->head_dim = args.head_dim;
  whole->scale = args.scale;
  whole->window = args.window;
  if (cudaError_t error = Check(*whole, 128)) return error;
  if (args.page_size < 1 || args.tokens < 0 || args.rows.pages_per_row < 1 || args.rows.row_start == nullptr ||
      args.rows.kv_len == nullptr || args.rows.block_table == nullptr) {
    return cudaErrorInvalidValue;
  }
  return args.dtype == Dtype::kF32 ? cudaErrorNotSupported : cudaSuccess;
}

}  // namespace

cudaError_t FusedAttentionSm90(const AttentionArgs& args, cudaStream_t stream) {
  using namespace attention_sm90;
  if (cudaError_t error = Check(args, 128)) return error;
  if (args.q_start != nullptr) return cudaErrorNotSupported;
  return LaunchSm90({Launch<64>, Launch<80>, Launch<96>, Launch<128>}, args, stream);
}

cudaError_t FusedAttentionSm80(const AttentionArgs& args, cudaStream_t stream) {
  if (cudaError_t error = Check(args, 128)) return error;
  if (args.dtype == Dtype::kF32) return cudaErrorNotSupported;
  return LaunchSm80(ParamsOf(args), args.dtype, /*paged=*/false, stream);
}

cudaError_t FusedAttentionPlain(const AttentionArgs& args, cudaStream_t stream) {
  if (cudaError_t error = Check(args, 256)) return error;
  return LaunchPlainAttention(ParamsOf(args), args.dtype, /*paged=*/false, stream);
}

cudaError_t FusedAttention(const AttentionArgs& args, cudaStream_t stream) {
  for (const auto kernel : {FusedAttentionSm90, FusedAttentionSm80, FusedAttentionPlain}) {
    if (cudaError_t error = kernel(args, stream); error != cudaErrorNotSupported) return error;
  }
  return cudaErrorNotSupported;
}

cudaError_t PagedPrefillSm90(const PagedAttentionArgs& args, cudaStream_t stream) {
  using namespace attention_sm90;
  AttentionArgs whole;
  if (cudaError_t error = CheckPaged(args, &whole)) return error;
  if (args.tokens == 0) return cudaErrorNotSupported;
  return LaunchSm90({LaunchPaged<64>, LaunchPaged<80>, LaunchPaged<96>, LaunchPaged<128>}, args, stream);
}

cudaError_t PagedPrefillSm80(const PagedAttentionArgs& args, cudaStream_t stream) {
  AttentionArgs whole;
  if (cudaError_t error = CheckPaged(args, &whole)) return error;
  AttentionParams params = ParamsOf(whole);
  params.cache = args.cache;
  params.rows = args.rows;
  params.page_size = args.page_size;
  return LaunchSm80(params, args.dtype, /*paged=*/true, stream);
}

cudaError_t PagedPrefill(const PagedAttentionArgs& args, cudaStream_t stream) {
  // A multiprocessor has one tile of the Hopper kernel at a time, and six of the other: where tiles have few queries,
  // as of rows that decode, most of it would wait.
  constexpr int kFewTokens = 64;
  if (args.tokens >= int64_t{kFewTokens} * args.rows.rows) {
    if (cudaError_t error = PagedPrefillSm90(args, stream); error != cudaErrorNotSupported) return error;
  }
  return PagedPrefillSm80(args, stream);
}

}  // namespace flashflow::cuda
