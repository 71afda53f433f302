// The prover against passes that are right and passes that are wrong in one way each.
#include "compiler/proof/prover.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/random_decoder.h"
#include "compiler/proof/planted_pass.h"
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

std::unique_ptr<Graph> Import(const std::string& json) {
  auto graph = frontend::ImportGraph(json);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

TEST(ProverTest, TheStepPipelineKeepsModels) {
  const passes::CompileOptions all_options[] = {{.dtype = "f32"},
                                                {.dtype = "bf16"},
                                                {.kv_dtype = "int8"},
                                                {.dtype = "bf16", .kv_dtype = "int8"},
                                                {.quantize = "int4"}};
  for (const passes::CompileOptions& options : all_options) {
    for (const std::string& json : {frontend::Gpt2Json({}), frontend::LlamaJson({.kv_heads = 2})}) {
      const auto graph = Import(json);
      Prover prover(options, {});
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

// Half of each row of logits is no row of logits, right as its numbers are.
TEST(ProverTest, FindsRowsOfAnotherWidth) {
  class Halves : public Pass {
   public:
    std::string_view name() const override { return "halves"; }
    Relation relation() const override { return Relation::kRestructured; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      const auto passes = *passes::MakePasses({"kv-cache"});
      FF_RETURN_IF_ERROR(passes[0]->Run(graph, context).status());
      for (int i = 0; i < static_cast<int>(graph->outputs().size()); ++i) {
        ir::Value* logits = graph->outputs()[static_cast<size_t>(i)].value;
        if (!logits->type().is_tensor()) continue;
        const int64_t half = *logits->tensor().shape.back().constant() / 2;
        FF_ASSIGN_OR_RETURN(
            Node * slice,
            graph->AddNode(Op::kSlice, {logits}, {{"axis", 1}, {"start", DimExpr(0)}, {"stop", DimExpr(half)}}));
        graph->SetOutput(i, slice->result());
      }
      return true;
    }
  };
  const auto graph = Import(frontend::Gpt2Json({}));
  Prover prover({}, {});
  const auto proof = prover.ProvePass(Halves(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  ASSERT_TRUE(proof->violation.has_value());
  EXPECT_THAT(proof->violation->detail, HasSubstr("rows have"));
}

// The region of the rewrite holds any value of the float's, of variance one; in the whole graph the value is twice as
// large. That codes replace the weights afterwards does not hide it.
TEST(ProverTest, TheWholeGraphIsComparedToo) {
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      weight %w "w" : f32[16, 8]
      %a = add(%x, %x) : f32[T, 8]
      %b = neg(%a) : f32[T, 8]
      %c = linear(%b, %w) : f32[T, 16]
      output "y" %c
    })ir");
  const auto clips = [](Graph* g, Node* node) -> ir::Value* {
    if (node->op() != Op::kNeg) return nullptr;
    ir::Value* two = Add(g, node, Op::kConstant, {}, {{"value", 2.0}, {"dtype", DType::kF32}});
    return Add(g, node, Op::kNeg, {Add(g, node, Op::kMinimum, {node->operand(0), two})});
  };
  for (const bool codes : {false, true}) {
    auto passes = *passes::MakePasses(codes ? std::vector<std::string>{"quantize-int8"} : std::vector<std::string>{});
    passes.insert(passes.begin(), std::make_unique<RulePass>(Relation::kIdentical, clips));
    Prover prover({.quantize = codes ? "int8" : ""}, {});
    const auto report = prover.Prove(passes, graph->Clone().get());
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_TRUE(report->violation.has_value()) << codes;
    EXPECT_THAT(report->violation->ToString(), HasSubstr("the graph after all passes is not what it was"));
    for (const PassProof& proof : report->passes) EXPECT_FALSE(proof.violation.has_value()) << proof.record.pass;
    const auto found = prover.Bisect(passes, *graph);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->pass_index, 0);
    EXPECT_EQ(found->rewrite, 1);
    Prover by_regions({.quantize = codes ? "int8" : ""}, {.whole = false});
    const auto parts = by_regions.Prove(passes, graph->Clone().get());
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_FALSE(parts->violation.has_value());
  }
}

// Changed in place, the first node is wrong as well, but no rewrite is to blame that has a number.
TEST(ProverTest, TheFirstRewriteThatBreaksIsNamed) {
  class Both : public Pass {
   public:
    std::string_view name() const override { return "both"; }
    Relation relation() const override { return Relation::kIdentical; }
    absl::StatusOr<bool> Run(Graph* graph, PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      Node* first = graph->inputs()[0]->uses()[0].node;
      Node* second = first->result()->uses()[0].node;
      graph->ReplaceAllUsesWith(second->result(), Add(graph, second, Op::kAbs, {first->result()}));
      Node* last = graph->nodes().back().get();
      graph->SetOperand(first, 0, graph->inputs()[1]);
      if (!context->BeginRewrite()) return true;
      graph->ReplaceAllUsesWith(last->result(), Add(graph, last, Op::kAbs, {last->operand(0)}));
      return true;
    }
  };
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      input %z "z" : f32[8]
      %a = neg(%x) : f32[8] loc "first"
      %b = exp(%a) : f32[8] loc "second"
      %c = silu(%b) : f32[8]
      %d = exp(%c) : f32[8] loc "last"
      output "y" %d
    })ir");
  Prover prover({}, {});
  const auto proof = prover.ProvePass(Both(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  ASSERT_TRUE(proof->violation.has_value());
  EXPECT_EQ(proof->violation->rewrite, 1);
  EXPECT_THAT(proof->violation->before, HasSubstr("second"));
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
                   .quantize = seed % 3 == 0 ? "int8" : (seed % 3 == 1 ? "int4" : ""),
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
