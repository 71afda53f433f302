#include "compiler/passes/fuse_qkv_norm_pass.h"

#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kNorm = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      weight %n "n" : f32[8]
      weight %m "m" : f32[8]
      weight %w "w" : f32[16, 8]
      weight %b "b" : f32[16]
      %1 = layer_norm(%x, %n, %m) {eps = 1e-05} : f32[T, 8]
      %2 = linear(%1, %w, %b) : f32[T, 16]
      %3 = fused_linear(%1, %w) {activation = "silu", gated = true} : f32[T, 8]
      output "y" %2
      output "z" %3
      // CHECK: %5 = fused_linear(%0, %3, %4, _, %1, %2) {eps = 1e-05, norm = "layer_norm"} : f32[T, 16]
      // CHECK-NEXT: %6 = fused_linear(%0, %3, _, _, %1, %2) {activation = "silu", eps = 1e-05, gated = true, norm = "layer_norm"} : f32[T, 8]
      // CHECK-NEXT: output "y" %5
    })ir";

TEST(FuseQkvNormPassTest, BecomesThePrologueOfEveryLayer) {
  EXPECT_TRUE(CheckPass<FuseQkvNormPass>(kNorm));
  EXPECT_TRUE(CheckPass<FuseQkvNormPass>(absl::StrReplaceAll(
      kNorm, {{"layer_norm(%x, %n, %m)", "rms_norm(%x, %n)"}, {"layer_norm", "rms_norm"}, {"_, %1, %2)", "_, %1)"}})));
}

TEST(FuseQkvNormPassTest, RefusesANormThatIsWantedElsewhere) {
  EXPECT_TRUE(CheckRefused<FuseQkvNormPass>(absl::StrReplaceAll(kNorm, {{"output \"z\" %3", "output \"z\" %1"}}),
                                            "its result is an output of the graph"));
  EXPECT_TRUE(CheckRefused<FuseQkvNormPass>(
      absl::StrReplaceAll(kNorm, {{"fused_linear(%1, %w) {activation = \"silu\", gated = true}", "silu(%1)"}}),
      "its result is wanted by %7 = silu"));
  // As the residual of a layer it is not what the layer multiplies.
  EXPECT_TRUE(CheckRefused<FuseQkvNormPass>(
      absl::StrReplaceAll(kNorm, {{"fused_linear(%1, %w) {activation", "fused_linear(%1, %w, _, %1) {activation"}}),
      "its result is wanted by %7 = fused_linear"));
}

}  // namespace
}  // namespace flashflow::passes
