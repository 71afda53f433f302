#include "compiler/proof/correspondence.h"

#include <cstdint>

#include "compiler/proof/planted_pass.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using ir::Node;
using ir::Value;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr std::string_view kChain = R"ir(ffir 1
  graph @g {
    input %x "x" : f32[4]
    weight %w "w" : f32[4]
    %a = add(%x, %w) : f32[4]
    %b = neg(%a) : f32[4]
    output "y" %b
  })ir";

Value* ResultOf(const ir::Graph& graph, ir::Op op) {
  for (const auto& node : graph.nodes()) {
    if (node->op() == op) return node->result();
  }
  return nullptr;
}

TEST(CorrespondenceTest, ValuesStandForThemselvesAndForWhatTheyReplace) {
  const auto graph = Parse(kChain);
  int64_t rewrite = 0;
  const Correspondence pairs(graph.get(), [&rewrite] { return rewrite; });
  const Value* x = pairs.before().FindInput("x");
  const Value* sum = ResultOf(pairs.before(), ir::Op::kAdd);
  const Value* neg = ResultOf(pairs.before(), ir::Op::kNeg);
  EXPECT_EQ(pairs.StandIn(x), graph->FindInput("x"));
  EXPECT_EQ(pairs.StandIn(sum), ResultOf(*graph, ir::Op::kAdd));
  EXPECT_THAT(pairs.Originals(graph->FindInput("x")), UnorderedElementsAre(x));
  EXPECT_THAT(pairs.Originals(graph->FindWeight("w")), UnorderedElementsAre(pairs.before().FindWeight("w")));
  EXPECT_EQ(pairs.RewriteOf(sum), 0);

  // add becomes a copy of it, and that the input.
  rewrite = 1;
  Node* add = ResultOf(*graph, ir::Op::kAdd)->def();
  Value* copy = Add(graph.get(), add, ir::Op::kAdd, {add->operand(0), add->operand(1)});
  graph->ReplaceAllUsesWith(add->result(), copy);
  EXPECT_EQ(pairs.StandIn(sum), copy);
  EXPECT_THAT(pairs.Originals(add->result()), IsEmpty());
  rewrite = 2;
  graph->ReplaceAllUsesWith(copy, graph->FindInput("x"));
  EXPECT_EQ(pairs.StandIn(sum), graph->FindInput("x"));
  EXPECT_THAT(pairs.Originals(graph->FindInput("x")), UnorderedElementsAre(x, sum));
  EXPECT_EQ(pairs.RewriteOf(sum), 2);
  EXPECT_EQ(pairs.RewriteOf(neg), 0);
}

TEST(CorrespondenceTest, NothingStandsForWhatIsGone) {
  const auto graph = Parse(kChain);
  const Correspondence pairs(graph.get(), [] { return 1; });
  Node* neg = ResultOf(*graph, ir::Op::kNeg)->def();
  graph->SetOutput(0, neg->operand(0));
  graph->Erase(neg);
  EXPECT_EQ(pairs.StandIn(ResultOf(pairs.before(), ir::Op::kNeg)), nullptr);
}

// Results are other values then, whatever lies at their addresses; inputs and weights go by their names.
TEST(CorrespondenceTest, AfterASwapOnlySourcesStandForSomething) {
  const auto graph = Parse(kChain);
  const auto other = Parse(kChain);
  const Correspondence pairs(graph.get(), [] { return 1; });
  graph->Swap(*other);
  EXPECT_EQ(pairs.StandIn(ResultOf(pairs.before(), ir::Op::kAdd)), nullptr);
  EXPECT_EQ(pairs.StandIn(pairs.before().FindInput("x")), graph->FindInput("x"));
  EXPECT_EQ(pairs.StandIn(pairs.before().FindWeight("w")), graph->FindWeight("w"));
  EXPECT_THAT(pairs.Originals(ResultOf(*graph, ir::Op::kAdd)), IsEmpty());
  EXPECT_THAT(pairs.Originals(ResultOf(*other, ir::Op::kAdd)), IsEmpty()) << "a new value may get its address";
}

}  // namespace
}  // namespace flashflow::proof
