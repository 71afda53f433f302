#include "compiler/passes/merge_qkv_pass.h"

#include "absl/strings/substitute.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(MergeQkvPassTest, JoinsTheLayersOfOneInput) {
  EXPECT_TRUE(CheckPass<MergeQkvPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      weight %wq "q" : f32[8, 8]
      weight %wk "k" : f32[4, 8]
      weight %wv "v" : f32[6, 8]
      weight %wo "o" : f32[8, 8]
      %q = linear(%x, %wq) : f32[T, 8]
      %k = linear(%x, %wk) : f32[T, 4]
      %s = silu(%q) : f32[T, 8]
      %v = linear(%x, %wv) : f32[T, 6]
      %o = linear(%s, %wo) : f32[T, 8]
      output "o" %o
      output "k" %k
      output "v" %v
      // CHECK: %5 = concat(%1, %2, %3) {axis = 0} : f32[18, 8]
      // CHECK-NEXT: %6 = linear(%0, %5) : f32[T, 18]
      // CHECK-NEXT: %7 = slice(%6) {axis = 1, start = dim(0), stop = dim(8)} : f32[T, 8]
      // CHECK-NEXT: %8 = slice(%6) {axis = 1, start = dim(8), stop = dim(12)} : f32[T, 4]
      // CHECK-NEXT: %9 = slice(%6) {axis = 1, start = dim(12), stop = dim(18)} : f32[T, 6]
      // CHECK-NEXT: %10 = silu(%7) : f32[T, 8]
      // CHECK-NEXT: %11 = linear(%10, %4) : f32[T, 8]
      // CHECK-NEXT: output "o" %11
      // CHECK-NEXT: output "k" %8
      // CHECK-NEXT: output "v" %9
    })ir"));
}

TEST(MergeQkvPassTest, JoinsBiasesToo) {
  EXPECT_TRUE(CheckPass<MergeQkvPass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 3, 8]
      weight %w0 "w0" : bf16[8, 8]
      weight %w1 "w1" : bf16[4, 8]
      weight %b0 "b0" : f32[8]
      weight %b1 "b1" : f32[4]
      %0 = linear(%x, %w0, %b0) : f32[2, 3, 8]
      %1 = linear(%x, %w1, %b1) : f32[2, 3, 4]
      output "0" %0
      output "1" %1
      // CHECK: %5 = concat(%1, %2) {axis = 0} : bf16[12, 8]
      // CHECK-NEXT: %6 = concat(%3, %4) {axis = 0} : f32[12]
      // CHECK-NEXT: %7 = linear(%0, %5, %6) : f32[2, 3, 12]
      // CHECK-NEXT: slice(%7) {axis = 2, start = dim(0), stop = dim(8)}
      // CHECK-NEXT: slice(%7) {axis = 2, start = dim(8), stop = dim(12)}
    })ir"));
}

TEST(MergeQkvPassTest, RefusesLayersThatDoNotGoTogether) {
  // The type of the second weight, what the layers read beside x, and the reason.
  constexpr struct {
    const char *dtype, *more, *first, *second, *reason;
  } kRows[] = {
      {"f32", R"(weight %b0 "b0" : f32[8])", "%w0, %b0", "%w1", "only some of them have a bias"},
      {"f32", R"(weight %b0 "b0" : f32[8] weight %b1 "b1" : bf16[8])", "%w0, %b0", "%w1, %b1",
       "their biases differ in dtype"},
      {"bf16", "", "%w0", "%w1", "their weights differ in dtype"},
      {"f32", "%t = transpose(%w1) {perm = [1, 0]} : f32[8, 8]", "%w0", "%t",
       "a weight of theirs is stored transposed"},
  };
  for (const auto& row : kRows) {
    EXPECT_TRUE(CheckRefused<MergeQkvPass>(absl::Substitute(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 8]
      weight %w0 "w0" : f32[8, 8]
      weight %w1 "w1" : $0[8, 8]
      $1
      %0 = linear(%x, $2) : f32[2, 8]
      %1 = linear(%x, $3) : f32[2, 8]
      output "0" %0
      output "1" %1
    })ir",
                                                            row.dtype, row.more, row.first, row.second),
                                           row.reason));
  }
}

// A bias that is computed, perhaps from the other layer; a weight that is joined already.
TEST(MergeQkvPassTest, LeavesComputedBiasesAndJoinedWeightsAlone) {
  const PassRun run = RunPasses(MakePassList<MergeQkvPass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[1, 8]
      weight %w0 "w0" : f32[8, 8]
      weight %w1 "w1" : f32[8, 8]
      weight %b0 "b0" : f32[8]
      %0 = linear(%x, %w0, %b0) : f32[1, 8]
      %b1 = reshape(%0) {shape = dims(8)} : f32[8]
      %1 = linear(%x, %w1, %b1) : f32[1, 8]
      %w2 = concat(%w0, %w1) {axis = 0} : f32[16, 8]
      %2 = linear(%x, %w2) : f32[1, 16]
      output "1" %1
      output "2" %2
    })ir");
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(run.before, run.after);
  EXPECT_TRUE(run.records.at(0).remarks.empty());
}

}  // namespace
}  // namespace flashflow::passes
