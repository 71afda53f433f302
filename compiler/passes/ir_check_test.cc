#include "compiler/passes/ir_check.h"

#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kOutput = "one (a)\ntwo\nthree\n";

TEST(IrCheckTest, Matches) {
  EXPECT_TRUE(MatchChecks(kOutput, "// CHECK: one (a)\n// CHECK-NEXT: tw{{[aeiou]}}\n  // CHECK-NOT: four"));
  EXPECT_TRUE(MatchChecks(kOutput, "// CHECK-NOT: three\n// CHECK: two"));
  EXPECT_TRUE(MatchChecks(kOutput, "// CHECK: one\n// CHECK: three"));
}

TEST(IrCheckTest, Fails) {
  EXPECT_FALSE(MatchChecks(kOutput, "nothing to check"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK: four"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK: two\n// CHECK: one"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK: one\n// CHECK-NEXT: three"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK-NOT: two\n// CHECK: three"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK: one\n// CHECK-NOT: three"));
  EXPECT_FALSE(MatchChecks(kOutput, "// CHECK: one .a."));
}

}  // namespace
}  // namespace flashflow::passes
