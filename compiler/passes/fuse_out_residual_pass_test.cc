#include "compiler/passes/fuse_out_residual_pass.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kResidual = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 16]
      input %r "r" : f32[T, 8]
      weight %w "w" : f32[8, 16]
      weight %b "b" : f32[8]
      %1 = linear(%x, %w, %b) : f32[T, 8]
      %2 = add(%r, %1) : f32[T, 8]
      output "y" %2
      // CHECK: fused_linear(%0, %2, %3, %1) : f32[T, 8]
    })ir";

TEST(FuseOutResidualPassTest, TakesTheSumIn) {
  EXPECT_TRUE(CheckPass<FuseOutResidualPass>(kResidual));
  EXPECT_TRUE(CheckPass<FuseOutResidualPass>(absl::StrReplaceAll(kResidual, {{"add(%r, %1)", "add(%1, %r)"}})));
}

// An activation comes before the sum; a second sum stays.
TEST(FuseOutResidualPassTest, ComesAfterAnActivation) {
  EXPECT_TRUE(CheckPass<FuseOutResidualPass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 8]
      input %r "r" : f32[2, 8]
      weight %w "w" : f32[8, 8]
      %1 = fused_linear(%x, %w) {activation = "silu"} : f32[2, 8]
      %2 = add(%1, %r) : f32[2, 8]
      %3 = add(%2, %x) : f32[2, 8]
      output "y" %3
      // CHECK: fused_linear(%0, %2, _, %1) {activation = "silu"} : f32[2, 8]
      // CHECK: %6 = add(%4, %0) : f32[2, 8]
      // CHECK-NEXT: output "y" %6
    })ir"));
}

TEST(FuseOutResidualPassTest, RefusesAResultThatIsWantedAlone) {
  EXPECT_TRUE(CheckRefused<FuseOutResidualPass>(
      absl::StrReplaceAll(kResidual, {{"output \"y\" %2", "output \"y\" %2\n      output \"z\" %1"}}),
      "the layer's result is wanted without the sum too"));
}

TEST(FuseOutResidualPassTest, LeavesSumsThatBroadcastAlone) {
  const std::string residual =
      absl::StrReplaceAll(kResidual, {{"input %r \"r\" : f32[T, 8]", "input %r \"r\" : f32[8]"}});
  const std::string layer = absl::StrReplaceAll(
      kResidual, {{"f32[T, 16]", "f32[1, 16]"}, {"linear(%x, %w, %b) : f32[T, 8]", "linear(%x, %w, %b) : f32[1, 8]"}});
  for (const std::string& text : {residual, layer}) {
    EXPECT_TRUE(CheckKept<FuseOutResidualPass>(text));
  }
}

}  // namespace
}  // namespace flashflow::passes
