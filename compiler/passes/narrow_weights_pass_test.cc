#include "compiler/passes/narrow_weights_pass.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kGraph = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      input %ids "token_ids" : i32[T]
      input %pos "positions" : i32[T]
      input %s "row_start" : i32[R + 1]
      input %l "kv_len" : i32[R]
      input %t "block_table" : i32[R, P]
      input %cache "cache" : cache[1, 2, 8, f32]
      weight %wte "wte" : f32[32, 16]
      weight %wpe "wpe" : f32[64, 16]
      weight %norm "norm" : f32[16]
      weight %proj "proj" : f32[16, 16]
      weight %bias "bias" : f32[16]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[T, 16]
      %p = embedding(%wpe, %pos) {dtype = f32} : f32[T, 16]
      %a = add(%x, %p) : f32[T, 16]
      %n = layer_norm(%a, %norm, %norm) {eps = 1e-05} : f32[T, 16]
      %y = linear(%n, %proj, %bias) : f32[T, 16]
      %q = reshape(%y) {shape = dims(T, 2, 8)} : f32[T, 2, 8]
      %c = kv_append(%cache, %q, %q, %s, %l, %t) {layer = 0} : cache[1, 2, 8, f32]
      %o = paged_attention(%c, %q, %s, %l, %t) {layer = 0, scale = 1.0} : f32[T, 2, 8]
      %f = reshape(%o) {shape = dims(T, 16)} : f32[T, 16]
      %z = linear(%f, %wte) : f32[T, 32]
      output "logits" %z
      output "cache" %c
      // CHECK: metadata dtype = "bf16"
      // CHECK: input %5 "cache" : cache[1, 2, 8, bf16]
      // CHECK-NEXT: weight %6 "wte" : bf16[32, 16]
      // CHECK-NEXT: weight %7 "wpe" : f32[64, 16]
      // CHECK-NEXT: weight %8 "norm" : f32[16]
      // CHECK-NEXT: weight %9 "proj" : bf16[16, 16]
      // CHECK-NEXT: weight %10 "bias" : f32[16]
      // CHECK: linear(%14, %9, %10) : f32[T, 16]
      // CHECK: %17 = kv_append(%5, %16, %16, %2, %3, %4) {layer = 0} : cache[1, 2, 8, bf16]
      // CHECK-NEXT: %18 = paged_attention(%17, %16, %2, %3, %4) {layer = 0, scale = 1.0} : f32[T, 2, 8]
      // CHECK: output "cache" %17
    })ir";

TEST(NarrowWeightsPassTest, NarrowsWhatAStepStreams) {
  EXPECT_TRUE(CheckPass<NarrowWeightsPass>(kGraph, {.dtype = "bf16"}));
}

// Codes are made of what is stored, but for weights that the metadata keep in floats.
TEST(NarrowWeightsPassTest, LeavesWhatBecomesCodes) {
  const std::string graph =
      absl::StrReplaceAll(kGraph, {{"symbol T [1, 8]",
                                    "symbol T [1, 8]\n      metadata \"precision.proj\" = \"float\"\n      metadata "
                                    "precision.wte = \"int8\""}});
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), graph, {.dtype = "bf16", .quantize = "int8"});
  ASSERT_EQ(run.error, "");
  EXPECT_THAT(run.after, ::testing::HasSubstr("\"wte\" : f32[32, 16]"));
  EXPECT_THAT(run.after, ::testing::HasSubstr("\"proj\" : bf16[16, 16]"));
}

// The cache alone where only it is asked for; besides what the dtype narrows where that is too.
TEST(NarrowWeightsPassTest, CodesTheCache) {
  for (const char* dtype : {"f32", "bf16"}) {
    const PassRun run =
        RunPasses(MakePassList<NarrowWeightsPass, NarrowWeightsPass>(), kGraph, {.dtype = dtype, .kv_dtype = "int8"});
    ASSERT_EQ(run.error, "");
    EXPECT_THAT(run.after, ::testing::HasSubstr("input %5 \"cache\" : cache[1, 2, 8, i8]"));
    EXPECT_THAT(run.after, ::testing::HasSubstr("{layer = 0} : cache[1, 2, 8, i8]"));
    EXPECT_THAT(run.after, ::testing::HasSubstr(absl::StrCat("weight %9 \"proj\" : ", dtype)));
    EXPECT_TRUE(run.records[0].changed);
    EXPECT_FALSE(run.records[1].changed);
  }
}

TEST(NarrowWeightsPassTest, DoesNotCodeWhatIsRounded) {
  const std::string text = absl::StrReplaceAll(kGraph, {{"8, f32]", "8, bf16]"}});
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), text, {.kv_dtype = "int8"});
  EXPECT_THAT(run.error, ::testing::HasSubstr("the KV cache is bf16 already"));
}

TEST(NarrowWeightsPassTest, NarrowsWeightsThatAreStoredTransposed) {
  EXPECT_TRUE(CheckPass<NarrowWeightsPass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[3, 8]
      weight %w "w" : f32[8, 16]
      weight %v "v" : f32[8, 16]
      %t = transpose(%w) {perm = [1, 0]} : f32[16, 8]
      %y = linear(%x, %t) : f32[3, 16]
      %u = transpose(%v) {perm = [1, 0]} : f32[16, 8]
      %z = linear(%x, %u) : f32[3, 16]
      output "y" %y
      output "z" %z
      output "u" %u
      // CHECK: weight %1 "w" : bf16[8, 16]
      // CHECK-NEXT: weight %2 "v" : f32[8, 16]
      // CHECK: %3 = transpose(%1) {perm = [1, 0]} : bf16[16, 8]
      // CHECK-NEXT: %4 = linear(%0, %3) : f32[3, 16]
      // CHECK: transpose(%2) {perm = [1, 0]} : f32[16, 8]
    })ir",
                                           {.dtype = "bf16"}));
}

TEST(NarrowWeightsPassTest, TakesTheDTypeFromTheMetadata) {
  std::string text(kGraph);
  text.insert(text.find("symbol T"), "metadata dtype = \"bf16\"\n");
  EXPECT_TRUE(CheckPass<NarrowWeightsPass>(text));
}

TEST(NarrowWeightsPassTest, F32IsNotedAndChangesNothingElse) {
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), kGraph);
  ASSERT_EQ(run.error, "");
  std::string expected = run.before;
  expected.insert(expected.find("  input"), "  metadata dtype = \"f32\"\n");
  EXPECT_EQ(run.after, expected);
}

TEST(NarrowWeightsPassTest, IsIdempotent) {
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass, NarrowWeightsPass>(), kGraph, {.dtype = "bf16"});
  ASSERT_EQ(run.error, "");
  EXPECT_TRUE(run.records[0].changed);
  EXPECT_FALSE(run.records[1].changed);
}

TEST(NarrowWeightsPassTest, RefusesToWiden) {
  std::string text(kGraph);
  text.insert(text.find("symbol T"), "metadata dtype = \"bf16\"\n");
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), text, {.dtype = "f32"});
  EXPECT_THAT(run.error, ::testing::HasSubstr("the graph's weights are bf16 already"));
}

TEST(NarrowWeightsPassTest, RefusesOtherMetadata) {
  std::string text(kGraph);
  text.insert(text.find("symbol T"), "metadata dtype = \"int4\"\n");
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), text);
  EXPECT_THAT(run.error, ::testing::HasSubstr("metadata dtype: expected \"f32\" or \"bf16\", got \"int4\""));
}

TEST(NarrowWeightsPassTest, RemarksOnAWeightWithOtherUses) {
  const PassRun run = RunPasses(MakePassList<NarrowWeightsPass>(), R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 16]
      weight %w "w" : f32[16, 16]
      %y = linear(%x, %w) : f32[T, 16]
      %z = neg(%w) : f32[16, 16] loc "oops (m.py:3)"
      output "y" %y
      output "z" %z
    })ir",
                                {.dtype = "bf16"});
  ASSERT_EQ(run.error, "");
  ASSERT_EQ(run.records[0].remarks.size(), 1u);
  EXPECT_EQ(run.records[0].remarks[0].ToString(),
            "narrow-weights refused: weight \"w\" is also used by %3 = neg at \"oops (m.py:3)\", which reads f32");
  EXPECT_THAT(run.after, ::testing::HasSubstr("weight %1 \"w\" : f32[16, 16]"));
}

}  // namespace
}  // namespace flashflow::passes
