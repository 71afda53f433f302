#include "compiler/passes/assign_types_pass.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_replace.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "compiler/passes/pass_manager.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

const CompileOptions kNarrow = {.activation_dtype = "bf16"};

constexpr std::string_view kLayer = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %ids "token_ids" : i32[T]
      input %pos "positions" : i32[T]
      weight %wte "wte" : bf16[32, 16]
      weight %wpe "wpe" : f32[64, 16]
      weight %norm "norm" : f32[16]
      weight %proj "proj" : bf16[16, 16]
      weight %bias "bias" : f32[16]
      weight %angles "angles" : f32[64, 16]
      %t = embedding(%wte, %ids) {dtype = f32} : f32[T, 16]
      %p = embedding(%wpe, %pos) {dtype = f32} : f32[T, 16]
      %x = add(%t, %p) : f32[T, 16]
      %n = layer_norm(%x, %norm, %norm) {eps = 1e-05} : f32[T, 16]
      %y = linear(%n, %proj, %bias) : f32[T, 16]
      %c = embedding(%angles, %pos) {dtype = f32} : f32[T, 16]
      %r = rope(%y, %c, %c) : f32[T, 16]
      %z = fused_linear(%r, %proj, %bias, %x) : f32[T, 16]
      %l = linear(%z, %wte) : f32[T, 32]
      output "logits" %l
      // CHECK: %8 = embedding(%2, %0) {dtype = bf16} : bf16[T, 16]
      // CHECK-NEXT: %9 = embedding(%3, %1) {dtype = bf16} : bf16[T, 16]
      // CHECK-NEXT: %10 = add(%8, %9) : bf16[T, 16]
      // CHECK-NEXT: %11 = layer_norm(%10, %4, %4) {eps = 1e-05} : bf16[T, 16]
      // CHECK-NEXT: %12 = fused_linear(%11, %5, %6) {dtype = bf16} : bf16[T, 16]
      // CHECK-NEXT: %13 = embedding(%7, %1) {dtype = f32} : f32[T, 16]
      // CHECK-NEXT: %14 = rope(%12, %13, %13) : bf16[T, 16]
      // CHECK-NEXT: %15 = fused_linear(%14, %5, %6, %10) {dtype = bf16} : bf16[T, 16]
      // CHECK-NEXT: %16 = fused_linear(%15, %2) : f32[T, 32]
      // CHECK-NEXT: output "logits" %16
    })ir";

TEST(AssignTypesPassTest, NarrowsTheResidualStreamAndLeavesAnglesAndLogits) {
  EXPECT_TRUE(CheckPasses(MakePassList<AssignTypesPass, DcePass>(), kLayer, kNarrow));
}

TEST(AssignTypesPassTest, DoesNothingUnlessItIsAskedFor) {
  for (const char* dtype : {"", "f32"}) {
    EXPECT_TRUE(CheckKept<AssignTypesPass>(kLayer, {.activation_dtype = dtype}));
  }
}

TEST(AssignTypesPassTest, NarrowsTheAttentionOverACache) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      input %ids "token_ids" : i32[T]
      input %s "row_start" : i32[R + 1]
      input %l "kv_len" : i32[R]
      input %t "block_table" : i32[R, P]
      input %cache "cache" : cache[1, 2, 8, bf16]
      weight %wte "wte" : bf16[32, 16]
      weight %proj "proj" : bf16[16, 16]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[T, 16]
      %y = linear(%x, %proj) : f32[T, 16]
      %q = reshape(%y) {shape = dims(T, 2, 8)} : f32[T, 2, 8]
      %c = kv_append(%cache, %q, %q, %s, %l, %t) {layer = 0} : cache[1, 2, 8, bf16]
      %o = paged_attention(%c, %q, %s, %l, %t) {layer = 0, scale = 1.0} : f32[T, 2, 8]
      %f = reshape(%o) {shape = dims(T, 16)} : f32[T, 16]
      %z = linear(%f, %wte) : f32[T, 32]
      output "logits" %z
      output "cache" %c
      // CHECK: %9 = reshape(%8) {shape = dims(T, 2, 8)} : bf16[T, 2, 8]
      // CHECK-NEXT: %10 = kv_append(%4, %9, %9, %1, %2, %3) {layer = 0} : cache[1, 2, 8, bf16]
      // CHECK-NEXT: %11 = paged_attention(%10, %9, %1, %2, %3) {layer = 0, scale = 1.0} : bf16[T, 2, 8]
      // CHECK-NEXT: %12 = reshape(%11) {shape = dims(T, 16)} : bf16[T, 16]
      // CHECK-NEXT: %13 = fused_linear(%12, %5) : f32[T, 32]
      // CHECK: output "cache" %10
    })ir";
  EXPECT_TRUE(CheckPasses(MakePassList<AssignTypesPass, DcePass>(), kText, kNarrow));
}

TEST(AssignTypesPassTest, NarrowsSumsWithTheirNorms) {
  constexpr std::string_view kText = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %ids "token_ids" : i32[T]
      weight %wte "wte" : bf16[32, 16]
      weight %norm "norm" : f32[16]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[T, 16]
      %y = linear(%x, %wte) : f32[T, 32]
      %s = slice(%y) {axis = 1, start = dim(0), stop = dim(16)} : f32[T, 16]
      %a, %b = add_norm(%x, %s, %norm) {eps = 1e-05, norm = "rms_norm"} : f32[T, 16], f32[T, 16]
      %z = fused_linear(%b, %wte) : f32[T, 32]
      %l = concat(%z, %y) {axis = 1} : f32[T, 64]
      %h = linear(%a, %wte) : f32[T, 32]
      output "logits" %h
      output "more" %l
      // CHECK: %7, %8 = add_norm(%3, %6, %2) {eps = 1e-05, norm = "rms_norm"} : bf16[T, 16], bf16[T, 16]
      // CHECK-NEXT: fused_linear(%8, %1) {dtype = bf16} : bf16[T, 32]
    })ir";
  EXPECT_TRUE(CheckPasses(MakePassList<AssignTypesPass, DcePass>(), kText, kNarrow));
}

TEST(AssignTypesPassTest, RefusesWhatHasNoNarrowForm) {
  const auto reason = [](std::string_view rewritten) {
    const PassRun run =
        RunPasses(MakePassList<AssignTypesPass>(),
                  absl::StrReplaceAll(kLayer, {{"%r = rope(%y, %c, %c) : f32[T, 16]", rewritten}}), kNarrow);
    EXPECT_EQ(run.error, "");
    return run.records[0].remarks.empty() ? "" : run.records[0].remarks[0].reason;
  };
  EXPECT_EQ(reason("%r = exp(%y) : f32[T, 16]"), "exp has no form of bf16");
  EXPECT_EQ(reason("%r = mul(%y, %c) : f32[T, 16]"), "operand 1 stays f32");
  EXPECT_EQ(reason("%h = cast(%y) {dtype = f16} : f16[T, 16]\n %r = cast(%h) {dtype = f32} : f32[T, 16]"), "")
      << "casts are as they are";
  EXPECT_EQ(reason("%r = rope(%y, %c, %c) : f32[T, 16]\n output \"turned\" %r"),
            "its result is an output of the graph");
  EXPECT_EQ(reason("%k = constant() {dtype = f32, value = 1.0} : f32[]\n %e = expand(%k) {shape = dims(T, 16)} : "
                   "f32[T, 16]\n %m = mul(%e, %c) : f32[T, 16]\n %r = fused_linear(%y, %proj, _, %m) : f32[T, 16]"),
            "its residual stays f32");
}

// Logits keep their type, whoever reads them beside.
TEST(AssignTypesPassTest, CastsNothingThatStaysAsItIs) {
  const std::string text = absl::StrReplaceAll(
      kLayer, {{"output \"logits\" %l", "%e = exp(%l) : f32[T, 32]\n output \"logits\" %l\n output \"e\" %e"},
               {"// CHECK-NEXT: output \"logits\" %16", "// CHECK-NEXT: %17 = exp(%16) : f32[T, 32]"}});
  EXPECT_TRUE(CheckPasses(MakePassList<AssignTypesPass, DcePass>(), text, kNarrow));
}

// What it was about to replace with is not left behind when the rewrites are used up.
TEST(AssignTypesPassTest, LeavesNothingOfARewriteThatItMayNotMake) {
  for (const int64_t most : {0, 1, 3}) {
    const auto graph = ir::Parse(kLayer);
    ASSERT_TRUE(graph.ok()) << graph.status();
    PassContext context("assign-types", kNarrow, most);
    const auto record = RunPass(AssignTypesPass(), graph->get(), &context);
    ASSERT_TRUE(record.ok()) << record.status();
    EXPECT_EQ(record->rewrites, most);
    for (const auto& node : (*graph)->nodes()) {  // casts of what became narrow later are dce's
      EXPECT_TRUE(node->result()->HasUses() || node->op() == ir::Op::kCast) << ir::Describe(**graph, *node);
    }
  }
}

}  // namespace
}  // namespace flashflow::passes
