#include "compiler/proof/shrink.h"

#include <algorithm>
#include <memory>
#include <string>

#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
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

TEST(ShrinkTest, StopsAfterItsAttempts) {
  const auto graph = RandomGraph(3);
  int calls = 0;
  Shrink(*graph, [&calls](const Graph&) { return ++calls, true; }, {.max_attempts = 5});
  EXPECT_EQ(calls, 5);
}

}  // namespace
}  // namespace flashflow::proof
