#include "compiler/analysis/loaded_weight.h"

#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::analysis {
namespace {

using ::testing::ElementsAre;

class LoadedWeightTest : public ::testing::Test {
 protected:
  LoadedWeightTest() {
    auto parsed = ir::Parse(R"ir(ffir 1
graph @g {
  input %0 "x" : f32[3, 8]
  weight %1 "a" : f32[4, 8]
  weight %2 "b" : f32[8, 4]
  %3 = concat(%1, %1) {axis = 0} : f32[8, 8]
  %4 = concat(%1, %1) {axis = 1} : f32[4, 16]
  %5 = concat(%1, %0) {axis = 0} : f32[7, 8]
  %6 = transpose(%2) {perm = [1, 0]} : f32[4, 8]
  %7 = transpose(%2) {perm = [1, 0]} : f32[4, 8]
  %8 = transpose(%2) {perm = [1, 0]} : f32[4, 8]
  %9 = transpose(%0) {perm = [1, 0]} : f32[8, 3]
  %10 = linear(%0, %6) : f32[3, 4]
  %11 = fused_linear(%0, %6) : f32[3, 4]
  %12 = linear(%7, %3) : f32[4, 8]
  %13 = concat(%1, %1) {axis = 0} : f32[8, 8]
  %14 = transpose(%2) {perm = [1, 0]} : f32[4, 8]
  %15, %16 = quantize(%14) : i8[4, 8], f32[4]
  %17, %18 = quantize(%0) : i8[3, 8], f32[3]
  output "8" %8
  output "13" %13
}
)ir");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    graph_ = *std::move(parsed);
  }

  // Its sources, and "transposed"; empty: it is computed.
  std::vector<std::string> Loaded(const ir::Value* value) const {
    const auto loaded = AsLoadedWeight(*value);
    if (!loaded.has_value()) return {};
    std::vector<std::string> names;
    for (const ir::Value* source : loaded->sources) names.push_back(source->name());
    if (loaded->transposed) names.push_back("transposed");
    return names;
  }
  std::vector<std::string> LoadedAt(int node) const {
    return Loaded((*std::next(graph_->nodes().begin(), node))->result());
  }

  std::unique_ptr<ir::Graph> graph_;
};

TEST_F(LoadedWeightTest, AWeightAsItIsJoinedOrTransposed) {
  EXPECT_THAT(Loaded(graph_->FindWeight("a")), ElementsAre("a"));
  EXPECT_THAT(LoadedAt(0), ElementsAre("a", "a"));
  EXPECT_THAT(LoadedAt(3), ElementsAre("b", "transposed"));
}

TEST_F(LoadedWeightTest, NothingRunsForCodesOfAWeight) {
  const auto made_at_load = [this](int node) {
    const ir::Node& at = **std::next(graph_->nodes().begin(), node);
    return IsMadeAtLoad(*at.result(static_cast<int>(at.results().size()) - 1));
  };
  EXPECT_TRUE(made_at_load(0)) << "joined";
  EXPECT_TRUE(made_at_load(11)) << "transposed, only to become codes";
  EXPECT_TRUE(made_at_load(12)) << "its scales";
  EXPECT_FALSE(made_at_load(13)) << "scales of an input";
  EXPECT_FALSE(made_at_load(1)) << "joined along another axis";
}

TEST_F(LoadedWeightTest, WhatElseIsComputed) {
  EXPECT_THAT(Loaded(graph_->FindInput("x")), ElementsAre());
  EXPECT_THAT(LoadedAt(1), ElementsAre()) << "joined along another axis";
  EXPECT_THAT(LoadedAt(2), ElementsAre()) << "joined with an input";
  EXPECT_THAT(LoadedAt(4), ElementsAre()) << "transposed for something else than a layer's weight";
  EXPECT_THAT(LoadedAt(5), ElementsAre()) << "a transposed output";
  EXPECT_THAT(LoadedAt(6), ElementsAre()) << "a transposed input";
  EXPECT_THAT(LoadedAt(10), ElementsAre()) << "a joined output";
}

}  // namespace
}  // namespace flashflow::analysis
