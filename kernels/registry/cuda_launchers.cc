#include "kernels/registry/cuda_launchers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cuda_launch_values.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels {
namespace {

// What multiplies and normalizes.
absl::StatusOr<cuda::Dtype> DtypeOf(DType dtype) {
  if (!IsFloat(dtype) && dtype != DType::kI8) {
    return absl::InvalidArgumentError(absl::StrCat("no CUDA kernel computes in ", DTypeName(dtype)));
  }
  return CudaDtype(dtype);
}

int64_t Bytes(const TensorView& view) { return view.NumElements() * DTypeBytes(view.dtype); }

// --- lookups ------------------------------------------------------------------

absl::StatusOr<CheckedLaunchFn> BindEmbedding(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const cuda::Dtype table_dtype, DtypeOf(*request.input_dtypes[0]));
  FF_ASSIGN_OR_RETURN(const cuda::Dtype out_dtype, DtypeOf(request.output_dtypes[0]));
  const bool wide = request.input_dtypes[1] == DType::kI64;
  return [&api, table_dtype, out_dtype, wide](const LaunchContext& context) -> absl::Status {
    const TensorView& table = context.inputs[0];
    const TensorView& ids = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (table.rank != 2) return Mismatch("table", table, "rank 2");
    const int64_t columns = table.dims[1];
    if (y.rank != ids.rank + 1 || DimsOf(y).first(ids.rank) != DimsOf(ids) || y.dims[ids.rank] != columns) {
      return Mismatch("result", y, absl::StrCat("the dims of ids ", Describe(ids), " and then ", columns));
    }
    if (y.NumElements() == 0) return absl::OkStatus();
    cuda::EmbeddingArgs args;
    args.table_dtype = table_dtype;
    args.out_dtype = out_dtype;
    args.table = table.data;
    args.ids = ids.data;
    args.wide_ids = wide;
    args.out = y.data;
    args.table_rows = table.dims[0];
    args.tokens = ids.NumElements();
    args.channels = columns;
    if (table_dtype == cuda::Dtype::kS8) {
      const TensorView* scale = Optional(context, 2);
      if (scale == nullptr) return Mismatch("table", table, "scales beside its codes");
      FF_RETURN_IF_ERROR(CheckDims("scale", *scale, {table.dims[0]}));
      args.scale = static_cast<const float*>(scale->data);
    }
    return ToStatus(api, context, api.embedding(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindGatherRows(const cuda::Api& api, const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  FF_ASSIGN_OR_RETURN(const cuda::Dtype dtype, DtypeOf(request.output_dtypes[0]));
  return [&api, dtype](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& rows = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (x.rank < 1 || rows.rank != 1) return Mismatch("x", x, "rank 1 or more, and rows of rank 1");
    if (y.rank != x.rank || y.dims[0] != rows.dims[0] || DimsOf(y).subspan(1) != DimsOf(x).subspan(1)) {
      return Mismatch("result", y, absl::StrCat(rows.dims[0], " rows of ", Describe(x)));
    }
    if (y.NumElements() == 0) return absl::OkStatus();
    cuda::EmbeddingArgs args;
    args.table_dtype = args.out_dtype = dtype;
    args.table = x.data;
    args.ids = rows.data;
    args.out = y.data;
    args.table_rows = x.dims[0];
    args.tokens = rows.dims[0];
    args.channels = Product(DimsOf(x).subspan(1));
    return ToStatus(api, context, api.embedding(args, StreamOf(context)));
  };
}

// --- what kernels read early --------------------------------------------------

// Kernels that overlap those ahead of them in the stream read weights before these have ended: a weight that is
// computed may not be there yet.
bool IsComputed(const BindRequest& request, int input) {
  return std::ranges::find(request.computed_inputs, input) != request.computed_inputs.end();
}

absl::Status RefuseComputed(const BindRequest& request, std::initializer_list<int> inputs) {
  for (const int input : inputs) {
    if (IsComputed(request, input)) {
      return absl::UnimplementedError("no CUDA kernel takes a norm's weight or bias that is computed");
    }
  }
  return absl::OkStatus();
}

// --- norms --------------------------------------------------------------------

struct NormKind {
  bool rms = false;
  float epsilon = 0;
};

absl::StatusOr<NormKind> NormOf(std::string_view norm, const AttrMap& attrs) {
  if (norm != "layer_norm" && norm != "rms_norm") {
    return absl::InvalidArgumentError(absl::StrCat("norm is \"", norm, "\", expected layer_norm or rms_norm"));
  }
  FF_ASSIGN_OR_RETURN(const double eps, GetAttr<double>(attrs, "eps"));
  return NormKind{norm == "rms_norm", static_cast<float>(eps)};
}

// Of x's rows, whose number may be 0; y is filled in by the caller.
absl::StatusOr<cuda::NormArgs> NormArgsOf(const NormKind& kind, const TensorView& x, const TensorView* weight,
                                          const TensorView* bias) {
  if (x.rank < 1) return Mismatch("x", x, "rank 1 or more");
  const int64_t columns = x.dims[x.rank - 1];
  if (weight != nullptr) FF_RETURN_IF_ERROR(CheckDims("weight", *weight, {columns}));
  if (bias != nullptr) {
    if (kind.rms) return absl::InvalidArgumentError("rms_norm has no bias");
    FF_RETURN_IF_ERROR(CheckDims("bias", *bias, {columns}));
  }
  cuda::NormArgs args;
  args.x = x.data;
  args.gamma = weight == nullptr ? nullptr : static_cast<const float*>(weight->data);
  args.beta = bias == nullptr ? nullptr : static_cast<const float*>(bias->data);
  FF_ASSIGN_OR_RETURN(args.rows, Int(Product(DimsOf(x).first(x.rank - 1))));
  FF_ASSIGN_OR_RETURN(args.columns, Int(columns));
  args.ld = columns;
  args.epsilon = kind.epsilon;
  args.rms = kind.rms;
  FF_ASSIGN_OR_RETURN(args.dtype, DtypeOf(x.dtype));
  return args;
}

absl::StatusOr<CheckedLaunchFn> BindNorm(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const NormKind kind, NormOf(request.op, request.attrs));
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  FF_RETURN_IF_ERROR(RefuseComputed(request, {1, 2}));
  return [&api, kind](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    FF_ASSIGN_OR_RETURN(cuda::NormArgs args, NormArgsOf(kind, x, Optional(context, 1), Optional(context, 2)));
    if (x.NumElements() == 0) return absl::OkStatus();
    args.y = context.outputs[0].data;
    return ToStatus(api, context, api.norm(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindAddNorm(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const std::string norm, GetAttr<std::string>(request.attrs, "norm"));
  FF_ASSIGN_OR_RETURN(const NormKind kind, NormOf(norm, request.attrs));
  for (const DType dtype : {*request.input_dtypes[1], request.output_dtypes[0], request.output_dtypes[1]}) {
    if (dtype != request.input_dtypes[0]) return absl::InvalidArgumentError("operands and results differ in dtype");
  }
  FF_RETURN_IF_ERROR(RefuseComputed(request, {2, 3}));
  return [&api, kind](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("residual", context.inputs[1], DimsOf(x)));
    FF_RETURN_IF_ERROR(CheckDims("sum", context.outputs[0], DimsOf(x)));
    FF_RETURN_IF_ERROR(CheckDims("norm", context.outputs[1], DimsOf(x)));
    FF_ASSIGN_OR_RETURN(cuda::NormArgs args, NormArgsOf(kind, x, Optional(context, 2), Optional(context, 3)));
    if (x.NumElements() == 0) return absl::OkStatus();
    args.residual = context.inputs[1].data;
    args.sum = context.outputs[0].data;
    args.y = context.outputs[1].data;
    return ToStatus(api, context, api.norm(args, StreamOf(context)));
  };
}

// --- products -----------------------------------------------------------------

absl::StatusOr<cuda::Activation> ActivationOf(std::string_view name) {
  using Activation = cuda::Activation;
  static constexpr std::pair<std::string_view, Activation> kNames[] = {{"none", Activation::kNone},
                                                                       {"gelu", Activation::kGeluErf},
                                                                       {"gelu_tanh", Activation::kGeluTanh},
                                                                       {"silu", Activation::kSilu}};
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  return absl::UnimplementedError(absl::StrCat("activation \"", name, "\" has no CUDA kernel"));
}

// One order of sums at any number of rows.
cudaError_t InvariantGemm(const cuda::Api& api, const cuda::GemmArgs& args, cudaStream_t stream) {
  const cudaError_t error = api.gemm_rows_sm90(args, {}, stream);
  return error == cudaErrorNotSupported ? api.gemm_portable(args, stream) : error;
}

template <bool invariant>
cudaError_t RunGemm(const cuda::Api& api, const cuda::GemmArgs& args, bool computed_weight, cudaStream_t stream) {
  if (computed_weight) return api.gemm_portable(args, stream);  // the others read it early
  return invariant ? InvariantGemm(api, args, stream) : api.gemm(args, stream);
}

// x and the weight must be of one type; the result too, or f32.
absl::StatusOr<cuda::GemmArgs> GemmTypes(const BindRequest& request) {
  const DType x = *request.input_dtypes[0], weight = *request.input_dtypes[1], y = request.output_dtypes[0];
  if (x != weight || (y != x && y != DType::kF32)) {
    return absl::UnimplementedError(
        absl::StrCat("no CUDA kernel multiplies ", DTypeName(x), " with ", DTypeName(weight), " to ", DTypeName(y)));
  }
  cuda::GemmArgs args;
  FF_ASSIGN_OR_RETURN(args.dtype, DtypeOf(x));
  args.f32_output = y == DType::kF32 && x != DType::kF32;
  return args;
}

// Operands and sizes of a linear layer of the given types.
absl::StatusOr<cuda::GemmArgs> GemmArgsOf(cuda::GemmArgs args, const LaunchContext& context) {
  FF_ASSIGN_OR_RETURN(const LinearSizes sizes, LinearSizesOf(context, args.gated));
  const TensorView* bias = Optional(context, 2);
  args.a = context.inputs[0].data;
  args.w = context.inputs[1].data;
  args.bias = bias == nullptr ? nullptr : static_cast<const float*>(bias->data);
  args.d = context.outputs[0].data;
  FF_ASSIGN_OR_RETURN(args.m, Int(sizes.m));
  FF_ASSIGN_OR_RETURN(args.n, Int(args.gated ? sizes.n / 2 : sizes.n));
  FF_ASSIGN_OR_RETURN(args.k, Int(sizes.k));
  args.lda = args.ldw = sizes.k;
  args.ldd = args.ld_residual = args.n;
  return args;
}

template <bool invariant>
absl::StatusOr<CheckedLaunchFn> BindLinear(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const cuda::GemmArgs types, GemmTypes(request));
  return [&api, types, computed = IsComputed(request, 1)](const LaunchContext& context) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const cuda::GemmArgs args, GemmArgsOf(types, context));
    if (context.outputs[0].NumElements() == 0) return absl::OkStatus();
    return ToStatus(api, context, RunGemm<invariant>(api, args, computed, StreamOf(context)));
  };
}

template <bool invariant>
absl::StatusOr<CheckedLaunchFn> BindFusedLinear(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(cuda::GemmArgs types, GemmTypes(request));
  FF_ASSIGN_OR_RETURN(const std::string norm_name, GetAttr<std::string>(request.attrs, "norm"));
  std::optional<NormKind> norm;
  if (norm_name != "none") {
    FF_ASSIGN_OR_RETURN(norm, NormOf(norm_name, request.attrs));
  }
  FF_ASSIGN_OR_RETURN(const std::string activation, GetAttr<std::string>(request.attrs, "activation"));
  FF_ASSIGN_OR_RETURN(types.gated, GetAttr<bool>(request.attrs, "gated"));
  const bool has_residual = request.input_dtypes.size() > 3 && request.input_dtypes[3].has_value();
  if (has_residual && request.input_dtypes[3] != request.input_dtypes[0]) {
    return absl::UnimplementedError("the residual and x differ in dtype");
  }
  // No product ends with relu: it follows in place.
  const bool relu = activation == "relu" && !types.gated && !has_residual;
  if (!relu) {
    FF_ASSIGN_OR_RETURN(types.activation, ActivationOf(activation));
  }
  FF_RETURN_IF_ERROR(RefuseComputed(request, {4, 5}));
  return [&api, types, norm, relu, computed = IsComputed(request, 1)](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView* residual = Optional(context, 3);
    FF_ASSIGN_OR_RETURN(cuda::GemmArgs args, GemmArgsOf(types, context));
    if (residual != nullptr) {
      FF_RETURN_IF_ERROR(CheckDims("residual", *residual, DimsOf(context.outputs[0])));
      args.residual = residual->data;
    }
    if (context.outputs[0].NumElements() == 0) return absl::OkStatus();
    const auto run = [&] { return RunGemm<invariant>(api, args, computed, StreamOf(context)); };
    cudaError_t error = cudaErrorNotSupported;
    if (norm.has_value()) {
      FF_RETURN_IF_ERROR(CheckWorkspace(context, Bytes(x)));
      FF_ASSIGN_OR_RETURN(cuda::NormArgs norm_args, NormArgsOf(*norm, x, Optional(context, 4), Optional(context, 5)));
      if (norm_args.gamma != nullptr && args.m <= cuda::kMostNormedRows) {  // of few rows the product does it itself
        args.norm = {norm_args.gamma, norm_args.beta, norm_args.epsilon, norm_args.rms};
        error = run();
      }
      if (error == cudaErrorNotSupported) {
        norm_args.y = context.workspace;
        FF_RETURN_IF_ERROR(ToStatus(api, context, api.norm(norm_args, StreamOf(context))));
        args.norm = {};
        args.a = context.workspace;
      }
    }
    if (error == cudaErrorNotSupported) error = run();
    FF_RETURN_IF_ERROR(ToStatus(api, context, error));
    if (!relu) return absl::OkStatus();
    const TensorView& y = context.outputs[0];
    const cuda::UnaryArgs relu_args = {
        .op = cuda::UnaryOp::kRelu, .dtype = CudaDtype(y.dtype), .x = y.data, .y = y.data, .count = y.NumElements()};
    return ToStatus(api, context, api.unary(relu_args, StreamOf(context)));
  };
}

// The product makes x's codes itself where it can, after x's norm where there is one: of few rows. Else they are made
// ahead of it, in one more launch, to the same bits.
template <bool invariant>
absl::StatusOr<CheckedLaunchFn> BindFusedLinearInt8(const cuda::Api& api, const BindRequest& request) {
  cuda::GemmArgs types;
  types.dtype = cuda::Dtype::kS8;
  types.f32_output = request.output_dtypes[0] == DType::kF32;
  FF_ASSIGN_OR_RETURN(const std::string norm_name, GetAttr<std::string>(request.attrs, "norm"));
  std::optional<NormKind> norm;
  if (norm_name != "none") {
    FF_ASSIGN_OR_RETURN(norm, NormOf(norm_name, request.attrs));
    if (request.input_dtypes.size() < 5 || !request.input_dtypes[4].has_value()) {
      return absl::UnimplementedError("no CUDA kernel makes codes of a norm without weights");
    }
  }
  FF_ASSIGN_OR_RETURN(const std::string activation, GetAttr<std::string>(request.attrs, "activation"));
  FF_ASSIGN_OR_RETURN(types.activation, ActivationOf(activation));
  FF_ASSIGN_OR_RETURN(types.gated, GetAttr<bool>(request.attrs, "gated"));
  FF_ASSIGN_OR_RETURN(const double clip, GetAttr<double>(request.attrs, "clip"));
  if (!(static_cast<float>(clip) > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("clip is ", clip, ", expected a float above 0"));
  }
  if (types.f32_output && request.input_dtypes[3].has_value()) {
    return absl::UnimplementedError("no CUDA kernel adds a residual to products of codes in f32");
  }
  if (IsComputed(request, 1)) return absl::UnimplementedError("no CUDA kernel takes codes that are computed");
  FF_RETURN_IF_ERROR(RefuseComputed(request, {4, 5}));
  return [&api, types, norm, clip = static_cast<float>(clip)](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& weight_scale = context.inputs[6];
    const TensorView* residual = Optional(context, 3);
    FF_ASSIGN_OR_RETURN(cuda::GemmArgs args, GemmArgsOf(types, context));
    FF_RETURN_IF_ERROR(CheckDims("weight_scale", weight_scale, {context.inputs[1].dims[0]}));
    if (residual != nullptr) {
      FF_RETURN_IF_ERROR(CheckDims("residual", *residual, DimsOf(context.outputs[0])));
      args.residual = residual->data;
    }
    args.w_scale = static_cast<const float*>(weight_scale.data);
    const auto run = [&] { return RunGemm<invariant>(api, args, /*computed_weight=*/false, StreamOf(context)); };
    constexpr int kDepthMultiple = 16, kMostDepth = 32768;
    if (args.k % kDepthMultiple != 0 || args.k > kMostDepth) {
      return absl::UnimplementedError(absl::StrCat("codes are multiplied on a GPU in rows of a multiple of ",
                                                   kDepthMultiple, ", at most ", kMostDepth, ", not of ", args.k));
    }
    if (context.outputs[0].NumElements() == 0) return absl::OkStatus();
    const int64_t code_bytes = int64_t{args.m} * args.k;
    FF_RETURN_IF_ERROR(CheckWorkspace(context, code_bytes + int64_t{args.m} * DTypeBytes(DType::kF32)));
    auto* codes = static_cast<int8_t*>(context.workspace);
    auto* scale = reinterpret_cast<float*>(codes + code_bytes);
    cuda::NormArgs norm_args;
    if (norm.has_value()) {
      FF_ASSIGN_OR_RETURN(norm_args, NormArgsOf(*norm, x, Optional(context, 4), Optional(context, 5)));
    }
    if (x.dtype == DType::kBF16 && args.m <= cuda::kMostNormedRows) {
      args.quantize = true;
      args.clip = clip;
      if (norm.has_value()) args.norm = {norm_args.gamma, norm_args.beta, norm_args.epsilon, norm_args.rms};
      const cudaError_t error = run();
      if (error != cudaErrorNotSupported) return ToStatus(api, context, error);
      args.quantize = false;
      args.norm = {};
    }
    if (norm.has_value()) {
      norm_args.codes = codes;
      norm_args.scale = scale;
      norm_args.ld_codes = args.k;
      norm_args.clip = clip;
      FF_RETURN_IF_ERROR(ToStatus(api, context, api.norm(norm_args, StreamOf(context))));
    } else {
      cuda::QuantizeArgs quantize;
      quantize.x = x.data;
      quantize.codes = codes;
      quantize.scale = scale;
      quantize.rows = args.m;
      quantize.columns = args.k;
      quantize.ldx = quantize.ld_codes = args.k;
      quantize.clip = clip;
      FF_ASSIGN_OR_RETURN(quantize.dtype, DtypeOf(x.dtype));
      FF_RETURN_IF_ERROR(ToStatus(api, context, api.quantize(quantize, StreamOf(context))));
    }
    args.a = codes;
    args.a_scale = scale;
    return ToStatus(api, context, run());
  };
}

// --- the paged KV cache -------------------------------------------------------

// Operands row_start, kv_len, block_table from `first` on; what they hold is for whoever filled them to check.
absl::StatusOr<cuda::PagedRows> PagedRowsOf(const LaunchContext& context, size_t first) {
  const TensorView& row_start = context.inputs[first];
  const TensorView& kv_len = context.inputs[first + 1];
  const TensorView& block_table = context.inputs[first + 2];
  if (kv_len.rank != 1) return Mismatch("kv_len", kv_len, "rank 1");
  const int64_t rows = kv_len.dims[0];
  FF_RETURN_IF_ERROR(CheckDims("row_start", row_start, {rows + 1}));
  if (block_table.rank != 2 || block_table.dims[0] != rows) {
    return Mismatch("block_table", block_table, absl::StrCat("[", rows, ", pages]"));
  }
  cuda::PagedRows paged;
  paged.row_start = static_cast<const int32_t*>(row_start.data);
  paged.kv_len = static_cast<const int32_t*>(kv_len.data);
  paged.block_table = static_cast<const int32_t*>(block_table.data);
  FF_ASSIGN_OR_RETURN(paged.rows, Int(rows));
  FF_ASSIGN_OR_RETURN(paged.pages_per_row, Int(block_table.dims[1]));
  return paged;
}

absl::StatusOr<void*> LayerOf(const CacheView& cache, int64_t layer) {
  if (layer < 0 || layer >= cache.layers) {
    return absl::OutOfRangeError(absl::StrCat("layer ", layer, " of a KV cache of ", cache.layers));
  }
  constexpr int64_t kMostCodedBytes = int64_t{1} << 34;
  if (cache.dtype == DType::kI8 && cache.LayerBytes() >= kMostCodedBytes) {
    return absl::UnimplementedError(
        absl::StrCat("a KV cache of int8 with ", cache.LayerBytes(), " bytes a layer: lower kv_cache_bytes"));
  }
  return static_cast<char*>(cache.data) + layer * cache.LayerBytes();
}

absl::Status CheckCacheDtype(const LaunchContext& context, DType dtype) {
  if (context.cache->dtype == dtype || context.cache->dtype == DType::kI8) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a KV cache of ", DTypeName(context.cache->dtype), " for values of ", DTypeName(dtype)));
}

// A cache of codes has kernels of its own.
cudaError_t Append(const cuda::Api& api, const LaunchContext& context, const cuda::RopeAppendArgs& args) {
  return context.cache->dtype == DType::kI8 ? api.int8_append({args}, StreamOf(context))
                                            : api.rope_append(args, StreamOf(context));
}

// Appends without turning anything; the caller adds queries and angles.
absl::StatusOr<cuda::RopeAppendArgs> AppendArgsOf(const LaunchContext& context, DType dtype, int64_t layer,
                                                  const cuda::PagedRows& rows, int64_t tokens) {
  FF_RETURN_IF_ERROR(CheckCacheDtype(context, dtype));
  const CacheView& cache = *context.cache;
  cuda::RopeAppendArgs args;
  FF_ASSIGN_OR_RETURN(args.dtype, DtypeOf(dtype));
  FF_ASSIGN_OR_RETURN(args.cache, LayerOf(cache, layer));
  args.rows = rows;
  FF_ASSIGN_OR_RETURN(args.tokens, Int(tokens));
  FF_ASSIGN_OR_RETURN(args.kv_heads, Int(cache.kv_heads));
  FF_ASSIGN_OR_RETURN(args.head_dim, Int(cache.head_dim));
  FF_ASSIGN_OR_RETURN(args.page_size, Int(cache.page_size));
  return args;
}

absl::StatusOr<CheckedLaunchFn> BindKvAppend(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  if (request.input_dtypes[0] != request.input_dtypes[1]) return absl::InvalidArgumentError("k and v differ in dtype");
  return [&api, layer](const LaunchContext& context) -> absl::Status {
    const TensorView& k = context.inputs[0];
    const TensorView& v = context.inputs[1];
    const CacheView& cache = *context.cache;
    if (k.rank != 3) return Mismatch("k", k, "rank 3");
    FF_RETURN_IF_ERROR(CheckDims("k", k, {k.dims[0], cache.kv_heads, cache.head_dim}));
    FF_RETURN_IF_ERROR(CheckDims("v", v, DimsOf(k)));
    FF_ASSIGN_OR_RETURN(const cuda::PagedRows rows, PagedRowsOf(context, 2));
    FF_ASSIGN_OR_RETURN(cuda::RopeAppendArgs args, AppendArgsOf(context, k.dtype, layer, rows, k.dims[0]));
    if (k.NumElements() == 0) return absl::OkStatus();
    const int64_t stride = cache.kv_heads * cache.head_dim;
    args.k = {k.data, stride};
    args.v = {v.data, stride};
    return ToStatus(api, context, Append(api, context, args));
  };
}

struct AttentionAttrs {
  int64_t layer = 0, window = 0;
  float scale = 0;
};

absl::StatusOr<AttentionAttrs> AttentionAttrsOf(const AttrMap& attrs) {
  AttentionAttrs decoded;
  FF_ASSIGN_OR_RETURN(decoded.layer, GetAttr<int64_t>(attrs, "layer"));
  FF_ASSIGN_OR_RETURN(decoded.window, GetAttr<int64_t>(attrs, "window"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(attrs, "scale"));
  if (decoded.window < 0) {
    return absl::InvalidArgumentError(absl::StrCat("window is ", decoded.window, ", expected 0 or more"));
  }
  decoded.scale = static_cast<float>(scale);
  return decoded;
}

// Queries of `tokens` and `heads`, tokens `stride` elements apart, over the cache that holds their keys and values
// already.
template <bool invariant>
absl::Status Attend(const cuda::Api& api, const LaunchContext& context, const AttentionAttrs& attrs, DType dtype,
                    const void* q, int64_t stride, int64_t tokens, int64_t heads, const cuda::PagedRows& rows) {
  FF_RETURN_IF_ERROR(CheckCacheDtype(context, dtype));
  const CacheView& cache = *context.cache;
  cuda::PagedAttentionArgs args;
  FF_ASSIGN_OR_RETURN(args.dtype, DtypeOf(dtype));
  args.q = q;
  args.q_stride = stride;
  args.o = context.outputs[0].data;
  FF_ASSIGN_OR_RETURN(args.cache, LayerOf(cache, attrs.layer));
  args.rows = rows;
  FF_ASSIGN_OR_RETURN(args.max_row_tokens, Int(std::max<int64_t>(context.rows.max_row_tokens, 1)));
  FF_ASSIGN_OR_RETURN(args.tokens, Int(tokens));
  FF_ASSIGN_OR_RETURN(args.heads, Int(heads));
  FF_ASSIGN_OR_RETURN(args.kv_heads, Int(cache.kv_heads));
  FF_ASSIGN_OR_RETURN(args.head_dim, Int(cache.head_dim));
  FF_ASSIGN_OR_RETURN(args.page_size, Int(cache.page_size));
  FF_ASSIGN_OR_RETURN(args.window, Int(attrs.window));
  args.scale = attrs.scale;
  if (cache.dtype == DType::kI8) return ToStatus(api, context, api.int8_attention({args}, StreamOf(context)));
  if (!invariant && args.max_row_tokens > 1) {
    const cudaError_t error = api.paged_prefill(args, StreamOf(context));
    if (error != cudaErrorNotSupported) return ToStatus(api, context, error);
  }
  return ToStatus(api, context, api.paged_attention(args, StreamOf(context)));
}

template <bool invariant>
absl::StatusOr<CheckedLaunchFn> BindPagedAttention(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const AttentionAttrs attrs, AttentionAttrsOf(request.attrs));
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("q and the result differ in dtype");
  }
  return [&api, attrs](const LaunchContext& context) -> absl::Status {
    const TensorView& q = context.inputs[0];
    const CacheView& cache = *context.cache;
    if (q.rank != 3 || q.dims[1] % cache.kv_heads != 0 || q.dims[2] != cache.head_dim) {
      return Mismatch("q", q, absl::StrCat("[tokens, a multiple of ", cache.kv_heads, ", ", cache.head_dim, "]"));
    }
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(q)));
    FF_ASSIGN_OR_RETURN(const cuda::PagedRows rows, PagedRowsOf(context, 1));
    if (q.NumElements() == 0) return absl::OkStatus();
    return Attend<invariant>(api, context, attrs, q.dtype, q.data, q.dims[1] * q.dims[2], q.dims[0], q.dims[1], rows);
  };
}

template <bool invariant>
absl::StatusOr<CheckedLaunchFn> BindCachedAttention(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const AttentionAttrs attrs, AttentionAttrsOf(request.attrs));
  FF_ASSIGN_OR_RETURN(const int64_t heads, GetAttr<int64_t>(request.attrs, "heads"));
  constexpr int64_t kMostHeads = int64_t{1} << 20;
  if (heads < 1 || heads > kMostHeads) return absl::InvalidArgumentError(absl::StrCat("heads is ", heads));
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("qkv and the result differ in dtype");
  }
  const auto angle = [&](size_t i) { return i < request.input_dtypes.size() ? request.input_dtypes[i] : std::nullopt; };
  if (angle(4) != angle(5)) return absl::InvalidArgumentError("cos and sin differ in dtype, or one is missing");
  return [&api, attrs, heads](const LaunchContext& context) -> absl::Status {
    const TensorView& qkv = context.inputs[0];
    const TensorView* cos = Optional(context, 4);
    const TensorView* sin = Optional(context, 5);
    const CacheView& cache = *context.cache;
    const int64_t dim = cache.head_dim;
    if (heads % cache.kv_heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(heads, " heads over ", cache.kv_heads, " in the cache"));
    }
    const int64_t width = (heads + 2 * cache.kv_heads) * dim;
    if (qkv.rank != 2 || qkv.dims[1] != width) return Mismatch("qkv", qkv, absl::StrCat("[tokens, ", width, "]"));
    const int64_t tokens = qkv.dims[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], {tokens, heads * dim}));
    FF_ASSIGN_OR_RETURN(const cuda::PagedRows rows, PagedRowsOf(context, 1));
    FF_ASSIGN_OR_RETURN(cuda::RopeAppendArgs append, AppendArgsOf(context, qkv.dtype, attrs.layer, rows, tokens));
    if ((cos == nullptr) != (sin == nullptr)) return absl::InvalidArgumentError("cos without sin, or sin without cos");
    if (tokens == 0) return absl::OkStatus();
    char* q = static_cast<char*>(qkv.data);
    char* k = q + heads * dim * DTypeBytes(qkv.dtype);
    char* v = k + cache.kv_heads * dim * DTypeBytes(qkv.dtype);
    append.k = {k, width};
    append.v = {v, width};
    append.q = {q, width};
    const void* queries = q;
    int64_t stride = width;
    if (cos != nullptr) {
      if (dim % 2 != 0) return absl::InvalidArgumentError(absl::StrCat("head_dim ", dim, " is odd, and heads turn"));
      FF_RETURN_IF_ERROR(CheckDims("cos", *cos, {tokens, dim}));
      FF_RETURN_IF_ERROR(CheckDims("sin", *sin, {tokens, dim}));
      stride = heads * dim;
      FF_RETURN_IF_ERROR(CheckWorkspace(context, tokens * stride * DTypeBytes(qkv.dtype)));
      FF_ASSIGN_OR_RETURN(append.heads, Int(heads));
      append.q_out = {context.workspace, stride};
      append.cos = cos->data;
      append.sin = sin->data;
      FF_ASSIGN_OR_RETURN(append.angle_dtype, DtypeOf(cos->dtype));
      queries = context.workspace;
    }
    if (context.rows.max_row_tokens <= 1 && cache.dtype != DType::kI8) {
      cuda::PagedDecodeArgs decode;
      decode.append = append;
      FF_ASSIGN_OR_RETURN(decode.append.heads, Int(heads));
      decode.o = context.outputs[0].data;
      decode.scale = attrs.scale;
      FF_ASSIGN_OR_RETURN(decode.window, Int(attrs.window));
      const cudaError_t error = api.paged_decode(decode, StreamOf(context));
      if (error != cudaErrorNotSupported) return ToStatus(api, context, error);
    }
    FF_RETURN_IF_ERROR(ToStatus(api, context, Append(api, context, append)));
    return Attend<invariant>(api, context, attrs, qkv.dtype, queries, stride, tokens, heads, rows);
  };
}

// --- the table ----------------------------------------------------------------

struct Binding {
  std::string_view id;
  absl::StatusOr<CheckedLaunchFn> (*bind)(const cuda::Api&, const BindRequest&);
};

constexpr Binding kBindings[] = {
    {"cuda.embedding", BindEmbedding},
    {"cuda.gather_rows", BindGatherRows},
    {"cuda.layer_norm", BindNorm},
    {"cuda.rms_norm", BindNorm},
    {"cuda.add_norm", BindAddNorm},
    {"cuda.linear", BindLinear<false>},
    {"cuda.linear.invariant", BindLinear<true>},
    {"cuda.fused_linear", BindFusedLinear<false>},
    {"cuda.fused_linear.invariant", BindFusedLinear<true>},
    {"cuda.fused_linear.int8", BindFusedLinearInt8<false>},
    {"cuda.fused_linear.int8.invariant", BindFusedLinearInt8<true>},
    {"cuda.kv_append", BindKvAppend},
    {"cuda.paged_attention", BindPagedAttention<false>},
    {"cuda.paged_attention.invariant", BindPagedAttention<true>},
    {"cuda.cached_attention", BindCachedAttention<false>},
    {"cuda.cached_attention.invariant", BindCachedAttention<true>},
};

}  // namespace

absl::Status RegisterCudaKernels(const cuda::Api& api, Launchers* launchers) {
  for (const Binding& binding : kBindings) {
    const auto bind = [&api, bind = binding.bind](const BindRequest& request) { return bind(api, request); };
    FF_RETURN_IF_ERROR(RegisterChecked(binding.id, /*version=*/1, bind, launchers));
  }
  return absl::OkStatus();
}

}  // namespace flashflow::kernels
