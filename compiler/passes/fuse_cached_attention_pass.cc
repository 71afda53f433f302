#include "compiler/passes/fuse_cached_attention_pass.h"

#include <cstdint>
#include <string>
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

// Heads as columns start .. start + heads * head_dim of a value [T, columns], perhaps turned.
struct Columns {
  Value* whole;
  DimExpr start;
  Value* cos = nullptr;
  Value* sin = nullptr;
};

// Of a value [T, heads, head_dim].
Columns ColumnsOf(Value* value) {
  Columns columns;
  if (const Node* rope = DefinedBy(value, Op::kRope)) {
    columns.cos = rope->operand(1);
    columns.sin = rope->operand(2);
    value = rope->operand(0);
  }
  if (const Node* reshape = DefinedBy(value, Op::kReshape)) value = reshape->operand(0);
  const Node* slice = DefinedBy(value, Op::kSlice);
  columns.whole = value;
  if (slice != nullptr && slice->attr<int64_t>("axis") == 1 && slice->attr<int64_t>("step") == 1 &&
      slice->operand(0)->tensor().shape.size() == 2) {
    columns.whole = slice->operand(0);
    columns.start = slice->attr<DimExpr>("start");
  }
  return columns;
}

struct Match {
  Node* append = nullptr;
  Node* attention = nullptr;
  Value* qkv = nullptr;
  Value* cos = nullptr;  // nullptr, as sin: they do not turn
  Value* sin = nullptr;
  int64_t heads = 0;
};

// Fills `match`; why the attention stays as it is, or empty.
std::string MatchAttention(Node* attention, Match* match) {
  Node* append = DefinedBy(attention->operand(0), Op::kKvAppend);
  if (append == nullptr || append->attr<int64_t>("layer") != attention->attr<int64_t>("layer")) {
    return "no kv_append of its layer comes right before it";
  }
  for (int i = 0; i < 3; ++i) {
    if (append->operand(3 + i) != attention->operand(2 + i)) return "its rows are not those of the kv_append";
  }
  int readers = 0;
  for (const ir::Use& use : append->result()->uses()) readers += use.node->op() == Op::kPagedAttention;
  if (readers != 1) return "the cache it reads has other readers";

  Value* q_value = attention->operand(1);
  const Dims& q_shape = q_value->tensor().shape;
  const Dims& k_shape = append->operand(1)->tensor().shape;
  const Columns q = ColumnsOf(q_value);
  const Columns k = ColumnsOf(append->operand(1));
  const Columns v = ColumnsOf(append->operand(2));
  const DimExpr q_size = q_shape[1] * q_shape[2];
  const DimExpr kv_size = k_shape[1] * k_shape[2];
  if (q.whole != k.whole || q.whole != v.whole || q.start != DimExpr(0) || k.start != q_size ||
      v.start != q_size + kv_size || q.whole->tensor().shape != Dims{q_shape[0], q_size + kv_size + kv_size}) {
    return "queries, keys and values are not side by side in one product";
  }
  if (q.cos != k.cos || q.sin != k.sin || v.cos != nullptr) return "queries and keys turn by different angles";
  if (q.cos != nullptr) {
    for (const Value* angle : {q.cos, q.sin}) {
      if (angle->tensor().shape != Dims{q_shape[0], 1, q_shape[2]}) return "the angles are not one row a token";
    }
  }
  if (!q_shape[1].constant().has_value()) return "it has no constant number of heads";
  *match = {append, attention, q.whole, q.cos, q.sin, *q_shape[1].constant()};
  return "";
}

absl::Status Fuse(Graph* graph, const Match& match) {
  Node* attention = match.attention;
  Node* append = match.append;
  const Dims& q_shape = attention->result()->tensor().shape;
  std::vector<Value*> operands = {append->operand(0), match.qkv, attention->operand(2), attention->operand(3),
                                  attention->operand(4)};
  if (match.cos != nullptr) {
    for (Value* angle : {match.cos, match.sin}) {
      FF_ASSIGN_OR_RETURN(
          angle, AddBefore(graph, attention, Op::kReshape, {angle}, {{"shape", Dims{q_shape[0], q_shape[2]}}}));
      operands.push_back(angle);
    }
  }
  AttrMap attrs = attention->attrs();
  attrs["heads"] = match.heads;
  FF_ASSIGN_OR_RETURN(Node * fused, graph->AddNode(Op::kCachedAttention, std::move(operands), std::move(attrs),
                                                   attention->loc(), attention));
  FF_ASSIGN_OR_RETURN(Value * heads,
                      AddBefore(graph, attention, Op::kReshape, {fused->result(1)}, {{"shape", q_shape}}));
  graph->ReplaceAllUsesWith(attention->result(), heads);
  graph->Erase(attention);
  graph->ReplaceAllUsesWith(append->result(), fused->result(0));
  graph->Erase(append);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<bool> FuseCachedAttentionPass::Run(Graph* graph, PassContext* context) const {
  std::vector<Node*> attentions;
  for (const auto& node : graph->nodes()) {
    if (node->op() == Op::kPagedAttention) attentions.push_back(node.get());
  }
  for (Node* attention : attentions) {
    Match match;
    if (const std::string reason = MatchAttention(attention, &match); !reason.empty()) {
      context->Refuse(*graph, attention, reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    FF_RETURN_IF_ERROR(Fuse(graph, match));
  }
  return context->rewrites() > 0;
}

}  // namespace flashflow::passes
