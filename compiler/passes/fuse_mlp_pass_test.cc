#include "compiler/passes/fuse_mlp_pass.h"

#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kGelu = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      weight %w "w" : f32[32, 8]
      weight %b "b" : f32[32]
      %1 = linear(%x, %w, %b) : f32[T, 32]
      %2 = gelu(%1) {approximate = "tanh"} : f32[T, 32]
      output "y" %2
      // CHECK: fused_linear(%0, %1, %2) {activation = "gelu_tanh"} : f32[T, 32]
    })ir";

constexpr std::string_view kSwiGlu = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 8]
      weight %w0 "w0" : f32[32, 8]
      weight %w1 "w1" : f32[32, 8]
      weight %b0 "b0" : f32[32]
      weight %b1 "b1" : f32[32]
      %w = concat(%w0, %w1) {axis = 0} : f32[64, 8]
      %b = concat(%b0, %b1) {axis = 0} : f32[64]
      %1 = linear(%x, %w, %b) : f32[T, 64]
      %2 = slice(%1) {axis = 1, start = dim(0), stop = dim(32)} : f32[T, 32]
      %3 = slice(%1) {axis = 1, start = dim(32), stop = dim(64)} : f32[T, 32]
      %4 = silu(%2) : f32[T, 32]
      %5 = mul(%4, %3) : f32[T, 32]
      output "y" %5
      // CHECK: fused_linear(%0, %5, %6) {activation = "silu", gated = true} : f32[T, 32]
    })ir";

TEST(FuseMlpPassTest, TakesTheActivationIn) {
  EXPECT_TRUE(CheckPass<FuseMlpPass>(kGelu));
  EXPECT_TRUE(
      CheckPass<FuseMlpPass>(absl::StrReplaceAll(kGelu, {{" {approximate = \"tanh\"}", ""}, {"gelu_tanh", "gelu"}})));
  EXPECT_TRUE(CheckPass<FuseMlpPass>(
      absl::StrReplaceAll(kGelu, {{"gelu(%1) {approximate = \"tanh\"}", "relu(%1)"}, {"gelu_tanh", "relu"}})));
}

TEST(FuseMlpPassTest, TakesTheGateIn) {
  EXPECT_TRUE(CheckPass<FuseMlpPass>(kSwiGlu));
  EXPECT_TRUE(CheckPass<FuseMlpPass>(absl::StrReplaceAll(
      kSwiGlu, {{"mul(%4, %3)", "mul(%3, %4)"}, {"silu(%2)", "gelu(%2)"}, {"\"silu\"", "\"gelu\""}})));
}

TEST(FuseMlpPassTest, ExchangesTheHalvesOfAGateThatIsSecond) {
  EXPECT_TRUE(CheckPass<FuseMlpPass>(
      absl::StrReplaceAll(kSwiGlu, {{"silu(%2)", "silu(%3)"},
                                    {"mul(%4, %3)", "mul(%4, %2)"},
                                    {"// CHECK: fused_linear(%0, %5, %6)",
                                     "// CHECK: %11 = concat(%2, %1) {axis = 0} : f32[64, 8]\n"
                                     "      // CHECK-NEXT: %12 = concat(%4, %3) {axis = 0} : f32[64]\n"
                                     "      // CHECK-NEXT: fused_linear(%0, %11, %12)"}})));
}

TEST(FuseMlpPassTest, LeavesLayersWhoseWeightIsComputed) {
  EXPECT_TRUE(CheckPass<FuseMlpPass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 8]
      input %w "w" : f32[4, 8]
      weight %v "v" : f32[8, 4]
      %1 = linear(%x, %w) : f32[2, 4]
      %2 = gelu(%1) : f32[2, 4]
      %t = transpose(%v) {perm = [1, 0]} : f32[4, 8]
      %3 = linear(%x, %t) : f32[2, 4]
      %4 = gelu(%3) : f32[2, 4]
      output "2" %2
      output "4" %4
      // CHECK: linear(%0, %1)
      // CHECK-NEXT: gelu
      // CHECK: fused_linear(%0,
    })ir"));
}

TEST(FuseMlpPassTest, RefusesProductsThatAreWantedElsewhere) {
  EXPECT_TRUE(CheckRefused<FuseMlpPass>(
      absl::StrReplaceAll(kGelu, {{"output \"y\" %2", "output \"y\" %2\n      output \"z\" %1"}}),
      "the layer's products are wanted elsewhere too"));
  EXPECT_TRUE(CheckRefused<FuseMlpPass>(
      absl::StrReplaceAll(kSwiGlu, {{"output \"y\" %5", "output \"y\" %5\n      output \"z\" %3"}}),
      "the gate's or the other half's products are wanted elsewhere too"));
}

TEST(FuseMlpPassTest, RefusesAGateThatIsSecondInAWeightOfOnePiece) {
  EXPECT_TRUE(CheckRefused<FuseMlpPass>(
      absl::StrReplaceAll(kSwiGlu, {{"weight %w0 \"w0\" : f32[32, 8]", "weight %w0 \"w0\" : f32[16, 8]"},
                                    {"weight %w1 \"w1\" : f32[32, 8]", "weight %w1 \"w1\" : f32[48, 8]"},
                                    {"silu(%2)", "silu(%3)"},
                                    {"mul(%4, %3)", "mul(%4, %2)"}}),
      "the gate is the second half of a weight that is not joined from two"));
}

TEST(FuseMlpPassTest, RefusesAGateThatIsSecondUnderABiasOfOnePiece) {
  EXPECT_TRUE(CheckRefused<FuseMlpPass>(
      absl::StrReplaceAll(kSwiGlu, {{"%b = concat(%b0, %b1) {axis = 0} : f32[64]", "weight %b \"b\" : f32[64]"},
                                    {"silu(%2)", "silu(%3)"},
                                    {"mul(%4, %3)", "mul(%4, %2)"}}),
      "the gate is the second half of a weight that is not joined from two"));
}

TEST(FuseMlpPassTest, ExchangesCodesWithTheirScales) {
  EXPECT_TRUE(CheckPass<FuseMlpPass>(absl::StrReplaceAll(
      kSwiGlu,
      {{"%1 = linear(%x, %w, %b)",
        "%c, %s = quantize(%w) : i8[64, 8], f32[64]\n"
        "      %1 = fused_linear(%x, %c, %b, _, _, _, %s)"},
       {"silu(%2)", "silu(%3)"},
       {"mul(%4, %3)", "mul(%4, %2)"},
       {"// CHECK: fused_linear(%0, %5, %6) {activation = \"silu\", gated = true}",
        "// CHECK: %13 = concat(%2, %1) {axis = 0} : f32[64, 8]\n"
        "      // CHECK-NEXT: %14, %15 = quantize(%13)\n"
        "      // CHECK-NEXT: %16 = concat(%4, %3) {axis = 0} : f32[64]\n"
        "      // CHECK-NEXT: fused_linear(%0, %14, %16, _, _, _, %15) {activation = \"silu\", gated = true}"}})));
}

TEST(FuseMlpPassTest, RefusesAGateOfProductsThatAreAnOutput) {
  EXPECT_TRUE(CheckRefused<FuseMlpPass>(
      absl::StrReplaceAll(kSwiGlu, {{"output \"y\" %5", "output \"y\" %5\n      output \"z\" %1"}}),
      "the gate's or the other half's products are wanted elsewhere too"));
}

// The same half twice, every second column, a column for all, and halves of what an activation made.
TEST(FuseMlpPassTest, LeavesOtherPartsAlone) {
  for (const auto& [from, to] :
       {std::pair("start = dim(32), stop = dim(64)", "start = dim(0), stop = dim(32)"),
        std::pair("stop = dim(32)} : f32[T, 32]", "stop = dim(1)} : f32[T, 1]"),
        std::pair("%1 = linear(%x, %w, %b)", "%1 = fused_linear(%x, %w, %b) {activation = \"relu\"}"),
        std::pair("} : f32[T, 32]", ", step = 2} : f32[T, 16]")}) {
    std::string text = absl::StrReplaceAll(kSwiGlu, {{from, to}});
    if (std::string_view(to).ends_with("f32[T, 1]")) {
      text = absl::StrReplaceAll(text, {{"silu(%2) : f32[T, 32]", "silu(%2) : f32[T, 1]"}});
    }
    if (std::string_view(to).ends_with("f32[T, 16]")) text = absl::StrReplaceAll(text, {{"f32[T, 32]", "f32[T, 16]"}});
    EXPECT_TRUE(CheckKept<FuseMlpPass>(text)) << to;
  }
}

}  // namespace
}  // namespace flashflow::passes
