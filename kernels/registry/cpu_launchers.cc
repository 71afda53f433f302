#include "kernels/registry/cpu_launchers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/binary.h"
#include "kernels/cpu/cast.h"
#include "kernels/cpu/copy.h"
#include "kernels/cpu/cumsum.h"
#include "kernels/cpu/fill.h"
#include "kernels/cpu/gather.h"
#include "kernels/cpu/index.h"
#include "kernels/cpu/integer_binary.h"
#include "kernels/cpu/kv_append.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/paged_rows.h"
#include "kernels/cpu/predicate.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/select.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/unary.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_tactics.h"
#include "kernels/registry/graph_op_checks.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels {
namespace {

// As CheckedLaunchFn, on these threads.
using LaunchFn = std::function<absl::Status(const LaunchContext&, cpu::ThreadPool*)>;

constexpr int64_t kF32Bytes = sizeof(float);

std::span<const int64_t> First(const Strides& strides, int rank) { return std::span(strides).first(rank); }

const float* F32(const TensorView& view) { return static_cast<const float*>(view.data); }
const float* F32OrNull(const TensorView* view) { return view != nullptr ? F32(*view) : nullptr; }
float* MutableF32(const TensorView& view) { return static_cast<float*>(view.data); }

// --- elementwise --------------------------------------------------------------

absl::StatusOr<cpu::UnaryOp> UnaryOpOf(const BindRequest& request) {
  using Op = cpu::UnaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"neg", Op::kNeg},         {"abs", Op::kAbs},
      {"exp", Op::kExp},         {"sqrt", Op::kSqrt},
      {"rsqrt", Op::kRsqrt},     {"tanh", Op::kTanh},
      {"erf", Op::kErf},         {"sin", Op::kSin},
      {"cos", Op::kCos},         {"relu", Op::kRelu},
      {"sigmoid", Op::kSigmoid}, {"gelu", Op::kGelu},
      {"silu", Op::kSilu},       {"reciprocal", Op::kReciprocal},
  };
  const auto* found = std::ranges::find(kOps, request.op, &std::pair<std::string_view, Op>::first);
  if (found == std::end(kOps)) return absl::InternalError(absl::StrCat("no unary \"", request.op, "\""));
  if (found->second != Op::kGelu) return found->second;
  FF_ASSIGN_OR_RETURN(const bool tanh, GeluIsTanh(request));
  return tanh ? Op::kGeluTanh : Op::kGelu;
}

absl::StatusOr<LaunchFn> BindUnary(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const cpu::UnaryOp op, UnaryOpOf(request));
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::Unary(op, F32(x), MutableF32(context.outputs[0]), x.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindBinary(const BindRequest& request) {
  using Op = cpu::BinaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAdd},         {"sub", Op::kSub},         {"mul", Op::kMul}, {"div", Op::kDiv},
      {"maximum", Op::kMaximum}, {"minimum", Op::kMinimum}, {"pow", Op::kPow},
  };
  const auto* found = std::ranges::find(kOps, request.op, &std::pair<std::string_view, Op>::first);
  if (found == std::end(kOps)) return absl::InternalError(absl::StrCat("no binary \"", request.op, "\""));
  return [op = found->second](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Binary(op, F32(a), First(a_strides, y.rank), F32(b), First(b_strides, y.rank), MutableF32(y),
                First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIntegerBinary(const BindRequest& request) {
  using Op = cpu::IntegerOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAdd}, {"sub", Op::kSub}, {"mul", Op::kMul}, {"maximum", Op::kMaximum}, {"minimum", Op::kMinimum}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::IntegerBinary(op, y.dtype, a.data, First(a_strides, y.rank), b.data, First(b_strides, y.rank), y.data,
                       First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCompare(const BindRequest& request) {
  using Op = cpu::CompareOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"eq", Op::kEq}, {"ne", Op::kNe}, {"lt", Op::kLt},
                                                             {"le", Op::kLe}, {"gt", Op::kGt}, {"ge", Op::kGe}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  if (request.input_dtypes[0] != request.input_dtypes[1]) return absl::InvalidArgumentError("a and b differ in dtype");
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Compare(op, a.dtype, a.data, First(a_strides, y.rank), b.data, First(b_strides, y.rank),
                 static_cast<bool*>(y.data), First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

const bool* Bools(const TensorView& view) { return static_cast<const bool*>(view.data); }

absl::StatusOr<LaunchFn> BindLogical(const BindRequest& request) {
  const auto op = request.op == "logical_and" ? cpu::LogicalOp::kAnd : cpu::LogicalOp::kOr;
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Logical(op, Bools(a), First(a_strides, y.rank), Bools(b), First(b_strides, y.rank), static_cast<bool*>(y.data),
                 First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindLogicalNot(const BindRequest&) {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::LogicalNot(Bools(x), static_cast<bool*>(context.outputs[0].data), x.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindSelect(const BindRequest& request) {
  if (request.input_dtypes[1] != request.output_dtypes[0] || request.input_dtypes[2] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("a, b and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& condition = context.inputs[0];
    const TensorView& a = context.inputs[1];
    const TensorView& b = context.inputs[2];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides condition_strides, BroadcastStrides("condition", condition, y));
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Select(Bools(condition), First(condition_strides, y.rank), a.data, First(a_strides, y.rank), b.data,
                First(b_strides, y.rank), y.data, First(y.dims, y.rank), static_cast<int>(DTypeBytes(y.dtype)), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCast(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const DType dtype, GetAttr<DType>(request.attrs, "dtype"));
  if (dtype != request.output_dtypes[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype is ", DTypeName(dtype), ", but the result is ", DTypeName(request.output_dtypes[0])));
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    cpu::Cast(x.data, x.dtype, y.data, y.dtype, x.NumElements(), pool);
    return absl::OkStatus();
  };
}

// --- creation -----------------------------------------------------------------

absl::StatusOr<LaunchFn> BindConstant(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const auto element, ConstantElement(request));
  return [element](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    cpu::Fill(element.data(), static_cast<int>(DTypeBytes(y.dtype)), y.data, y.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIota(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool*) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(y, axis));
    cpu::Iota(y.dtype, y.data, split.outer, split.axis, split.inner);
    return absl::OkStatus();
  };
}

// --- moving elements ----------------------------------------------------------

absl::StatusOr<LaunchFn> BindCopy(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const StridedSourceFn source_of, StridedSourceOf(request));
  return [source_of](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const StridedSource source, source_of(context));
    if (y.NumElements() == 0) return absl::OkStatus();
    const Strides y_strides = DenseStrides(y);
    cpu::StridedCopy(source.data, First(source.strides, y.rank), y.data, First(y_strides, y.rank),
                     First(y.dims, y.rank), static_cast<int>(DTypeBytes(y.dtype)), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindConcat(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit whole, ConcatSplit(context, axis));
    const int element_bytes = static_cast<int>(DTypeBytes(y.dtype));
    char* to = static_cast<char*>(y.data);
    for (const TensorView& x : context.inputs) {
      const int64_t run = x.dims[axis] * whole.inner;
      const std::array<int64_t, 2> dims = {whole.outer, run};
      const std::array<int64_t, 2> from_strides = {run, 1};
      const std::array<int64_t, 2> to_strides = {whole.axis * whole.inner, 1};
      cpu::StridedCopy(x.data, from_strides, to, to_strides, dims, element_bytes, pool);
      to += run * element_bytes;
    }
    return absl::OkStatus();
  };
}

// --- lookups ------------------------------------------------------------------

template <typename Index>
absl::StatusOr<std::span<const Index>> Indices(std::string_view what, const TensorView& view, int64_t limit) {
  const std::span<const Index> indices(static_cast<const Index*>(view.data), static_cast<size_t>(view.NumElements()));
  if (const std::optional<int64_t> bad = cpu::FirstOutOfRange(indices, limit)) {
    return absl::OutOfRangeError(absl::StrCat(what, " number ", *bad, " is ", indices[static_cast<size_t>(*bad)],
                                              ", expected 0 to ", limit - 1));
  }
  return indices;
}

template <typename Index>
absl::StatusOr<LaunchFn> BindEmbeddingOf() {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& table = context.inputs[0];
    const TensorView& ids = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (table.rank != 2) return Mismatch("table", table, "rank 2");
    const int64_t columns = table.dims[1];
    if (y.rank != ids.rank + 1 || DimsOf(y).first(ids.rank) != DimsOf(ids) || y.dims[ids.rank] != columns) {
      return Mismatch("result", y, absl::StrCat("the dims of ids ", Describe(ids), " and then ", columns));
    }
    FF_ASSIGN_OR_RETURN(const std::span<const Index> rows, Indices<Index>("token id", ids, table.dims[0]));
    if (table.dtype == DType::kBF16) {
      cpu::GatherRowsBF16ToF32(static_cast<const uint16_t*>(table.data), columns, rows, MutableF32(y), pool);
    } else {
      cpu::GatherRows(table.data, columns * DTypeBytes(table.dtype), rows, y.data, pool);
    }
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindEmbedding(const BindRequest& request) {
  return request.input_dtypes[1] == DType::kI64 ? BindEmbeddingOf<int64_t>() : BindEmbeddingOf<int32_t>();
}

absl::StatusOr<LaunchFn> BindGatherRows(const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& rows = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (x.rank < 1 || rows.rank != 1) return Mismatch("x", x, "rank 1 or more, and rows of rank 1");
    if (y.rank != x.rank || y.dims[0] != rows.dims[0] || DimsOf(y).subspan(1) != DimsOf(x).subspan(1)) {
      return Mismatch("result", y, absl::StrCat(rows.dims[0], " rows of ", Describe(x)));
    }
    FF_ASSIGN_OR_RETURN(const std::span<const int32_t> indices, Indices<int32_t>("row", rows, x.dims[0]));
    cpu::GatherRows(x.data, Product(DimsOf(x).subspan(1)) * DTypeBytes(x.dtype), indices, y.data, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIndex(const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const IndexForm form, IndexFormOf(context));
    std::array<cpu::AxisIndex, kMaxRank> indices{};
    for (int i = 0; i < form.axes; ++i) {
      const TensorView& index = context.inputs[i + 1];
      indices[i] = {index.data, index.dtype == DType::kI64, First(form.strides[i], form.lookup_rank), x.dims[i],
                    index.NumElements()};
      if (const std::optional<int64_t> bad = cpu::FirstOutOfRange(indices[i])) {
        return absl::OutOfRangeError(absl::StrCat("index number ", *bad, " into axis ", i, " is ", indices[i].At(*bad),
                                                  ", the axis has ", x.dims[i]));
      }
    }
    cpu::Index(x.data, std::span(indices).first(form.axes), First(y.dims, form.lookup_rank), form.run_bytes, y.data,
               pool);
    return absl::OkStatus();
  };
}

// --- contractions and reductions ----------------------------------------------

absl::StatusOr<LaunchFn> BindSoftmax(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(x, axis));
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::Softmax(F32(x), MutableF32(context.outputs[0]), split.outer, split.axis, split.inner, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCumsum(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(x, axis));
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::Cumsum(x.dtype, x.data, context.outputs[0].data, split.outer, split.axis, split.inner, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindReduce(const BindRequest& request) {
  using Op = cpu::ReduceOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"reduce_sum", Op::kSum}, {"reduce_mean", Op::kMean}, {"reduce_max", Op::kMax}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  FF_ASSIGN_OR_RETURN(const std::vector<int64_t> axes, GetAttr<std::vector<int64_t>>(request.attrs, "axes"));
  return [op, axes](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const ReduceForm form, ReduceFormOf(context, axes, /*wants_elements=*/op == Op::kMax));
    cpu::Reduce(op, F32(context.inputs[0]), First(form.kept, form.kept_rank), First(form.kept_strides, form.kept_rank),
                First(form.reduced, form.reduced_rank), First(form.reduced_strides, form.reduced_rank),
                MutableF32(context.outputs[0]), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindMatMul(const BindRequest&) {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const MatMulForm form, MatMulFormOf(context));
    cpu::MatMul(F32(context.inputs[0]), First(form.a_strides, form.batch_rank), F32(context.inputs[1]),
                First(form.b_strides, form.batch_rank), /*bias=*/nullptr, MutableF32(y), First(y.dims, form.batch_rank),
                {form.m, form.n, form.k, /*b_k_stride=*/form.n, /*b_n_stride=*/1}, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindAttention(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const AttentionAttrs attrs, AttentionAttrsOf(request.attrs));
  return [attrs](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const AttentionForm form, AttentionFormOf(context));
    const int64_t widest = std::max(form.head_dim, form.value_dim);
    if (widest > cpu::kMaxAttentionHeadDim) {
      return absl::UnimplementedError(
          absl::StrCat("head_dim ", widest, " is above the CPU's limit of ", cpu::kMaxAttentionHeadDim));
    }
    cpu::AttentionMask mask;
    if (form.mask != nullptr) {
      const Strides& strides = form.mask_strides;
      mask = {form.mask->data, form.mask->dtype == DType::kBool, strides[0], strides[1], strides[2], strides[3]};
    }
    cpu::Attention(F32(context.inputs[0]), F32(context.inputs[1]), F32(context.inputs[2]), mask,
                   MutableF32(context.outputs[0]),
                   {.batch = form.batch,
                    .heads = form.heads,
                    .kv_heads = form.kv_heads,
                    .queries = form.queries,
                    .keys = form.keys,
                    .head_dim = form.head_dim,
                    .value_dim = form.value_dim,
                    .causal = attrs.causal,
                    .window = attrs.window,
                    .scale = attrs.scale},
                   pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<cpu::LinearConfig> ConfigOf(const LaunchContext& context) {
  if (context.config.empty()) return cpu::LinearConfig();
  return LinearConfigOf(context.config);
}

// packed: the weight lies in panels; otherwise row-major, as a value that is computed.
template <bool packed>
absl::StatusOr<LaunchFn> BindLinear(const BindRequest&) {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const LinearSizes sizes, LinearSizesOf(context, /*gated=*/false));
    const auto& [m, n, k] = sizes;
    const float* x = F32(context.inputs[0]);
    const TensorView& weight = context.inputs[1];
    const float* bias = F32OrNull(Optional(context, 2));
    float* y = MutableF32(context.outputs[0]);
    if (!packed) {
      cpu::MatMul(x, {}, F32(weight), {}, bias, y, {}, {m, n, k, /*b_k_stride=*/1, /*b_n_stride=*/k}, pool);
      return absl::OkStatus();
    }
    FF_ASSIGN_OR_RETURN(const cpu::LinearConfig config, ConfigOf(context));
    cpu::Linear({.x = x,
                 .weight = weight.data,
                 .bf16_weight = weight.dtype == DType::kBF16,
                 .bias = bias,
                 .y = y,
                 .m = m,
                 .n = n,
                 .k = k},
                pool, config);
    return absl::OkStatus();
  };
}

// layer_norm or rms_norm of rows.
struct NormFn {
  bool rms = false;
  float eps = 0;

  absl::Status operator()(const TensorView& x, const TensorView* weight, const TensorView* bias, float* y,
                          cpu::ThreadPool* pool) const {
    const int64_t columns = x.dims[x.rank - 1];
    if (weight != nullptr) FF_RETURN_IF_ERROR(CheckDims("weight", *weight, {columns}));
    if (bias != nullptr) FF_RETURN_IF_ERROR(CheckDims("bias", *bias, {columns}));
    const float* weight_data = F32OrNull(weight);
    const float* bias_data = F32OrNull(bias);
    const int64_t rows = Product(DimsOf(x).first(x.rank - 1));
    if (columns == 0) return absl::OkStatus();
    if (rms) {
      cpu::RmsNorm(F32(x), weight_data, eps, y, rows, columns, pool);
    } else {
      cpu::LayerNorm(F32(x), weight_data, bias_data, eps, y, rows, columns, pool);
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<NormFn> NormOf(std::string_view norm, const AttrMap& attrs) {
  if (norm != "layer_norm" && norm != "rms_norm") {
    return absl::InvalidArgumentError(absl::StrCat("norm is \"", norm, "\", expected layer_norm or rms_norm"));
  }
  FF_ASSIGN_OR_RETURN(const double eps, GetAttr<double>(attrs, "eps"));
  return NormFn{norm == "rms_norm", static_cast<float>(eps)};
}

absl::StatusOr<cpu::Activation> ActivationOf(const AttrMap& attrs) {
  using Activation = cpu::Activation;
  static constexpr std::pair<std::string_view, Activation> kNames[] = {{"none", Activation::kNone},
                                                                       {"gelu", Activation::kGelu},
                                                                       {"gelu_tanh", Activation::kGeluTanh},
                                                                       {"silu", Activation::kSilu},
                                                                       {"relu", Activation::kRelu}};
  FF_ASSIGN_OR_RETURN(const std::string name, GetAttr<std::string>(attrs, "activation"));
  const auto* found = std::ranges::find(kNames, name, &std::pair<std::string_view, Activation>::first);
  if (found != std::end(kNames)) return found->second;
  return absl::InvalidArgumentError(absl::StrCat("no activation is named \"", name, "\""));
}

absl::StatusOr<LaunchFn> BindFusedLinear(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const std::string norm_name, GetAttr<std::string>(request.attrs, "norm"));
  std::optional<NormFn> norm;
  if (norm_name != "none") {
    FF_ASSIGN_OR_RETURN(norm, NormOf(norm_name, request.attrs));
  }
  FF_ASSIGN_OR_RETURN(const cpu::Activation activation, ActivationOf(request.attrs));
  FF_ASSIGN_OR_RETURN(const bool gated, GetAttr<bool>(request.attrs, "gated"));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const LinearSizes sizes, LinearSizesOf(context, gated));
    const TensorView& x = context.inputs[0];
    const TensorView& weight = context.inputs[1];
    const TensorView* residual = Optional(context, 3);
    const TensorView& y = context.outputs[0];
    if (residual != nullptr) FF_RETURN_IF_ERROR(CheckDims("residual", *residual, DimsOf(y)));
    const float* rows = F32(x);
    if (norm.has_value()) {
      FF_RETURN_IF_ERROR(CheckWorkspace(context, x.NumElements() * kF32Bytes));
      auto* normalized = static_cast<float*>(context.workspace);
      FF_RETURN_IF_ERROR((*norm)(x, Optional(context, 4), Optional(context, 5), normalized, pool));
      rows = normalized;
    }
    FF_ASSIGN_OR_RETURN(const cpu::LinearConfig config, ConfigOf(context));
    cpu::Linear({.x = rows,
                 .weight = weight.data,
                 .bf16_weight = weight.dtype == DType::kBF16,
                 .bias = F32OrNull(Optional(context, 2)),
                 .residual = F32OrNull(residual),
                 .y = MutableF32(y),
                 .m = sizes.m,
                 .n = sizes.n,
                 .k = sizes.k,
                 .activation = activation,
                 .gated = gated},
                pool, config);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindAddNorm(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const std::string norm_name, GetAttr<std::string>(request.attrs, "norm"));
  FF_ASSIGN_OR_RETURN(const NormFn norm, NormOf(norm_name, request.attrs));
  return [norm](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& residual = context.inputs[1];
    const TensorView& sum = context.outputs[0];
    if (x.rank < 1) return Mismatch("x", x, "rank 1 or more");
    FF_RETURN_IF_ERROR(CheckDims("residual", residual, DimsOf(x)));
    FF_RETURN_IF_ERROR(CheckDims("sum", sum, DimsOf(x)));
    FF_RETURN_IF_ERROR(CheckDims("norm", context.outputs[1], DimsOf(x)));
    const Strides strides = DenseStrides(x);
    cpu::Binary(cpu::BinaryOp::kAdd, F32(x), First(strides, x.rank), F32(residual), First(strides, x.rank),
                MutableF32(sum), First(x.dims, x.rank), pool);
    return norm(sum, Optional(context, 2), Optional(context, 3), MutableF32(context.outputs[1]), pool);
  };
}

absl::StatusOr<LaunchFn> BindRope(const BindRequest&) {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const RopeForm form, RopeFormOf(context));
    const Strides dense = DenseStrides(x);
    const int rows = x.rank - 1;
    cpu::Rope({F32(x), First(dense, rows)}, {F32(context.inputs[1]), First(form.cos_strides, rows)},
              {F32(context.inputs[2]), First(form.sin_strides, rows)}, MutableF32(context.outputs[0]),
              First(dense, rows), First(x.dims, rows), x.dims[rows], pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindNorm(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const NormFn norm, NormOf(request.op, request.attrs));
  return [norm](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    if (x.rank < 1) return Mismatch("x", x, "rank 1 or more");
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    return norm(x, Optional(context, 1), Optional(context, 2), MutableF32(y), pool);
  };
}

// --- the paged KV cache -------------------------------------------------------

// Operands row_start, kv_len, block_table from `first` on, checked against the cache and the number of tokens.
absl::StatusOr<cpu::PagedRows> PagedRowsOf(const LaunchContext& context, size_t first, int64_t tokens) {
  const TensorView& row_start = context.inputs[first];
  const TensorView& kv_len = context.inputs[first + 1];
  const TensorView& block_table = context.inputs[first + 2];
  if (kv_len.rank != 1) return Mismatch("kv_len", kv_len, "rank 1");
  const int64_t rows = kv_len.dims[0];
  FF_RETURN_IF_ERROR(CheckDims("row_start", row_start, {rows + 1}));
  if (block_table.rank != 2 || block_table.dims[0] != rows) {
    return Mismatch("block_table", block_table, absl::StrCat("[", rows, ", pages]"));
  }
  const auto values = [](const TensorView& view) {
    return std::span<const int32_t>(static_cast<const int32_t*>(view.data), static_cast<size_t>(view.NumElements()));
  };
  const cpu::PagedRows paged_rows = {.row_start = values(row_start),
                                     .kv_len = values(kv_len),
                                     .block_table = values(block_table),
                                     .pages_per_row = block_table.dims[1]};
  const std::string wrong = cpu::CheckPagedRows(paged_rows, tokens, context.cache->page_size, context.cache->num_pages);
  if (!wrong.empty()) return absl::OutOfRangeError(wrong);
  return paged_rows;
}

absl::StatusOr<cpu::PagedLayer> PagedLayerOf(const CacheView& cache, int64_t layer) {
  if (layer < 0 || layer >= cache.layers) {
    return absl::OutOfRangeError(absl::StrCat("layer ", layer, " of a KV cache of ", cache.layers));
  }
  const int64_t layer_bytes =
      cache.num_pages * 2 * cache.kv_heads * cache.page_size * cache.head_dim * DTypeBytes(cache.dtype);
  return cpu::PagedLayer{.data = static_cast<char*>(cache.data) + layer * layer_bytes,
                         .bf16 = cache.dtype == DType::kBF16,
                         .pages = cache.num_pages,
                         .kv_heads = cache.kv_heads,
                         .page_size = cache.page_size,
                         .head_dim = cache.head_dim};
}

absl::StatusOr<LaunchFn> BindKvAppend(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  return [layer](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& k = context.inputs[0];
    const TensorView& v = context.inputs[1];
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    if (k.rank != 3) return Mismatch("k", k, "rank 3");
    FF_RETURN_IF_ERROR(CheckDims("k", k, {k.dims[0], cache.kv_heads, cache.head_dim}));
    FF_RETURN_IF_ERROR(CheckDims("v", v, DimsOf(k)));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 2, k.dims[0]));
    const int64_t stride = cache.kv_heads * cache.head_dim;
    cpu::KvAppend({F32(k), stride}, {F32(v), stride}, rows, cache, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindPagedAttention(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(request.attrs, "scale"));
  FF_ASSIGN_OR_RETURN(const int64_t window, GetAttr<int64_t>(request.attrs, "window"));
  if (window < 0) return absl::InvalidArgumentError(absl::StrCat("window is ", window, ", expected 0 or more"));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& q = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    if (cache.head_dim > cpu::kMaxHeadDim) {
      return absl::UnimplementedError(
          absl::StrCat("head_dim ", cache.head_dim, " is above the CPU's limit of ", cpu::kMaxHeadDim));
    }
    if (q.rank != 3 || q.dims[1] % cache.kv_heads != 0 || q.dims[2] != cache.head_dim) {
      return Mismatch("q", q, absl::StrCat("[tokens, a multiple of ", cache.kv_heads, ", ", cache.head_dim, "]"));
    }
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(q)));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 1, q.dims[0]));
    if (q.NumElements() == 0) return absl::OkStatus();
    cpu::PagedAttention(F32(q), q.dims[1] * q.dims[2], q.dims[1], rows, cache, static_cast<float>(scale), window,
                        MutableF32(context.outputs[0]), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCachedAttention(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  FF_ASSIGN_OR_RETURN(const int64_t heads, GetAttr<int64_t>(request.attrs, "heads"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(request.attrs, "scale"));
  FF_ASSIGN_OR_RETURN(const int64_t window, GetAttr<int64_t>(request.attrs, "window"));
  constexpr int64_t kMostHeads = int64_t{1} << 20;
  if (window < 0) return absl::InvalidArgumentError(absl::StrCat("window is ", window, ", expected 0 or more"));
  if (heads < 1 || heads > kMostHeads) return absl::InvalidArgumentError(absl::StrCat("heads is ", heads));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& qkv = context.inputs[0];
    const TensorView* cos = Optional(context, 4);
    const TensorView* sin = Optional(context, 5);
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    const int64_t dim = cache.head_dim;
    if (dim > cpu::kMaxHeadDim) {
      return absl::UnimplementedError(
          absl::StrCat("head_dim ", dim, " is above the CPU's limit of ", cpu::kMaxHeadDim));
    }
    if (heads % cache.kv_heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(heads, " heads over ", cache.kv_heads, " in the cache"));
    }
    const int64_t width = (heads + 2 * cache.kv_heads) * dim;
    if (qkv.rank != 2 || qkv.dims[1] != width) return Mismatch("qkv", qkv, absl::StrCat("[tokens, ", width, "]"));
    const int64_t tokens = qkv.dims[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], {tokens, heads * dim}));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 1, tokens));
    if (tokens == 0) return absl::OkStatus();
    const float* q = F32(qkv);
    int64_t q_stride = width;
    const float* k = q + heads * dim;
    const float* v = k + cache.kv_heads * dim;
    if ((cos == nullptr) != (sin == nullptr)) return absl::InvalidArgumentError("cos without sin, or sin without cos");
    if (cos != nullptr) {
      if (dim % 2 != 0) return absl::InvalidArgumentError(absl::StrCat("head_dim ", dim, " is odd, and heads turn"));
      FF_RETURN_IF_ERROR(CheckDims("cos", *cos, {tokens, dim}));
      FF_RETURN_IF_ERROR(CheckDims("sin", *sin, {tokens, dim}));
      // Queries and keys lie side by side: one run turns both.
      const int64_t turned_heads = heads + cache.kv_heads;
      q_stride = turned_heads * dim;
      FF_RETURN_IF_ERROR(CheckWorkspace(context, tokens * q_stride * kF32Bytes));
      auto* turned = static_cast<float*>(context.workspace);
      const std::array<int64_t, 2> dims = {tokens, turned_heads};
      const std::array<int64_t, 2> x_strides = {width, dim};
      const std::array<int64_t, 2> angle_strides = {dim, 0};
      const std::array<int64_t, 2> y_strides = {q_stride, dim};
      cpu::Rope({q, x_strides}, {F32(*cos), angle_strides}, {F32(*sin), angle_strides}, turned, y_strides, dims, dim,
                pool);
      q = turned;
      k = turned + heads * dim;
    }
    cpu::KvAppend({k, q_stride}, {v, width}, rows, cache, pool);
    cpu::PagedAttention(q, q_stride, heads, rows, cache, static_cast<float>(scale), window,
                        MutableF32(context.outputs[0]), pool);
    return absl::OkStatus();
  };
}

// --- the table ----------------------------------------------------------------

struct Binding {
  std::string_view id;
  int32_t version;
  absl::StatusOr<LaunchFn> (*bind)(const BindRequest&);
};

constexpr Binding kBindings[] = {
    {"cpu.unary", 1, BindUnary},
    {"cpu.binary", 1, BindBinary},
    {"cpu.integer_binary", 1, BindIntegerBinary},
    {"cpu.compare", 1, BindCompare},
    {"cpu.logical", 1, BindLogical},
    {"cpu.logical_not", 1, BindLogicalNot},
    {"cpu.select", 1, BindSelect},
    {"cpu.cast", 1, BindCast},
    {"cpu.constant", 1, BindConstant},
    {"cpu.iota", 1, BindIota},
    {"cpu.copy", 1, BindCopy},
    {"cpu.concat", 1, BindConcat},
    {"cpu.embedding", 1, BindEmbedding},
    {"cpu.gather_rows", 1, BindGatherRows},
    {"cpu.index", 1, BindIndex},
    {"cpu.cumsum", 1, BindCumsum},
    {"cpu.reduce", 1, BindReduce},
    {"cpu.softmax", 1, BindSoftmax},
    {"cpu.linear.panel16", 1, BindLinear<true>},
    {"cpu.linear.row_major", 1, BindLinear<false>},
    {"cpu.matmul", 1, BindMatMul},
    {"cpu.attention", 1, BindAttention},
    {"cpu.fused_linear.panel16", 1, BindFusedLinear},
    {"cpu.add_norm", 1, BindAddNorm},
    {"cpu.rope", 1, BindRope},
    {"cpu.layer_norm", 1, BindNorm},
    {"cpu.rms_norm", 1, BindNorm},
    {"cpu.kv_append", 1, BindKvAppend},
    {"cpu.paged_attention", 1, BindPagedAttention},
    {"cpu.cached_attention", 1, BindCachedAttention},
};

}  // namespace

absl::Status RegisterCpuKernels(Launchers* launchers) {
  for (const Binding& binding : kBindings) {
    const auto bind = [bind = binding.bind](const BindRequest& request) -> absl::StatusOr<CheckedLaunchFn> {
      FF_ASSIGN_OR_RETURN(LaunchFn launch, bind(request));
      return [launch = std::move(launch)](const LaunchContext& context) -> absl::Status {
        if (context.device == nullptr) return absl::InvalidArgumentError("launched without a thread pool");
        return launch(context, static_cast<cpu::ThreadPool*>(context.device));
      };
    };
    FF_RETURN_IF_ERROR(RegisterChecked(binding.id, binding.version, bind, launchers));
  }
  return absl::OkStatus();
}

}  // namespace flashflow::kernels
