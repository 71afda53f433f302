#include "compiler/passes/recognize_activations_pass.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/substitute.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionResult;

std::string Graph(std::string_view body) {
  return absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 6]
      %one = constant() {dtype = f32, value = 1.0} : f32[]
      %two = constant() {dtype = f32, value = 2.0} : f32[]
      %three = constant() {dtype = f32, value = 3.0} : f32[]
      %half = constant() {dtype = f32, value = 0.5} : f32[]
      %root = constant() {dtype = f32, value = 0.7978845608028654} : f32[]
      %small = constant() {dtype = f32, value = 0.044715} : f32[]
      %sqrt2 = constant() {dtype = f32, value = 1.4142135623730951} : f32[]
      %quarter = constant() {dtype = f32, value = 0.25} : f32[]
      )ir",
                      body, "\noutput \"y\" %y\n");
}

AssertionResult Recognizes(std::string_view body, std::string_view want) {
  return CheckPasses(
      MakePassList<RecognizeActivationsPass, DcePass>(),
      absl::StrCat(Graph(body), "// CHECK: input\n// CHECK-NEXT: %1 = ", want, "\n// CHECK-NEXT: output \"y\" %1\n}"));
}

TEST(RecognizeActivationsPassTest, Silu) {
  EXPECT_TRUE(Recognizes("%s = sigmoid(%x) : f32[T, 6]\n%y = mul(%s, %x) : f32[T, 6]", "silu(%0) : f32[T, 6]"));
  EXPECT_TRUE(
      Recognizes("%n = neg(%x) : f32[T, 6]\n%e = exp(%n) : f32[T, 6]\n%d = add(%one, %e) : f32[T, 6]\n"
                 "%y = div(%x, %d) : f32[T, 6]",
                 "silu(%0) : f32[T, 6]"));
}

// GPT-2's NewGELU: 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))).
TEST(RecognizeActivationsPassTest, TanhGelu) {
  EXPECT_TRUE(Recognizes(R"(
      %h = mul(%x, %half) : f32[T, 6]
      %c = pow(%x, %three) : f32[T, 6]
      %p = mul(%c, %small) : f32[T, 6]
      %a = add(%x, %p) : f32[T, 6]
      %i = mul(%a, %root) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%t, %one) : f32[T, 6]
      %y = mul(%h, %g) : f32[T, 6])",
                         "gelu(%0) {approximate = \"tanh\"} : f32[T, 6]"));
}

TEST(RecognizeActivationsPassTest, TanhGeluInAnotherOrder) {
  EXPECT_TRUE(Recognizes(R"(
      %s = mul(%x, %x) : f32[T, 6]
      %k = mul(%small, %x) : f32[T, 6]
      %p = mul(%s, %k) : f32[T, 6]
      %a = add(%p, %x) : f32[T, 6]
      %i = mul(%root, %a) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%one, %t) : f32[T, 6]
      %h = mul(%g, %x) : f32[T, 6]
      %y = div(%h, %two) : f32[T, 6])",
                         "gelu(%0) {approximate = \"tanh\"} : f32[T, 6]"));
}

TEST(RecognizeActivationsPassTest, ErfGeluOfAProduct) {
  EXPECT_TRUE(CheckPasses(MakePassList<RecognizeActivationsPass, DcePass>(), absl::StrCat(Graph(R"(
      %u = sin(%x) : f32[T, 6]
      %z = mul(%x, %u) : f32[T, 6]
      %i = div(%z, %sqrt2) : f32[T, 6]
      %e = erf(%i) : f32[T, 6]
      %g = add(%e, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%z, %h) : f32[T, 6])"),
                                                                                          R"(
      // CHECK: %2 = mul(%0, %1)
      // CHECK-NEXT: %3 = gelu(%2) : f32[T, 6]
      // CHECK-NEXT: output "y" %3
      })")));
}

TEST(RecognizeActivationsPassTest, KeepsAGateOfSomethingElse) {
  EXPECT_TRUE(CheckKept<RecognizeActivationsPass>(absl::StrCat(Graph(R"(
      %u = sin(%x) : f32[T, 6]
      %s = sigmoid(%u) : f32[T, 6]
      %v = mul(%x, %s) : f32[T, 6]
      %i = div(%x, %sqrt2) : f32[T, 6]
      %e = erf(%i) : f32[T, 6]
      %g = add(%e, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%v, %h) : f32[T, 6])"),
                                                               "}")));
}

// Squares of squares: apart, more factors than a computer can count.
TEST(RecognizeActivationsPassTest, TakesNoProductApartWithoutEnd) {
  std::string body = "%s0 = mul(%x, %x) : f32[T, 6]\n";
  for (int i = 0; i < 64; ++i) absl::SubstituteAndAppend(&body, "%s$1 = mul(%s$0, %s$0) : f32[T, 6]\n", i, i + 1);
  EXPECT_TRUE(CheckKept<RecognizeActivationsPass>(absl::StrCat(Graph(body + R"(
      %p = mul(%s64, %small) : f32[T, 6]
      %a = add(%x, %p) : f32[T, 6]
      %i = mul(%a, %root) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%t, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%s64, %h) : f32[T, 6])"),
                                                               "}")));
}

// Each differs from an activation in one place.
TEST(RecognizeActivationsPassTest, KeepsWhatIsNearlyAnActivation) {
  constexpr std::string_view kTanh = R"(
      %odd = constant() {dtype = f32, value = 0.05} : f32[]
      %more = constant() {dtype = f32, value = 3.5} : f32[]
      %u = sin(%x) : f32[T, 6]
      %h = mul(%x, %half) : f32[T, 6]
      %c = pow(%x, %three) : f32[T, 6]
      %p = mul(%c, %small) : f32[T, 6]
      %a = add(%x, %p) : f32[T, 6]
      %i = mul(%a, %root) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%t, %one) : f32[T, 6]
      %y = mul(%h, %g) : f32[T, 6])";
  constexpr std::string_view kErf = R"(
      %u = sin(%x) : f32[T, 6]
      %n = neg(%x) : f32[T, 6]
      %i = div(%x, %sqrt2) : f32[T, 6]
      %e = erf(%i) : f32[T, 6]
      %g = add(%e, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%x, %h) : f32[T, 6])";
  constexpr std::string_view kSilu = R"(
      %u = sin(%x) : f32[T, 6]
      %n = neg(%x) : f32[T, 6]
      %e = exp(%n) : f32[T, 6]
      %d = add(%one, %e) : f32[T, 6]
      %y = div(%x, %d) : f32[T, 6])";
  // x [6] times a half of [T, 6].
  constexpr std::string_view kWidened = R"(
      %v = reduce_max(%x) {axes = [0]} : f32[6]
      %w = constant() {dtype = f32, shape = dims(T, 6), value = 0.5} : f32[T, 6]
      %i = div(%v, %sqrt2) : f32[6]
      %e = erf(%i) : f32[6]
      %g = add(%e, %one) : f32[6]
      %h = mul(%v, %g) : f32[6]
      %y = mul(%w, %h) : f32[T, 6])";
  const auto recognized = [](std::string_view form, std::string_view line, std::string_view instead) {
    EXPECT_NE(form.find(line), std::string_view::npos) << line;
    const PassRun run = RunPasses(MakePassList<RecognizeActivationsPass>(),
                                  absl::StrCat(Graph(absl::StrReplaceAll(form, {{line, instead}})), "}"));
    EXPECT_EQ(run.error, "");
    return run.after.find("gelu(") != std::string::npos || run.after.find("silu(") != std::string::npos;
  };
  for (const std::string_view form : {kTanh, kErf, kSilu}) EXPECT_TRUE(recognized(form, "%y", "%y"));
  EXPECT_FALSE(recognized(kTanh, "mul(%c, %small)", "mul(%c, %odd)"));
  EXPECT_FALSE(recognized(kTanh, "pow(%x, %three)", "pow(%x, %two)"));
  EXPECT_FALSE(recognized(kTanh, "pow(%x, %three)", "pow(%x, %more)"));
  EXPECT_FALSE(recognized(kTanh, "pow(%x, %three)", "pow(%u, %three)"));
  EXPECT_FALSE(recognized(kTanh, "mul(%a, %root)", "mul(%a, %half)"));
  EXPECT_FALSE(recognized(kTanh, "add(%t, %one)", "add(%t, %two)"));
  EXPECT_FALSE(recognized(kErf, "mul(%x, %h)", "mul(%u, %h)"));
  EXPECT_FALSE(recognized(kErf, "mul(%x, %h)", "mul(%n, %h)"));
  EXPECT_FALSE(recognized(kErf, "mul(%half, %g)", "mul(%two, %g)"));
  EXPECT_FALSE(recognized(kErf, "%h = mul(%half, %g) : f32[T, 6]\n      %y = mul(%x, %h) : f32[T, 6]",  // twice over
                          "%c = constant() {dtype = f32, shape = dims(2, 1, 1), value = 0.5} : f32[2, 1, 1]\n"
                          "%h = mul(%c, %g) : f32[2, T, 6]\n%y = mul(%x, %h) : f32[2, T, 6]"));
  EXPECT_FALSE(recognized(kSilu, "neg(%x)", "neg(%u)"));
  EXPECT_FALSE(recognized(kSilu, "add(%one, %e)", "add(%two, %e)"));
  EXPECT_FALSE(recognized(kWidened, "%y", "%y"));
}

TEST(RecognizeActivationsPassTest, RefusesOtherConstants) {
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(absl::StrCat(Graph(R"(
      %i = mul(%x, %quarter) : f32[T, 6]
      %e = erf(%i) : f32[T, 6]
      %g = add(%e, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%x, %h) : f32[T, 6])"),
                                                                  "}"),
                                                     "under erf is not x / sqrt(2)"));
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(absl::StrCat(Graph(R"(
      %s = mul(%x, %x) : f32[T, 6]
      %p = mul(%s, %small) : f32[T, 6]
      %a = add(%x, %p) : f32[T, 6]
      %i = mul(%a, %root) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%t, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%x, %h) : f32[T, 6])"),
                                                                  "}"),
                                                     "under tanh is not"));
  // Each constant, cube and factor of the formulas, one a little off.
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(absl::StrCat(Graph(R"(
      %c = constant() {dtype = f32, value = 0.7071} : f32[]
      %i = mul(%x, %c) : f32[T, 6]
      %e = erf(%i) : f32[T, 6]
      %g = add(%e, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%x, %h) : f32[T, 6])"),
                                                                  "}"),
                                                     "under erf is not x / sqrt(2)"));
  constexpr std::string_view kTanh = R"(
      %p = mul($0, $1) : f32[T, 6]
      %a = add(%x, %p) : f32[T, 6]
      %i = mul(%a, $2) : f32[T, 6]
      %t = tanh(%i) : f32[T, 6]
      %g = add(%t, %one) : f32[T, 6]
      %h = mul(%half, %g) : f32[T, 6]
      %y = mul(%x, %h) : f32[T, 6])";
  constexpr std::string_view kMore = R"(
      %off = constant() {dtype = f32, value = 0.0447} : f32[]
      %power = constant() {dtype = f32, value = 3.5} : f32[]
      %u = sin(%x) : f32[T, 6]
      %s = mul(%x, %x) : f32[T, 6]
      %cube = mul(%s, %x) : f32[T, 6]
      %other = mul(%s, %u) : f32[T, 6]
      %wrong = pow(%x, %power) : f32[T, 6])";
  const auto tanh = [&](std::string_view cube, std::string_view small, std::string_view root) {
    return absl::StrCat(Graph(absl::StrCat(kMore, absl::Substitute(kTanh, cube, small, root))), "}");
  };
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(tanh("%cube", "%off", "%root"), "under tanh is not"));
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(tanh("%other", "%small", "%root"), "under tanh is not"));
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(tanh("%wrong", "%small", "%root"), "under tanh is not"));
  EXPECT_TRUE(CheckRefused<RecognizeActivationsPass>(tanh("%cube", "%small", "%half"), "under tanh is not"));
  EXPECT_TRUE(CheckPasses(MakePassList<RecognizeActivationsPass, DcePass>(),
                          absl::StrCat(tanh("%cube", "%small", "%root"), "// CHECK: %1 = gelu(%0)")));
}

}  // namespace
}  // namespace flashflow::passes
