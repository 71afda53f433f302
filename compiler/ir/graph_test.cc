#include "compiler/ir/graph.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/ir/builder.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/verifier.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::ir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GraphTest : public ::testing::Test {
 protected:
  GraphTest() {
    b_ = builder_.Symbol("B", 1, 8);
    x_ = builder_.Input("x", DType::kF32, {b_, 4});
    w_ = builder_.Weight("w", {6, 4});
    y_ = builder_.Add(Op::kLinear, {x_, w_}, {}, "proj (m.py:1)");
    z_ = builder_.Add(Op::kExp, {y_});
    builder_.Output("z", z_);
  }

  Graph& graph() { return builder_.graph(); }

  GraphBuilder builder_{"g"};
  DimExpr b_;
  Value *x_, *w_, *y_, *z_;
};

TEST_F(GraphTest, KeepsUseLists) {
  EXPECT_THAT(y_->uses(), ElementsAre(Use{z_->def(), 0}));
  EXPECT_TRUE(z_->uses().empty());
  EXPECT_TRUE(z_->HasUses()) << "as an output";
  Value* square = builder_.Add(Op::kMul, {y_, y_});
  EXPECT_EQ(y_->uses().size(), 3u);
  graph().ReplaceAllUsesWith(y_, z_);
  EXPECT_FALSE(y_->HasUses());
  EXPECT_EQ(square->def()->operand(0), z_);
  EXPECT_EQ(square->def()->operand(1), z_);
}

TEST_F(GraphTest, ReplacesOutputs) {
  graph().ReplaceAllUsesWith(z_, y_);
  EXPECT_EQ(graph().outputs()[0].value, y_);
  graph().Erase(z_->def());
  EXPECT_EQ(graph().nodes().size(), 1u);
  EXPECT_TRUE(y_->uses().empty());
  EXPECT_TRUE(Verify(graph()).ok());
}

TEST_F(GraphTest, InsertsAndMovesInProgramOrder) {
  Node* relu = *graph().AddNode(Op::kRelu, {y_}, {}, "", z_->def());
  graph().SetOperand(z_->def(), 0, relu->result());
  EXPECT_TRUE(Verify(graph()).ok());
  graph().MoveBefore(relu, y_->def());
  EXPECT_THAT(Verify(graph()).message(), HasSubstr("used before it is defined"));
}

TEST_F(GraphTest, DropsTrailingAbsentOperands) {
  Value* same = builder_.Add(Op::kLinear, {x_, w_, nullptr});
  EXPECT_EQ(same->def()->num_operands(), 2);
  Value* bias = builder_.Weight("bias", {4});
  Value* norm = builder_.Add(Op::kLayerNorm, {x_, nullptr, bias}, {{"eps", 1e-5}});
  EXPECT_EQ(norm->def()->num_operands(), 3);
  EXPECT_EQ(norm->def()->operand(1), nullptr);
  EXPECT_TRUE(Verify(graph()).ok());
}

TEST_F(GraphTest, AddNodeSaysWhereItFailed) {
  absl::StatusOr<Node*> node = graph().AddNode(Op::kLinear, {x_, y_}, {}, "proj (m.py:9)");
  EXPECT_EQ(node.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(node.status().message(), HasSubstr("linear: weight"));
  EXPECT_THAT(node.status().message(), HasSubstr("(at proj (m.py:9))"));
  EXPECT_EQ(graph().nodes().size(), 2u);
}

TEST_F(GraphTest, ClonesEverything) {
  graph().metadata()["context_length"] = 1024;
  Value* bias = builder_.Weight("bias", {4});
  builder_.Output("norm", builder_.Add(Op::kLayerNorm, {x_, nullptr, bias}, {{"eps", 1e-5}}));
  std::unique_ptr<Graph> clone = graph().Clone();
  EXPECT_TRUE(StructurallyEqual(graph(), *clone));
  EXPECT_TRUE(Verify(*clone).ok());
  EXPECT_EQ(Print(graph()), Print(*clone));
  clone->ReplaceAllUsesWith(clone->FindInput("x"), clone->FindInput("x"));
  clone->SetOutput(0, clone->FindInput("x"));
  EXPECT_FALSE(StructurallyEqual(graph(), *clone));
  EXPECT_EQ(graph().outputs()[0].value, z_);
}

TEST_F(GraphTest, StructuralEqualitySeesEachPart) {
  auto differs = [this](auto change) {
    std::unique_ptr<Graph> clone = graph().Clone();
    change(*clone);
    return !StructurallyEqual(graph(), *clone) && !StructurallyEqual(*clone, graph());
  };
  EXPECT_FALSE(differs([](Graph&) {}));
  EXPECT_TRUE(differs([](Graph& g) { ASSERT_TRUE(g.DeclareSymbol("S", {1, 2}).ok()); }));
  EXPECT_TRUE(differs([](Graph& g) { g.metadata()["a"] = 1; }));
  EXPECT_TRUE(differs([](Graph& g) { g.AddInput("i", TensorType{}); }));
  EXPECT_TRUE(differs([](Graph& g) { g.AddWeight("i", TensorType{}); }));
  EXPECT_TRUE(differs([](Graph& g) { g.SetType(g.FindWeight("w"), TensorType{DType::kBF16, {6, 4}}); }));
  EXPECT_TRUE(differs([](Graph& g) { ASSERT_TRUE(g.AddNode(Op::kNeg, {g.FindInput("x")}).ok()); }));
  EXPECT_TRUE(differs([](Graph& g) { g.SetOperand(g.nodes().back().get(), 0, g.FindInput("x")); }));
  EXPECT_TRUE(differs([](Graph& g) { g.AddOutput("x", g.FindInput("x")); }));
  EXPECT_TRUE(differs([](Graph& g) { g.SetOutput(0, g.FindInput("x")); }));
  EXPECT_TRUE(differs([](Graph& g) {
    Node* exp = g.nodes().back().get();
    Node* same = *g.AddNode(Op::kExp, {exp->operand(0)}, {}, "elsewhere");
    g.ReplaceAllUsesWith(exp->result(), same->result());
    g.Erase(exp);
  }));
}

TEST_F(GraphTest, DeclaresSymbolsOnce) {
  EXPECT_TRUE(graph().DeclareSymbol("B", {1, 8}).ok());
  EXPECT_EQ(graph().DeclareSymbol("B", {1, 9}).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(graph().DeclareSymbol("B-1", {1, 9}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(graph().DeclareSymbol("C", {2, 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(graph().DeclareSymbol("C", {-1, 1}).code(), absl::StatusCode::kInvalidArgument);
  for (size_t i = 1; i < kMaxSymbols; ++i) ASSERT_TRUE(graph().DeclareSymbol("s" + std::to_string(i), {0, 1}).ok());
  EXPECT_FALSE(graph().DeclareSymbol("one_more", {0, 1}).ok());
}

TEST_F(GraphTest, ErasesSources) {
  Value* unused = builder_.Weight("unused", {2});
  builder_.Input("spare", DType::kI32, {});
  graph().EraseWeight(unused);
  graph().EraseInput(graph().FindInput("spare"));
  EXPECT_EQ(graph().FindWeight("unused"), nullptr);
  EXPECT_EQ(graph().inputs().size(), 1u);
  EXPECT_TRUE(Verify(graph()).ok());
  EXPECT_DEATH(graph().EraseWeight(w_), "weight w is used");
  EXPECT_DEATH(graph().Erase(y_->def()), "a used result of linear is erased");
}

// Writes down what it is told.
class Recorder : public GraphObserver {
 public:
  void OnReplaceAllUses(const Value* from, const Value* to) override { replaced.emplace_back(from, to); }
  void OnDelete(const Value* value) override { deleted.push_back(value); }
  void OnSwap() override { ++swaps; }
  std::vector<std::pair<const Value*, const Value*>> replaced;
  std::vector<const Value*> deleted;
  int swaps = 0;
};

TEST_F(GraphTest, TellsItsObserver) {
  Recorder recorder;
  graph().set_observer(&recorder);
  graph().ReplaceAllUsesWith(z_, y_);
  const Value* z = z_;
  graph().Erase(z_->def());
  Graph other("other");
  graph().Swap(other);
  graph().set_observer(nullptr);
  other.ReplaceAllUsesWith(y_, w_);
  const std::vector<std::pair<const Value*, const Value*>> replaced = {{z, y_}};
  EXPECT_EQ(recorder.replaced, replaced);
  EXPECT_EQ(recorder.deleted, std::vector<const Value*>{z});
  EXPECT_EQ(recorder.swaps, 1);
}

TEST_F(GraphTest, CloneSaysWhatBecameOfEachValue) {
  absl::flat_hash_map<const Value*, const Value*> copies;
  const std::unique_ptr<Graph> clone = graph().Clone(&copies);
  EXPECT_EQ(copies.size(), NumberValues(graph()).size());
  EXPECT_EQ(copies.at(w_), clone->FindWeight("w"));
  EXPECT_EQ(copies.at(z_), clone->outputs().back().value);
}

TEST_F(GraphTest, SwapExchangesEverything) {
  const std::string before = Print(graph());
  Graph other("other");
  Value* x = other.AddInput("x", TensorType{DType::kF32, {}});
  other.AddOutput("x", x);
  const std::string other_before = Print(other);
  graph().Swap(other);
  EXPECT_EQ(Print(other), before);
  EXPECT_EQ(Print(graph()), other_before);
  EXPECT_TRUE(z_->HasUses()) << "as an output of the graph that it now belongs to";
  EXPECT_TRUE(x->HasUses());
  EXPECT_TRUE(Verify(other).ok());
}

}  // namespace
}  // namespace flashflow::ir
