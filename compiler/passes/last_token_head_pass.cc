#include "compiler/passes/last_token_head_pass.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

bool Mentions(const Dims& dims, const DimExpr& symbol) {
  const std::vector<std::string> names = symbol.symbols();
  return std::ranges::any_of(dims, [&names](const DimExpr& dim) {
    const std::vector<std::string> used = dim.symbols();
    return std::ranges::find_first_of(used, names) != used.end();
  });
}

bool IsElementwise(Op op) { return op <= Op::kWhere; }

// Sinks the gathers of one graph by one `rows` value over values of `tokens` rows.
class Sinker {
 public:
  Sinker(Graph* graph, Value* rows, DimExpr tokens) : graph_(graph), rows_(rows), tokens_(std::move(tokens)) {}

  // Whether there is anything to sink through.
  bool Find() {
    for (const auto& node : graph_->nodes()) nodes_.push_back(node.get());
    for (auto it = nodes_.rbegin(); it != nodes_.rend(); ++it) {
      if (IsRowwise(**it) && EveryUseIsGathered(*(*it)->result())) {
        users_first_.push_back(*it);
        sunk_.insert(*it);
      }
    }
    return !sunk_.empty();
  }

  absl::Status Sink() {
    for (auto it = users_first_.rbegin(); it != users_first_.rend(); ++it) FF_RETURN_IF_ERROR(Shrink(**it));
    for (Node* node : nodes_) {
      if (!IsGather(*node) || !sunk_.contains(node->operand(0)->def())) continue;
      graph_->ReplaceAllUsesWith(node->result(), wanted_.at(node->operand(0)));
      graph_->Erase(node);
    }
    for (Node* node : users_first_) graph_->Erase(node);
    return absl::OkStatus();
  }

  // Why the gather stays where it is.
  std::string Reason(const Node& producer) const {
    if (!IsRowwise(producer)) return absl::StrCat(ir::OpName(producer.op()), " is not computed row by row");
    return "its other uses want all rows";
  }

 private:
  bool IsGather(const Node& node) const { return node.op() == Op::kGatherRows && node.operand(1) == rows_; }

  // Whether the operand holds one row a token, or has no token axis at all.
  bool IsRows(const Value* value) const {
    if (value == nullptr || !value->type().is_tensor()) return false;
    const Dims& shape = value->tensor().shape;
    return !shape.empty() && shape[0] == tokens_ && !Mentions(Dims(shape.begin() + 1, shape.end()), tokens_);
  }
  bool IsRowFree(const Value* value) const {
    return value == nullptr || (value->type().is_tensor() && !Mentions(value->tensor().shape, tokens_));
  }

  // Whether row i of the result depends on row i of the operands alone.
  bool IsRowwise(const Node& node) const {
    if (node.results().size() != 1 || !node.result()->type().is_tensor() || !IsRows(node.result())) return false;
    const size_t rank = node.result()->tensor().shape.size();
    const auto rows_or_free = [this](const Value* value) { return IsRowFree(value) || IsRows(value); };
    if (!std::ranges::all_of(node.operands(), rows_or_free)) return false;
    switch (node.op()) {
      case Op::kLinear:
      case Op::kLayerNorm:
      case Op::kRmsNorm:
        return rank >= 2 && std::ranges::all_of(node.operands().subspan(1), [this](auto* v) { return IsRowFree(v); });
      case Op::kReshape:
      case Op::kTranspose:
        return true;  // the tokens are on axis 0 alone, before and after
      case Op::kExpand:
        return IsRows(node.operand(0)) && node.operand(0)->tensor().shape.size() == rank;
      case Op::kSlice:
      case Op::kSoftmax:
        return node.attr<int64_t>("axis") != 0;
      case Op::kConcat:
        return node.attr<int64_t>("axis") != 0 &&
               std::ranges::all_of(node.operands(), [this](auto* v) { return IsRows(v); });
      case Op::kReduceSum:
      case Op::kReduceMean:
      case Op::kReduceMax:
        return std::ranges::find(node.attr<std::vector<int64_t>>("axes"), 0) ==
               node.attr<std::vector<int64_t>>("axes").end();
      case Op::kMatmul:  // [T, K] x [K, N], or with T among the batch dims
        return IsRows(node.operand(0)) && node.operand(0)->tensor().shape.size() == rank &&
               (IsRowFree(node.operand(1)) || (rank >= 3 && node.operand(1)->tensor().shape.size() == rank));
      default:
        return IsElementwise(node.op()) && std::ranges::all_of(node.operands(), [&](const Value* value) {
                 return IsRowFree(value) || value->tensor().shape.size() == rank;
               });
    }
  }

  bool EveryUseIsGathered(const Value& value) const {
    if (value.uses().empty()) return false;
    for (const ir::Output& output : graph_->outputs()) {
      if (output.value == &value) return false;
    }
    return std::ranges::all_of(value.uses(), [this](const ir::Use& use) {
      return sunk_.contains(use.node) || (IsGather(*use.node) && use.operand_index == 0);
    });
  }

  // The wanted rows of an operand that has rows, for use before `user`.
  absl::StatusOr<Value*> Wanted(Value* value, Node* user) {
    Value*& wanted = wanted_[value];
    if (wanted == nullptr) {
      FF_ASSIGN_OR_RETURN(Node * gather, graph_->AddNode(Op::kGatherRows, {value, rows_}, {}, user->loc(), user));
      wanted = gather->result();
    }
    return wanted;
  }

  // The same node on the wanted rows.
  absl::Status Shrink(Node& node) {
    std::vector<Value*> operands;
    for (Value* operand : node.operands()) {
      if (!IsRowFree(operand)) {
        FF_ASSIGN_OR_RETURN(operand, Wanted(operand, &node));
      }
      operands.push_back(operand);
    }
    AttrMap attrs = node.attrs();
    if (node.op() == Op::kReshape || node.op() == Op::kExpand) {
      std::get<Dims>(attrs["shape"])[0] = rows_->tensor().shape[0];
    }
    FF_ASSIGN_OR_RETURN(Node * shrunk,
                        graph_->AddNode(node.op(), std::move(operands), std::move(attrs), node.loc(), &node));
    wanted_[node.result()] = shrunk->result();
    return absl::OkStatus();
  }

  Graph* graph_;
  Value* rows_;
  DimExpr tokens_;
  std::vector<Node*> nodes_;        // of the graph, before
  std::vector<Node*> users_first_;  // those to sink through
  absl::flat_hash_set<const Node*> sunk_;
  absl::flat_hash_map<const Value*, Value*> wanted_;
};

}  // namespace

absl::StatusOr<bool> LastTokenHeadPass::Run(Graph* graph, PassContext* context) const {
  std::vector<Value*> tried;
  bool changed = false;
  while (true) {
    Node* gather = nullptr;
    for (const auto& node : graph->nodes()) {
      if (node->op() == Op::kGatherRows && node->operand(0)->def() != nullptr &&
          std::ranges::find(tried, node->operand(1)) == tried.end()) {
        gather = node.get();
        break;
      }
    }
    if (gather == nullptr) return changed;
    tried.push_back(gather->operand(1));
    const DimExpr tokens = gather->operand(0)->tensor().shape[0];
    if (tokens.IsConstant()) continue;
    Sinker sinker(graph, gather->operand(1), tokens);
    if (!sinker.Find()) {
      context->Refuse(*graph, gather, sinker.Reason(*gather->operand(0)->def()));
      continue;
    }
    if (!context->BeginRewrite()) return changed;
    FF_RETURN_IF_ERROR(sinker.Sink());
    changed = true;
  }
}

}  // namespace flashflow::passes
