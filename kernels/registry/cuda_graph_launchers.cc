#include "kernels/registry/cuda_graph_launchers.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/cuda_launch_values.h"
#include "kernels/registry/graph_op_checks.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels {
namespace {

static_assert(cuda::kMaxDims == kMaxRank);

cuda::Shape ShapeOf(absl::Span<const int64_t> dims) {
  cuda::Shape shape;
  shape.rank = static_cast<int>(dims.size());
  std::ranges::copy(dims, shape.dims);
  return shape;
}
cuda::Shape ShapeOf(const TensorView& view) { return ShapeOf(DimsOf(view)); }
cuda::Shape ShapeOf(const Strides& dims, int rank) { return ShapeOf(absl::MakeConstSpan(dims.data(), rank)); }

cuda::Strides StridesOf(const Strides& strides) {
  cuda::Strides steps;
  std::ranges::copy(strides, steps.steps);
  return steps;
}

int ElementBytes(const TensorView& view) { return static_cast<int>(DTypeBytes(view.dtype)); }

// --- elementwise --------------------------------------------------------------

absl::StatusOr<cuda::UnaryOp> UnaryOpOf(const BindRequest& request) {
  using Op = cuda::UnaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"neg", Op::kNeg},         {"abs", Op::kAbs},
      {"exp", Op::kExp},         {"sqrt", Op::kSqrt},
      {"rsqrt", Op::kRsqrt},     {"tanh", Op::kTanh},
      {"erf", Op::kErf},         {"sin", Op::kSin},
      {"cos", Op::kCos},         {"relu", Op::kRelu},
      {"sigmoid", Op::kSigmoid}, {"gelu", Op::kGelu},
      {"silu", Op::kSilu},       {"reciprocal", Op::kReciprocal},
      {"logical_not", Op::kNot},
  };
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  if (op != Op::kGelu) return op;
  FF_ASSIGN_OR_RETURN(const bool tanh, GeluIsTanh(request));
  return tanh ? Op::kGeluTanh : Op::kGelu;
}

absl::StatusOr<CheckedLaunchFn> BindUnary(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const cuda::UnaryOp op, UnaryOpOf(request));
  return [&api, op](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    const cuda::UnaryArgs args = {
        .op = op, .dtype = CudaDtype(x.dtype), .x = x.data, .y = y.data, .count = x.NumElements()};
    return ToStatus(api, context, api.unary(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindBinary(const cuda::Api& api, const BindRequest& request) {
  using Op = cuda::BinaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAdd},         {"sub", Op::kSub},         {"mul", Op::kMul},       {"div", Op::kDiv},
      {"maximum", Op::kMaximum}, {"minimum", Op::kMinimum}, {"pow", Op::kPow},       {"eq", Op::kEq},
      {"ne", Op::kNe},           {"lt", Op::kLt},           {"le", Op::kLe},         {"gt", Op::kGt},
      {"ge", Op::kGe},           {"logical_and", Op::kAnd}, {"logical_or", Op::kOr},
  };
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  if (request.input_dtypes[0] != request.input_dtypes[1]) return absl::InvalidArgumentError("a and b differ in dtype");
  return [&api, op](const LaunchContext& context) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    const cuda::BinaryArgs args = {.op = op,
                                   .dtype = CudaDtype(a.dtype),
                                   .a = a.data,
                                   .b = b.data,
                                   .y = y.data,
                                   .shape = ShapeOf(y),
                                   .a_strides = StridesOf(a_strides),
                                   .b_strides = StridesOf(b_strides)};
    return ToStatus(api, context, api.binary(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindSelect(const cuda::Api& api, const BindRequest& request) {
  if (request.input_dtypes[1] != request.output_dtypes[0] || request.input_dtypes[2] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("a, b and the result differ in dtype");
  }
  return [&api](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides condition, BroadcastStrides("condition", context.inputs[0], y));
    FF_ASSIGN_OR_RETURN(const Strides a, BroadcastStrides("a", context.inputs[1], y));
    FF_ASSIGN_OR_RETURN(const Strides b, BroadcastStrides("b", context.inputs[2], y));
    const cuda::SelectArgs args = {.condition = context.inputs[0].data,
                                   .a = context.inputs[1].data,
                                   .b = context.inputs[2].data,
                                   .y = y.data,
                                   .element_bytes = ElementBytes(y),
                                   .shape = ShapeOf(y),
                                   .condition_strides = StridesOf(condition),
                                   .a_strides = StridesOf(a),
                                   .b_strides = StridesOf(b)};
    return ToStatus(api, context, api.select(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindCast(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const DType dtype, GetAttr<DType>(request.attrs, "dtype"));
  if (dtype != request.output_dtypes[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype is ", DTypeName(dtype), ", but the result is ", DTypeName(request.output_dtypes[0])));
  }
  return [&api](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    const cuda::CastArgs args = {
        .from = CudaDtype(x.dtype), .to = CudaDtype(y.dtype), .x = x.data, .y = y.data, .count = x.NumElements()};
    return ToStatus(api, context, api.cast(args, StreamOf(context)));
  };
}

// --- creation -----------------------------------------------------------------

absl::StatusOr<CheckedLaunchFn> BindConstant(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const auto element, ConstantElement(request));
  uint64_t value;
  static_assert(sizeof(value) == sizeof(element));
  std::memcpy(&value, element.data(), sizeof(value));
  return [&api, value](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    const cuda::FillArgs args = {
        .value = value, .element_bytes = ElementBytes(y), .y = y.data, .count = y.NumElements()};
    return ToStatus(api, context, api.fill(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindIota(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [&api, axis](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(y, axis));
    const cuda::IotaArgs args = {
        .dtype = CudaDtype(y.dtype), .y = y.data, .outer = split.outer, .axis = split.axis, .inner = split.inner};
    return ToStatus(api, context, api.iota(args, StreamOf(context)));
  };
}

// --- moving elements ----------------------------------------------------------

absl::StatusOr<CheckedLaunchFn> BindCopy(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const StridedSourceFn source_of, StridedSourceOf(request));
  return [&api, source_of](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const StridedSource source, source_of(context));
    const cuda::CopyArgs args = {.from = source.data,
                                 .to = y.data,
                                 .element_bytes = ElementBytes(y),
                                 .shape = ShapeOf(y),
                                 .from_strides = StridesOf(source.strides),
                                 .to_strides = StridesOf(DenseStrides(y))};
    return ToStatus(api, context, api.strided_copy(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindConcat(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [&api, axis](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit whole, ConcatSplit(context, axis));
    char* to = static_cast<char*>(y.data);
    for (const TensorView& x : context.inputs) {
      const int64_t run = x.dims[axis] * whole.inner;
      const cuda::CopyArgs args = {.from = x.data,
                                   .to = to,
                                   .element_bytes = ElementBytes(y),
                                   .shape = {2, {whole.outer, run}},
                                   .from_strides = {{run, 1}},
                                   .to_strides = {{whole.axis * whole.inner, 1}}};
      FF_RETURN_IF_ERROR(ToStatus(api, context, api.strided_copy(args, StreamOf(context))));
      to += run * ElementBytes(y);
    }
    return absl::OkStatus();
  };
}

absl::StatusOr<CheckedLaunchFn> BindIndex(const cuda::Api& api, const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  return [&api](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const IndexForm form, IndexFormOf(context));
    if (y.NumElements() == 0) return absl::OkStatus();
    cuda::IndexArgs args = {.x = x.data,
                            .axes = form.axes,
                            .shape = ShapeOf(DimsOf(y).first(form.lookup_rank)),
                            .run_bytes = form.run_bytes,
                            .missing = static_cast<uint8_t>(IsFloat(x.dtype) ? 0xff : 0),
                            .y = y.data};
    for (int i = 0; i < form.axes; ++i) {
      const TensorView& index = context.inputs[i + 1];
      args.indices[i] = {.data = index.data,
                         .wide = index.dtype == DType::kI64,
                         .strides = StridesOf(form.strides[i]),
                         .size = x.dims[i]};
    }
    // Of an axis of no elements every index is out of range, and x has no memory to give.
    if (args.x == nullptr) args.x = y.data;
    return ToStatus(api, context, api.index(args, StreamOf(context)));
  };
}

// --- along axes ---------------------------------------------------------------

absl::StatusOr<CheckedLaunchFn> BindCumsum(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [&api, axis](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(x, axis));
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    const cuda::CumsumArgs args = {.dtype = CudaDtype(x.dtype),
                                   .x = x.data,
                                   .y = y.data,
                                   .outer = split.outer,
                                   .axis = split.axis,
                                   .inner = split.inner};
    return ToStatus(api, context, api.cumsum(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindSoftmax(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [&api, axis](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(x, axis));
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    if (x.NumElements() == 0) return absl::OkStatus();
    if (split.inner == 1) {
      cuda::SoftmaxArgs args;
      args.x = x.data;
      args.y = y.data;
      FF_ASSIGN_OR_RETURN(args.rows, Int(split.outer));
      FF_ASSIGN_OR_RETURN(args.columns, Int(split.axis));
      args.ldx = args.ldy = split.axis;
      args.dtype = CudaDtype(x.dtype);
      return ToStatus(api, context, api.softmax(args, StreamOf(context)));
    }
    const cuda::SoftmaxColumnsArgs args = {.dtype = CudaDtype(x.dtype),
                                           .x = x.data,
                                           .y = y.data,
                                           .outer = split.outer,
                                           .axis = split.axis,
                                           .inner = split.inner};
    return ToStatus(api, context, api.softmax_columns(args, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindReduce(const cuda::Api& api, const BindRequest& request) {
  using Op = cuda::ReduceOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"reduce_sum", Op::kSum}, {"reduce_mean", Op::kMean}, {"reduce_max", Op::kMax}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  FF_ASSIGN_OR_RETURN(const std::vector<int64_t> axes, GetAttr<std::vector<int64_t>>(request.attrs, "axes"));
  return [&api, op, axes](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const ReduceForm form, ReduceFormOf(context, axes, /*wants_elements=*/op == Op::kMax));
    const cuda::ReduceArgs args = {.op = op,
                                   .dtype = CudaDtype(x.dtype),
                                   .x = x.data,
                                   .y = context.outputs[0].data,
                                   .kept = ShapeOf(form.kept, form.kept_rank),
                                   .reduced = ShapeOf(form.reduced, form.reduced_rank),
                                   .kept_strides = StridesOf(form.kept_strides),
                                   .reduced_strides = StridesOf(form.reduced_strides)};
    return ToStatus(api, context, api.reduce(args, StreamOf(context)));
  };
}

// --- contractions -------------------------------------------------------------

absl::StatusOr<CheckedLaunchFn> BindMatMul(const cuda::Api& api, const BindRequest&) {
  return [&api](const LaunchContext& context) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const MatMulForm form, MatMulFormOf(context));
    cuda::MatMulArgs args = {.dtype = CudaDtype(y.dtype),
                             .a = context.inputs[0].data,
                             .b = context.inputs[1].data,
                             .y = y.data,
                             .batch = ShapeOf(DimsOf(y).first(form.batch_rank)),
                             .a_strides = StridesOf(form.a_strides),
                             .b_strides = StridesOf(form.b_strides),
                             .b_k_stride = form.n,
                             .b_n_stride = 1};
    FF_ASSIGN_OR_RETURN(args.m, Int(form.m));
    FF_ASSIGN_OR_RETURN(args.n, Int(form.n));
    FF_ASSIGN_OR_RETURN(args.k, Int(form.k));
    return ToStatus(api, context, api.matmul(args, StreamOf(context)));
  };
}

// [batch, heads, tokens, channels], dense.
cuda::AttentionTensor Heads(const TensorView& view) {
  const int64_t head = view.dims[2] * view.dims[3];
  return {.data = view.data, .batch_stride = view.dims[1] * head, .token_stride = view.dims[3], .head_stride = head};
}

absl::StatusOr<CheckedLaunchFn> BindAttention(const cuda::Api& api, const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const AttentionAttrs attrs, AttentionAttrsOf(request.attrs));
  for (const DType dtype : {*request.input_dtypes[1], *request.input_dtypes[2], request.output_dtypes[0]}) {
    if (dtype != request.input_dtypes[0]) return absl::InvalidArgumentError("q, k, v and the result differ in dtype");
  }
  return [&api, attrs](const LaunchContext& context) -> absl::Status {
    const TensorView& q = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AttentionForm form, AttentionFormOf(context));
    if (y.NumElements() == 0) return absl::OkStatus();
    cuda::MaskedAttentionArgs masked = {.dtype = CudaDtype(q.dtype),
                                        .q = q.data,
                                        .k = context.inputs[1].data,
                                        .v = context.inputs[2].data,
                                        .y = y.data,
                                        .causal = attrs.causal,
                                        .scale = attrs.scale};
    FF_ASSIGN_OR_RETURN(masked.batch, Int(form.batch));
    FF_ASSIGN_OR_RETURN(masked.heads, Int(form.heads));
    FF_ASSIGN_OR_RETURN(masked.kv_heads, Int(form.kv_heads));
    FF_ASSIGN_OR_RETURN(masked.queries, Int(form.queries));
    FF_ASSIGN_OR_RETURN(masked.keys, Int(form.keys));
    FF_ASSIGN_OR_RETURN(masked.head_dim, Int(form.head_dim));
    FF_ASSIGN_OR_RETURN(masked.value_dim, Int(form.value_dim));
    FF_ASSIGN_OR_RETURN(masked.window, Int(attrs.window));
    const bool plain = form.mask == nullptr && form.head_dim == form.value_dim && form.keys > 0 && attrs.scale > 0 &&
                       (attrs.causal ? form.keys >= form.queries : attrs.window == 0);
    if (plain) {
      cuda::AttentionArgs args;
      args.dtype = masked.dtype;
      args.q = Heads(q);
      args.k = Heads(context.inputs[1]);
      args.v = Heads(context.inputs[2]);
      args.o = Heads(y);
      args.batch = masked.batch;
      args.heads = masked.heads;
      args.kv_heads = masked.kv_heads;
      args.q_tokens = masked.queries;
      args.kv_tokens = masked.keys;
      args.head_dim = masked.head_dim;
      args.scale = attrs.scale;
      args.causal = attrs.causal;
      args.window = masked.window;
      const cudaError_t error = api.fused_attention(args, StreamOf(context));
      if (error != cudaErrorNotSupported) return ToStatus(api, context, error);
    }
    if (form.mask != nullptr) {
      masked.mask = form.mask->data;
      masked.mask_dtype = CudaDtype(form.mask->dtype);
      std::copy_n(form.mask_strides.begin(), 4, masked.mask_strides);
    }
    return ToStatus(api, context, api.masked_attention(masked, StreamOf(context)));
  };
}

absl::StatusOr<CheckedLaunchFn> BindRope(const cuda::Api& api, const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0] || request.input_dtypes[1] != request.input_dtypes[2]) {
    return absl::InvalidArgumentError("x and the result, or cos and sin, differ in dtype");
  }
  return [&api](const LaunchContext& context) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const RopeForm form, RopeFormOf(context));
    cuda::RopeArgs args = {.dtype = CudaDtype(x.dtype),
                           .angle_dtype = CudaDtype(context.inputs[1].dtype),
                           .x = x.data,
                           .cos = context.inputs[1].data,
                           .sin = context.inputs[2].data,
                           .y = context.outputs[0].data,
                           .rows = ShapeOf(DimsOf(x).first(x.rank - 1)),
                           .cos_strides = StridesOf(form.cos_strides),
                           .sin_strides = StridesOf(form.sin_strides)};
    FF_ASSIGN_OR_RETURN(args.channels, Int(x.dims[x.rank - 1]));
    return ToStatus(api, context, api.rope(args, StreamOf(context)));
  };
}

// --- the table ----------------------------------------------------------------

struct Binding {
  std::string_view id;
  absl::StatusOr<CheckedLaunchFn> (*bind)(const cuda::Api&, const BindRequest&);
};

constexpr Binding kBindings[] = {
    {"cuda.unary", BindUnary},     {"cuda.binary", BindBinary},  {"cuda.integer_binary", BindBinary},
    {"cuda.compare", BindBinary},  {"cuda.logical", BindBinary}, {"cuda.logical_not", BindUnary},
    {"cuda.select", BindSelect},   {"cuda.cast", BindCast},      {"cuda.constant", BindConstant},
    {"cuda.iota", BindIota},       {"cuda.copy", BindCopy},      {"cuda.concat", BindConcat},
    {"cuda.index", BindIndex},     {"cuda.cumsum", BindCumsum},  {"cuda.reduce", BindReduce},
    {"cuda.softmax", BindSoftmax}, {"cuda.matmul", BindMatMul},  {"cuda.attention", BindAttention},
    {"cuda.rope", BindRope},
};

}  // namespace

absl::Status RegisterCudaGraphKernels(const cuda::Api& api, Launchers* launchers) {
  for (const Binding& binding : kBindings) {
    const auto bind = [&api, bind = binding.bind](const BindRequest& request) { return bind(api, request); };
    FF_RETURN_IF_ERROR(RegisterChecked(binding.id, /*version=*/1, bind, launchers));
  }
  return absl::OkStatus();
}

}  // namespace flashflow::kernels
