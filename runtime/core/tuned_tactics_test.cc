#include "runtime/core/tuned_tactics.h"

#include <string>
#include <vector>

#include "absl/log/log_entry.h"
#include "absl/log/log_sink.h"
#include "absl/log/log_sink_registry.h"
#include "absl/strings/str_cat.h"
#include "compiler/analysis/device_spec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/device_limits.h"
#include "kernels/registry/problem.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Messages : public absl::LogSink {
 public:
  Messages() { absl::AddLogSink(this); }
  ~Messages() override { absl::RemoveLogSink(this); }
  void Send(const absl::LogEntry& entry) override { texts.emplace_back(entry.text_message()); }
  std::vector<std::string> texts;
};

const kernels::TacticSpec& Linear() { return *kernels::FindTacticSpec("cpu.linear.panel16", 1); }
kernels::Problem Rows(int64_t m) { return *kernels::ParseProblem(absl::StrCat("linear/bf16/m=", m, ",n=48,k=16")); }

TuningDatabase One(std::map<std::string, int64_t> config, std::string device = "C", int version = 1) {
  TuningDatabase database;
  TuningKey key = KeyOf(Linear(), Rows(5), device);
  key.kernel_version = version;
  database.Put(key, TuningRecord{.config = std::move(config), .source = "measured"});
  return database;
}

TEST(TunedTacticsTest, FindsTheBucketOfThisDevice) {
  TunedTactics tuned("C");
  tuned.Add(One({{"tile_rows", 4}}), "user");
  tuned.Add(One({{"tile_rows", 6}}), "shipped");
  EXPECT_EQ(tuned.size(), 1u);
  const kernels::Config* config = tuned.Find(Linear(), Rows(8));
  ASSERT_NE(config, nullptr);
  EXPECT_EQ(kernels::ValueOf(Linear(), *config, "tile_rows"), 4) << "what comes first stands";
  EXPECT_EQ(kernels::ValueOf(Linear(), *config, "block_k"), 768);
  EXPECT_EQ(tuned.Find(Linear(), Rows(4)), nullptr) << "another bucket";
  EXPECT_EQ(tuned.Find(*kernels::FindTacticSpec("cpu.fused_linear.panel16", 1), Rows(8)), nullptr);
  TunedTactics other("D");
  Messages messages;
  other.Add(One({{"tile_rows", 4}}), "user");
  EXPECT_EQ(other.size(), 0u);
  EXPECT_THAT(messages.texts, IsEmpty()) << "another device's entries are nothing to warn of";
}

TEST(TunedTacticsTest, WhatThisBuildCannotUseIsNamed) {
  const auto warning = [](const TuningDatabase& database) {
    Messages messages;
    TunedTactics tuned("C");
    tuned.Add(database, "/a/file");
    EXPECT_EQ(tuned.size(), 0u);
    return messages.texts.size() == 1 ? messages.texts[0] : "not one warning";
  };
  const std::string where = "/a/file: the entry for cpu.linear.panel16 at bf16 m=5..8,n=48,k=16 is ignored: ";
  EXPECT_EQ(warning(One({{"tile_rows", 5}})), where + "tile_rows of cpu.linear.panel16 is 5; it can be 0, 4, 6");
  EXPECT_EQ(warning(One({{"tile_cols", 4}})), where + "cpu.linear.panel16 has no parameter \"tile_cols\"");
  EXPECT_EQ(warning(One({}, "C", 2)), where + "this build has no kernel cpu.linear.panel16 of version 2");
}

// Every entry that we ship was measured and can run on its device.
TEST(TunedTacticsTest, WhatIsShippedRuns) {
  EXPECT_GT(ShippedTuning().entries().size(), 0u);
  const auto spec = analysis::BuiltinDeviceSpec("h200");
  ASSERT_TRUE(spec.ok()) << spec.status();
  const auto device = kernels::CudaLimits(spec->name, spec->arch, spec->sm_count);
  ASSERT_TRUE(device.ok()) << device.status();
  TunedTactics tuned(device->name);
  Messages messages;
  tuned.Add(ShippedTuning(), "shipped");
  EXPECT_THAT(messages.texts, IsEmpty());
  EXPECT_EQ(tuned.size(), ShippedTuning().entries().size()) << "all are of one device";
  for (const auto& [key, record] : ShippedTuning().entries()) {
    SCOPED_TRACE(key.shape);
    // The bucket's upper end, as it was chosen for: "m=65..128,..." is m=128.
    std::string sizes = key.shape;
    if (const size_t dots = sizes.find(".."); dots != std::string::npos) sizes.erase(2, dots);
    const bool fused = sizes.find_first_of("rg") != std::string::npos || sizes.find("activated") != std::string::npos;
    const auto problem =
        kernels::ParseProblem(absl::StrCat(fused ? "fused_linear/" : "linear/", key.dtype, "/", sizes));
    ASSERT_TRUE(problem.ok()) << problem.status();
    ASSERT_EQ(kernels::ShapeBucket(*problem), key.shape);
    const auto chosen = kernels::ChooseTactic(*problem, *device, kernels::TacticsFilter::kOurs, {}, &tuned);
    ASSERT_TRUE(chosen.ok()) << chosen.status();
    EXPECT_TRUE(chosen->tuned);
    EXPECT_EQ(record.source, "measured");
    EXPECT_GT(record.samples, 2);
    EXPECT_GT(record.us, record.floor_us);
  }
}

}  // namespace
}  // namespace flashflow::runtime
