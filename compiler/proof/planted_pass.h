// Passes that a test plants, right or wrong, and what the prover says of them.
#ifndef COMPILER_PROOF_PLANTED_PASS_H_
#define COMPILER_PROOF_PLANTED_PASS_H_

#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/parser.h"
#include "compiler/passes/pass.h"
#include "compiler/proof/prover.h"
#include "gtest/gtest.h"

namespace flashflow::proof {

inline std::unique_ptr<ir::Graph> Parse(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return graph.ok() ? *std::move(graph) : nullptr;
}

// A pass made of a rule for single nodes: what may stand for the node's result, nullptr for nothing else.
class RulePass : public passes::Pass {
 public:
  using Rule = std::function<ir::Value*(ir::Graph*, ir::Node*)>;
  RulePass(passes::Relation relation, Rule rule) : relation_(relation), rule_(std::move(rule)) {}
  std::string_view name() const override { return "planted"; }
  passes::Relation relation() const override { return relation_; }
  absl::StatusOr<bool> Run(ir::Graph* graph, passes::PassContext* context) const override {
    std::vector<ir::Node*> nodes;
    for (const auto& node : graph->nodes()) nodes.push_back(node.get());
    for (ir::Node* node : nodes) {
      ir::Value* value = rule_(graph, node);
      if (value == nullptr) continue;
      if (!context->BeginRewrite()) break;
      graph->ReplaceAllUsesWith(node->result(), value);
    }
    return context->rewrites() > 0;
  }

 private:
  passes::Relation relation_;
  Rule rule_;
};

inline absl::StatusOr<PassProof> ProveRule(std::string_view text, passes::Relation relation, RulePass::Rule rule) {
  const auto graph = Parse(text);
  Prover prover({}, {});
  return prover.ProvePass(RulePass(relation, std::move(rule)), graph.get());
}

inline ir::Value* Add(ir::Graph* graph, ir::Node* before, ir::Op op, std::vector<ir::Value*> operands,
                      AttrMap attrs = {}) {
  const auto node = graph->AddNode(op, std::move(operands), std::move(attrs), before->loc(), before);
  EXPECT_TRUE(node.ok()) << node.status();
  return (*node)->result();
}

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_PLANTED_PASS_H_
