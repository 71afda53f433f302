#include "compiler/passes/pass_manager.h"

#include <memory>
#include <string>
#include <vector>

#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/passes/pipeline.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kText = R"ir(ffir 1
  graph @g {
    input %x "x" : f32[2]
    %a = neg(%x) : f32[2]
    %b = neg(%a) : f32[2]
    output "y" %b
  })ir";

std::unique_ptr<ir::Graph> Graph() { return *ir::Parse(kText); }

std::vector<std::string> Names(const PassManager& manager) {
  std::vector<std::string> names;
  for (const auto& pass : manager.passes()) names.emplace_back(pass->name());
  return names;
}

// Drops the last operand's type from under its users.
class BreakingPass : public Pass {
 public:
  std::string_view name() const override { return "breaking"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph* graph, PassContext*) const override {
    graph->SetType(graph->inputs()[0], ir::TensorType{DType::kF32, {3}});
    return true;
  }
};

class FailingPass : public Pass {
 public:
  std::string_view name() const override { return "failing"; }
  Relation relation() const override { return Relation::kIdentical; }
  absl::StatusOr<bool> Run(ir::Graph*, PassContext*) const override { return absl::OutOfRangeError("too far"); }
};

TEST(PassManagerTest, ReportsWhatEachPassDid) {
  const auto graph = Graph();
  PassManager manager(*MakePasses({"canonicalize", "dce", "dce"}));
  const auto records = manager.Run(graph.get(), {});
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 3u);
  EXPECT_EQ((*records)[0].pass, "canonicalize");
  EXPECT_TRUE((*records)[0].changed);
  EXPECT_EQ((*records)[0].rewrites, 1);
  EXPECT_TRUE((*records)[1].changed);
  EXPECT_EQ((*records)[1].rewrites, 2);
  EXPECT_FALSE((*records)[2].changed);
  EXPECT_EQ((*records)[2].rewrites, 0);
  EXPECT_TRUE(graph->nodes().empty());
}

TEST(PassManagerTest, HooksSeeTheGraphAroundEachPass) {
  const auto graph = Graph();
  PassManager manager(*MakePasses({"canonicalize", "dce"}));
  std::vector<std::string> seen;
  manager.set_before([&](int index, const Pass& pass, const ir::Graph& g) {
    seen.push_back(std::to_string(index) + " before " + std::string(pass.name()) + " " +
                   std::to_string(g.nodes().size()));
  });
  manager.set_after([&](int index, const Pass& pass, const ir::Graph& g) {
    seen.push_back(std::to_string(index) + " after " + std::string(pass.name()) + " " +
                   std::to_string(g.nodes().size()));
  });
  ASSERT_TRUE(manager.Run(graph.get(), {}).ok());
  EXPECT_THAT(seen,
              ElementsAre("0 before canonicalize 2", "0 after canonicalize 2", "1 before dce 2", "1 after dce 0"));
}

TEST(PassManagerTest, SelectsAndSkipsByName) {
  PassManager manager(StepPipeline());
  std::vector<std::string> left = Names(manager);
  const auto skipped = [](const std::string& name) { return name == "dce" || name == "last-token-head"; };
  EXPECT_GT(std::erase_if(left, skipped), 2);
  ASSERT_TRUE(manager.Skip({"dce", "last-token-head"}).ok());
  EXPECT_EQ(Names(manager), left);
  EXPECT_THAT(std::string(manager.Skip({"dead-code"}).message()),
              HasSubstr("no pass is named \"dead-code\"; passes: con"));
  EXPECT_THAT(std::string(manager.Skip({"kvcache"}).message()), HasSubstr("did you mean \"kv-cache\"?"));
  EXPECT_THAT(std::string(MakePasses({"dce", "fuse"}).status().message()), HasSubstr("no pass is named \"fuse\""));
}

TEST(PassManagerTest, NamesThePassThatBreaksTheGraph) {
  const auto graph = Graph();
  std::vector<std::unique_ptr<Pass>> passes;
  passes.push_back(std::make_unique<BreakingPass>());
  const auto records = PassManager(std::move(passes)).Run(graph.get(), {});
  EXPECT_EQ(records.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(records.status().message()), HasSubstr("pass breaking left an invalid graph"));
}

TEST(PassManagerTest, NamesThePassThatFails) {
  const auto graph = Graph();
  std::vector<std::unique_ptr<Pass>> passes;
  passes.push_back(std::make_unique<FailingPass>());
  const auto records = PassManager(std::move(passes)).Run(graph.get(), {});
  EXPECT_EQ(records.status(), absl::OutOfRangeError("pass failing: too far"));
}

TEST(PassManagerTest, ChecksOptionsFirst) {
  const auto graph = Graph();
  const std::string before = ir::Print(*graph);
  const auto records = PassManager(StepPipeline()).Run(graph.get(), {.page_size = 0});
  EXPECT_THAT(std::string(records.status().message()), HasSubstr("page_size"));
  EXPECT_EQ(ir::Print(*graph), before);
}

TEST(PipelineTest, EveryPassHasItsOwnName) {
  std::vector<std::string> names;
  for (const auto& pass : AllPasses()) names.emplace_back(pass->name());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::unique(names.begin(), names.end()), names.end());
}

}  // namespace
}  // namespace flashflow::passes
