#include "compiler/passes/widen_vectors_pass.h"

#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(WidenVectorsPassTest, CastsWhatIsAddedAndWhatScales) {
  EXPECT_TRUE(CheckPass<WidenVectorsPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : bf16[T, 8]
      weight %w "w" : bf16[8, 8]
      weight %b "b" : bf16[8]
      weight %g "g" : f32[8]
      %1 = layer_norm(%x, %b, %b) {eps = 1e-05} : bf16[T, 8]
      %2 = rms_norm(%1, %g) {eps = 1e-05} : bf16[T, 8]
      %3 = linear(%2, %w, %b) : bf16[T, 8]
      %4 = linear(%3, %w) : bf16[T, 8]
      output "y" %4
      // CHECK: weight %3 "g" : f32[8]
      // CHECK-NEXT: %4 = cast(%2) {dtype = f32} : f32[8]
      // CHECK-NEXT: %5 = cast(%2) {dtype = f32} : f32[8]
      // CHECK-NEXT: %6 = layer_norm(%0, %4, %5) {eps = 1e-05} : bf16[T, 8]
      // CHECK-NEXT: %7 = rms_norm(%6, %3) {eps = 1e-05} : bf16[T, 8]
      // CHECK-NEXT: %8 = cast(%2) {dtype = f32} : f32[8]
      // CHECK-NEXT: %9 = linear(%7, %1, %8) : bf16[T, 8]
      // CHECK-NEXT: %10 = linear(%9, %1) : bf16[T, 8]
      // CHECK-NEXT: output "y" %10
    })ir",
                                          {.device = "cuda"}));
}

TEST(WidenVectorsPassTest, OtherDevicesReadThemAsTheyAre) {
  constexpr std::string_view kGraph = R"ir(ffir 1
    graph @g {
      input %x "x" : bf16[3, 8]
      weight %b "b" : bf16[8]
      %1 = rms_norm(%x, %b) {eps = 1e-05} : bf16[3, 8]
      output "y" %1
    })ir";
  EXPECT_TRUE(CheckKept<WidenVectorsPass>(kGraph));
  EXPECT_FALSE(CheckKept<WidenVectorsPass>(kGraph, {.device = "cuda"}));
}

}  // namespace
}  // namespace flashflow::passes
