// Reductions, norms, matrix products and attention.
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

absl::StatusOr<Values> One(absl::StatusOr<ir::Value*> value) {
  if (!value.ok()) return value.status();
  return Values{*value};
}

template <Op op>
absl::StatusOr<Values> Reduce(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(std::optional<DType> dtype, call.OptionalDType("dtype"));
  if (op == Op::kReduceSum && !dtype.has_value() && !IsFloat(x->tensor().dtype)) dtype = DType::kI64;  // as torch
  FF_ASSIGN_OR_RETURN(x, call.Cast(x, dtype.value_or(x->tensor().dtype)));
  const size_t rank = x->tensor().shape.size();
  std::vector<int64_t> axes;
  if (call.Has("dim")) {
    FF_ASSIGN_OR_RETURN(axes, call.Axes("dim", rank));
  }
  if (axes.empty()) {
    axes.resize(rank);
    std::iota(axes.begin(), axes.end(), 0);
  }
  FF_ASSIGN_OR_RETURN(const bool keepdims, call.Bool("keepdim", false));
  return One(call.Emit(op, {x}, {{"axes", std::move(axes)}, {"keepdims", keepdims}}));
}

absl::StatusOr<Values> Softmax(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_RETURN_IF_ERROR(call.RequireDefault("half_to_float", Arg{false}, "cast the operand instead"));
  FF_ASSIGN_OR_RETURN(x, call.Cast(x, dtype.value_or(x->tensor().dtype)));
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", x->tensor().shape.size()));
  return One(call.Emit(Op::kSoftmax, {x}, {{"axis", axis}}));
}

// torch normalizes over the trailing dims in `normalized_shape`; the IR over the last one.
absl::Status CheckNormalizedShape(const Call& call, const ir::Value* x) {
  FF_ASSIGN_OR_RETURN(const Dims shape, call.DimList("normalized_shape"));
  if (!x->tensor().shape.empty() && shape == Dims{x->tensor().shape.back()}) return absl::OkStatus();
  return call.Error("normalized_shape", absl::StrCat("the last dim of ", x->type().ToString()));
}

absl::StatusOr<Values> LayerNorm(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("input"));
  FF_RETURN_IF_ERROR(CheckNormalizedShape(call, x));
  FF_ASSIGN_OR_RETURN(ir::Value * weight, call.OptionalTensor("weight"));
  FF_ASSIGN_OR_RETURN(ir::Value * bias, call.OptionalTensor("bias"));
  FF_ASSIGN_OR_RETURN(const double eps, call.Float("eps", 1e-5));
  return One(call.Emit(Op::kLayerNorm, {x, weight, bias}, {{"eps", eps}}));
}

absl::StatusOr<Values> RmsNorm(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("input"));
  FF_RETURN_IF_ERROR(CheckNormalizedShape(call, x));
  FF_ASSIGN_OR_RETURN(ir::Value * weight, call.OptionalTensor("weight"));
  if (!call.Has("eps") && x->tensor().dtype != DType::kF32) return call.Error("eps", "a number, for a dtype but f32");
  FF_ASSIGN_OR_RETURN(const double eps, call.Float("eps", std::ldexp(1.0, -23)));  // torch's default: f32's epsilon
  return One(call.Emit(Op::kRmsNorm, {x, weight}, {{"eps", eps}}));
}

absl::StatusOr<Values> Linear(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("input"));
  FF_ASSIGN_OR_RETURN(ir::Value * weight, call.Tensor("weight"));
  FF_ASSIGN_OR_RETURN(ir::Value * bias, call.OptionalTensor("bias"));
  return One(call.Emit(Op::kLinear, {x, weight, bias}));
}

template <int rank>  // 0: any from 2 on
absl::StatusOr<Values> Matmul(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * a, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(ir::Value * b, call.Tensor("other"));
  for (auto [name, x] : {std::pair{"self", a}, std::pair{"other", b}}) {
    const size_t n = x->tensor().shape.size();
    if (rank != 0 && n != rank) return call.Error(name, absl::StrCat("a tensor of rank ", rank));
    if (n < 2) return call.Error(name, "a tensor of rank 2 or more; unsqueeze vectors in the model");
  }
  return One(call.Emit(Op::kMatmul, {a, b}));
}

// bias + mat1 @ mat2, as GPT-2's Conv1D is exported: a linear whose weight is stored transposed.
absl::StatusOr<Values> AddMm(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * bias, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("mat1"));
  FF_ASSIGN_OR_RETURN(ir::Value * weight, call.Tensor("mat2"));
  FF_RETURN_IF_ERROR(call.RequireDefault("beta", Arg{int64_t{1}}, "scale the bias in the model instead"));
  FF_RETURN_IF_ERROR(call.RequireDefault("alpha", Arg{int64_t{1}}, "scale the product in the model instead"));
  if (bias->tensor().shape.size() != 1) return call.Error("self", "a bias of rank 1");
  if (weight->tensor().shape.size() != 2) return call.Error("mat2", "a matrix");
  FF_ASSIGN_OR_RETURN(ir::Value * transposed,
                      call.Emit(Op::kTranspose, {weight}, {{"perm", std::vector<int64_t>{1, 0}}}));
  return One(call.Emit(Op::kLinear, {x, transposed, bias}));
}

absl::StatusOr<Values> ScaledDotProductAttention(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * q, call.Tensor("query"));
  FF_ASSIGN_OR_RETURN(ir::Value * k, call.Tensor("key"));
  FF_ASSIGN_OR_RETURN(ir::Value * v, call.Tensor("value"));
  for (auto [name, x] : {std::pair{"query", q}, std::pair{"key", k}, std::pair{"value", v}}) {
    if (x->tensor().shape.size() != 4) return call.Error(name, "a tensor [batch, heads, sequence, head_dim]");
  }
  FF_ASSIGN_OR_RETURN(ir::Value * mask, call.OptionalTensor("attn_mask"));
  FF_RETURN_IF_ERROR(call.RequireDefault("dropout_p", Arg{0.0}, "call model.eval() before exporting"));
  FF_ASSIGN_OR_RETURN(const bool causal, call.Bool("is_causal", false));
  FF_ASSIGN_OR_RETURN(const bool grouped, call.Bool("enable_gqa", false));
  const Dims& q_shape = q->tensor().shape;
  const Dims& k_shape = k->tensor().shape;
  if (!grouped && q_shape[1] != k_shape[1]) {
    return absl::InvalidArgumentError(absl::StrCat("query has ", q_shape[1].ToString(), " heads and key ",
                                                   k_shape[1].ToString(), "; pass enable_gqa=True"));
  }
  // torch aligns the causal mask to the first query and key, the IR to the last ones.
  if (causal && q_shape[2] != k_shape[2]) {
    return absl::InvalidArgumentError(absl::StrCat("is_causal=True wants as many queries as keys, got ",
                                                   q_shape[2].ToString(), " and ", k_shape[2].ToString()));
  }
  const std::optional<int64_t> head_dim = q_shape[3].constant();
  if (!head_dim.has_value() || *head_dim < 1) return call.Error("query", "a constant head_dim of 1 or more");
  FF_ASSIGN_OR_RETURN(const double scale, call.Float("scale", 1.0 / std::sqrt(static_cast<double>(*head_dim))));
  return One(call.Emit(Op::kAttention, {q, k, v, mask}, {{"causal", causal}, {"scale", scale}}));
}

constexpr TargetRow kTargets[] = {
    {"aten.mean.dim", "self dim? keepdim? dtype?", Reduce<Op::kReduceMean>},
    {"aten.sum.dim_IntList", "self dim? keepdim? dtype?", Reduce<Op::kReduceSum>},
    {"aten.amax.default", "self dim? keepdim?", Reduce<Op::kReduceMax>},
    {"aten.softmax.int", "self dim dtype?", Softmax},
    {"aten._softmax.default", "self dim half_to_float?", Softmax, "half_to_float must be False"},
    {"aten.layer_norm.default", "input normalized_shape weight? bias? eps? cudnn_enable~", LayerNorm,
     "over the last axis"},
    {"aten.rms_norm.default", "input normalized_shape weight? eps?", RmsNorm, "over the last axis"},
    {"aten.linear.default", "input weight bias?", Linear},
    {"aten.matmul.default", "self other", Matmul<0>, "operands of rank 2 or more"},
    {"aten.mm.default", "self other", Matmul<2>},
    {"aten.bmm.default", "self other", Matmul<3>},
    {"aten.addmm.default", "self mat1 mat2 beta? alpha?", AddMm,
     "a linear with a transposed weight; alpha and beta must be 1"},
    {"aten.scaled_dot_product_attention.default", "query key value attn_mask? dropout_p? is_causal? scale? enable_gqa?",
     ScaledDotProductAttention, "dropout_p must be 0; as many keys as queries where is_causal"},
};

}  // namespace

absl::Span<const TargetRow> ContractionTargets() { return kTargets; }

}  // namespace flashflow::frontend
