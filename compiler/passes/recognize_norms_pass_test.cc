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

AssertionResult Keeps(std::string_view body) { return CheckKept<RecognizeNormsPass>(absl::StrCat(Graph(body), "}")); }

TEST(RecognizeNormsPassTest, KeepsANormOfSomethingElse) {
  EXPECT_TRUE(Keeps(R"(
      %u = exp(%x) : f32[B, S, 6]
      %s = mul(%u, %u) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])"));
}

TEST(RecognizeNormsPassTest, KeepsWhatHasNoMeanOfSquares) {
  constexpr std::string_view kRest = R"(
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])";
  EXPECT_TRUE(Keeps(absl::StrCat("%e = exp(%x) : f32[B, S, 6]\n%s = mul(%x, %e) : f32[B, S, 6]", kRest)));
  EXPECT_TRUE(Keeps(
      absl::StrCat("%c = constant() {dtype = f32, value = 4.0} : f32[]\n%s = pow(%x, %c) : f32[B, S, 6]", kRest)));
}

// Without the axis, the means of rows scale the columns.
TEST(RecognizeNormsPassTest, KeepsMeansThatDropTheirAxis) {
  EXPECT_TRUE(CheckKept<RecognizeNormsPass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[6, 6]
      %eps = constant() {dtype = f32, value = 0.5} : f32[]
      %s = mul(%x, %x) : f32[6, 6]
      %m = reduce_mean(%s) {axes = [1], keepdims = false} : f32[6]
      %a = add(%m, %eps) : f32[6]
      %r = rsqrt(%a) : f32[6]
      %y = mul(%x, %r) : f32[6, 6]
      output "y" %y
    })ir"));
}

TEST(RecognizeNormsPassTest, KeepsANormThatIsRepeated) {
  EXPECT_TRUE(Keeps(R"(
      %e = constant() {dtype = f32, shape = dims(2, 1, 1, 1), value = 0.5} : f32[2, 1, 1, 1]
      %s = mul(%x, %x) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %e) : f32[2, B, S, 1]
      %r = rsqrt(%a) : f32[2, B, S, 1]
      %y = mul(%x, %r) : f32[2, B, S, 6])"));
}

TEST(RecognizeNormsPassTest, IsNoLayerNormOfWhatIsCenteredElsewhere) {
  EXPECT_TRUE(CheckPasses(MakePassList<RecognizeNormsPass, DcePass>(), absl::StrCat(Graph(R"(
      %c = reduce_mean(%x) {axes = [1], keepdims = true} : f32[B, 1, 6]
      %d = sub(%x, %c) : f32[B, S, 6]
      %s = mul(%d, %d) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %eps) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%d, %r) : f32[B, S, 6])"),
                                                                                    R"(
      // CHECK: %5 = sub(%0, %4)
      // CHECK-NEXT: %6 = rms_norm(%5) {eps = 0.5}
      // CHECK-NEXT: output "y" %6
      })")));
}

// A norm has one weight and one bias, both weights of the model.
TEST(RecognizeNormsPassTest, TakesAWeightAndABiasOnce) {
  EXPECT_TRUE(Keeps("%n = rms_norm(%x, %w) {eps = 0.5} : f32[B, S, 6]\n%y = mul(%n, %b) : f32[B, S, 6]"));
  EXPECT_TRUE(Keeps("%n = layer_norm(%x, %w, %b) {eps = 0.5} : f32[B, S, 6]\n%y = add(%n, %w) : f32[B, S, 6]"));
  EXPECT_TRUE(
      Keeps("%n = rms_norm(%x) {eps = 0.5} : f32[B, S, 6]\n%e = exp(%w) : f32[6]\n%y = mul(%n, %e) : f32[B, S, 6]"));
}

// The casts around a norm may go if it alone computes in the wider type.
TEST(RecognizeNormsPassTest, KeepsCastsThatRoundOrChangeTheType) {
  EXPECT_TRUE(
      Keeps("%f = cast(%x) {dtype = bf16} : bf16[B, S, 6]\n%n = rms_norm(%f) {eps = 0.5} : bf16[B, S, 6]\n"
            "%y = cast(%n) {dtype = f32} : f32[B, S, 6]"));
  EXPECT_TRUE(
      Keeps("%f = cast(%h) {dtype = f32} : f32[B, S, 6]\n%n = rms_norm(%f) {eps = 0.5} : f32[B, S, 6]\n"
            "%y = cast(%n) {dtype = f16} : f16[B, S, 6]"));
  EXPECT_TRUE(
      Keeps("%i = cast(%x) {dtype = i32} : i32[B, S, 6]\n%f = cast(%i) {dtype = f32} : f32[B, S, 6]\n"
            "%n = rms_norm(%f) {eps = 0.5} : f32[B, S, 6]\n%y = cast(%n) {dtype = i32} : i32[B, S, 6]"));
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

TEST(RecognizeNormsPassTest, RefusesANegativeEps) {
  EXPECT_TRUE(CheckRefused<RecognizeNormsPass>(absl::StrCat(Graph(R"(
      %e = constant() {dtype = f32, value = -0.5} : f32[]
      %s = mul(%x, %x) : f32[B, S, 6]
      %m = reduce_mean(%s) {axes = [2], keepdims = true} : f32[B, S, 1]
      %a = add(%m, %e) : f32[B, S, 1]
      %r = rsqrt(%a) : f32[B, S, 1]
      %y = mul(%x, %r) : f32[B, S, 6])"),
                                                            "}"),
                                               "eps is no constant of 0 or more"));
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
