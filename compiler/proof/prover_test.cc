// The prover against passes that are right and passes that are wrong in one way each.
#include "compiler/proof/prover.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/random_decoder.h"
#include "compiler/proof/shrink.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using passes::Pass;
using passes::PassContext;
using passes::Relation;
using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<Graph> Parse(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return graph.ok() ? *std::move(graph) : nullptr;
}

// A pass made of a rule for single nodes: what may stand for the node's result, nullptr for nothing else.
class RulePass : public Pass {
 public:
  using Rule = std::function<ir::Value*(Graph*, Node*)>;
  RulePass(Relation relation, Rule rule) : relation_(relation), rule_(std::move(rule)) {}
  std::string_view name() const override { return "planted"; }
  Relation relation() const override { return relation_; }
  absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
    std::vector<Node*> nodes;
    for (const auto& node : graph->nodes()) nodes.push_back(node.get());
    for (Node* node : nodes) {
      ir::Value* value = rule_(graph, node);
      if (value == nullptr) continue;
      if (!context->BeginRewrite()) break;
      graph->ReplaceAllUsesWith(node->result(), value);
    }
    return context->rewrites() > 0;
  }

 private:
  Relation relation_;
  Rule rule_;
};

absl::StatusOr<PassProof> ProveRule(std::string_view text, Relation relation, RulePass::Rule rule) {
  const auto graph = Parse(text);
  Prover prover({}, {});
  return prover.ProvePass(RulePass(relation, std::move(rule)), graph.get());
}

ir::Value* Add(Graph* graph, Node* before, Op op, std::vector<ir::Value*> operands, AttrMap attrs = {}) {
  const auto node = graph->AddNode(op, std::move(operands), std::move(attrs), before->loc(), before);
  EXPECT_TRUE(node.ok()) << node.status();
  return (*node)->result();
}

constexpr std::string_view kNorm = R"ir(ffir 1
  graph @g {
    symbol B [1, 8]
    input %x "x" : f32[B, 8]
    weight %w "w" : f32[8]
    %a = silu(%x) : f32[B, 8] loc "first"
    %b = rms_norm(%a, %w) {eps = 1e-05} : f32[B, 8] loc "norm"
    %c = neg(%b) : f32[B, 8] loc "last"
    output "y" %c
  })ir";

// norm with another eps: a difference of 5e-6 in f32.
TEST(ProverTest, FindsASmallDifferenceAndNamesTheNode) {
  for (Relation relation : {Relation::kIdentical, Relation::kReassociated}) {
    const auto proof = ProveRule(kNorm, relation, [](Graph* graph, Node* node) -> ir::Value* {
      if (node->op() != Op::kRmsNorm) return nullptr;
      return Add(graph, node, Op::kRmsNorm, {node->operand(0), node->operand(1)}, {{"eps", 1.1e-5}});
    });
    ASSERT_TRUE(proof.ok()) << proof.status();
    ASSERT_TRUE(proof->violation.has_value()) << passes::RelationName(relation);
    EXPECT_EQ(proof->violation->pass, "planted");
    EXPECT_EQ(proof->violation->rewrite, 1);
    EXPECT_THAT(proof->violation->before, HasSubstr("rms_norm at \"norm\""));
    EXPECT_THAT(proof->violation->region, HasSubstr("eps = 1.1e-05"));
    EXPECT_THAT(proof->violation->region, Not(HasSubstr("silu"))) << "more than what shows it";
    EXPECT_THAT(proof->violation->ToString(), HasSubstr("allowed difference"));
  }
}

TEST(ProverTest, ReassociatedAllowsAnotherOrderAndIdenticalDoesNot) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      input %x "x" : f32[B, 64]
      weight %w "w" : f32[16, 64]
      weight %b "b" : f32[16]
      %a = linear(%x, %w) : f32[B, 16]
      %c = add(%a, %b) : f32[B, 16]
      output "y" %c
    })ir";
  const RulePass::Rule rule = [](Graph* graph, Node* node) -> ir::Value* {
    if (node->op() != Op::kAdd) return nullptr;
    const Node* linear = node->operand(0)->def();
    return Add(graph, node, Op::kLinear, {linear->operand(0), linear->operand(1), node->operand(1)});
  };
  const auto reassociated = ProveRule(kText, Relation::kReassociated, rule);
  ASSERT_TRUE(reassociated.ok()) << reassociated.status();
  EXPECT_FALSE(reassociated->violation.has_value()) << reassociated->violation->ToString();
  EXPECT_EQ(reassociated->evaluated, 1);
  const auto identical = ProveRule(kText, Relation::kIdentical, rule);
  ASSERT_TRUE(identical.ok()) << identical.status();
  EXPECT_TRUE(identical->violation.has_value()) << "one rounding less";
}

// Rounding to bf16 on the way is invisible in the wide mode.
TEST(ProverTest, ReassociatedSeesALostRounding) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      %a = cast(%x) {dtype = bf16} : bf16[8]
      %b = cast(%a) {dtype = f32} : f32[8] loc "back"
      output "y" %b
    })ir",
                               Relation::kReassociated, [](Graph*, Node* node) -> ir::Value* {
                                 return node->loc() == "back" ? node->operand(0)->def()->operand(0) : nullptr;
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_TRUE(proof->violation.has_value());
}

// add(x, neg(x)) is 0 whatever x is, though x and neg(x), both still there, could be any two values.
TEST(ProverTest, LooksFurtherBackBeforeItAccuses) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      %a = silu(%x) : f32[8]
      %b = neg(%a) : f32[8]
      %c = add(%a, %b) : f32[8] loc "sum"
      output "y" %c
      output "b" %b
    })ir";
  const auto constant = [](double value) -> RulePass::Rule {
    return [value](Graph* graph, Node* node) -> ir::Value* {
      if (node->loc() != "sum") return nullptr;
      return Add(graph, node, Op::kConstant, {}, {{"value", value}, {"dtype", DType::kF32}, {"shape", Dims{8}}});
    };
  };
  const auto right = ProveRule(kText, Relation::kIdentical, constant(0));
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_FALSE(right->violation.has_value()) << right->violation->ToString();
  const auto wrong = ProveRule(kText, Relation::kIdentical, constant(1));
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  EXPECT_TRUE(wrong->violation.has_value());
}

// The graph before reads x and a value made of x; the rewritten one reads x alone. Both layers look the same.
TEST(ProverTest, OneSideMayMakeAgainWhatTheOtherReads) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      input %c "c" : f32[8]
      %a = silu(%x) : f32[8]
      %b = mul(%a, %c) : f32[8]
      %d = neg(%a) : f32[8]
      %e = abs(%d) : f32[8]
      %f = add(%b, %e) : f32[8] loc "sum"
      %g = silu(%f) : f32[8]
      %h = mul(%g, %c) : f32[8]
      %i = neg(%g) : f32[8]
      %j = abs(%i) : f32[8]
      %k = add(%h, %j) : f32[8] loc "sum"
      output "y" %k
    })ir",
                               Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
                                 if (node->loc() != "sum") return nullptr;
                                 const Node* mul = node->operand(0)->def();
                                 ir::Value* again = Add(graph, node, Op::kMul, {mul->operand(0), mul->operand(1)});
                                 ir::Value* size = Add(graph, node, Op::kAbs, {mul->operand(0)});
                                 return Add(graph, node, Op::kAdd, {again, size});
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_FALSE(proof->violation.has_value()) << proof->violation->ToString();
  EXPECT_EQ(proof->regions, 2);
  EXPECT_EQ(proof->evaluated, 1) << "right at once, without looking further back";
}

TEST(ProverTest, RewritesMayRestOnConstantsAndOnIntegers) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      symbol S [1, 8]
      input %x "x" : f32[S]
      %i = iota() {axis = 0, dtype = i32, shape = dims(S)} : i32[S]
      %z = constant() {dtype = i32, value = 0.0} : i32[]
      %m = ge(%i, %z) : bool[S]
      %n = neg(%x) : f32[S]
      %y = where(%m, %n, %x) : f32[S]
      output "y" %y
    })ir",
                               Relation::kIdentical, [](Graph*, Node* node) -> ir::Value* {
                                 return node->op() == Op::kWhere ? node->operand(1) : nullptr;
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_FALSE(proof->violation.has_value()) << proof->violation->ToString();
}

// Same op, attributes and operands: but one gives the other result, or lacks an operand that may be left out.
TEST(ProverTest, NodesThatLookTheSameAreNot) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      input %x "x" : f32[B, 8]
      input %r "r" : f32[B, 8]
      weight %w "w" : f32[8, 8]
      weight %b "b" : f32[8]
      %s, %n = add_norm(%x, %r) {eps = 1e-05, norm = "rms_norm"} : f32[B, 8], f32[B, 8]
      %l = fused_linear(%n, %w, %b, %s) : f32[B, 8]
      output "y" %l
    })ir";
  const auto sum = ProveRule(kText, Relation::kIdentical, [](Graph*, Node* node) -> ir::Value* {
    return node->op() == Op::kAddNorm ? node->result(1) : nullptr;
  });
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_TRUE(sum->violation.has_value());
  const auto bias = ProveRule(kText, Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
    if (node->op() != Op::kFusedLinear) return nullptr;
    return Add(graph, node, Op::kFusedLinear, {node->operand(0), node->operand(1), nullptr, node->operand(3)},
               node->attrs());
  });
  ASSERT_TRUE(bias.ok()) << bias.status();
  EXPECT_TRUE(bias->violation.has_value());
}

// Token ids made of a float that is never positive: with any other number in its place there is no such row.
TEST(ProverTest, WhatCannotBeEvaluatedAloneIsTriedWithMoreAroundIt) {
  const auto prove = [](bool right) {
    return ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[16]
      weight %t "t" : f32[4, 8]
      %p = relu(%x) : f32[16]
      %v = neg(%p) : f32[16]
      %i = cast(%v) {dtype = i64} : i64[16]
      %z = constant() {dtype = i64, value = 0.0} : i64[]
      %j = sub(%z, %i) : i64[16]
      %e = embedding(%t, %j) {dtype = f32} : f32[16, 8] loc "rows"
      %a = abs(%e) : f32[16, 8]
      output "y" %a
    })ir",
                     Relation::kIdentical, [right](Graph* graph, Node* node) -> ir::Value* {
                       if (node->loc() != "rows") return nullptr;
                       ir::Value* rows = Add(graph, node, Op::kEmbedding, {node->operand(0), node->operand(1)},
                                             {{"dtype", DType::kF32}});
                       return right ? rows : Add(graph, node, Op::kNeg, {rows});
                     });
  };
  const auto right = prove(true);
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_FALSE(right->violation.has_value()) << right->violation->ToString();
  const auto wrong = prove(false);
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  EXPECT_TRUE(wrong->violation.has_value());
}

// Ids that the table has rows for are found by trying smaller ones; a graph that wants more rows than there are fails.
TEST(ProverTest, AGraphThatFailsWhereTheOtherDoesNotIsWrong) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      input %i "i" : i64[16]
      weight %t "t" : f32[3, 8]
      %e = embedding(%t, %i) {dtype = f32} : f32[16, 8]
      output "y" %e
    })ir";
  const auto prove = [&](double more) {
    return ProveRule(kText, Relation::kIdentical, [more](Graph* graph, Node* node) -> ir::Value* {
      if (node->op() != Op::kEmbedding) return nullptr;
      ir::Value* by = Add(graph, node, Op::kConstant, {}, {{"value", more}, {"dtype", DType::kI64}});
      ir::Value* ids = Add(graph, node, Op::kAdd, {node->operand(1), by});
      return Add(graph, node, Op::kEmbedding, {node->operand(0), ids}, node->attrs());
    });
  };
  const auto right = prove(0);
  ASSERT_TRUE(right.ok()) << right.status();
  EXPECT_FALSE(right->violation.has_value()) << right->violation->ToString();
  const auto wrong = prove(100);
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  ASSERT_TRUE(wrong->violation.has_value());
  EXPECT_THAT(wrong->violation->detail, HasSubstr("it fails where the graph before does not"));
}

TEST(ProverTest, AGraphThatIsExchangedIsCompared) {
  class Exchange : public Pass {
   public:
    explicit Exchange(std::string op) : op_(std::move(op)) {}
    std::string_view name() const override { return "exchange"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      graph->Swap(*Parse("ffir 1 graph @g { input %x \"x\" : f32[4] %a = " + op_ +
                         "(%x) : f32[4] %b = exp(%a) : f32[4] output \"b\" %b }"));
      return true;
    }

   private:
    std::string op_;
  };
  for (const auto& [op, right] : {std::pair("neg", true), std::pair("abs", false)}) {
    const auto graph = Parse(
        "ffir 1 graph @g { input %x \"x\" : f32[4] %a = neg(%x) : f32[4] %b = exp(%a) : f32[4] output \"b\" %b }");
    Prover prover({}, {});
    const auto proof = prover.ProvePass(Exchange(op), graph.get());
    ASSERT_TRUE(proof.ok()) << proof.status();
    EXPECT_EQ(proof->violation.has_value(), !right) << op;
  }
}

TEST(ProverTest, OutputsStay) {
  class Forgetful : public Pass {
   public:
    std::string_view name() const override { return "forgetful"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      const auto other = Parse("ffir 1 graph @g { input %x \"x\" : f32[4] %a = neg(%x) : f32[4] output \"a\" %a }");
      graph->Swap(*other);
      return true;
    }
  };
  const auto graph =
      Parse("ffir 1 graph @g { input %x \"x\" : f32[4] %a = neg(%x) : f32[4] output \"a\" %a output \"b\" %a }");
  Prover prover({}, {});
  const auto proof = prover.ProvePass(Forgetful(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  ASSERT_TRUE(proof->violation.has_value());
  EXPECT_THAT(proof->violation->detail, HasSubstr("output \"b\" is gone"));
}

TEST(ProverTest, ChangesInPlaceAreClaimsToo) {
  class InPlace : public Pass {
   public:
    std::string_view name() const override { return "in-place"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      graph->SetOperand(graph->nodes().back().get(), 0, graph->inputs()[0]);
      return true;
    }
  };
  const auto graph = Parse(kNorm);
  Prover prover({}, {});
  const auto proof = prover.ProvePass(InPlace(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  ASSERT_TRUE(proof->violation.has_value());
  EXPECT_THAT(proof->violation->before, HasSubstr("neg at \"last\""));
}

TEST(ProverTest, APassThatSaysItChangedNothingChangedNothing) {
  class Sneaky : public Pass {
   public:
    std::string_view name() const override { return "sneaky"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext*) const override {
      graph->SetOutput(0, graph->inputs()[0]);
      return false;
    }
  };
  const auto graph = Parse(kNorm);
  Prover prover({}, {});
  const auto proof = prover.ProvePass(Sneaky(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_TRUE(proof->violation.has_value());
}

TEST(ProverTest, EqualRegionsAreEvaluatedOnce) {
  std::string text = "ffir 1 graph @g { input %x0 \"x\" : f32[4]\n";
  for (int i = 0; i < 12; ++i) {
    const std::string n = std::to_string(i);
    text += "weight %w" + n + " \"w" + n + "\" : f32[4, 4] %a" + n + " = linear(%x" + n + ", %w" + n + ") : f32[4]";
    text += "%b" + n + " = neg(%a" + n + ") : f32[4] %c" + n + " = neg(%b" + n + ") : f32[4]";
    text += "%x" + std::to_string(i + 1) + " = silu(%c" + n + ") : f32[4]\n";
  }
  const auto graph = Parse(text + "output \"y\" %x12 }");
  Prover prover({}, {});
  const auto report = prover.Prove(*passes::MakePasses({"canonicalize", "dce"}), graph.get());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_FALSE(report->violation.has_value()) << report->violation->ToString();
  EXPECT_EQ(report->passes[0].regions, 12);
  EXPECT_EQ(report->passes[0].evaluated, 1);
}

std::unique_ptr<Graph> Import(const std::string& json) {
  auto graph = frontend::ImportGraph(json);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

TEST(ProverTest, TheStepPipelineKeepsModels) {
  for (const std::string dtype : {"f32", "bf16"}) {
    for (const std::string& json : {frontend::Gpt2Json({}), frontend::LlamaJson({.kv_heads = 2})}) {
      const auto graph = Import(json);
      Prover prover({.dtype = dtype}, {});
      const auto report = prover.Prove(passes::StepPipeline(), graph.get());
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_FALSE(report->violation.has_value()) << report->violation->ToString() << report->violation->region;
      int64_t claims = 0;
      for (const PassProof& pass : report->passes) claims += pass.claims;
      EXPECT_GT(claims, 50);
      ASSERT_NE(graph->FindInput("cache"), nullptr);
    }
  }
}

// Keys where the values belong: no attention of this step need show it, the cache does.
TEST(ProverTest, FindsWhatIsWrongInTheCache) {
  class Exchange : public Pass {
   public:
    std::string_view name() const override { return "exchange"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      for (const auto& node : graph->nodes()) {
        if (node->op() != Op::kKvAppend || node->attr<int64_t>("layer") != 1) continue;
        ir::Value* keys = node->operand(1);
        graph->SetOperand(node.get(), 1, node->operand(2));
        graph->SetOperand(node.get(), 2, keys);
      }
      return true;
    }
  };
  const auto graph = Import(frontend::LlamaJson({.kv_heads = 2}));
  auto passes = *passes::MakePasses({"canonicalize", "dce", "kv-cache", "canonicalize", "dce"});
  passes.push_back(std::make_unique<Exchange>());
  Prover prover({}, {});
  const auto report = prover.Prove(passes, graph.get());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_TRUE(report->violation.has_value());
  EXPECT_THAT(report->violation->before, HasSubstr("kv_append"));
}

// A step graph whose queries are scaled twice: found in a ragged batch.
TEST(ProverTest, FindsABugInAStepGraph) {
  const auto graph = Import(frontend::LlamaJson({.kv_heads = 2}));
  auto passes = *passes::MakePasses({"canonicalize", "dce", "kv-cache", "canonicalize", "dce"});
  passes.push_back(std::make_unique<RulePass>(Relation::kReassociated, [](Graph* graph, Node* node) -> ir::Value* {
    if (node->op() != Op::kPagedAttention || node->attr<int64_t>("layer") != 1) return nullptr;
    AttrMap attrs = node->attrs();
    attrs["window"] = int64_t{7};
    return Add(graph, node, Op::kPagedAttention, {node->operands().begin(), node->operands().end()}, attrs);
  }));
  Prover prover({}, {});
  const auto report = prover.Prove(passes, graph.get());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_TRUE(report->violation.has_value());
  EXPECT_EQ(report->violation->pass, "planted");
  EXPECT_THAT(report->violation->before, HasSubstr("paged_attention"));
}

// Rounds what it should not.
TEST(ProverTest, NarrowedRoundsWhatIsDeclaredAndNothingElse) {
  const auto graph = Parse(kNorm);
  class Narrow : public Pass {
   public:
    explicit Narrow(bool wrong) : wrong_(wrong) {}
    std::string_view name() const override { return "narrow"; }
    Relation relation() const override { return Relation::kNarrowed; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      ir::Value* w = graph->FindWeight("w");
      Node* norm = w->uses()[0].node;
      graph->SetType(w, ir::TensorType{DType::kBF16, w->tensor().shape});
      graph->SetOperand(norm, 1, Add(graph, norm, Op::kCast, {w}, {{"dtype", DType::kF32}}));
      if (wrong_) {
        ir::Value* half = Add(graph, norm, Op::kCast, {norm->operand(0)}, {{"dtype", DType::kBF16}});
        graph->SetOperand(norm, 0, Add(graph, norm, Op::kCast, {half}, {{"dtype", DType::kF32}}));
      }
      return true;
    }

   private:
    bool wrong_;
  };
  for (bool wrong : {false, true}) {
    const auto clone = graph->Clone();
    Prover prover({}, {});
    const auto proof = prover.ProvePass(Narrow(wrong), clone.get());
    ASSERT_TRUE(proof.ok()) << proof.status();
    EXPECT_EQ(proof->violation.has_value(), wrong);
  }
}

// kv-cache, then a step graph that forgets one sequence position.
class WrongKvCache : public Pass {
 public:
  std::string_view name() const override { return "wrong-kv-cache"; }
  Relation relation() const override { return Relation::kRestructured; }
  absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
    const auto passes = *passes::MakePasses({"kv-cache"});
    FF_RETURN_IF_ERROR(passes[0]->Run(graph, context).status());
    for (const auto& node : graph->nodes()) {
      if (node->op() != Op::kEmbedding || node->operand(1) != graph->FindInput("positions")) continue;
      graph->SetOperand(node.get(), 1, graph->FindInput("token_ids"));
      return true;
    }
    return absl::InternalError("there is no position table");
  }
};

TEST(ProverTest, FindsAWrongStepGraph) {
  const auto graph = Import(frontend::Gpt2Json({}));
  Prover prover({}, {});
  const auto proof = prover.ProvePass(WrongKvCache(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  ASSERT_TRUE(proof->violation.has_value());
  EXPECT_THAT(proof->violation->ToString(), HasSubstr("wrong-kv-cache is not restructured"));
  EXPECT_THAT(proof->violation->ToString(), HasSubstr("at position"));
}

// Right up to its fifth rewrite.
std::vector<std::unique_ptr<Pass>> PlantedAtTheFifth() {
  auto passes = *passes::MakePasses({"canonicalize", "dce"});
  passes.push_back(std::make_unique<RulePass>(Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
    if (node->op() != Op::kLinear) return nullptr;
    std::vector<ir::Value*> operands(node->operands().begin(), node->operands().end());
    int number = 0;
    for (const auto& other : graph->nodes()) {
      if (other.get() == node) break;
      number += other->op() == Op::kLinear && other->result()->HasUses();
    }
    if (number == 4) operands.resize(2);  // loses its bias
    return Add(graph, node, Op::kLinear, std::move(operands), node->attrs());
  }));
  return passes;
}

TEST(ProverTest, BisectsToTheRewrite) {
  const auto graph = Import(frontend::Gpt2Json({}));
  const std::string before = ir::Print(*graph);
  const auto passes = PlantedAtTheFifth();
  Prover prover({}, {});
  const auto found = prover.Bisect(passes, *graph);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->pass_index, 2);
  EXPECT_EQ(found->rewrite, 5);
  EXPECT_EQ(found->violation.rewrite, 5);
  EXPECT_THAT(found->violation.before, HasSubstr("linear"));
  EXPECT_EQ(ir::Print(*graph), before);
  const auto report = prover.Prove(passes, graph->Clone().get());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->violation->rewrite, 5);
}

// What the reduction tool does with a pass that is broken.
TEST(ProverTest, AViolationShrinksToTheNodeThatShowsIt) {
  const auto graph = Import(frontend::Gpt2Json({}));
  std::vector<std::unique_ptr<Pass>> passes = *passes::MakePasses({"canonicalize", "dce"});
  passes.push_back(std::make_unique<RulePass>(Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
    if (node->op() != Op::kLayerNorm) return nullptr;
    return Add(graph, node, Op::kLayerNorm, {node->operands().begin(), node->operands().end()}, {{"eps", 1e-3}});
  }));
  const auto fails = [&passes](const Graph& candidate) {
    Prover prover({}, {.whole = false});
    const auto report = prover.Prove(passes, candidate.Clone().get());
    return report.ok() && report->violation.has_value();
  };
  const auto small = Shrink(*graph, fails);
  EXPECT_EQ(small->nodes().size(), 1u) << ir::Print(*small);
  EXPECT_TRUE(fails(*small));
  EXPECT_THAT(ir::Print(*small), HasSubstr("= layer_norm(%0)"));
}

TEST(ProverTest, BisectFindsNothingWhereNothingIsBroken) {
  const auto graph = Import(frontend::Gpt2Json({}));
  Prover prover({}, {});
  EXPECT_EQ(prover.Bisect(passes::StepPipeline(), *graph).status().code(), absl::StatusCode::kNotFound);
}

TEST(ProverTest, EveryPassKeepsRandomDecoders) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const auto graph = passes::RandomDecoder(seed);
    Prover prover({.dtype = seed % 2 == 0 ? "f32" : "bf16",
                   .quantize = seed % 3 == 0 ? "int8" : "",
                   .activation_dtype = seed % 4 == 1 ? "bf16" : ""},
                  {.seed = seed});
    const auto report = prover.Prove(passes::StepPipeline(), graph.get());
    ASSERT_TRUE(report.ok()) << "seed " << seed << ": " << report.status();
    ASSERT_FALSE(report->violation.has_value()) << "seed " << seed << ": " << report->violation->ToString() << "\n"
                                                << report->violation->region;
  }
}

// Scales in the wrong order: no value that codes hold hides it.
TEST(ProverTest, FindsWrongCodes) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      input %x "x" : f32[B, 64]
      weight %w "w" : f32[16, 64]
      weight %b "b" : f32[16]
      %a = linear(%x, %w, %b) : f32[B, 16]
      output "y" %a
    })ir";
  for (const bool wrong : {false, true}) {
    const auto proof = ProveRule(kText, Relation::kNarrowed, [wrong](Graph* graph, Node* node) -> ir::Value* {
      if (node->op() != Op::kLinear) return nullptr;
      ir::Value* codes = Add(graph, node, Op::kQuantize, {node->operand(1)});
      ir::Value* scale = codes->def()->result(1);
      if (wrong) {
        ir::Value* halves[2];
        for (const int64_t i : {0, 1}) {
          halves[i] = Add(graph, node, Op::kSlice, {scale},
                          {{"axis", 0}, {"start", DimExpr(8 * i)}, {"stop", DimExpr(8 * (i + 1))}});
        }
        scale = Add(graph, node, Op::kConcat, {halves[1], halves[0]}, {{"axis", 0}});
      }
      return Add(graph, node, Op::kFusedLinear,
                 {node->operand(0), codes, node->operand(2), nullptr, nullptr, nullptr, scale});
    });
    ASSERT_TRUE(proof.ok()) << proof.status();
    EXPECT_EQ(proof->violation.has_value(), wrong);
  }
}

}  // namespace
}  // namespace flashflow::proof
