#include "compiler/passes/simplify_pass.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "compiler/passes/canonicalize_pass.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionResult;

// `body` over %0 = x : f32[T, 4, 6], %1 = u : f32[T, 4, 6], %2 = i : i32[T], %3 = b : bool[T]; its result is %y.
std::string Graph(std::string_view body) {
  return absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 4, 6]
      input %u "u" : f32[T, 4, 6]
      input %i "i" : i32[T]
      input %b "b" : bool[T]
      )ir",
                      body, "\noutput \"y\" %y\n");
}

// The nodes that are left, as CHECK lines in order.
AssertionResult Simplifies(std::string_view body, std::initializer_list<std::string_view> nodes) {
  std::string checks = "// CHECK: input %3\n";
  for (std::string_view node : nodes) absl::StrAppend(&checks, "// CHECK-NEXT: ", node, "\n");
  return CheckPasses(MakePassList<SimplifyPass, DcePass>(), absl::StrCat(Graph(body), checks, "}"));
}

AssertionResult Keeps(std::string_view body) {
  const PassRun run = RunPasses(MakePassList<SimplifyPass>(), absl::StrCat(Graph(body), "}"));
  if (!run.error.empty()) return ::testing::AssertionFailure() << run.error;
  if (run.before != run.after) return ::testing::AssertionFailure() << run.after;
  return ::testing::AssertionSuccess();
}

TEST(SimplifyPassTest, DividesByPowersOfTwoOnly) {
  EXPECT_TRUE(
      Simplifies("%c = constant() {dtype = f32, value = 8.0} : f32[]\n%y = div(%x, %c) : f32[T, 4, 6]",
                 {"%4 = constant() {dtype = f32, value = 0.125} : f32[]", "%5 = mul(%0, %4)", "output \"y\" %5"}));
  for (std::string_view number :
       {"3.0", "0.0", "inf", "1.7014118346046923e+38"}) {  // the last is 2^127: 2^-127 is subnormal
    EXPECT_TRUE(Keeps(
        absl::StrCat("%c = constant() {dtype = f32, value = ", number, "} : f32[]\n%y = div(%x, %c) : f32[T, 4, 6]")))
        << number;
  }
  // The last reciprocals that are normal numbers, and the first that are not, of each dtype's own range.
  EXPECT_TRUE(Simplifies(
      "%c = constant() {dtype = f32, value = 8.507059173023462e+37} : f32[]\n%y = div(%x, %c) : f32[T, 4, 6]",
      {"value = 1.1754943508222875e-38", "mul(%0, %4)", "output"}));
  constexpr std::string_view kHalf =
      "%h = cast(%x) {dtype = f16} : f16[T, 4, 6]\n%c = constant() {dtype = f16, value = $0} : f16[]\n"
      "%y = div(%h, %c) : f16[T, 4, 6]";
  EXPECT_TRUE(Simplifies(absl::Substitute(kHalf, "16384.0"), {"cast", "value = 6.103515625e-05", "mul(", "output"}));
  EXPECT_TRUE(Keeps(absl::Substitute(kHalf, "32768.0")));
}

TEST(SimplifyPassTest, MovesNegations) {
  EXPECT_TRUE(Simplifies("%c = constant() {dtype = f32, value = -1.0} : f32[]\n%y = mul(%c, %x) : f32[T, 4, 6]",
                         {"%4 = neg(%0)", "output"}));
  EXPECT_TRUE(
      Simplifies("%n = neg(%u) : f32[T, 4, 6]\n%y = add(%n, %x) : f32[T, 4, 6]", {"%4 = sub(%0, %1)", "output"}));
  EXPECT_TRUE(
      Simplifies("%n = neg(%u) : f32[T, 4, 6]\n%y = sub(%x, %n) : f32[T, 4, 6]", {"%4 = add(%0, %1)", "output"}));
  EXPECT_TRUE(
      Keeps("%c = constant() {dtype = f32, shape = dims(2, 1, 1, 1), value = -1.0} : f32[2, 1, 1, 1]\n"
            "%y = mul(%c, %x) : f32[2, T, 4, 6]"))
      << "the product is larger than what would be negated";
}

TEST(SimplifyPassTest, Chooses) {
  EXPECT_TRUE(Simplifies("%c = constant() {dtype = bool, value = 0.0} : bool[]\n%y = where(%c, %x, %u) : f32[T, 4, 6]",
                         {"output \"y\" %1"}));
  EXPECT_TRUE(
      Simplifies("%c = constant() {dtype = bool, value = 1.0, shape = dims(2, 1, 1, 1)} : bool[2, 1, 1, 1]\n"
                 "%y = where(%c, %x, %u) : f32[2, T, 4, 6]",
                 {"%4 = expand(%0) {shape = dims(2, T, 4, 6)}", "output"}));
  EXPECT_TRUE(
      Simplifies("%r = reshape(%b) {shape = dims(T, 1, 1)} : bool[T, 1, 1]\n%y = where(%r, %x, %x) : f32[T, 4, 6]",
                 {"output \"y\" %0"}));
  EXPECT_TRUE(
      Simplifies("%r = reshape(%b) {shape = dims(T, 1, 1, 1)} : bool[T, 1, 1, 1]\n"
                 "%y = where(%r, %x, %x) : f32[T, T, 4, 6]",
                 {"%4 = expand(%0) {shape = dims(T, T, 4, 6)}", "output"}));
  EXPECT_TRUE(Simplifies("%c = constant() {dtype = bool, value = 1.0} : bool[]\n%y = logical_and(%b, %c) : bool[T]",
                         {"output \"y\" %3"}));
  EXPECT_TRUE(Simplifies("%c = constant() {dtype = bool, value = 0.0} : bool[]\n%y = logical_and(%c, %b) : bool[T]",
                         {"%4 = constant() {dtype = bool, shape = dims(T), value = 0.0} : bool[T]", "output"}));
  EXPECT_TRUE(Simplifies("%c = constant() {dtype = bool, value = 1.0} : bool[]\n%y = logical_or(%b, %c) : bool[T]",
                         {"%4 = constant() {dtype = bool, shape = dims(T), value = 1.0} : bool[T]", "output"}));
  EXPECT_TRUE(Simplifies("%y = maximum(%x, %x) : f32[T, 4, 6]", {"output \"y\" %0"}));
}

TEST(SimplifyPassTest, IntegersCancel) {
  EXPECT_TRUE(Simplifies("%y = sub(%i, %i) : i32[T]",
                         {"%4 = constant() {dtype = i32, shape = dims(T), value = 0.0} : i32[T]", "output"}));
  EXPECT_TRUE(Simplifies("%y = le(%i, %i) : bool[T]",
                         {"%4 = constant() {dtype = bool, shape = dims(T), value = 1.0} : bool[T]", "output"}));
}

TEST(SimplifyPassTest, RefusesToCancelFloats) {
  for (std::string_view body :
       {"%y = sub(%x, %x) : f32[T, 4, 6]", "%y = eq(%x, %x) : bool[T, 4, 6]",
        "%c = constant() {dtype = f32, value = 0.0} : f32[]\n%y = mul(%x, %c) : f32[T, 4, 6]"}) {
    EXPECT_TRUE(CheckRefused<SimplifyPass>(absl::StrCat(Graph(body), "}"), "NaN and infinity")) << body;
  }
}

TEST(SimplifyPassTest, JoinsSlices) {
  EXPECT_TRUE(
      Simplifies("%a = slice(%x) {axis = 2, start = dim(1), stop = dim(5)} : f32[T, 4, 4]\n"
                 "%y = slice(%a) {axis = 2, start = dim(1), stop = dim(3)} : f32[T, 4, 2]",
                 {"%4 = slice(%0) {axis = 2, start = dim(2), stop = dim(4)}", "output"}));
  EXPECT_TRUE(
      Simplifies("%a = concat(%x, %u) {axis = 0} : f32[2*T, 4, 6]\n"
                 "%y = slice(%a) {axis = 0, start = dim(T + 1), stop = dim(2*T)} : f32[T - 1, 4, 6]",
                 {"%4 = slice(%1) {axis = 0, start = dim(1), stop = dim(T)}", "output"}));
  EXPECT_TRUE(Simplifies(
      "%a = slice(%x) {axis = 2, start = dim(1), stop = dim(3)} : f32[T, 4, 2]\n"
      "%c = slice(%x) {axis = 2, start = dim(3), stop = dim(6)} : f32[T, 4, 3]\n"
      "%y = concat(%u, %a, %c) {axis = 2} : f32[T, 4, 11]",
      {"%4 = slice(%0) {axis = 2, start = dim(1), stop = dim(6)}", "%5 = concat(%1, %4) {axis = 2}", "output"}));
  // Neither inside one part nor continuing one another.
  EXPECT_TRUE(
      Keeps("%a = concat(%x, %u) {axis = 2} : f32[T, 4, 12]\n"
            "%y = slice(%a) {axis = 2, start = dim(5), stop = dim(7)} : f32[T, 4, 2]"));
  EXPECT_TRUE(
      Keeps("%a = slice(%x) {axis = 2, start = dim(0), stop = dim(3)} : f32[T, 4, 3]\n"
            "%c = slice(%x) {axis = 2, start = dim(3), stop = dim(6)} : f32[T, 4, 3]\n"
            "%y = concat(%c, %a) {axis = 2} : f32[T, 4, 6]"));
}

TEST(SimplifyPassTest, KeepsSlicesThatDoNotMeet) {
  for (std::string_view body : {
           // of a slice: along another axis; by steps, without and within
           "%a = slice(%x) {axis = 2, start = dim(1), stop = dim(5)} : f32[T, 4, 4]\n"
           "%y = slice(%a) {axis = 1, start = dim(1), stop = dim(3)} : f32[T, 2, 4]",
           "%a = slice(%x) {axis = 2, start = dim(1), stop = dim(5)} : f32[T, 4, 4]\n"
           "%y = slice(%a) {axis = 2, start = dim(0), step = 2, stop = dim(4)} : f32[T, 4, 2]",
           "%a = slice(%x) {axis = 2, start = dim(0), step = 2, stop = dim(6)} : f32[T, 4, 3]\n"
           "%y = slice(%a) {axis = 2, start = dim(1), stop = dim(3)} : f32[T, 4, 2]",
           // of what was joined along another axis
           "%a = concat(%x, %u) {axis = 2} : f32[T, 4, 12]\n"
           "%y = slice(%a) {axis = 1, start = dim(0), stop = dim(2)} : f32[T, 2, 12]",
           // joined: along another axis; by steps; of different values
           "%a = slice(%x) {axis = 1, start = dim(0), stop = dim(2)} : f32[T, 2, 6]\n"
           "%c = slice(%x) {axis = 1, start = dim(2), stop = dim(4)} : f32[T, 2, 6]\n"
           "%y = concat(%a, %c) {axis = 2} : f32[T, 2, 12]",
           "%a = slice(%x) {axis = 2, start = dim(0), step = 2, stop = dim(4)} : f32[T, 4, 2]\n"
           "%c = slice(%x) {axis = 2, start = dim(4), stop = dim(6)} : f32[T, 4, 2]\n"
           "%y = concat(%a, %c) {axis = 2} : f32[T, 4, 4]",
           "%a = slice(%x) {axis = 2, start = dim(0), stop = dim(3)} : f32[T, 4, 3]\n"
           "%c = slice(%u) {axis = 2, start = dim(3), stop = dim(6)} : f32[T, 4, 3]\n"
           "%y = concat(%a, %c) {axis = 2} : f32[T, 4, 6]",
       }) {
    EXPECT_TRUE(Keeps(body)) << body;
  }
}

TEST(SimplifyPassTest, LeavesRepeatingToBroadcasting) {
  EXPECT_TRUE(
      Simplifies("%r = reshape(%i) {shape = dims(T, 1)} : i32[T, 1]\n"
                 "%e = expand(%r) {shape = dims(T, 4)} : i32[T, 4]\n"
                 "%k = iota() {axis = 1, dtype = i32, shape = dims(T, 4)} : i32[T, 4]\n"
                 "%y = add(%e, %k) : i32[T, 4]",
                 {"%4 = reshape(%2)", "%5 = iota()", "%6 = add(%4, %5)", "output"}));
  EXPECT_TRUE(
      Keeps("%r = reshape(%i) {shape = dims(T, 1)} : i32[T, 1]\n"
            "%e = expand(%r) {shape = dims(T, 4)} : i32[T, 4]\n"
            "%y = add(%e, %r) : i32[T, 4]"));
}

TEST(SimplifyPassTest, DropsTheWiderStepOfACast) {
  EXPECT_TRUE(Simplifies("%a = cast(%b) {dtype = i64} : i64[T]\n%y = cast(%a) {dtype = f32} : f32[T]",
                         {"%4 = cast(%3) {dtype = f32} : f32[T]", "output"}));
  EXPECT_TRUE(Keeps("%a = cast(%x) {dtype = bf16} : bf16[T, 4, 6]\n%y = cast(%a) {dtype = f32} : f32[T, 4, 6]"));
  EXPECT_TRUE(
      Keeps("%k = iota() {axis = 0, dtype = i64, shape = dims(T)} : i64[T]\n"
            "%a = cast(%k) {dtype = i32} : i32[T]\n%y = cast(%a) {dtype = i64} : i64[T]"));
}

TEST(SimplifyPassTest, LayersDoNotFlattenTheirTokens) {
  constexpr std::string_view kLayer = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 8]
      input %x "x" : f32[B, S, 6]
      input %heads "heads" : f32[B, S, 2, 3]
      weight %w "w" : f32[4, 6]
      weight %b "b" : f32[4]
      )ir";
  // Flattened and back; from heads, whose last axis is another; to heads.
  EXPECT_TRUE(CheckPasses(MakePassList<SimplifyPass, CanonicalizePass, DcePass>(), absl::StrCat(kLayer, R"(
      %flat = reshape(%x) {shape = dims(B*S, 6)} : f32[B*S, 6]
      %1 = linear(%flat, %w, %b) : f32[B*S, 4]
      %y = reshape(%1) {shape = dims(B, S, 4)} : f32[B, S, 4]
      %joined = reshape(%heads) {shape = dims(B*S, 6)} : f32[B*S, 6]
      %2 = linear(%joined, %w) : f32[B*S, 4]
      %z = reshape(%2) {shape = dims(B, S, 4)} : f32[B, S, 4]
      %3 = linear(%flat, %w) : f32[B*S, 4]
      %u = reshape(%3) {shape = dims(B, S, 2, 2)} : f32[B, S, 2, 2]
      output "y" %y
      output "z" %z
      output "u" %u
      // CHECK: %4 = linear(%0, %2, %3) : f32[B, S, 4]
      // CHECK-NEXT: %5 = reshape(%1) {shape = dims(B, S, 6)} : f32[B, S, 6]
      // CHECK-NEXT: %6 = linear(%5, %2) : f32[B, S, 4]
      // CHECK-NEXT: %7 = linear(%0, %2) : f32[B, S, 4]
      // CHECK-NEXT: %8 = reshape(%7) {shape = dims(B, S, 2, 2)} : f32[B, S, 2, 2]
    })")));
  // Wanted flat as well (as an output or by a node), flat from the start, or made heads of: as it is.
  EXPECT_TRUE(CheckKept<SimplifyPass>(absl::StrCat(kLayer, R"(
      %joined = reshape(%heads) {shape = dims(B*S, 6)} : f32[B*S, 6]
      %1 = linear(%joined, %w) : f32[B*S, 4]
      %y = reshape(%1) {shape = dims(B, S, 4)} : f32[B, S, 4]
      %2 = linear(%x, %w) : f32[B, S, 4]
      %z = reshape(%2) {shape = dims(B, S, 1, 4)} : f32[B, S, 1, 4]
      %3 = linear(%joined, %w, %b) : f32[B*S, 4]
      %n = neg(%3) : f32[B*S, 4]
      %u = reshape(%3) {shape = dims(B, S, 4)} : f32[B, S, 4]
      %4 = linear(%joined, %w, %b) : f32[B*S, 4]
      %v = reshape(%4) {shape = dims(B, S, 2, 2)} : f32[B, S, 2, 2]
      output "n" %n
      output "u" %u
      output "v" %v
      output "1" %1
      output "y" %y
      output "z" %z
    })")));
}

}  // namespace
}  // namespace flashflow::passes
