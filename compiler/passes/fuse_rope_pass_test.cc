#include "compiler/passes/fuse_rope_pass.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kRope = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      input %x "x" : f32[T, 2, 8]
      input %cos "cos" : f32[T, 1, 8]
      input %sin "sin" : f32[T, 1, 8]
      %1 = mul(%x, %cos) : f32[T, 2, 8]
      %2 = slice(%x) {axis = 2, start = dim(4), stop = dim(8)} : f32[T, 2, 4]
      %3 = neg(%2) : f32[T, 2, 4]
      %4 = slice(%x) {axis = 2, start = dim(0), stop = dim(4)} : f32[T, 2, 4]
      %5 = concat(%3, %4) {axis = 2} : f32[T, 2, 8]
      %6 = mul(%5, %sin) : f32[T, 2, 8]
      %7 = add(%1, %6) : f32[T, 2, 8]
      output "y" %7
      // CHECK: rope(%0, %1, %2) : f32[T, 2, 8]
      // CHECK: output "y"
    })ir";

TEST(FuseRopePassTest, FindsTheHalfSplitForm) { EXPECT_TRUE(CheckPass<FuseRopePass>(kRope)); }

TEST(FuseRopePassTest, FindsItInAnyOrder) {
  EXPECT_TRUE(CheckPass<FuseRopePass>(absl::StrReplaceAll(
      kRope,
      {{"mul(%x, %cos)", "mul(%cos, %x)"}, {"mul(%5, %sin)", "mul(%sin, %5)"}, {"add(%1, %6)", "add(%6, %1)"}})));
}

TEST(FuseRopePassTest, RefusesOtherParts) {
  EXPECT_TRUE(CheckRefused<FuseRopePass>(
      absl::StrReplaceAll(kRope, {{"start = dim(4), stop = dim(8)", "start = dim(0), stop = dim(4)"}}),
      "the parts that it exchanges are not the halves of 8 channels"));
}

// Of another value, with another sign, with angles that widen x: something else.
TEST(FuseRopePassTest, LeavesOtherSumsAlone) {
  for (const auto& [from, to] :
       {std::pair("mul(%x, %cos)", "mul(%cos, %cos)"), std::pair("neg(%2)", "abs(%2)"),
        std::pair("add(%1, %6)", "sub(%1, %6)"), std::pair("concat(%3, %4)", "concat(%4, %3)")}) {
    std::string text = absl::StrReplaceAll(kRope, {{from, to}, {"// CHECK: rope(%0, %1, %2)", "// CHECK-NOT: rope("}});
    if (std::string_view(to) == "mul(%cos, %cos)") {
      text = absl::StrReplaceAll(text, {{"mul(%cos, %cos) : f32[T, 2, 8]", "mul(%cos, %cos) : f32[T, 1, 8]"}});
    }
    EXPECT_TRUE(CheckKept<FuseRopePass>(text)) << to;
  }
}

TEST(FuseRopePassTest, LeavesHalvesOfTwoValuesAndSingleAnglesAlone) {
  const std::string of_two = absl::StrReplaceAll(
      kRope, {{"input %cos", "input %z \"z\" : f32[T, 2, 8]\n      input %cos"}, {"%2 = slice(%x)", "%2 = slice(%z)"}});
  const std::string single = absl::StrReplaceAll(kRope, {{"\"cos\" : f32[T, 1, 8]", "\"cos\" : f32[T, 1, 1]"}});
  for (const std::string& text : {of_two, single}) {
    EXPECT_TRUE(CheckKept<FuseRopePass>(text)) << text;
  }
}

}  // namespace
}  // namespace flashflow::passes
