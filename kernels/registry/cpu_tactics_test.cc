#include "kernels/registry/cpu_tactics.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/tactic.h"

namespace flashflow::kernels {
namespace {

// The parameters of the tactic, by name, are the fields of the kernel's config.
TEST(CpuTacticsTest, ParametersAreTheKernelsFields) {
  using cpu::LinearConfig;
  for (const char* kernel : {"cpu.linear.panel16", "cpu.fused_linear.panel16"}) {
    const TacticSpec& spec = *FindTacticSpec(kernel, 1);
    const std::pair<std::string, int64_t LinearConfig::*> fields[] = {
        {"tile_rows", &LinearConfig::tile_rows},           {"tile_panels", &LinearConfig::tile_panels},
        {"block_rows", &LinearConfig::block_rows},         {"block_k", &LinearConfig::block_k},
        {"prefetch_bytes", &LinearConfig::prefetch_bytes}, {"tasks_per_thread", &LinearConfig::tasks_per_thread},
        {"task_columns", &LinearConfig::task_columns}};
    ASSERT_EQ(spec.parameters.size(), std::size(fields));
    for (const auto& [name, field] : fields) {
      const LinearConfig defaults = *LinearConfigOf(DefaultConfig(spec));
      EXPECT_EQ(defaults.*field, LinearConfig().*field) << name;
      for (const Parameter& parameter : spec.parameters) {
        if (parameter.name != name) continue;
        for (int64_t value : parameter.values) {
          const auto config = LinearConfigOf(*MakeConfig(spec, {{name, value}}));
          ASSERT_TRUE(config.ok()) << config.status();
          EXPECT_EQ((*config).*field, value) << name;
        }
      }
    }
  }
}

TEST(CpuTacticsTest, OtherValuesAreRefused) {
  const std::vector<int64_t> good = {0, 0, 128, 768, 2048, 4, 48};
  EXPECT_TRUE(LinearConfigOf(good).ok());
  EXPECT_FALSE(LinearConfigOf({}).ok());
  EXPECT_FALSE(LinearConfigOf(absl::MakeConstSpan(good).first(6)).ok());
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int64_t bad : {int64_t{-1}, int64_t{1} << 40}) {
      std::vector<int64_t> values = good;
      values[i] = bad;
      EXPECT_FALSE(LinearConfigOf(values).ok()) << i << ": " << bad;
      values[i] = 0;
      EXPECT_EQ(LinearConfigOf(values).ok(), i < 2) << i;
    }
  }
  EXPECT_THAT(LinearConfigOf({0, 0, 128, 768, 2048, 4, 40}).status().message(),
              testing::HasSubstr("cannot be cut up by [0, 0, 128, 768, 2048, 4, 40]"));
}

TEST(CpuTacticsTest, LimitsAreOfThisCpu) {
  const DeviceLimits limits = CpuLimits("mine");
  EXPECT_EQ(limits.name, "mine");
  EXPECT_EQ(limits.kind, "cpu");
  EXPECT_GE(limits.tile_rows, 1);
  EXPECT_GE(limits.stream_panels, limits.tile_panels);
  EXPECT_GE(limits.l2_bytes, 0);
}

}  // namespace
}  // namespace flashflow::kernels
