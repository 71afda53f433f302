#include "compiler/passes/recognize_norms_pass.h"

#include <optional>
#include <utility>
#include <vector>

#include "compiler/ir/status_macros.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;
using Rewrite = absl::StatusOr<Value*>;

// The base of x * x or x^2.
Value* SquareOf(const Value* value) {
  if (const Node* mul = DefinedBy(value, Op::kMul); mul != nullptr && mul->operand(0) == mul->operand(1)) {
    return mul->operand(0);
  }
  const Node* pow = DefinedBy(value, Op::kPow);
  return pow != nullptr && IsConstant(pow->operand(1), 2) ? pow->operand(0) : nullptr;
}

// reduce_mean(x), the reduced axes kept.
const Node* KeptMean(const Value* value) {
  const Node* mean = DefinedBy(value, Op::kReduceMean);
  return mean != nullptr && mean->attr<bool>("keepdims") ? mean : nullptr;
}

// A product with 1 / sqrt(denominator), or a quotient by sqrt(denominator).
struct Scaled {
  Value* x;
  const Value* denominator;
};

const Value* UnderRsqrt(const Value* value) {
  if (const Node* rsqrt = DefinedBy(value, Op::kRsqrt); rsqrt != nullptr) return rsqrt->operand(0);
  const Node* reciprocal = DefinedBy(value, Op::kReciprocal);
  const Node* sqrt = reciprocal == nullptr ? nullptr : DefinedBy(reciprocal->operand(0), Op::kSqrt);
  return sqrt == nullptr ? nullptr : sqrt->operand(0);
}

std::optional<Scaled> ScaledByRoot(const Node* node) {
  if (node->op() == Op::kMul) {
    for (int i : {0, 1}) {
      if (const Value* denominator = UnderRsqrt(node->operand(i)); denominator != nullptr) {
        return Scaled{node->operand(1 - i), denominator};
      }
    }
  }
  if (node->op() == Op::kDiv) {
    if (const Node* sqrt = DefinedBy(node->operand(1), Op::kSqrt); sqrt != nullptr) {
      return Scaled{node->operand(0), sqrt->operand(0)};
    }
  }
  return std::nullopt;
}

// x / sqrt(mean(x^2) + eps), and the same of x minus its mean.
Rewrite Norm(Graph* graph, Node* node, PassContext* context) {
  const std::optional<Scaled> scaled = ScaledByRoot(node);
  if (!scaled.has_value() || scaled->x->type() != node->result()->type()) return nullptr;
  const Node* add = DefinedBy(scaled->denominator, Op::kAdd);
  if (add == nullptr) return nullptr;
  for (int i : {0, 1}) {
    const Node* mean = KeptMean(add->operand(i));
    if (mean == nullptr || SquareOf(mean->operand(0)) != scaled->x) continue;
    const auto last = static_cast<int64_t>(node->result()->tensor().shape.size()) - 1;
    const std::vector<int64_t> over = {last};
    if (mean->attr<std::vector<int64_t>>("axes") != over) {
      context->Refuse(*graph, node, "it normalizes over other axes than the last one");
      return nullptr;
    }
    const std::optional<double> eps = ConstantValue(add->operand(1 - i));
    if (!eps.has_value() || !(*eps >= 0)) {
      context->Refuse(*graph, node, "its eps is no constant of 0 or more");
      return nullptr;
    }
    const AttrMap attrs = {{"eps", *eps}};
    if (const Node* centered = DefinedBy(scaled->x, Op::kSub); centered != nullptr) {
      const Node* center = KeptMean(centered->operand(1));
      if (center != nullptr && center->operand(0) == centered->operand(0) &&
          center->attr<std::vector<int64_t>>("axes") == over) {
        return AddBefore(graph, node, Op::kLayerNorm, {centered->operand(0)}, attrs);
      }
    }
    return AddBefore(graph, node, Op::kRmsNorm, {scaled->x}, attrs);
  }
  return nullptr;
}

Node* NormAt(const Value* value) {
  Node* norm = DefinedBy(value, Op::kRmsNorm);
  return norm != nullptr ? norm : DefinedBy(value, Op::kLayerNorm);
}

bool IsChannelWeight(const Value* value, const Value* norm) {
  return value->kind() == ir::ValueKind::kWeight && value->tensor().shape == Dims{norm->tensor().shape.back()};
}

Rewrite Weighted(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kMul) return nullptr;
  for (int i : {0, 1}) {
    const Node* norm = NormAt(node->operand(i));
    Value* weight = node->operand(1 - i);
    if (norm == nullptr || norm->num_operands() > 1 || !IsChannelWeight(weight, norm->result())) continue;
    return AddBefore(graph, node, norm->op(), {norm->operand(0), weight}, norm->attrs());
  }
  return nullptr;
}

Rewrite Biased(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kAdd) return nullptr;
  for (int i : {0, 1}) {
    const Node* norm = DefinedBy(node->operand(i), Op::kLayerNorm);
    Value* bias = node->operand(1 - i);
    if (norm == nullptr || norm->num_operands() > 2 || !IsChannelWeight(bias, norm->result())) continue;
    Value* weight = norm->num_operands() == 2 ? norm->operand(1) : nullptr;
    return AddBefore(graph, node, Op::kLayerNorm, {norm->operand(0), weight, bias}, norm->attrs());
  }
  return nullptr;
}

// The norm computes in f32 or wider whatever the dtype of its operand.
Rewrite Uncast(Graph* graph, Node* node, PassContext*) {
  if (node->op() != Op::kCast) return nullptr;
  const Node* norm = NormAt(node->operand(0));
  const Node* cast = norm == nullptr ? nullptr : DefinedBy(norm->operand(0), Op::kCast);
  if (cast == nullptr || norm->result()->tensor().dtype != DType::kF32) return nullptr;
  if (cast->operand(0)->type() != node->result()->type() || !IsFloat(cast->operand(0)->tensor().dtype)) return nullptr;
  std::vector<Value*> operands(norm->operands().begin(), norm->operands().end());
  operands[0] = cast->operand(0);
  return AddBefore(graph, node, norm->op(), std::move(operands), norm->attrs());
}

constexpr RewriteRule kRules[] = {Norm, Weighted, Biased, Uncast};

}  // namespace

absl::StatusOr<bool> RecognizeNormsPass::Run(Graph* graph, PassContext* context) const {
  // Ends: every rule joins two nodes or more into one.
  return ApplyRules(graph, kRules, context);
}

}  // namespace flashflow::passes
