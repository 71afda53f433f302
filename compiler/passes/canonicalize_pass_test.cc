#include "compiler/passes/canonicalize_pass.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionResult;

// `body` over %0 = x : f32[T, 4, 6], %1 = i : i32[T], %2 = b : bool[T], %3 = w : f32[5, 6]; its result is %y.
AssertionResult Simplifies(std::string_view body, std::string_view checks) {
  return CheckPasses(MakePassList<CanonicalizePass, DcePass>(), absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 4, 6]
      input %i "i" : i32[T]
      input %b "b" : bool[T]
      weight %w "w" : f32[5, 6]
      )ir",
                                                                             body, R"ir(
      output "y" %y
      output "w" %w
      )ir",
                                                                             checks, "\n}"));
}

constexpr std::string_view kGone = "// CHECK: weight\n// CHECK-NEXT: output \"y\" %0";

TEST(CanonicalizePassTest, DropsWhatDoesNothing) {
  for (std::string_view body : {
           "%y = reshape(%x) {shape = dims(T, 4, 6)} : f32[T, 4, 6]",
           "%y = transpose(%x) {perm = [0, 1, 2]} : f32[T, 4, 6]",
           "%y = cast(%x) {dtype = f32} : f32[T, 4, 6]",
           "%y = slice(%x) {axis = 1, start = dim(0), stop = dim(4)} : f32[T, 4, 6]",
           "%y = expand(%x) {shape = dims(T, 4, 6)} : f32[T, 4, 6]",
           "%y = concat(%x) {axis = 0} : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = mul(%x, %c) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = mul(%c, %x) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = div(%x, %c) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = pow(%x, %c) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 0.0, shape = dims(6)} : f32[6]\n%y = add(%c, %x) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 0.0} : f32[]\n%y = sub(%x, %c) : f32[T, 4, 6]",
           "%a = neg(%x) : f32[T, 4, 6]\n%y = neg(%a) : f32[T, 4, 6]",
           "%a = transpose(%x) {perm = [1, 2, 0]} : f32[4, 6, T]\n%y = transpose(%a) {perm = [2, 0, 1]} : f32[T, 4, 6]",
           "%a = reshape(%x) {shape = dims(4*T, 6)} : f32[4*T, 6]\n%y = reshape(%a) {shape = dims(T, 4, 6)} : f32[T, "
           "4, 6]",
       }) {
    EXPECT_TRUE(Simplifies(body, kGone)) << body;
  }
  EXPECT_TRUE(Simplifies("%a = logical_not(%b) : bool[T]\n%y = logical_not(%a) : bool[T]",
                         "// CHECK: weight\n// CHECK-NEXT: output \"y\" %2"));
  EXPECT_TRUE(Simplifies("%a = cast(%i) {dtype = i64} : i64[T]\n%y = cast(%a) {dtype = i32} : i32[T]",
                         "// CHECK: weight\n// CHECK-NEXT: output \"y\" %1"));
}

TEST(CanonicalizePassTest, KeepsWhatDoesSomething) {
  for (std::string_view body : {
           // Broadcasting makes the result larger than the operand that would stand for it.
           "%c = constant() {dtype = f32, value = 1.0, shape = dims(2, T, 4, 6)} : f32[2, T, 4, 6]\n"
           "%y = mul(%x, %c) : f32[2, T, 4, 6]",
           "%c = constant() {dtype = f32, value = 0.0} : f32[]\n%y = sub(%c, %x) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = div(%c, %x) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 1.0} : f32[]\n%y = pow(%c, %x) : f32[T, 4, 6]",
           "%c = constant() {dtype = f32, value = 0.0} : f32[]\n%y = mul(%x, %c) : f32[T, 4, 6]",
           // Narrowing loses bits that widening does not bring back.
           "%a = cast(%x) {dtype = bf16} : bf16[T, 4, 6]\n%y = cast(%a) {dtype = f32} : f32[T, 4, 6]",
           "%a = cast(%x) {dtype = i32} : i32[T, 4, 6]\n%y = cast(%a) {dtype = f32} : f32[T, 4, 6]",
           "%y = slice(%x) {axis = 2, start = dim(0), stop = dim(5)} : f32[T, 4, 5]",
           "%a = neg(%x) : f32[T, 4, 6]\n%y = abs(%a) : f32[T, 4, 6]",
           "%y = transpose(%x) {perm = [1, 0, 2]} : f32[4, T, 6]",
           "%c = constant() {dtype = f32, value = 1.0, shape = dims(5)} : f32[5]\n%y = linear(%x, %w, %c) : f32[T, 4, "
           "5]",
       }) {
    const PassRun run =
        RunPasses(MakePassList<CanonicalizePass>(), absl::StrCat(R"ir(ffir 1
      graph @g {
        symbol T [1, 8]
        input %x "x" : f32[T, 4, 6]
        weight %w "w" : f32[5, 6]
        )ir",
                                                                 body, "\noutput \"y\" %y\noutput \"w\" %w\n}"));
    EXPECT_EQ(run.error, "");
    EXPECT_EQ(run.before, run.after) << body;
    EXPECT_FALSE(run.error.empty() && run.records[0].changed) << body;
  }
}

TEST(CanonicalizePassTest, JoinsChains) {
  EXPECT_TRUE(Simplifies(R"(
      %a = reshape(%x) {shape = dims(4*T, 6)} : f32[4*T, 6]
      %c = reshape(%a) {shape = dims(4*T, 2, 3)} : f32[4*T, 2, 3]
      %y = reshape(%c) {shape = dims(T, 24)} : f32[T, 24])",
                         R"(
      // CHECK: %4 = reshape(%0) {shape = dims(T, 24)} : f32[T, 24]
      // CHECK-NEXT: output "y" %4)"));
  EXPECT_TRUE(Simplifies(R"(
      %a = transpose(%x) {perm = [1, 0, 2]} : f32[4, T, 6]
      %y = transpose(%a) {perm = [2, 0, 1]} : f32[6, 4, T])",
                         R"(
      // CHECK: %4 = transpose(%0) {perm = [2, 1, 0]} : f32[6, 4, T]
      // CHECK-NEXT: output "y" %4)"));
}

TEST(CanonicalizePassTest, TransposeOfUnitAxesIsAReshape) {
  EXPECT_TRUE(Simplifies(R"(
      %a = reshape(%x) {shape = dims(T, 1, 24)} : f32[T, 1, 24]
      %y = transpose(%a) {perm = [1, 0, 2]} : f32[1, T, 24])",
                         R"(
      // CHECK: %4 = reshape(%0) {shape = dims(1, T, 24)} : f32[1, T, 24]
      // CHECK-NEXT: output "y" %4)"));
}

TEST(CanonicalizePassTest, BringsProductsToLinear) {
  EXPECT_TRUE(CheckPass<CanonicalizePass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2, 6]
      weight %w "w" : f32[6, 5]
      input %i "i" : f32[6, 5]
      %y = matmul(%x, %w) : f32[2, 5]
      %z = matmul(%x, %i) : f32[2, 5]
      output "y" %y
      output "z" %z
      // CHECK: %3 = transpose(%2) {perm = [1, 0]} : f32[5, 6]
      // CHECK-NEXT: %4 = linear(%0, %3) : f32[2, 5]
      // CHECK: matmul(%0, %1)
    })ir"));
  EXPECT_TRUE(Simplifies(R"(
      %t = transpose(%w) {perm = [1, 0]} : f32[6, 5]
      %y = matmul(%x, %t) : f32[T, 4, 5])",
                         R"(
      // CHECK: %4 = linear(%0, %3) : f32[T, 4, 5]
      // CHECK-NEXT: output "y" %4)"));
  EXPECT_TRUE(Simplifies(R"(
      %c = constant() {dtype = f32, value = 0.0, shape = dims(5)} : f32[5]
      %y = linear(%x, %w, %c) : f32[T, 4, 5])",
                         R"(
      // CHECK: %4 = linear(%0, %3) : f32[T, 4, 5]
      // CHECK-NEXT: output "y" %4)"));
}

}  // namespace
}  // namespace flashflow::passes
