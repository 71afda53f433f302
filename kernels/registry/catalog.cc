#include "kernels/registry/catalog.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/base/no_destructor.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::kernels {
namespace {

constexpr DTypeSet kF32Only = {DType::kF32};
constexpr DTypeSet kI8Only = {DType::kI8};
constexpr DTypeSet kI32Only = {DType::kI32};
constexpr DTypeSet kF32OrBF16 = {DType::kF32, DType::kBF16};
constexpr DTypeSet kCpuCache = {DType::kF32, DType::kBF16, DType::kI8};
constexpr DTypeSet kCudaCache = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};
constexpr DTypeSet kBoolOnly = {DType::kBool};
constexpr DTypeSet kIndices = {DType::kI32, DType::kI64};
constexpr DTypeSet kAny = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kI32, DType::kI64, DType::kBool};

// fused_linear: x once it is normalized.
absl::StatusOr<DimExpr> NormalizedBytes(const AttrMap& attrs, absl::Span<const Dims> inputs) {
  FF_ASSIGN_OR_RETURN(const std::string norm, GetAttr<std::string>(attrs, "norm"));
  if (norm == "none") return DimExpr(0);
  if (inputs.empty()) return absl::InvalidArgumentError("fused_linear without x");
  return NumElements(inputs[0]) * DTypeBytes(DType::kF32);
}

// The CPU's operands of fused_linear, with scales of a weight of codes.
std::vector<OperandSpec> FusedLinearOperands(DTypeSet weight, std::optional<DTypeSet> weight_scale = std::nullopt) {
  std::vector<OperandSpec> operands = {{"x", kF32Only},
                                       {"weight", weight},
                                       {"bias", kF32Only, /*optional=*/true},
                                       {"residual", kF32Only, /*optional=*/true},
                                       {"norm_weight", kF32Only, /*optional=*/true},
                                       {"norm_bias", kF32Only, /*optional=*/true}};
  if (weight_scale.has_value()) operands.push_back({"weight_scale", *weight_scale});
  return operands;
}

// fused_linear of codes of groups: rows of codes with their scales and sums, and x once it is normalized.
absl::StatusOr<DimExpr> CodedGroupsBytes(const AttrMap& attrs, absl::Span<const Dims> inputs) {
  FF_ASSIGN_OR_RETURN(const DimExpr normalized, NormalizedBytes(attrs, inputs));
  const std::optional<DimExpr> groups = inputs.empty() ? std::nullopt : NumElements(inputs[0]).DividedBy(kCodeGroup);
  if (!groups.has_value()) return absl::InvalidArgumentError("fused_linear of codes of groups without x of whole ones");
  return normalized + *groups * (kCodeGroup + 2 * DTypeBytes(DType::kF32));
}

// fused_linear of codes: rows of codes, of their kernel's stride, their scales, and x once it is normalized.
absl::StatusOr<DimExpr> CodedRowsBytes(const AttrMap& attrs, absl::Span<const Dims> inputs) {
  FF_ASSIGN_OR_RETURN(const DimExpr normalized, NormalizedBytes(attrs, inputs));
  const std::optional<int64_t> k = inputs.size() < 2 || inputs[1].size() != 2 ? std::nullopt : inputs[1][1].constant();
  if (!k.has_value() || *k < 0 || inputs[0].empty()) {
    return absl::InvalidArgumentError("fused_linear of codes: expected x[..., K] and weight[N, K] of a constant K");
  }
  const DimExpr rows = NumElements(Dims(inputs[0].begin(), inputs[0].end() - 1));
  return normalized + rows * ((*k + 63) / 64 * 64 + 64 + DTypeBytes(DType::kF32));
}

// fused_linear of codes on a GPU: codes of x and their scales.
absl::StatusOr<DimExpr> CodesBytes(const AttrMap&, absl::Span<const Dims> inputs) {
  if (inputs.empty() || inputs[0].empty()) return absl::InvalidArgumentError("fused_linear of codes without x[..., K]");
  const DimExpr rows = NumElements(Dims(inputs[0].begin(), inputs[0].end() - 1));
  return rows * inputs[0].back() + rows * DTypeBytes(DType::kF32);
}

// cached_attention: queries and keys once they are turned, side by side.
absl::StatusOr<DimExpr> TurnedBytes(const AttrMap& attrs, absl::Span<const Dims> inputs) {
  if (inputs.size() < 6 || inputs[4].empty()) return DimExpr(0);
  FF_ASSIGN_OR_RETURN(const int64_t heads, GetAttr<int64_t>(attrs, "heads"));
  const Dims& qkv = inputs[0];  // [T, queries + keys + values], of which the last two are as wide as each other
  const DimExpr queries = DimExpr(heads) * inputs[4].back();
  const std::optional<DimExpr> keys = qkv.size() == 2 ? (qkv[1] - queries).DividedBy(2) : std::nullopt;
  if (!keys.has_value()) return absl::InvalidArgumentError("cached_attention: qkv holds no whole keys and values");
  return qkv[0] * (queries + *keys) * DTypeBytes(DType::kF32);
}

std::vector<KernelSpec> CpuKernels() {
  const std::vector<OperandSpec> f32_result = {{"result", kF32Only}};
  const std::vector<OperandSpec> any_result = {{"result", kAny}};
  const std::vector<InPlaceRule> over_x = {{0, 0}};
  const std::vector<InPlaceRule> over_a_or_b = {{0, 0}, {0, 1}};
  std::vector<KernelSpec> kernels = {
      {.id = "cpu.unary",
       .device = "cpu",
       .ops = {"neg", "abs", "exp", "sqrt", "rsqrt", "reciprocal", "tanh", "erf", "sigmoid", "sin", "cos", "relu",
               "gelu", "silu"},
       .inputs = {{"x", kF32Only}},
       .outputs = f32_result,
       .in_place = over_x},
      {.id = "cpu.binary",
       .device = "cpu",
       .ops = {"add", "sub", "mul", "div", "maximum", "minimum", "pow"},
       .inputs = {{"a", kF32Only}, {"b", kF32Only}},
       .outputs = f32_result,
       .in_place = over_a_or_b},
      {.id = "cpu.integer_binary",
       .device = "cpu",
       .ops = {"add", "sub", "mul", "maximum", "minimum"},
       .inputs = {{"a", kIndices}, {"b", kIndices}},
       .outputs = {{"result", kIndices}},
       .same_dtype = true,
       .in_place = over_a_or_b},
      {.id = "cpu.compare",
       .device = "cpu",
       .ops = {"eq", "ne", "lt", "le", "gt", "ge"},
       .inputs = {{"a", {DType::kF32, DType::kI32, DType::kI64, DType::kBool}},
                  {"b", {DType::kF32, DType::kI32, DType::kI64, DType::kBool}}},
       .outputs = {{"result", kBoolOnly}}},
      {.id = "cpu.logical",
       .device = "cpu",
       .ops = {"logical_and", "logical_or"},
       .inputs = {{"a", kBoolOnly}, {"b", kBoolOnly}},
       .outputs = {{"result", kBoolOnly}},
       .in_place = over_a_or_b},
      {.id = "cpu.logical_not",
       .device = "cpu",
       .ops = {"logical_not"},
       .inputs = {{"x", kBoolOnly}},
       .outputs = {{"result", kBoolOnly}},
       .in_place = over_x},
      {.id = "cpu.select",
       .device = "cpu",
       .ops = {"where"},
       .inputs = {{"condition", kBoolOnly}, {"a", kAny}, {"b", kAny}},
       .outputs = any_result,
       .in_place = {{0, 1}, {0, 2}}},
      {.id = "cpu.cast", .device = "cpu", .ops = {"cast"}, .inputs = {{"x", kAny}}, .outputs = any_result},
      {.id = "cpu.constant", .device = "cpu", .ops = {"constant"}, .inputs = {}, .outputs = any_result},
      {.id = "cpu.iota",
       .device = "cpu",
       .ops = {"iota"},
       .inputs = {},
       .outputs = {{"result", {DType::kF32, DType::kI32, DType::kI64}}}},
      {.id = "cpu.copy",
       .device = "cpu",
       .ops = {"transpose", "expand", "slice"},
       .inputs = {{"x", kAny}},
       .outputs = any_result,
       .same_dtype = true},
      {.id = "cpu.concat",
       .device = "cpu",
       .ops = {"concat"},
       .inputs = {{"x", kAny}},
       .outputs = any_result,
       .variadic = true,
       .same_dtype = true},
      {.id = "cpu.embedding",
       .device = "cpu",
       .ops = {"embedding"},
       .inputs = {{"table", {DType::kF32, DType::kBF16, DType::kI8}},
                  {"ids", kIndices},
                  {"scale", kF32Only, /*optional=*/true}},
       .outputs = f32_result},
      {.id = "cpu.gather_rows",
       .device = "cpu",
       .ops = {"gather_rows"},
       .inputs = {{"x", kF32OrBF16}, {"rows", kI32Only}},
       .outputs = {{"result", kF32OrBF16}}},
      {.id = "cpu.index",
       .device = "cpu",
       .ops = {"index"},
       .inputs = {{"x", kAny}, {"indices", kIndices}},
       .outputs = any_result,
       .variadic = true},
      {.id = "cpu.cumsum",
       .device = "cpu",
       .ops = {"cumsum"},
       .inputs = {{"x", {DType::kF32, DType::kI32, DType::kI64}}},
       .outputs = {{"result", {DType::kF32, DType::kI32, DType::kI64}}},
       .same_dtype = true},
      {.id = "cpu.reduce",
       .device = "cpu",
       .ops = {"reduce_sum", "reduce_mean", "reduce_max"},
       .inputs = {{"x", kF32Only}},
       .outputs = f32_result},
      {.id = "cpu.softmax",
       .device = "cpu",
       .ops = {"softmax"},
       .inputs = {{"x", kF32Only}},
       .outputs = f32_result,
       .in_place = over_x},
      {.id = "cpu.linear.panel16",
       .device = "cpu",
       .ops = {"linear"},
       .inputs = {{"x", kF32Only}, {"weight", kF32OrBF16}, {"bias", kF32Only, /*optional=*/true}},
       .outputs = f32_result,
       .weight_layouts = {{1, DType::kF32, kPanel16}, {1, DType::kBF16, kPanel16Vnni2}}},
      {.id = "cpu.fused_linear.panel16",
       .device = "cpu",
       .ops = {"fused_linear"},
       .inputs = FusedLinearOperands(kF32OrBF16),
       .outputs = f32_result,
       .weight_layouts = {{1, DType::kF32, kPanel16}, {1, DType::kBF16, kPanel16Vnni2}},
       .workspace_bytes = NormalizedBytes},
      {.id = "cpu.fused_linear.int8",
       .device = "cpu",
       .ops = {"fused_linear"},
       .inputs = FusedLinearOperands(kI8Only, kF32Only),
       .outputs = f32_result,
       .weight_layouts = {{1, DType::kI8, kPanel16Int8}},
       .workspace_bytes = CodedRowsBytes},
      {.id = "cpu.fused_linear.int4",
       .device = "cpu",
       .ops = {"fused_linear"},
       .inputs = FusedLinearOperands(kI8Only, DTypeSet{DType::kF16}),
       .outputs = f32_result,
       .weight_layouts = {{1, DType::kI8, kPanel16Int4}, {6, DType::kF16, kPanel16Groups}},
       .workspace_bytes = CodedGroupsBytes},
      {.id = "cpu.add_norm",
       .device = "cpu",
       .ops = {"add_norm"},
       .inputs = {{"x", kF32Only},
                  {"residual", kF32Only},
                  {"weight", kF32Only, /*optional=*/true},
                  {"bias", kF32Only, /*optional=*/true}},
       .outputs = {{"sum", kF32Only}, {"norm", kF32Only}},
       // The norm begins when the sum is done.
       .in_place = {{0, 0}, {0, 1}, {1, 0}, {1, 1}}},
      {.id = "cpu.rope",
       .device = "cpu",
       .ops = {"rope"},
       .inputs = {{"x", kF32Only}, {"cos", kF32Only}, {"sin", kF32Only}},
       .outputs = f32_result,
       .in_place = over_x},
      {.id = "cpu.linear.row_major",  // for weights that are computed
       .device = "cpu",
       .ops = {"linear"},
       .inputs = {{"x", kF32Only}, {"weight", kF32Only}, {"bias", kF32Only, /*optional=*/true}},
       .outputs = f32_result},
      {.id = "cpu.matmul",
       .device = "cpu",
       .ops = {"matmul"},
       .inputs = {{"a", kF32Only}, {"b", kF32Only}},
       .outputs = f32_result},
      {.id = "cpu.attention",
       .device = "cpu",
       .ops = {"attention"},
       .inputs = {{"q", kF32Only},
                  {"k", kF32Only},
                  {"v", kF32Only},
                  {"mask", {DType::kF32, DType::kBool}, /*optional=*/true}},
       .outputs = f32_result},
      {.id = "cpu.layer_norm",
       .device = "cpu",
       .ops = {"layer_norm"},
       .inputs = {{"x", kF32Only}, {"weight", kF32Only, /*optional=*/true}, {"bias", kF32Only, /*optional=*/true}},
       .outputs = f32_result,
       .in_place = over_x},
      {.id = "cpu.rms_norm",
       .device = "cpu",
       .ops = {"rms_norm"},
       .inputs = {{"x", kF32Only}, {"weight", kF32Only, /*optional=*/true}},
       .outputs = f32_result,
       .in_place = over_x},
      {.id = "cpu.kv_append",
       .device = "cpu",
       .ops = {"kv_append"},
       .inputs =
           {{"k", kF32Only}, {"v", kF32Only}, {"row_start", kI32Only}, {"kv_len", kI32Only}, {"block_table", kI32Only}},
       .outputs = {},
       .uses_cache = true,
       .cache_dtypes = kCpuCache},
      {.id = "cpu.paged_attention",
       .device = "cpu",
       .ops = {"paged_attention"},
       .inputs = {{"q", kF32Only}, {"row_start", kI32Only}, {"kv_len", kI32Only}, {"block_table", kI32Only}},
       .outputs = f32_result,
       .uses_cache = true,
       .cache_dtypes = kCpuCache},
      {.id = "cpu.cached_attention",
       .device = "cpu",
       .ops = {"cached_attention"},
       .inputs = {{"qkv", kF32Only},
                  {"row_start", kI32Only},
                  {"kv_len", kI32Only},
                  {"block_table", kI32Only},
                  {"cos", kF32Only, /*optional=*/true},
                  {"sin", kF32Only, /*optional=*/true}},
       .outputs = f32_result,
       .uses_cache = true,
       .cache_dtypes = kCpuCache,
       .workspace_bytes = TurnedBytes},
  };
  for (KernelSpec& kernel : kernels) {
    // As the kernels' headers promise; of these three none does.
    kernel.batch_invariant = kernel.id != "cpu.softmax" && kernel.id != "cpu.attention" && kernel.id != "cpu.reduce";
  }
  return kernels;
}

// In f32, f16 or bf16 throughout, but for what is f32 in each: biases, weights of norms, angles. Weights are row-major.
std::vector<KernelSpec> CudaKernels() {
  constexpr DTypeSet kFloats = {DType::kF32, DType::kF16, DType::kBF16};
  const std::vector<OperandSpec> float_result = {{"result", kFloats}};
  const auto twice = [](KernelSpec spec, std::string_view invariant_id) {
    KernelSpec invariant = spec;
    invariant.id = invariant_id;
    invariant.batch_invariant = true;
    return std::vector<KernelSpec>{std::move(spec), std::move(invariant)};
  };
  std::vector<KernelSpec> kernels = {
      {.id = "cuda.embedding",
       .device = "cuda",
       .ops = {"embedding"},
       .inputs = {{"table", {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}},
                  {"ids", kIndices},
                  {"scale", kF32Only, /*optional=*/true}},
       .outputs = float_result,
       .batch_invariant = true},
      {.id = "cuda.gather_rows",
       .device = "cuda",
       .ops = {"gather_rows"},
       .inputs = {{"x", kFloats}, {"rows", kI32Only}},
       .outputs = float_result,
       .batch_invariant = true},
      {.id = "cuda.layer_norm",
       .device = "cuda",
       .ops = {"layer_norm"},
       .inputs = {{"x", kFloats}, {"weight", kF32Only, /*optional=*/true}, {"bias", kF32Only, /*optional=*/true}},
       .outputs = float_result,
       .batch_invariant = true,
       .in_place = {{0, 0}}},
      {.id = "cuda.rms_norm",
       .device = "cuda",
       .ops = {"rms_norm"},
       .inputs = {{"x", kFloats}, {"weight", kF32Only, /*optional=*/true}},
       .outputs = float_result,
       .batch_invariant = true,
       .in_place = {{0, 0}}},
      {.id = "cuda.add_norm",
       .device = "cuda",
       .ops = {"add_norm"},
       .inputs = {{"x", kFloats},
                  {"residual", kFloats},
                  {"weight", kF32Only, /*optional=*/true},
                  {"bias", kF32Only, /*optional=*/true}},
       .outputs = {{"sum", kFloats}, {"norm", kFloats}},
       .batch_invariant = true,
       .in_place = {{0, 0}, {0, 1}, {1, 0}, {1, 1}}},
      {.id = "cuda.kv_append",
       .device = "cuda",
       .ops = {"kv_append"},
       .inputs =
           {{"k", kFloats}, {"v", kFloats}, {"row_start", kI32Only}, {"kv_len", kI32Only}, {"block_table", kI32Only}},
       .outputs = {},
       .uses_cache = true,
       .batch_invariant = true,
       .cache_dtypes = kCudaCache},
  };
  const std::vector<KernelSpec> pairs[] = {
      twice({.id = "cuda.linear",
             .device = "cuda",
             .ops = {"linear"},
             .inputs = {{"x", kFloats}, {"weight", kFloats}, {"bias", kF32Only, /*optional=*/true}},
             .outputs = float_result},
            "cuda.linear.invariant"),
      twice({.id = "cuda.fused_linear",
             .device = "cuda",
             .ops = {"fused_linear"},
             .inputs = {{"x", kFloats},
                        {"weight", kFloats},
                        {"bias", kF32Only, /*optional=*/true},
                        {"residual", kFloats, /*optional=*/true},
                        {"norm_weight", kF32Only, /*optional=*/true},
                        {"norm_bias", kF32Only, /*optional=*/true}},
             .outputs = float_result,
             .in_place = {{0, 3}},
             .workspace_bytes = NormalizedBytes},
            "cuda.fused_linear.invariant"),
      twice({.id = "cuda.fused_linear.int8",
             .device = "cuda",
             .ops = {"fused_linear"},
             .inputs = {{"x", kF32OrBF16},
                        {"weight", kI8Only},
                        {"bias", kF32Only, /*optional=*/true},
                        {"residual", {DType::kBF16}, /*optional=*/true},
                        {"norm_weight", kF32Only, /*optional=*/true},
                        {"norm_bias", kF32Only, /*optional=*/true},
                        {"weight_scale", kF32Only}},
             .outputs = {{"result", kF32OrBF16}},
             .in_place = {{0, 3}},
             .workspace_bytes = CodesBytes},
            "cuda.fused_linear.int8.invariant"),
      twice({.id = "cuda.paged_attention",
             .device = "cuda",
             .ops = {"paged_attention"},
             .inputs = {{"q", kFloats}, {"row_start", kI32Only}, {"kv_len", kI32Only}, {"block_table", kI32Only}},
             .outputs = float_result,
             .uses_cache = true,
             .cache_dtypes = kCudaCache},
            "cuda.paged_attention.invariant"),
      twice({.id = "cuda.cached_attention",
             .device = "cuda",
             .ops = {"cached_attention"},
             .inputs = {{"qkv", kFloats},
                        {"row_start", kI32Only},
                        {"kv_len", kI32Only},
                        {"block_table", kI32Only},
                        {"cos", kFloats, /*optional=*/true},
                        {"sin", kFloats, /*optional=*/true}},
             .outputs = float_result,
             .uses_cache = true,
             .cache_dtypes = kCudaCache,
             .workspace_bytes = TurnedBytes},
            "cuda.cached_attention.invariant"),
  };
  for (const std::vector<KernelSpec>& pair : pairs) kernels.insert(kernels.end(), pair.begin(), pair.end());
  return kernels;
}

// The ops that rectangular graphs have beside layers.
std::vector<KernelSpec> CudaGraphKernels() {
  constexpr DTypeSet kFloats = {DType::kF32, DType::kF16, DType::kBF16};
  constexpr DTypeSet kSummed = {DType::kF32, DType::kI32, DType::kI64};
  const std::vector<OperandSpec> float_result = {{"result", kFloats}};
  const std::vector<OperandSpec> bool_result = {{"result", kBoolOnly}};
  const std::vector<OperandSpec> any_result = {{"result", kAny}};
  const std::vector<InPlaceRule> over_x = {{0, 0}};
  const std::vector<InPlaceRule> over_a_or_b = {{0, 0}, {0, 1}};
  std::vector<KernelSpec> kernels = {
      {.id = "cuda.unary",
       .ops = {"neg", "abs", "exp", "sqrt", "rsqrt", "reciprocal", "tanh", "erf", "sigmoid", "sin", "cos", "relu",
               "gelu", "silu"},
       .inputs = {{"x", kFloats}},
       .outputs = float_result,
       .same_dtype = true,
       .in_place = over_x},
      {.id = "cuda.binary",
       .ops = {"add", "sub", "mul", "div", "maximum", "minimum", "pow"},
       .inputs = {{"a", kFloats}, {"b", kFloats}},
       .outputs = float_result,
       .same_dtype = true,
       .in_place = over_a_or_b},
      {.id = "cuda.integer_binary",
       .ops = {"add", "sub", "mul", "maximum", "minimum"},
       .inputs = {{"a", kIndices}, {"b", kIndices}},
       .outputs = {{"result", kIndices}},
       .same_dtype = true,
       .in_place = over_a_or_b},
      {.id = "cuda.compare",
       .ops = {"eq", "ne", "lt", "le", "gt", "ge"},
       .inputs = {{"a", {DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kI64, DType::kBool}},
                  {"b", {DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kI64, DType::kBool}}},
       .outputs = bool_result},
      {.id = "cuda.logical",
       .ops = {"logical_and", "logical_or"},
       .inputs = {{"a", kBoolOnly}, {"b", kBoolOnly}},
       .outputs = bool_result,
       .in_place = over_a_or_b},
      {.id = "cuda.logical_not",
       .ops = {"logical_not"},
       .inputs = {{"x", kBoolOnly}},
       .outputs = bool_result,
       .in_place = over_x},
      {.id = "cuda.select",
       .ops = {"where"},
       .inputs = {{"condition", kBoolOnly}, {"a", kAny}, {"b", kAny}},
       .outputs = any_result,
       .in_place = {{0, 1}, {0, 2}}},
      {.id = "cuda.cast", .ops = {"cast"}, .inputs = {{"x", kAny}}, .outputs = any_result},
      {.id = "cuda.constant", .ops = {"constant"}, .inputs = {}, .outputs = any_result},
      {.id = "cuda.iota", .ops = {"iota"}, .inputs = {}, .outputs = {{"result", kSummed}}},
      {.id = "cuda.copy",
       .ops = {"transpose", "expand", "slice"},
       .inputs = {{"x", kAny}},
       .outputs = any_result,
       .same_dtype = true},
      {.id = "cuda.concat",
       .ops = {"concat"},
       .inputs = {{"x", kAny}},
       .outputs = any_result,
       .variadic = true,
       .same_dtype = true},
      {.id = "cuda.index",
       .ops = {"index"},
       .inputs = {{"x", kAny}, {"indices", kIndices}},
       .outputs = any_result,
       .variadic = true},
      {.id = "cuda.cumsum",
       .ops = {"cumsum"},
       .inputs = {{"x", kSummed}},
       .outputs = {{"result", kSummed}},
       .same_dtype = true,
       .in_place = over_x},
      {.id = "cuda.reduce",
       .ops = {"reduce_sum", "reduce_mean", "reduce_max"},
       .inputs = {{"x", kFloats}},
       .outputs = float_result,
       .same_dtype = true},
      {.id = "cuda.softmax",
       .ops = {"softmax"},
       .inputs = {{"x", kFloats}},
       .outputs = float_result,
       .same_dtype = true,
       .in_place = over_x},
      {.id = "cuda.matmul",
       .ops = {"matmul"},
       .inputs = {{"a", kFloats}, {"b", kFloats}},
       .outputs = float_result,
       .same_dtype = true},
      {.id = "cuda.attention",
       .ops = {"attention"},
       .inputs = {{"q", kFloats},
                  {"k", kFloats},
                  {"v", kFloats},
                  {"mask", {DType::kF32, DType::kF16, DType::kBF16, DType::kBool}, /*optional=*/true}},
       .outputs = float_result},
      {.id = "cuda.rope",
       .ops = {"rope"},
       .inputs = {{"x", kFloats}, {"cos", kFloats}, {"sin", kFloats}},
       .outputs = float_result,
       .in_place = over_x},
  };
  for (KernelSpec& kernel : kernels) {
    kernel.device = "cuda";
    // An element's bits depend on what it is computed from alone, but in a softmax on where its row lies too, and in
    // attention on the kernel that takes the shape.
    kernel.batch_invariant = kernel.id != "cuda.softmax" && kernel.id != "cuda.attention";
  }
  return kernels;
}

std::vector<KernelSpec> MakeCatalog() {
  std::vector<KernelSpec> catalog = CpuKernels();
  for (KernelSpec& kernel : CudaKernels()) catalog.push_back(std::move(kernel));
  for (KernelSpec& kernel : CudaGraphKernels()) catalog.push_back(std::move(kernel));
  return catalog;
}

// a * b for non-negative values; nullopt on overflow.
std::optional<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

}  // namespace

absl::Span<const KernelSpec> Catalog() {
  static const absl::NoDestructor<std::vector<KernelSpec>> catalog(MakeCatalog());
  return *catalog;
}

const KernelSpec* FindKernel(std::string_view id, int32_t version) {
  for (const KernelSpec& spec : Catalog()) {
    if (spec.id == id && spec.version == version) return &spec;
  }
  return nullptr;
}

std::vector<const KernelSpec*> KernelsForOp(std::string_view op, std::string_view device) {
  std::vector<const KernelSpec*> found;
  for (const KernelSpec& spec : Catalog()) {
    if (spec.device == device && std::ranges::find(spec.ops, op) != spec.ops.end()) found.push_back(&spec);
  }
  return found;
}

bool AcceptsInput(const KernelSpec& spec, int input, DType dtype) {
  const int count = static_cast<int>(spec.inputs.size());
  if (input < 0 || count == 0 || (input >= count && !spec.variadic)) return false;
  return spec.inputs[std::min(input, count - 1)].dtypes.Contains(dtype);
}

std::string_view WeightLayout(const KernelSpec& spec, int input, DType dtype) {
  for (const WeightLayoutRule& rule : spec.weight_layouts) {
    if (rule.operand == input && rule.dtype == dtype) return rule.layout;
  }
  return kRowMajor;
}

bool MayOverwrite(const KernelSpec& spec, int output, int input) {
  return std::ranges::any_of(spec.in_place,
                             [=](const InPlaceRule& rule) { return rule.output == output && rule.input == input; });
}

absl::StatusOr<DimExpr> WorkspaceBytes(const KernelSpec& spec, const AttrMap& attrs, absl::Span<const Dims> inputs) {
  return spec.workspace_bytes == nullptr ? DimExpr(0) : spec.workspace_bytes(attrs, inputs);
}

namespace {

// Panels of 16 rows. Dim 1 is rounded up to a multiple, and `extra` elements a row come before.
struct PanelLayout {
  std::string_view name;
  DType dtype;
  size_t rank = 2;
  int64_t multiple = 1;
  int64_t extra = 0;
};
constexpr PanelLayout kPanelLayouts[] = {
    {kPanel16, DType::kF32},
    {kPanel16Vnni2, DType::kBF16, 2, 2},
    {kPanel16Int8, DType::kI8, 2, 64, 4},  // an i32 a row
    {kPanel16Int4, DType::kI8, 2, 16},     // groups of 32 codes
    {kPanel16Groups, DType::kF16, 3},
};

}  // namespace

absl::StatusOr<int64_t> PackedBytes(std::string_view layout, absl::Span<const int64_t> shape, DType dtype) {
  const std::string what = absl::StrCat("a weight ", DTypeName(dtype), "[", absl::StrJoin(shape, ", "), "]");
  for (int64_t dim : shape) {
    if (dim < 0) return absl::InvalidArgumentError(absl::StrCat(what, " has a negative dim"));
  }
  std::vector<int64_t> padded(shape.begin(), shape.end());
  if (layout != kRowMajor) {
    const auto* known = std::ranges::find(kPanelLayouts, layout, &PanelLayout::name);
    if (known == std::end(kPanelLayouts)) {
      std::string names(kRowMajor);
      for (const PanelLayout& panels : kPanelLayouts) absl::StrAppend(&names, ", ", panels.name);
      return absl::InvalidArgumentError(absl::StrCat("unknown weight layout \"", layout, "\"; known: ", names));
    }
    if (shape.size() != known->rank || dtype != known->dtype) {
      return absl::InvalidArgumentError(absl::StrCat("layout ", layout, " takes a weight ", DTypeName(known->dtype),
                                                     known->rank == 2 ? "[N, K]" : "[N, G, 2]", ", not ", what));
    }
    constexpr int64_t kLargest = std::numeric_limits<int64_t>::max() - 128;
    if (shape[0] > kLargest || shape[1] > kLargest) {
      return absl::InvalidArgumentError(absl::StrCat(what, " is too large"));
    }
    padded[0] = (shape[0] + 15) / 16 * 16;
    padded[1] = (shape[1] + known->multiple - 1) / known->multiple * known->multiple + known->extra;
  }
  std::optional<int64_t> bytes = DTypeBytes(dtype);
  for (int64_t dim : padded) {
    if (bytes) bytes = CheckedMul(*bytes, dim);
  }
  if (!bytes) return absl::InvalidArgumentError(absl::StrCat(what, " is too large"));
  return *bytes;
}

}  // namespace flashflow::kernels
