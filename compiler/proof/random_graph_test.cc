// Properties of every graph, on random ones.
#include "compiler/proof/random_graph.h"

#include <set>
#include <string>

#include "compiler/ir/op_table.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/passes/pipeline.h"
#include "compiler/proof/prover.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

constexpr uint64_t kSeeds = 40;

TEST(RandomGraphTest, TheSameSeedGivesTheSameGraph) {
  EXPECT_EQ(ir::Print(*RandomGraph(1)), ir::Print(*RandomGraph(1)));
  EXPECT_NE(ir::Print(*RandomGraph(1)), ir::Print(*RandomGraph(2)));
}

TEST(RandomGraphTest, ReachesMostOps) {
  std::set<std::string_view> missing;
  for (const ir::OpDef& def : ir::OpTable()) {
    if (def.effect == ir::Effect::kPure) missing.insert(def.name);
  }
  const size_t all = missing.size();
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto graph = RandomGraph(seed);
    for (const auto& node : graph->nodes()) missing.erase(node->def().name);
  }
  std::string names;
  for (std::string_view name : missing) names += std::string(name) + " ";
  EXPECT_LT(missing.size(), all / 4) << "never made: " << names;
}

TEST(RandomGraphTest, PrintedGraphsParseToThemselves) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto graph = RandomGraph(seed);
    const auto parsed = ir::Parse(ir::Print(*graph));
    ASSERT_TRUE(parsed.ok()) << parsed.status() << "\n" << ir::Print(*graph);
    EXPECT_TRUE(StructurallyEqual(*graph, **parsed)) << ir::Print(*graph);
  }
}

// Each pass alone, then the pipeline.
TEST(RandomGraphTest, EveryPassKeepsItsRelation) {
  int64_t rewrites = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto graph = RandomGraph(seed);
    Prover prover({.dtype = seed % 2 == 0 ? "f32" : "bf16"}, {.seed = seed});
    auto lists = std::vector<std::vector<std::unique_ptr<passes::Pass>>>();
    for (const auto& pass : passes::AllPasses()) lists.push_back(*passes::MakePasses({std::string(pass->name())}));
    lists.push_back(passes::StepPipeline());
    for (const auto& passes : lists) {
      const auto clone = graph->Clone();
      const auto report = prover.Prove(passes, clone.get());
      ASSERT_TRUE(report.ok()) << "seed " << seed << ": " << report.status() << "\n" << ir::Print(*graph);
      ASSERT_FALSE(report->violation.has_value()) << "seed " << seed << ": " << report->violation->ToString() << "\n"
                                                  << report->violation->region;
      for (const PassProof& proof : report->passes) rewrites += proof.record.rewrites;
    }
  }
  EXPECT_GT(rewrites, 20 * static_cast<int64_t>(kSeeds)) << "the graphs should give the passes something to do";
}

}  // namespace
}  // namespace flashflow::proof
