#include "compiler/passes/fuse_norm_residual_pass.h"

#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kSum = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      input %r "r" : f32[T, 8]
      weight %n "n" : f32[8]
      weight %m "m" : f32[8]
      %1 = add(%x, %r) : f32[T, 8]
      %2 = silu(%1) : f32[T, 8]
      %3 = layer_norm(%1, %n, %m) {eps = 1e-06} : f32[T, 8]
      %4 = mul(%2, %3) : f32[T, 8]
      output "y" %4
      // CHECK: %4, %5 = add_norm(%0, %1, %2, %3) {eps = 1e-06, norm = "layer_norm"} : f32[T, 8], f32[T, 8]
      // CHECK-NEXT: %6 = silu(%4) : f32[T, 8]
      // CHECK-NEXT: %7 = mul(%6, %5) : f32[T, 8]
    })ir";

TEST(FuseNormResidualPassTest, JoinsASumAndItsNorm) {
  EXPECT_TRUE(CheckPass<FuseNormResidualPass>(kSum));
  EXPECT_TRUE(CheckPass<FuseNormResidualPass>(
      absl::StrReplaceAll(kSum, {{"layer_norm(%1, %n, %m)", "rms_norm(%1, %n)"},
                                 {"norm = \"layer_norm\"", "norm = \"rms_norm\""},
                                 {"add_norm(%0, %1, %2, %3)", "add_norm(%0, %1, %2)"}})));
}

TEST(FuseNormResidualPassTest, RefusesSumsThatBroadcast) {
  EXPECT_TRUE(CheckRefused<FuseNormResidualPass>(
      absl::StrReplaceAll(kSum, {{"input %r \"r\" : f32[T, 8]", "input %r \"r\" : f32[8]"}}),
      "the sum broadcasts an operand"));
}

TEST(FuseNormResidualPassTest, LeavesANormThatNothingReads) {
  EXPECT_TRUE(CheckKept<FuseNormResidualPass>(absl::StrReplaceAll(kSum, {{"mul(%2, %3)", "mul(%2, %2)"}})));
}

TEST(FuseNormResidualPassTest, RefusesAWeightThatMayComeLater) {
  EXPECT_TRUE(CheckRefused<FuseNormResidualPass>(
      absl::StrReplaceAll(
          kSum, {{"%3 = layer_norm(%1, %n, %m)", "%s = neg(%n) : f32[8]\n      %3 = layer_norm(%1, %s, %m)"}}),
      "the norm's weight or bias is computed"));
}

}  // namespace
}  // namespace flashflow::passes
