#include "compiler/passes/quantize_int4_pass.h"

#include "absl/strings/str_replace.h"
#include "compiler/passes/fuse_mlp_pass.h"
#include "compiler/passes/ir_check.h"
#include "compiler/passes/quantize_int8_pass.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

const CompileOptions kInt4 = {.quantize = "int4"};

constexpr std::string_view kLayer = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 64]
      weight %w "w" : f32[32, 64]
      weight %b "b" : f32[32]
      weight %head "head" : f32[5, 32]
      %1 = linear(%x, %w, %b) : f32[T, 32] loc "up"
      %2 = linear(%1, %head) : f32[T, 5]
      output "y" %2
      // CHECK: %4, %5 = quantize(%1) {group = 32} : i8[32, 32], f16[32, 2, 2] loc "up"
      // CHECK-NEXT: %6 = fused_linear(%0, %4, %2, _, _, _, %5) : f32[T, 32] loc "up"
      // CHECK-NEXT: %7 = linear(%6, %3) : f32[T, 5]
      // CHECK-NEXT: output "y" %7
    })ir";

TEST(QuantizeInt4PassTest, MakesCodesOfGroupsAndLeavesTheLogits) {
  EXPECT_TRUE(CheckPass<QuantizeInt4Pass>(kLayer, kInt4));
  EXPECT_TRUE(CheckRefused<QuantizeInt4Pass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[4, 64]
      weight %head "head" : f32[5, 64]
      %1 = linear(%x, %head) : f32[4, 5]
      output "y" %1
    })ir",
                                             "its result leaves the graph: 8 bits", kInt4));
}

TEST(QuantizeInt4PassTest, DoesNothingUnlessItIsAskedFor) {
  EXPECT_TRUE(CheckKept<QuantizeInt4Pass>(kLayer));
  EXPECT_TRUE(CheckKept<QuantizeInt4Pass>(kLayer, {.quantize = "int8"}));
}

TEST(QuantizeInt4PassTest, TheRestGetsEightBits) {
  const std::string text =
      absl::StrReplaceAll(kLayer, {{"// CHECK-NEXT: %7 = linear(%6, %3) : f32[T, 5]",
                                    "// CHECK-NEXT: %7, %8 = quantize(%3) : i8[5, 32], f32[5]\n"
                                    "// CHECK-NEXT: %9 = fused_linear(%6, %7, _, _, _, _, %8) : f32[T, 5]"},
                                   {"output \"y\" %7", "output \"y\" %9"}});
  EXPECT_TRUE(CheckPasses(MakePassList<QuantizeInt4Pass, QuantizeInt8Pass>(), text, kInt4));
}

// The halves of a joined weight, the gate second: their codes are made anew when they are exchanged.
constexpr std::string_view kMerged = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 32]
      weight %a "a" : f32[4, 32]
      weight %b "b" : f32[4, 32]
      %w = concat(%a, %b) {axis = 0} : f32[8, 32]
      %1 = linear(%x, %w) : f32[T, 8]
      %2 = slice(%1) {axis = 1, start = dim(0), stop = dim(4)} : f32[T, 4]
      %3 = slice(%1) {axis = 1, start = dim(4), stop = dim(8)} : f32[T, 4]
      %4 = silu(%3) : f32[T, 4]
      %5 = mul(%4, %2) : f32[T, 4]
      output "y" %5
      // CHECK: quantize(%10) {group = 32} : i8[8, 16], f16[8, 1, 2]
      // CHECK-NEXT: fused_linear(%0, %11, _, _, _, _, %12) {activation = "silu", gated = true}
    })ir";

TEST(QuantizeInt4PassTest, TakesJoinedWeights) {
  EXPECT_TRUE(CheckPasses(MakePassList<QuantizeInt4Pass, FuseMlpPass>(), kMerged, kInt4));
}

TEST(QuantizeInt4PassTest, RefusesWhatItCannotCode) {
  const auto refuses = [](std::string_view text, std::string_view reason) {
    return CheckRefused<QuantizeInt4Pass>(text, reason, kInt4);
  };
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kMerged, {{"weight %a", "metadata \"precision.b\" = \"float\"\nweight %a"}}),
                      "the metadata keeps its weight in floats"));
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kMerged, {{"weight %a", "metadata \"precision.b\" = \"int8\"\nweight %a"}}),
                      "the metadata gives its weight 8 bits"));
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kMerged, {{", 32]", ", 24]"}}), "rows of 24 are not whole groups of 32"));
  constexpr std::string_view kOther = R"ir(ffir 1
    graph @g {
      input %x "x" : f32[4, 32]
      weight %w "w" : f32[32, 32]
      %1 = LAYER : f32[4, 32]
      %2 = neg(%1) : f32[4, 32]
      output "y" %2
    })ir";
  const auto layer = [kOther](std::string_view text) { return absl::StrReplaceAll(kOther, {{"LAYER", text}}); };
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kOther, {{"%1 = LAYER", "%3 = neg(%w) : f32[32, 32]\n%1 = linear(%x, %3)"}}),
                      "its weight is computed, not stored"));
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kOther, {{"%1 = LAYER",
                                                    "%3 = transpose(%w) {perm = [1, 0]} : f32[32, 32]\n"
                                                    "%1 = linear(%x, %3)"}}),
                      "its weight is stored transposed"));
  EXPECT_TRUE(refuses(layer("fused_linear(%x, %w) {norm = \"rms_norm\"}"), "the norm before it is fused into it"));
  EXPECT_TRUE(refuses(layer("fused_linear(%x, %w) {activation = \"silu\"}"), "what comes after it is fused into it"));
  EXPECT_TRUE(refuses(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %ids "token_ids" : i32[T]
      weight %wte "wte" : f32[32, 32]
      %1 = embedding(%wte, %ids) {dtype = f32} : f32[T, 32]
      %2 = linear(%1, %wte) : f32[T, 32]
      %3 = neg(%2) : f32[T, 32]
      output "y" %3
    })ir",
                      "its weight is a table of tokens: 8 bits"));
}

}  // namespace
}  // namespace flashflow::passes
