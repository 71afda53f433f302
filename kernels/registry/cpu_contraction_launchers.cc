// Sums, products, attention and norms.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/binary.h"
#include "kernels/cpu/cumsum.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_int8.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/softmax.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launch.h"
#include "kernels/registry/cpu_tactics.h"
#include "kernels/registry/graph_op_checks.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels::cpu_launch {
namespace {

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

// Whether a step's weight is of 4-bit codes of groups.
bool HasGroups(absl::Span<const TensorView> inputs) {
  return inputs.size() > 6 && inputs[6].data != nullptr && inputs[6].dtype == DType::kF16;
}

// The layout of a step's weight, by its dtype (kernels/registry/catalog.h).
std::string_view WeightLayoutOf(absl::Span<const TensorView> inputs) {
  switch (inputs[1].dtype) {
    case DType::kF32:
      return kPanel16;
    case DType::kBF16:
      return kPanel16Vnni2;
    default:
      return HasGroups(inputs) ? kPanel16Int4 : kPanel16Int8;
  }
}

// What a linear layer reads after its own weight.
cpu::ReadAhead ReadAheadOf(const LaunchContext& context) {
  if (context.next_inputs.size() < 2 || context.next_inputs[1].rank != 2) return {};
  const TensorView& weight = context.next_inputs[1];
  constexpr int64_t kPanel = 16;
  const int64_t panel[] = {kPanel, weight.dims[1]};
  const absl::StatusOr<int64_t> panel_bytes = PackedBytes(WeightLayoutOf(context.next_inputs), panel, weight.dtype);
  if (!panel_bytes.ok()) return {};
  const int64_t parts = context.next_gated ? 2 : 1;
  return {.data = weight.data, .unit_bytes = *panel_bytes, .units = weight.dims[0] / parts / kPanel, .parts = parts};
}

// By the dtype: codes are of groups wherever Linear gets them.
cpu::LinearWeight WeightTypeOf(const TensorView& weight) {
  if (weight.dtype == DType::kI8) return cpu::LinearWeight::kInt4;
  return weight.dtype == DType::kBF16 ? cpu::LinearWeight::kBF16 : cpu::LinearWeight::kF32;
}
static_assert(cpu::kInt4Group == kCodeGroup);

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
                 .weight_type = WeightTypeOf(weight),
                 .bias = bias,
                 .y = y,
                 .m = m,
                 .n = n,
                 .k = k,
                 .next = ReadAheadOf(context)},
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

// What stands before and after fused_linear's product.
struct FusedAttrs {
  std::optional<NormFn> norm;
  cpu::Activation activation = cpu::Activation::kNone;
  bool gated = false;
};

absl::StatusOr<FusedAttrs> FusedAttrsOf(const AttrMap& attrs) {
  FusedAttrs fused;
  FF_ASSIGN_OR_RETURN(const std::string norm_name, GetAttr<std::string>(attrs, "norm"));
  if (norm_name != "none") {
    FF_ASSIGN_OR_RETURN(fused.norm, NormOf(norm_name, attrs));
  }
  FF_ASSIGN_OR_RETURN(fused.activation, ActivationOf(attrs));
  FF_ASSIGN_OR_RETURN(fused.gated, GetAttr<bool>(attrs, "gated"));
  return fused;
}

// int4: the weight is of codes of groups, otherwise of floats. The workspace holds rows of codes, then x once it is
// normalized: as the catalog sizes it.
template <bool int4>
absl::StatusOr<LaunchFn> BindFusedLinear(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const FusedAttrs attrs, FusedAttrsOf(request.attrs));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const LinearSizes sizes, LinearSizesOf(context, attrs.gated, /*codes=*/int4 ? 2 : 1));
    const TensorView& x = context.inputs[0];
    const TensorView& weight = context.inputs[1];
    const TensorView* residual = Optional(context, 3);
    const TensorView& y = context.outputs[0];
    if (residual != nullptr) FF_RETURN_IF_ERROR(CheckDims("residual", *residual, DimsOf(y)));
    if (int4) {
      if (sizes.k % kCodeGroup != 0) {
        return Mismatch("weight", weight, absl::StrCat("rows of a multiple of ", kCodeGroup / 2, " bytes"));
      }
      FF_RETURN_IF_ERROR(CheckDims("weight_scale", context.inputs[6], {sizes.n, sizes.k / kCodeGroup, 2}));
    }
    const int64_t code_bytes = int4 ? sizes.m * cpu::Int4RowBytes(sizes.k) : 0;
    const int64_t normalized_bytes = attrs.norm.has_value() ? x.NumElements() * kF32Bytes : 0;
    if (code_bytes + normalized_bytes > 0) FF_RETURN_IF_ERROR(CheckWorkspace(context, code_bytes + normalized_bytes));
    auto* codes = static_cast<uint8_t*>(context.workspace);
    const float* rows = F32(x);
    if (attrs.norm.has_value()) {
      auto* normalized = reinterpret_cast<float*>(codes + code_bytes);
      FF_RETURN_IF_ERROR((*attrs.norm)(x, Optional(context, 4), Optional(context, 5), normalized, pool));
      rows = normalized;
    }
    if (int4) cpu::QuantizeInt4Rows(rows, sizes.m, sizes.k, codes, pool);
    FF_ASSIGN_OR_RETURN(const cpu::LinearConfig config, ConfigOf(context));
    cpu::Linear({.x = rows,
                 .codes = codes,
                 .weight = weight.data,
                 .weight_type = WeightTypeOf(weight),
                 .groups = int4 ? context.inputs[6].data : nullptr,
                 .bias = F32OrNull(Optional(context, 2)),
                 .residual = F32OrNull(residual),
                 .y = MutableF32(y),
                 .m = sizes.m,
                 .n = sizes.n,
                 .k = sizes.k,
                 .activation = attrs.activation,
                 .gated = attrs.gated,
                 .next = ReadAheadOf(context)},
                pool, config);
    return absl::OkStatus();
  };
}

// The workspace holds rows of codes, then x once it is normalized, then scales: as the catalog sizes it.
absl::StatusOr<LaunchFn> BindFusedLinearInt8(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const FusedAttrs attrs, FusedAttrsOf(request.attrs));
  FF_ASSIGN_OR_RETURN(const double clip, GetAttr<double>(request.attrs, "clip"));
  if (!(clip > 0)) return absl::InvalidArgumentError(absl::StrCat("clip is ", clip, ", expected a float above 0"));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    FF_ASSIGN_OR_RETURN(const LinearSizes sizes, LinearSizesOf(context, attrs.gated));
    const auto& [m, n, k] = sizes;
    const TensorView& x = context.inputs[0];
    const TensorView& weight_scale = context.inputs[6];
    const TensorView* residual = Optional(context, 3);
    const TensorView& y = context.outputs[0];
    if (residual != nullptr) FF_RETURN_IF_ERROR(CheckDims("residual", *residual, DimsOf(y)));
    FF_RETURN_IF_ERROR(CheckDims("weight_scale", weight_scale, {n}));
    if (k > cpu::kMaxInt8Depth) {
      return Mismatch("weight", context.inputs[1], absl::StrCat("rows of at most ", cpu::kMaxInt8Depth, " codes"));
    }
    const int64_t code_bytes = m * cpu::Int8RowBytes(k);
    const int64_t normalized_bytes = attrs.norm.has_value() ? x.NumElements() * kF32Bytes : 0;
    FF_RETURN_IF_ERROR(CheckWorkspace(context, code_bytes + normalized_bytes + m * kF32Bytes));
    auto* codes = static_cast<uint8_t*>(context.workspace);
    auto* normalized = reinterpret_cast<float*>(codes + code_bytes);
    auto* scales = reinterpret_cast<float*>(codes + code_bytes + normalized_bytes);
    const float* rows = F32(x);
    if (attrs.norm.has_value()) {
      FF_RETURN_IF_ERROR((*attrs.norm)(x, Optional(context, 4), Optional(context, 5), normalized, pool));
      rows = normalized;
    }
    cpu::QuantizeLinearRows(rows, m, k, static_cast<float>(clip), codes, scales, pool);
    cpu::Int8Linear({.x = codes,
                     .x_scale = scales,
                     .weight = context.inputs[1].data,
                     .weight_scale = F32(weight_scale),
                     .bias = F32OrNull(Optional(context, 2)),
                     .residual = F32OrNull(residual),
                     .y = MutableF32(y),
                     .m = m,
                     .n = n,
                     .k = k,
                     .activation = attrs.activation,
                     .gated = attrs.gated,
                     .next = ReadAheadOf(context)},
                    pool);
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

constexpr Binding kBindings[] = {
    {"cpu.cumsum", 1, BindCumsum},
    {"cpu.reduce", 1, BindReduce},
    {"cpu.softmax", 1, BindSoftmax},
    {"cpu.linear.panel16", 1, BindLinear<true>},
    {"cpu.linear.row_major", 1, BindLinear<false>},
    {"cpu.matmul", 1, BindMatMul},
    {"cpu.attention", 1, BindAttention},
    {"cpu.fused_linear.panel16", 1, BindFusedLinear</*int4=*/false>},
    {"cpu.fused_linear.int4", 1, BindFusedLinear</*int4=*/true>},
    {"cpu.fused_linear.int8", 1, BindFusedLinearInt8},
    {"cpu.add_norm", 1, BindAddNorm},
    {"cpu.rope", 1, BindRope},
    {"cpu.layer_norm", 1, BindNorm},
    {"cpu.rms_norm", 1, BindNorm},
};

}  // namespace

absl::Span<const Binding> ContractionBindings() { return kBindings; }

}  // namespace flashflow::kernels::cpu_launch
