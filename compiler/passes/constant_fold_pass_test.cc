#include "compiler/passes/constant_fold_pass.h"

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
      symbol S [2, 64]
      input %x "x" : f32[4]
      %zero = constant() {dtype = i64, value = 0.0} : i64[]
      %one = constant() {dtype = i64, value = 1.0} : i64[]
      %s = iota() {axis = 0, dtype = i64, shape = dims(S)} : i64[S]
      )ir",
                      body, "\noutput \"x\" %x\noutput \"y\" %y\n");
}

AssertionResult Folds(std::string_view body, std::string_view want) {
  return CheckPasses(MakePassList<ConstantFoldPass, DcePass>(),
                     absl::StrCat(Graph(body), "// CHECK: input\n// CHECK-NEXT: %1 = ", want,
                                  "\n// CHECK-NEXT: output \"x\" %0\n// CHECK-NEXT: output \"y\" %1\n}"));
}

AssertionResult Keeps(std::string_view body) {
  const PassRun run = RunPasses(MakePassList<ConstantFoldPass>(), absl::StrCat(Graph(body), "}"));
  if (!run.error.empty()) return ::testing::AssertionFailure() << run.error;
  if (run.before != run.after) return ::testing::AssertionFailure() << run.after;
  return ::testing::AssertionSuccess();
}

TEST(ConstantFoldPassTest, FoldsIndexArithmetic) {
  EXPECT_TRUE(Folds("%y = add(%s, %zero) : i64[S]", "iota() {axis = 0, dtype = i64, shape = dims(S)} : i64[S]"));
  EXPECT_TRUE(
      Folds("%a = reshape(%s) {shape = dims(1, S, 1)} : i64[1, S, 1]\n"
            "%y = expand(%a) {shape = dims(B, S, 1)} : i64[B, S, 1]",
            "iota() {axis = 1, dtype = i64, shape = dims(B, S, 1)} : i64[B, S, 1]"));
  EXPECT_TRUE(
      Folds("%y = cast(%s) {dtype = i32} : i32[S]", "iota() {axis = 0, dtype = i32, shape = dims(S)} : i32[S]"));
  // The difference of neighbors is 1, whatever S is.
  EXPECT_TRUE(
      Folds("%a = slice(%s) {axis = 0, start = dim(1), stop = dim(S)} : i64[S - 1]\n"
            "%b = slice(%s) {axis = 0, start = dim(0), stop = dim(S - 1)} : i64[S - 1]\n"
            "%y = sub(%a, %b) : i64[S - 1]",
            "constant() {dtype = i64, shape = dims(S - 1), value = 1.0} : i64[S - 1]"));
  // Pieces that continue one another.
  EXPECT_TRUE(
      Folds("%a = slice(%s) {axis = 0, start = dim(0), stop = dim(1)} : i64[1]\n"
            "%b = slice(%s) {axis = 0, start = dim(1), stop = dim(S)} : i64[S - 1]\n"
            "%y = concat(%a, %b) {axis = 0} : i64[S]",
            "iota() {axis = 0, dtype = i64, shape = dims(S)} : i64[S]"));
}

TEST(ConstantFoldPassTest, FoldsConditionsThatSizesDecide) {
  EXPECT_TRUE(
      Folds("%y = ge(%s, %zero) : bool[S]", "constant() {dtype = bool, shape = dims(S), value = 1.0} : bool[S]"));
  EXPECT_TRUE(
      Folds("%y = lt(%s, %zero) : bool[S]", "constant() {dtype = bool, shape = dims(S), value = 0.0} : bool[S]"));
  EXPECT_TRUE(Folds("%a = add(%s, %one) : i64[S]\n%y = ne(%a, %s) : bool[S]",
                    "constant() {dtype = bool, shape = dims(S), value = 1.0} : bool[S]"));
  // Counting what holds nowhere.
  EXPECT_TRUE(
      Folds("%a = lt(%s, %zero) : bool[S]\n%b = cast(%a) {dtype = i64} : i64[S]\n"
            "%y = cumsum(%b) {axis = 0} : i64[S]",
            "constant() {dtype = i64, shape = dims(S), value = 0.0} : i64[S]"));
}

TEST(ConstantFoldPassTest, FoldsConstants) {
  EXPECT_TRUE(
      Folds("%a = constant() {dtype = f32, value = 3.0, shape = dims(2)} : f32[2]\n"
            "%b = constant() {dtype = f32, value = 0.5, shape = dims(3, 1)} : f32[3, 1]\n"
            "%y = div(%a, %b) : f32[3, 2]",
            "constant() {dtype = f32, shape = dims(3, 2), value = 6.0} : f32[3, 2]"));
  // 0.1 is no value of f32, but moving it does not round it.
  EXPECT_TRUE(Folds("%a = constant() {dtype = f32, value = 0.1} : f32[]\n%y = expand(%a) {shape = dims(B)} : f32[B]",
                    "constant() {dtype = f32, shape = dims(B), value = 0.1} : f32[B]"));
}

TEST(ConstantFoldPassTest, FoldsEachOperationAsTheInterpreterComputesIt) {
  const auto folds = [](std::string_view op, std::string_view number, std::string_view dtype = "f32") {
    return Folds(absl::StrCat("%two = constant() {dtype = f32, value = 2.0} : f32[]\n"
                              "%four = constant() {dtype = f32, value = 4.0} : f32[]\n"
                              "%nan = constant() {dtype = f32, value = nan} : f32[]\n"
                              "%y = ",
                              op, " : ", dtype, "[]"),
                 absl::StrCat("constant() {dtype = ", dtype, ", value = ", number, "} : ", dtype, "[]"));
  };
  EXPECT_TRUE(folds("sqrt(%four)", "2.0"));
  EXPECT_TRUE(folds("rsqrt(%four)", "0.5"));
  EXPECT_TRUE(folds("reciprocal(%four)", "0.25"));
  EXPECT_TRUE(folds("sub(%two, %four)", "-2.0"));
  EXPECT_TRUE(folds("div(%two, %four)", "0.5"));
  EXPECT_TRUE(folds("maximum(%two, %four)", "4.0"));
  EXPECT_TRUE(folds("minimum(%two, %four)", "2.0"));
  EXPECT_TRUE(folds("maximum(%nan, %four)", "nan"));
  EXPECT_TRUE(folds("minimum(%nan, %four)", "nan"));
  EXPECT_TRUE(folds("lt(%two, %two)", "0.0", "bool"));
  EXPECT_TRUE(folds("le(%two, %two)", "1.0", "bool"));
  EXPECT_TRUE(folds("gt(%two, %two)", "0.0", "bool"));
  EXPECT_TRUE(folds("ge(%two, %two)", "1.0", "bool"));
  EXPECT_TRUE(Folds(
      "%no = constant() {dtype = bool, value = 0.0} : bool[]\n%a = constant() {dtype = f32, value = 3.0} : f32[]\n"
      "%b = constant() {dtype = f32, value = 5.0} : f32[]\n%y = where(%no, %a, %b) : f32[]",
      "constant() {dtype = f32, value = 5.0} : f32[]"));
}

TEST(ConstantFoldPassTest, KeepsWhatSizesOrRoundingDecide) {
  EXPECT_TRUE(Keeps("%y = lt(%s, %one) : bool[S]"));  // true for the first only
  EXPECT_TRUE(Keeps("%y = add(%s, %one) : i64[S]"));  // no op of its own
  EXPECT_TRUE(
      Keeps("%a = iota() {axis = 0, dtype = i64, shape = dims(S, 3)} : i64[S, 3]\n"
            "%b = iota() {axis = 1, dtype = i64, shape = dims(S, 3)} : i64[S, 3]\n"
            "%y = add(%a, %b) : i64[S, 3]"));
  EXPECT_TRUE(Keeps("%a = constant() {dtype = i8, value = 100.0} : i8[]\n%y = add(%a, %a) : i8[]"));  // wraps around
  EXPECT_TRUE(Keeps("%y = exp(%x) : f32[4]"));
  // Pieces that do not continue one another.
  EXPECT_TRUE(
      Keeps("%a = constant() {dtype = i64, value = 0.0, shape = dims(2)} : i64[2]\n"
            "%b = constant() {dtype = i64, value = 1.0, shape = dims(2)} : i64[2]\n"
            "%y = concat(%a, %b) {axis = 0} : i64[4]"));
}

TEST(ConstantFoldPassTest, KeepsZerosOfBothSigns) {
  EXPECT_TRUE(
      Keeps("%p = constant() {dtype = f32, shape = dims(1), value = 0.0} : f32[1]\n"
            "%n = constant() {dtype = f32, shape = dims(1), value = -0.0} : f32[1]\n"
            "%y = concat(%p, %n) {axis = 0} : f32[2]"));
}

TEST(ConstantFoldPassTest, RefusesToHideARounding) {
  EXPECT_TRUE(CheckRefused<ConstantFoldPass>(
      absl::StrCat(Graph("%a = constant() {dtype = f32, value = 0.1} : f32[]\n%y = add(%a, %a) : f32[]"), "}"),
      "not a value of its dtype"));
}

}  // namespace
}  // namespace flashflow::passes
