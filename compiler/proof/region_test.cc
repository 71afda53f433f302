// What a region may rest on, and what it must not: each claim that follows, and each wrong rewrite that would.
#include "compiler/proof/region.h"

#include <string>
#include <utility>
#include <vector>

#include "compiler/ir/graph.h"
#include "compiler/passes/pass.h"
#include "compiler/passes/pipeline.h"
#include "compiler/proof/planted_pass.h"
#include "compiler/proof/prover.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using passes::Relation;
using ::testing::HasSubstr;

// add(x, neg(x)) is 0 whatever x is, though x and neg(x), both still there, could be any two values.
TEST(RegionTest, LooksFurtherBackBeforeItAccuses) {
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

// The same where it is the rewritten graph that reads the value.
TEST(RegionTest, LooksFurtherBackOnBothSides) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      %a = silu(%x) : f32[8]
      %b = neg(%a) : f32[8]
      %c = sub(%a, %b) : f32[8] loc "sum"
      output "y" %c
      output "b" %b
    })ir",
                               Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
                                 if (node->loc() != "sum") return nullptr;
                                 ir::Value* b = node->operand(1);
                                 ir::Value* x = graph->inputs()[0];
                                 ir::Value* twice = Add(graph, node, Op::kSub, {Add(graph, node, Op::kNeg, {b}), b});
                                 return Add(graph, node, Op::kAdd, {twice, Add(graph, node, Op::kSub, {x, x})});
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_FALSE(proof->violation.has_value()) << proof->violation->ToString();
}

// The graph before reads x and a value made of x; the rewritten one reads x alone. Both layers look the same.
TEST(RegionTest, OneSideMayMakeAgainWhatTheOtherReads) {
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

// The other way round.
TEST(RegionTest, TheRewrittenSideMayReadWhatIsMadeOfWhatTheOtherReads) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      %a = silu(%x) : f32[8]
      %b = neg(%a) : f32[8]
      %c = abs(%a) : f32[8] loc "size"
      %d = mul(%b, %c) : f32[8]
      %e = silu(%d) : f32[8]
      %f = neg(%e) : f32[8]
      %g = abs(%e) : f32[8] loc "size"
      %h = mul(%f, %g) : f32[8]
      output "y" %h
    })ir",
                               Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
                                 if (node->loc() != "size") return nullptr;
                                 for (const ir::Use& use : node->operand(0)->uses()) {
                                   if (use.node->op() != Op::kNeg) continue;
                                   return Add(graph, node, Op::kAbs, {use.node->result()});
                                 }
                                 return nullptr;
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_FALSE(proof->violation.has_value()) << proof->violation->ToString();
  EXPECT_EQ(proof->regions, 2);
  EXPECT_EQ(proof->evaluated, 1) << "right at once, without looking further back";
}

// What the output was made of is wrong now, and the output no longer is made of it.
TEST(RegionTest, OnlyWhatBothSidesReadNeedHold) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8]
      %a = silu(%x) : f32[8]
      %b = sub(%a, %a) : f32[8]
      output "y" %b
    })ir",
                               Relation::kIdentical, [](Graph* graph, Node* node) -> ir::Value* {
                                 if (node->op() == Op::kSilu) return Add(graph, node, Op::kExp, {node->operand(0)});
                                 return Add(graph, node, Op::kConstant, {},
                                            {{"value", 0.0}, {"dtype", DType::kF32}, {"shape", Dims{8}}});
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_FALSE(proof->violation.has_value()) << proof->violation->ToString();
}

TEST(RegionTest, RewritesMayRestOnConstantsAndOnIntegers) {
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

// Indices that are given are not negative; those that are computed may be, and are as they are computed.
TEST(RegionTest, IntegersAreComputedInEveryRegion) {
  const auto proof = ProveRule(R"ir(ffir 1
    graph @g {
      input %i "i" : i64[8]
      %z = constant() {dtype = i64, value = 0.0} : i64[]
      %n = sub(%z, %i) : i64[8]
      %m = maximum(%n, %z) : i64[8]
      output "y" %m
    })ir",
                               Relation::kIdentical, [](Graph*, Node* node) -> ir::Value* {
                                 return node->op() == Op::kMaximum ? node->operand(0) : nullptr;
                               });
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_TRUE(proof->violation.has_value());
}

// Same op, attributes and operands: but one gives the other result, or lacks an operand that may be left out.
TEST(RegionTest, NodesThatLookTheSameAreNot) {
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

// Nor are nodes of the same result over a weight that was declared narrower meanwhile.
TEST(RegionTest, OperandsOfAnotherTypeAreOthers) {
  class Narrow : public passes::Pass {
   public:
    std::string_view name() const override { return "narrow"; }
    Relation relation() const override { return Relation::kReassociated; }
    absl::StatusOr<bool> Run(Graph* graph, passes::PassContext* context) const override {
      if (!context->BeginRewrite()) return false;
      ir::Value* w = graph->FindWeight("w");
      graph->SetType(w, ir::TensorType{DType::kBF16, w->tensor().shape});
      return true;
    }
  };
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 8]
      weight %w "w" : f32[4, 8]
      %a = linear(%x, %w) : f32[2, 4]
      output "y" %a
    })ir");
  Prover prover({}, {});
  const auto proof = prover.ProvePass(Narrow(), graph.get());
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_TRUE(proof->violation.has_value());
}

// Token ids made of a float that is never positive: with any other number in its place there is no such row.
TEST(RegionTest, WhatCannotBeEvaluatedAloneIsTriedWithMoreAroundIt) {
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
TEST(RegionTest, AGraphThatFailsWhereTheOtherDoesNotIsWrong) {
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

TEST(RegionTest, EqualRegionsAreEvaluatedOnce) {
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

}  // namespace
}  // namespace flashflow::proof
