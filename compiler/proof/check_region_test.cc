#include "compiler/proof/check_region.h"

#include <optional>
#include <string>
#include <vector>

#include "compiler/proof/planted_pass.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using passes::Relation;
using ::testing::HasSubstr;
using ::testing::Optional;

TEST(CheckRegionTest, EveryOutputIsComparedByItsName) {
  const auto before = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4] %b = neg(%x) : f32[4]
                               output "a" %a output "b" %b })");
  const auto exchanged = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4]
                                  %b = neg(%x) : f32[4] output "b" %b output "a" %a })");
  const auto wrong = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4] %b = abs(%x) : f32[4]
                              output "a" %a output "b" %b })");
  const auto less = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4] output "a" %a })");
  const std::vector<Case> cases = MakeCases(*before, 1, /*seed=*/1);
  for (const Relation relation : {Relation::kIdentical, Relation::kNarrowed, Relation::kReassociated}) {
    EXPECT_EQ(*FindDifference(*before, *exchanged, relation, cases), std::nullopt);
    EXPECT_THAT(*FindDifference(*before, *wrong, relation, cases), Optional(HasSubstr("output \"b\": element")));
    EXPECT_THAT(*FindDifference(*before, *less, relation, cases), Optional(HasSubstr("output \"b\" is gone")));
  }
}

TEST(CheckRegionTest, WhatNoCaseShowsIsAnError) {
  const auto graph = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4] output "a" %a })");
  EXPECT_THAT(std::string(FindDifference(*graph, *graph, Relation::kIdentical, {}).status().message()),
              HasSubstr("there are no cases"));
}

// Roundings on the way are none of the wide comparison's; a factor is.
TEST(CheckRegionTest, TheWideComparisonRoundsNothing) {
  const auto before = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %a = exp(%x) : f32[4] output "a" %a })");
  const auto rounded = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %b = exp(%x) : f32[4]
      %c = cast(%b) {dtype = bf16} : bf16[4] %a = cast(%c) {dtype = f32} : f32[4] output "a" %a })");
  const auto other = Parse(R"(ffir 1 graph @g { input %x "x" : f32[4] %b = exp(%x) : f32[4]
      %c = constant() {dtype = f32, value = 1.0000001} : f32[] %a = mul(%b, %c) : f32[4] output "a" %a })");
  const std::vector<Case> cases = MakeCases(*before, 3, /*seed=*/1);
  EXPECT_EQ(*FindWideDifference(*before, *rounded, cases), std::nullopt);
  EXPECT_NE(*FindDifference(*before, *rounded, Relation::kReassociated, cases), std::nullopt);
  EXPECT_NE(*FindWideDifference(*before, *other, cases), std::nullopt);
}

}  // namespace
}  // namespace flashflow::proof
