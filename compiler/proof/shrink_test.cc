#include "compiler/proof/shrink.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/verifier.h"
#include "compiler/proof/random_graph.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Op;

int Count(const Graph& graph, Op op) {
  return static_cast<int>(std::ranges::count_if(graph.nodes(), [op](const auto& node) { return node->op() == op; }));
}

TEST(ShrinkTest, LeavesWhatTheFailureNeeds) {
  const auto graph = frontend::ImportGraph(frontend::LlamaJson({}));
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto small = Shrink(**graph, [](const Graph& g) { return Count(g, Op::kAttention) > 0; });
  // One attention over inputs of its own, everything else gone.
  ASSERT_EQ(small->nodes().size(), 1u) << ir::Print(*small);
  EXPECT_EQ(small->outputs()[0].value->type(), ir::Type(ir::TensorType{DType::kF32, {1, 1, 1, 1}}));
  EXPECT_LE(small->inputs().size(), 3u);
  EXPECT_TRUE(small->weights().empty());
  EXPECT_TRUE(small->symbols().empty());
  EXPECT_TRUE(small->metadata().empty());
}

TEST(ShrinkTest, DropsLocations) {
  const auto graph =
      ir::Parse("ffir 1 graph @g { input %x \"x\" : f32[1] %y = exp(%x) : f32[1] loc \"a\" output \"y\" %y }");
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto small = Shrink(**graph, [](const Graph& g) { return Count(g, Op::kExp) > 0; });
  ASSERT_EQ(small->nodes().size(), 1u);
  EXPECT_EQ(small->nodes().front()->loc(), "");
}

TEST(ShrinkTest, KeepsChainsThatTheFailureNeeds) {
  const auto fails = [](const Graph& graph) {
    return std::ranges::any_of(graph.nodes(), [](const auto& node) {
      const ir::Node* inner = node->op() == Op::kNeg ? node->operand(0)->def() : nullptr;
      return inner != nullptr && inner->op() == Op::kNeg;
    });
  };
  int shrunk = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto graph = RandomGraph(seed);
    if (!fails(*graph)) continue;
    ++shrunk;
    const auto small = Shrink(*graph, fails);
    EXPECT_TRUE(fails(*small));
    EXPECT_EQ(small->nodes().size(), 2u) << ir::Print(*small);
    EXPECT_EQ(small->inputs().size(), 1u) << ir::Print(*small);
    EXPECT_TRUE(small->weights().empty());
    EXPECT_TRUE(ir::Parse(ir::Print(*small)).ok());
  }
  EXPECT_GT(shrunk, 3);
}

// Nodes between those that the failure needs go away, and no symbol but the one that it needs stays: one whose name is
// the beginning of another's is not in the other.
TEST(ShrinkTest, TakesOutWhatIsBetween) {
  const auto graph = ir::Parse(R"ir(ffir 1
    graph @g {
      symbol S [1, 8]
      symbol S2 [1, 8]
      input %x "x" : f32[S, S2, 6]
      %a = exp(%x) : f32[S, S2, 6]
      %b = neg(%a) : f32[S, S2, 6]
      %c = exp(%b) : f32[S, S2, 6]
      output "y" %c
    })ir");
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto small = Shrink(**graph, [](const Graph& g) {
    const ir::Node* last = g.outputs()[0].value->def();
    const ir::Value* x = last == nullptr ? nullptr : last->operand(0);
    while (x != nullptr && x->def() != nullptr && x->def()->op() != Op::kExp) x = x->def()->operand(0);
    return last != nullptr && last->op() == Op::kExp && x->def() != nullptr &&
           absl::c_linear_search(last->result()->tensor().shape, DimExpr::Symbol("S2"));
  });
  EXPECT_EQ(small->nodes().size(), 2u) << ir::Print(*small);
  EXPECT_EQ(small->outputs()[0].value->type(), ir::Type(ir::TensorType{DType::kF32, {1, DimExpr::Symbol("S2"), 1}}));
  EXPECT_EQ(small->symbols().size(), 1u);
}

TEST(ShrinkTest, ShrinksProductsOfSymbolsWithTheirFactors) {
  const auto graph = ir::Parse(R"ir(ffir 1
    graph @g {
      symbol S [1, 8]
      input %x "x" : f32[S, 6]
      %y = reshape(%x) {shape = dims(6*S)} : f32[6*S]
      output "y" %y
    })ir");
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto small = Shrink(**graph, [](const Graph& g) {
    return Count(g, Op::kReshape) > 0 && !g.inputs()[0]->tensor().shape[0].IsConstant();
  });
  EXPECT_EQ(small->outputs()[0].value->type(), ir::Type(ir::TensorType{DType::kF32, {DimExpr::Symbol("S")}}));
}

// A cache is consumed once: no candidate gives it out twice, or to nobody.
TEST(ShrinkTest, ShowsThePredicateOnlyGraphsThatAreRight) {
  const auto graph = ir::Parse(R"ir(ffir 1
    graph @g {
      input %rs "row_start" : i32[2]
      input %kl "kv_len" : i32[1]
      input %bt "block_table" : i32[1, 2]
      input %cache "cache" : cache[2, 1, 4, f32]
      input %x "x" : f32[3, 1, 4]
      %c = kv_append(%cache, %x, %x, %rs, %kl, %bt) {layer = 0} : cache[2, 1, 4, f32]
      %y = paged_attention(%c, %x, %rs, %kl, %bt) {layer = 0, scale = 0.5} : f32[3, 1, 4]
      %d = kv_append(%c, %y, %y, %rs, %kl, %bt) {layer = 1} : cache[2, 1, 4, f32]
      %z = paged_attention(%d, %y, %rs, %kl, %bt) {layer = 1, scale = 0.5} : f32[3, 1, 4]
      output "z" %z
      output "cache" %d
    })ir");
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto small = Shrink(**graph, [](const Graph& g) {
    EXPECT_EQ(ir::Verify(g), absl::OkStatus()) << ir::Print(g);
    return Count(g, Op::kPagedAttention) > 0;
  });
  EXPECT_EQ(Count(*small, Op::kPagedAttention), 1) << ir::Print(*small);
}

TEST(ShrinkTest, StopsAfterItsAttempts) {
  const auto graph = RandomGraph(3);
  int calls = 0;
  Shrink(*graph, [&calls](const Graph&) { return ++calls, true; }, {.max_attempts = 5});
  EXPECT_EQ(calls, 5);
}

}  // namespace
}  // namespace flashflow::proof
