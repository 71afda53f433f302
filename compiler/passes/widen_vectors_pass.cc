#include "compiler/passes/widen_vectors_pass.h"

#include <vector>

#include "absl/types/span.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

// Which of the op's operands are such vectors.
absl::Span<const int> Vectors(Op op) {
  static constexpr int kBias[] = {2}, kWeight[] = {1}, kWeightAndBias[] = {1, 2}, kBehindTheSum[] = {2, 3},
                       kOfFusedLinear[] = {2, 4, 5};
  switch (op) {
    case Op::kLinear:
      return kBias;
    case Op::kRmsNorm:
      return kWeight;
    case Op::kLayerNorm:
      return kWeightAndBias;
    case Op::kAddNorm:
      return kBehindTheSum;
    case Op::kFusedLinear:
      return kOfFusedLinear;
    default:
      return {};
  }
}

}  // namespace

absl::StatusOr<bool> WidenVectorsPass::Run(ir::Graph* graph, PassContext* context) const {
  if (context->options().device != "cuda") return false;
  const int64_t before = context->rewrites();
  std::vector<Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  for (Node* node : nodes) {
    for (const int operand : Vectors(node->op())) {
      if (operand >= static_cast<int>(node->operands().size())) break;
      Value* vector = node->operand(operand);
      if (vector == nullptr || vector->tensor().dtype == DType::kF32) continue;
      if (!context->BeginRewrite()) return true;
      FF_ASSIGN_OR_RETURN(Value * wide, AddBefore(graph, node, Op::kCast, {vector}, {{"dtype", DType::kF32}}));
      graph->SetOperand(node, operand, wide);
    }
  }
  return context->rewrites() != before;
}

}  // namespace flashflow::passes
