#include "compiler/passes/recognize_norms_pass.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionResult;

std::string Graph(std::string_view body) {
  return absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %x "x" : f32[B, S, 6]
      input %h "h" : bf16[B, S, 6]
      weight %w "w" : f32[6]
      weight %b "b" : f32[6]
      %eps = constant() {dtype = f32, value = 0.5} : f32[]
      )ir",
                      body, "\noutput \"y\" %y\noutput \"w\" %w\noutput \"b\" %b\n");
}

AssertionResult Recognizes(std::string_view body, std::string_view want) {
  return CheckPasses(
      MakePassList<RecognizeNormsPass, DcePass>(),
      absl::StrCat(Graph(body), "// CHECK: weight %3\n// CHECK-NEXT: ", want, "\n// CHECK-NEXT: output \"y\" %4\n}"));
}

constexpr std::string_view kRmsNorm = R"(
      %s = mul(%x, %x) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %n = mul(%x, %r) : f32[B, S, 6]
)";

TEST(RecognizeNormsPassTest, RmsNorm) {
  EXPECT_TRUE(Recognizes(absl::StrCat(kRmsNorm, "%y = mul(%w, %n) : f32[B, S, 6]"),
                         "%4 = rms_norm(%0, %2) {eps = 0.5} : f32[B, S, 6]"));
}

TEST(RecognizeNormsPassTest, RmsNormAsAQuotient) {
  EXPECT_TRUE(Recognizes(R"(
      %two = constant() {dtype = f32, value = 2.0} : f32[]
      %s = pow(%x, %two) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%eps, %m) : f32[B, S, 1]
      %r = sqrt(%a) : f32[B, S, 1]
      %y = div(%x, %r) : f32[B, S, 6])",
                         "%4 = rms_norm(%0) {eps = 0.5} : f32[B, S, 6]"));
}

TEST(RecognizeNormsPassTest, RmsNormOfBf16AsLlamaWritesIt) {
  EXPECT_TRUE(Recognizes(R"(
      %f = cast(%h) {dtype = f32} : f32[B, S, 6]
      %s = mul(%f, %f) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %n = mul(%f, %r) : f32[B, S, 6]
      %y = cast(%n) {dtype = bf16} : bf16[B, S, 6])",
                         "%4 = rms_norm(%1) {eps = 0.5} : bf16[B, S, 6]"));
}

TEST(RecognizeNormsPassTest, LayerNorm) {
  EXPECT_TRUE(Recognizes(R"(
      %c = reduce_mean(%x) {axes = [2], keepdims = true} : f32[B, S, 1]
      %d = sub(%x, %c) : f32[B, S, 6]
      %s = mul(%d, %d) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = sqrt(%a) : f32[B, S, 1]
      %q = reciprocal(%r) : f32[B, S, 1]
      %n = mul(%q, %d) : f32[B, S, 6]
      %v = mul(%n, %w) : f32[B, S, 6]
      %y = add(%v, %b) : f32[B, S, 6])",
                         "%4 = layer_norm(%0, %2, %3) {eps = 0.5} : f32[B, S, 6]"));
}

TEST(RecognizeNormsPassTest, KeepsANormOfSomethingElse) {
  const PassRun run = RunPasses(MakePassList<RecognizeNormsPass>(), absl::StrCat(Graph(R"(
      %u = exp(%x) : f32[B, S, 6]
      %s = mul(%u, %u) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])"),
                                                                                 "}"));
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(run.before, run.after);
}

// Each differs from a norm, or from what a norm may take in, in one place.
TEST(RecognizeNormsPassTest, KeepsWhatIsNearlyANorm) {
  const auto left_alone = [](std::string_view body) {
    const PassRun run = RunPasses(MakePassList<RecognizeNormsPass>(), absl::StrCat(Graph(body), "}"));
    EXPECT_EQ(run.error, "");
    EXPECT_EQ(run.after, run.before);
  };
  constexpr std::string_view kTail = R"(
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])";
  left_alone(absl::StrCat(R"(
      %three = constant() {dtype = f32, value = 3.0} : f32[]
      %s = pow(%x, %three) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1])",
                          kTail));
  left_alone(absl::StrCat(R"(
      %u = exp(%x) : f32[B, S, 6]
      %s = mul(%x, %u) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1])",
                          kTail));
  // The means of square matrices, broadcast along the wrong axis.
  left_alone(R"(
      %t = slice(%x) {axis = 1, start = dim(0), stop = dim(1)} : f32[B, 1, 6]
      %q = expand(%t) {shape = dims(B, 6, 6)} : f32[B, 6, 6]
      %e = exp(%q) : f32[B, 6, 6]
      %o = slice(%e) {axis = 0, start = dim(0), stop = dim(1)} : f32[1, 6, 6]
      %s = mul(%o, %o) : f32[1, 6, 6]
      %m = reduce_mean(%s) {axes = [2]} : f32[1, 6]
      %a = add(%m, %eps) : f32[1, 6]
      %r = rsqrt(%a) : f32[1, 6]
      %y = mul(%o, %r) : f32[1, 6, 6])");
}

TEST(RecognizeNormsPassTest, TakesOneWeightOfEachKindIn) {
  const auto gives = [](std::string_view text) {
    return CheckPasses(MakePassList<RecognizeNormsPass, DcePass>(), text);
  };
  EXPECT_TRUE(gives(absl::StrCat(Graph(absl::StrCat(kRmsNorm, R"(
      %v = mul(%n, %w) : f32[B, S, 6]
      %y = mul(%v, %b) : f32[B, S, 6])")),
                                 R"(
      // CHECK: rms_norm(%0, %2) {eps = 0.5} : f32[B, S, 6]
      // CHECK-NEXT: mul(%4, %3) : f32[B, S, 6]
      })")));
  // A computed vector is no weight.
  EXPECT_TRUE(gives(absl::StrCat(Graph(absl::StrCat(kRmsNorm, R"(
      %u = exp(%w) : f32[6]
      %y = mul(%n, %u) : f32[B, S, 6])")),
                                 R"(
      // CHECK: %4 = rms_norm(%0) {eps = 0.5} : f32[B, S, 6]
      // CHECK: mul(%4, %5) : f32[B, S, 6]
      })")));
}

// The norm's operand must be of the type that the result is cast back to.
TEST(RecognizeNormsPassTest, KeepsCastsBetweenDifferentTypes) {
  const PassRun run = RunPasses(MakePassList<RecognizeNormsPass>(), absl::StrCat(Graph(R"(
      %f = cast(%h) {dtype = f32} : f32[B, S, 6]
      %n = rms_norm(%f) {eps = 0.5} : f32[B, S, 6]
      %y = cast(%n) {dtype = f16} : f16[B, S, 6])"),
                                                                                 "}"));
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(run.after, run.before);
}

TEST(RecognizeNormsPassTest, RefusesOtherAxes) {
  EXPECT_TRUE(CheckRefused<RecognizeNormsPass>(absl::StrCat(Graph(R"(
      %s = mul(%x, %x) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [1], keepdims = true} : f32[B, 1, 6]
      %a = add(%m, %eps) : f32[B, 1, 6]
      %r = rsqrt(%a) : f32[B, 1, 6]
      %y = mul(%x, %r) : f32[B, S, 6])"),
                                                            "}"),
                                               "over other axes than the last one"));
}

TEST(RecognizeNormsPassTest, RefusesAComputedEps) {
  EXPECT_TRUE(CheckRefused<RecognizeNormsPass>(absl::StrCat(Graph(R"(
      %s = mul(%x, %x) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %e = reduce_max(%b) {axes = [0], keepdims = true} : f32[1]
      %a = add(%m, %e) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])"),
                                                            "}"),
                                               "eps is no constant"));
}

}  // namespace
}  // namespace flashflow::passes
