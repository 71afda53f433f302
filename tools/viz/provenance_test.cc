#include "tools/viz/provenance.h"

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/op_table.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::tools {
namespace {

using ::testing::Contains;
using ::testing::UnorderedElementsAre;

struct Traced {
  std::unique_ptr<ir::Graph> graph;
  std::unique_ptr<Provenance> provenance;
};

Traced Trace(const std::string& json) {
  auto graph = frontend::ImportGraph(json);
  EXPECT_TRUE(graph.ok()) << graph.status();
  Traced traced = {*std::move(graph), nullptr};
  traced.provenance = std::make_unique<Provenance>(traced.graph.get());
  for (const auto& pass : passes::StepPipeline()) {
    traced.provenance->BeginPass(pass->name());
    const passes::CompileOptions options;
    passes::PassContext context(pass->name(), options);
    EXPECT_TRUE(passes::RunPass(*pass, traced.graph.get(), &context).ok());
    traced.provenance->EndPass();
  }
  return traced;
}

const ir::Node* Find(const ir::Graph& graph, ir::Op op) {
  for (const auto& node : graph.nodes()) {
    if (node->op() == op) return node.get();
  }
  return nullptr;
}

// The five steps of a layer of either form, each with the operations that it took over and none of its neighbors'.
TEST(ProvenanceTest, FusedOperationsHaveTheOnesThatTheyTookOver) {
  for (const std::string& json :
       {frontend::Gpt2Json({.layers = 3}), frontend::LlamaJson({.layers = 3, .kv_heads = 2})}) {
    const Traced traced = Trace(json);
    std::map<const ir::Node*, std::multiset<std::string>> regions;
    for (const auto& [before, after] : traced.provenance->Successors()) {
      regions[after].insert(std::string(ir::OpName(before->op())));
    }
    int attentions = 0, normed = 0, residual = 0;
    for (const auto& [after, ops] : regions) {
      if (after->op() == ir::Op::kCachedAttention) {
        ++attentions;
        EXPECT_EQ(ops.count("attention"), 1u);
        EXPECT_EQ(ops.count("linear"), 0u) << "projections are others' work";
      } else if (after->op() == ir::Op::kFusedLinear) {
        EXPECT_GE(ops.count("linear"), 1u) << after->loc();
        EXPECT_LE(ops.count("linear"), 3u) << after->loc();
        const bool norm = after->attr<std::string>("norm") != "none";
        EXPECT_EQ(ops.count("layer_norm") + ops.count("rms_norm"), norm ? 1u : 0u) << after->loc();
        normed += norm;
        residual += after->num_operands() > 3 && after->operand(3) != nullptr;
        EXPECT_EQ(ops.count("add") > 0, after->num_operands() > 3 && after->operand(3) != nullptr) << after->loc();
      }
    }
    EXPECT_EQ(attentions, 3);
    EXPECT_EQ(normed, 7);    // two a layer, and the head
    EXPECT_EQ(residual, 6);  // two a layer
  }
}

TEST(ProvenanceTest, NamesThePassThatMadeANode) {
  const Traced traced = Trace(frontend::LlamaJson({.layers = 1, .kv_heads = 2}));
  const ir::Graph& graph = *traced.graph;
  EXPECT_EQ(traced.provenance->MadeBy(Find(graph, ir::Op::kCachedAttention)), "fuse-cached-attention");
  EXPECT_EQ(traced.provenance->MadeBy(Find(graph, ir::Op::kGatherRows)), "last-token-head");
  std::set<std::string> linears;
  for (const auto& node : graph.nodes()) {
    if (node->op() == ir::Op::kFusedLinear) linears.insert(traced.provenance->MadeBy(node.get()));
  }
  EXPECT_THAT(linears, UnorderedElementsAre("fuse-qkv-norm", "fuse-out-residual"));
  EXPECT_EQ(traced.provenance->MadeBy(Find(graph, ir::Op::kEmbedding)), "") << "as it was imported";
}

TEST(ProvenanceTest, EveryNodeBeforeIsOfTheGraphBefore) {
  const Traced traced = Trace(frontend::Gpt2Json({.layers = 2}));
  std::set<const ir::Node*> before, after;
  for (const auto& node : traced.provenance->before().nodes()) before.insert(node.get());
  for (const auto& node : traced.graph->nodes()) after.insert(node.get());
  size_t found = 0;
  for (const auto& [from, to] : traced.provenance->Successors()) {
    EXPECT_THAT(before, Contains(from));
    EXPECT_THAT(after, Contains(to));
    found += ir::OpName(from->op()) != "constant";
  }
  EXPECT_GT(found, before.size() / 2);
}

}  // namespace
}  // namespace flashflow::tools
