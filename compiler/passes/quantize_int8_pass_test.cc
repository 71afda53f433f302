#include "compiler/passes/quantize_int8_pass.h"

#include "absl/strings/str_replace.h"
#include "compiler/passes/fuse_mlp_pass.h"
#include "compiler/passes/ir_check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

const CompileOptions kInt8 = {.quantize = "int8"};

constexpr std::string_view kLayer = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      metadata "clip.w" = 4.5
      input %x "x" : f32[T, 8]
      weight %w "w" : f32[32, 8]
      weight %b "b" : f32[32]
      weight %head "head" : f32[5, 32]
      %1 = linear(%x, %w, %b) : f32[T, 32] loc "up"
      %2 = linear(%1, %head) : f32[T, 5]
      output "y" %2
      // CHECK: %4, %5 = quantize(%1) : i8[32, 8], f32[32] loc "up"
      // CHECK-NEXT: %6 = fused_linear(%0, %4, %2, _, _, _, %5) {clip = 4.5} : f32[T, 32] loc "up"
      // CHECK-NEXT: %7, %8 = quantize(%3) : i8[5, 32], f32[5]
      // CHECK-NEXT: %9 = fused_linear(%6, %7, _, _, _, _, %8) : f32[T, 5]
      // CHECK-NEXT: output "y" %9
    })ir";

TEST(QuantizeInt8PassTest, MakesCodesOfWeightsAndClipsTheRows) {
  EXPECT_TRUE(CheckPass<QuantizeInt8Pass>(kLayer, kInt8));
}

TEST(QuantizeInt8PassTest, DoesNothingUnlessItIsAskedFor) { EXPECT_TRUE(CheckKept<QuantizeInt8Pass>(kLayer)); }

TEST(QuantizeInt8PassTest, TablesOfTokensShareTheCodesOfATiedHead) {
  EXPECT_TRUE(CheckPass<QuantizeInt8Pass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %ids "token_ids" : i32[T]
      input %at "positions" : i32[T]
      weight %wte "wte" : f32[32, 8]
      weight %wpe "wpe" : f32[64, 8]
      %1 = embedding(%wte, %ids) {dtype = f32} : f32[T, 8]
      %2 = embedding(%wpe, %at) {dtype = f32} : f32[T, 8]
      %3 = add(%1, %2) : f32[T, 8]
      %4 = linear(%3, %wte) : f32[T, 32]
      output "logits" %4
      // CHECK: %4, %5 = quantize(%2) : i8[32, 8], f32[32]
      // CHECK-NEXT: %6 = embedding(%4, %0, %5) {dtype = f32} : f32[T, 8]
      // CHECK-NEXT: %7 = embedding(%3, %1) {dtype = f32} : f32[T, 8]
      // CHECK-NEXT: %8 = add(%6, %7) : f32[T, 8]
      // CHECK-NEXT: %9 = fused_linear(%8, %4, _, _, _, _, %5) : f32[T, 32]
      // CHECK-NEXT: output "logits" %9
    })ir",
                                          kInt8));
}

constexpr std::string_view kMerged = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      metadata "clip.a" = 2.0
      metadata "clip.b" = 2.0
      input %x "x" : f32[T, 8]
      weight %a "a" : f32[4, 8]
      weight %b "b" : f32[4, 8]
      %w = concat(%a, %b) {axis = 0} : f32[8, 8]
      %1 = linear(%x, %w) : f32[T, 8]
      %2 = slice(%1) {axis = 1, start = dim(0), stop = dim(4)} : f32[T, 4]
      %3 = slice(%1) {axis = 1, start = dim(4), stop = dim(8)} : f32[T, 4]
      %4 = silu(%3) : f32[T, 4]
      %5 = mul(%4, %2) : f32[T, 4]
      output "y" %5
      // CHECK: quantize(%3) : i8[8, 8], f32[8]
      // CHECK-NEXT: fused_linear(%0, %4, _, _, _, _, %5) {clip = 2.0} : f32[T, 8]
    })ir";

TEST(QuantizeInt8PassTest, TakesJoinedWeightsOfOneClip) { EXPECT_TRUE(CheckPass<QuantizeInt8Pass>(kMerged, kInt8)); }

// The codes of exchanged halves are made anew.
TEST(QuantizeInt8PassTest, AGateThatIsSecondStillFuses) {
  const std::string text = absl::StrReplaceAll(
      kMerged, {{"CHECK: quantize(%3)", "CHECK: quantize(%10)"},
                {"fused_linear(%0, %4, _, _, _, _, %5) {clip = 2.0} : f32[T, 8]",
                 "fused_linear(%0, %11, _, _, _, _, %12) {activation = \"silu\", clip = 2.0, gated = true}"}});
  EXPECT_TRUE(CheckPasses(MakePassList<QuantizeInt8Pass, FuseMlpPass>(), text, kInt8));
}

TEST(QuantizeInt8PassTest, RefusesWhatItCannotCode) {
  const auto refuses = [](std::string_view text, std::string_view reason) {
    return CheckRefused<QuantizeInt8Pass>(text, reason, kInt8);
  };
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kMerged, {{"metadata \"clip.b\" = 2.0", ""}}),
                      "the weights that it joins have different clips, 2 and inf"));
  constexpr std::string_view kOther = R"ir(ffir 1
    graph @g {
      input %x "x" : f32[4, 8]
      weight %w "w" : f32[8, 8]
      %1 = LAYER : f32[4, 8]
      output "y" %1
    })ir";
  const auto layer = [kOther](std::string_view text) { return absl::StrReplaceAll(kOther, {{"LAYER", text}}); };
  EXPECT_TRUE(refuses(absl::StrReplaceAll(kOther, {{"%1 = LAYER", "%2 = neg(%w) : f32[8, 8]\n%1 = linear(%x, %2)"}}),
                      "its weight is computed, not stored"));
  EXPECT_TRUE(refuses(layer("fused_linear(%x, %w) {norm = \"rms_norm\"}"), "the norm before it is fused into it"));
  EXPECT_TRUE(refuses(layer("fused_linear(%x, %w) {activation = \"silu\"}"), "what comes after it is fused into it"));
  EXPECT_TRUE(refuses(layer("fused_linear(%x, %w, _, %x)"), "what comes after it is fused into it"));
}

TEST(QuantizeInt8PassTest, LeavesWeightsThatTheMetadataKeeps) {
  constexpr std::string_view kReason = "the metadata keeps its weight in floats";
  EXPECT_TRUE(CheckRefused<QuantizeInt8Pass>(
      absl::StrReplaceAll(kMerged, {{"metadata \"clip.b\" = 2.0", "metadata \"precision.b\" = \"float\""}}), kReason,
      kInt8));
  // The head stays, the layer before it does not.
  EXPECT_TRUE(CheckPass<QuantizeInt8Pass>(
      absl::StrReplaceAll(kLayer, {{"metadata \"clip.w\" = 4.5",
                                    "metadata \"precision.w\" = \"int8\"\nmetadata \"precision.head\" = \"float\""},
                                   {"{clip = 4.5} ", ""},
                                   {"// CHECK-NEXT: %7, %8 = quantize(%3) : i8[5, 32], f32[5]\n", ""},
                                   {"%9 = fused_linear(%6, %7, _, _, _, _, %8)", "%7 = linear(%6, %3)"},
                                   {"\"y\" %9", "\"y\" %7"}}),
      kInt8));
  // A table of tokens.
  EXPECT_TRUE(CheckRefused<QuantizeInt8Pass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      metadata "precision.wte" = "float"
      input %ids "token_ids" : i32[T]
      weight %wte "wte" : f32[32, 8]
      %1 = embedding(%wte, %ids) {dtype = f32} : f32[T, 8]
      output "y" %1
    })ir",
                                             kReason, kInt8));
}

TEST(QuantizeInt8PassTest, NamesASettingThatIsWrong) {
  const auto error = [](std::string_view clip) {
    return RunPasses(MakePassList<QuantizeInt8Pass>(), absl::StrReplaceAll(kLayer, {{"\"clip.w\" = 4.5", clip}}), kInt8)
        .error;
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(error("\"clip.w\" = 0.0"), HasSubstr("metadata clip.w: expected a float above 0, got 0.0"));
  EXPECT_THAT(error("\"clip.w\" = nan"), HasSubstr("metadata clip.w: expected a float above 0, got nan"));
  EXPECT_THAT(error("\"clip.w\" = 4"), HasSubstr("metadata clip.w: expected a float above 0, got 4"));
  EXPECT_THAT(error("\"clip.heap\" = 4.5"), HasSubstr("did you mean \"head\"?"));
  EXPECT_THAT(error("\"precision.heap\" = \"int8\""), HasSubstr("did you mean \"head\"?"));
  EXPECT_THAT(error("\"precision.w\" = \"bf16\""),
              HasSubstr("metadata precision.w: expected \"float\" or \"int8\", got \"bf16\""));
  EXPECT_THAT(error("\"precision.w\" = 4.5"),
              HasSubstr("metadata precision.w: expected \"float\" or \"int8\", got 4.5"));
}

}  // namespace
}  // namespace flashflow::passes
