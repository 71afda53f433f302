#include "compiler/passes/cse_pass.h"

#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(CsePassTest, MergesChainsOfEqualNodes) {
  EXPECT_TRUE(CheckPasses(MakePassList<CsePass, DcePass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 4]
      %a = transpose(%x) {perm = [1, 0]} : f32[4, 2]
      %b = exp(%a) : f32[4, 2]
      %c = transpose(%x) {perm = [1, 0]} : f32[4, 2]
      %d = exp(%c) : f32[4, 2]
      %y = sub(%b, %d) : f32[4, 2]
      output "y" %y
      // CHECK: %1 = transpose(%0)
      // CHECK-NEXT: %2 = exp(%1)
      // CHECK-NEXT: %3 = sub(%2, %2)
    })ir"));
}

TEST(CsePassTest, KeepsWhatDiffersInAttributesOrInTheOrderOfOperands) {
  EXPECT_TRUE(CheckKept<CsePass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 2]
      %p = constant() {dtype = f32, value = 0.0} : f32[]
      %n = constant() {dtype = f32, value = -0.0} : f32[]
      %s0 = softmax(%x) {axis = 0} : f32[2, 2]
      %s1 = softmax(%x) {axis = 1} : f32[2, 2]
      %a = sub(%s0, %s1) : f32[2, 2]
      %b = sub(%s1, %s0) : f32[2, 2]
      %c = mul(%a, %b) : f32[2, 2]
      %d = div(%c, %p) : f32[2, 2]
      %e = div(%c, %n) : f32[2, 2]
      %y = concat(%d, %e) {axis = 0} : f32[4, 2]
      output "y" %y
    })ir"));
}

TEST(CsePassTest, RefusesToMergeReadsOfTheCache) {
  EXPECT_TRUE(CheckRefused<CsePass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      input %q "q" : f32[T, 2, 4]
      input %row_start "row_start" : i32[R + 1]
      input %kv_len "kv_len" : i32[R]
      input %table "table" : i32[R, P]
      input %cache "cache" : cache[1, 2, 4, f32]
      %a = paged_attention(%cache, %q, %row_start, %kv_len, %table) {layer = 0, scale = 0.5} : f32[T, 2, 4]
      %b = paged_attention(%cache, %q, %row_start, %kv_len, %table) {layer = 0, scale = 0.5} : f32[T, 2, 4]
      %y = add(%a, %b) : f32[T, 2, 4]
      output "y" %y
      output "cache" %cache
    })ir",
                                    "operations on the cache are never merged"));
}

TEST(CsePassTest, KeepsNodesOfSeveralResults) {
  EXPECT_TRUE(CheckKept<CsePass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 8]
      %a, %b = quantize(%x) : i8[2, 8], f32[2]
      %c, %d = quantize(%x) : i8[2, 8], f32[2]
      %n = neg(%b) : f32[2]
      %m = exp(%d) : f32[2]
      %k = neg(%c) : i8[2, 8]
      output "n" %n
      output "m" %m
      output "k" %k
    })ir"));
}

// The first merge makes an output of the kept node: the second would give it another name.
TEST(CsePassTest, GivesNoValueTwoNamesInTwoSteps) {
  const PassRun run = RunPasses(MakePassList<CsePass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2]
      %a = neg(%x) : f32[2]
      %b = neg(%x) : f32[2]
      %c = neg(%x) : f32[2]
      output "b" %b
      output "c" %c
    })ir");
  EXPECT_EQ(run.error, "");
  EXPECT_TRUE(MatchChecks(run.after, R"(
      // CHECK: output "b" %1
      // CHECK-NEXT: output "c" %3)"));
}

TEST(CsePassTest, RefusesToGiveTwoOutputsOneValue) {
  EXPECT_TRUE(CheckRefused<CsePass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[4]
      %a = exp(%x) : f32[4]
      %b = exp(%x) : f32[4]
      output "a" %a
      output "b" %b
    })ir",
                                    "both are outputs"));
}

// Once an output has taken the place of the first, that is an output too.
TEST(CsePassTest, GivesEachOutputAValueOfItsOwn) {
  EXPECT_TRUE(CheckPasses(MakePassList<CsePass, DcePass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[4]
      %a = exp(%x) : f32[4]
      %n = neg(%a) : f32[4]
      %b = exp(%x) : f32[4]
      %c = exp(%x) : f32[4]
      output "n" %n
      output "b" %b
      output "c" %c
      // CHECK: %1 = exp(%0)
      // CHECK-NEXT: %2 = neg(%1)
      // CHECK-NEXT: %3 = exp(%0)
      // CHECK-NEXT: output "n" %2
      // CHECK-NEXT: output "b" %1
      // CHECK-NEXT: output "c" %3
    })ir"));
}

TEST(CsePassTest, LeavesWhatNothingUsesAndNodesOfSeveralResults) {
  const PassRun run = RunPasses(MakePassList<CsePass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 4]
      %a = exp(%x) : f32[2, 4]
      %dead = exp(%x) : f32[2, 4]
      %s0, %n0 = add_norm(%a, %x) {eps = 1e-05, norm = "rms_norm"} : f32[2, 4], f32[2, 4]
      %s1, %n1 = add_norm(%a, %x) {eps = 1e-05, norm = "rms_norm"} : f32[2, 4], f32[2, 4]
      output "s0" %s0
      output "n0" %n0
      output "n1" %n1
      %y = neg(%s1) : f32[2, 4]
      output "y" %y
    })ir");
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(run.before, run.after);
  ASSERT_EQ(run.records.size(), 1u);
  EXPECT_FALSE(run.records[0].changed);
}

}  // namespace
}  // namespace flashflow::passes
