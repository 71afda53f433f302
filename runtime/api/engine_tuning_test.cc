// Engines and tuning databases: where configs come from, that they run, and that they change no result.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/driver/compile.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/graph.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/problem.h"
#include "kernels/registry/tactic.h"
#include "runtime/api/engine.h"
#include "runtime/api/test_engine.h"
#include "runtime/core/tuning_database.h"
#include "runtime/cpu/cpu_spec.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 61;
constexpr int kThreads = 2;

class EngineTuningTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / "tuning";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    frontend::TestModelShape shape;
    shape.vocabulary = kVocab;
    shape.context_length = 64;
    auto graph = frontend::ImportGraph(frontend::LlamaJson(shape));
    CHECK_OK(graph.status());
    graph_ = *std::move(graph);
    options_.dtype = "f32";
    options_.max_tokens = 32;
    options_.max_rows = options_.max_logit_rows = 32;
    engine_ = folder_ / "model.ff";
    CHECK_OK(BuildTestEngine(engine_, *graph_, RandomWeights(*graph_, 1), options_, /*eos=*/7));
  }

  absl::StatusOr<std::unique_ptr<Engine>> Open(const std::string& tuning) const {
    return Engine::Open(engine_, {.threads = kThreads, .max_batch = 2, .tuning = tuning});
  }

  // A config for every linear layer of the model at steps of 9 to 16 tokens, and on another device for all others.
  std::string WriteDatabase() const {
    const auto compiled = driver::Compile(*graph_, options_);
    CHECK_OK(compiled.status());
    TuningDatabase database;
    for (const plan::Weight& weight : compiled->plan.weights) {
      if (weight.shape.size() != 2) continue;
      for (const char* op : {"linear", "fused_linear"}) {
        for (const int64_t gated : {0, 1}) {
          const auto problem = kernels::MakeProblem(
              op, weight.dtype, {{"m", 16}, {"n", weight.shape[0]}, {"k", weight.shape[1]}, {"gated", gated}});
          CHECK_OK(problem.status());
          const kernels::TacticSpec* spec = kernels::FindTacticSpec(absl::StrCat("cpu.", op, ".panel16"), 1);
          const TuningRecord record = {.config = {{"tile_rows", 4}, {"block_k", 384}}, .source = "measured"};
          database.Put(KeyOf(*spec, *problem, CpuName(kThreads)), record);
          database.Put(KeyOf(*spec, *problem, "another CPU"), record);
        }
      }
    }
    const std::string path = folder_ / "tuning.json";
    CHECK_OK(TuningDatabase::Merge(path, database));
    return path;
  }

  std::vector<float> Logits(Engine& engine, int64_t count) const {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(i * 7 % kVocab));
    std::vector<float> logits(static_cast<size_t>(count * kVocab));
    CHECK_OK(engine.Forward(tokens, absl::MakeSpan(logits)));
    return logits;
  }

  // Of the linear layers of a step of so many tokens: how many rows have the tuned config.
  int Tuned(Engine& engine, int64_t tokens) const {
    const auto roofline =
        engine.Roofline({.size = {.tokens = tokens, .context = tokens}, .cache_folder = folder_.string()});
    CHECK_OK(roofline.status());
    int tuned = 0;
    for (const StepRooflineRow& row : roofline->rows) {
      EXPECT_TRUE(absl::StartsWith(row.tactic, "cpu.")) << row.op;
      if (row.op != "fused_linear" && row.op != "linear") {
        EXPECT_FALSE(absl::StrContains(row.tactic, "[")) << row.tactic;
      } else if (absl::EndsWith(row.tactic, ".panel16[tile_rows=4,block_k=384]")) {
        ++tuned;
      } else {
        EXPECT_TRUE(absl::EndsWith(row.tactic, ".panel16")) << row.tactic;
      }
    }
    return tuned;
  }

  fs::path folder_;
  std::string engine_;
  std::unique_ptr<ir::Graph> graph_;
  passes::CompileOptions options_;
};

TEST_F(EngineTuningTest, ConfigsRunWhereTheyAreForAndChangeNoBits) {
  const std::string path = WriteDatabase();
  auto tuned = Open(path);
  ASSERT_TRUE(tuned.ok()) << tuned.status();
  EXPECT_EQ((*tuned)->info().tuning, path);
  EXPECT_GT((*tuned)->info().tuned_configs, 0);
  auto plain = Open("none");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->info().tuning, "none");
  EXPECT_EQ((*plain)->info().tuned_configs, 0);
  for (const int64_t count : {1, 16, 30}) EXPECT_EQ(Logits(**tuned, count), Logits(**plain, count)) << count;

  const int layers = Tuned(**tuned, 16);
  EXPECT_EQ(layers, 5) << "four of a layer, and the head";
  EXPECT_EQ(Tuned(**tuned, 9), layers) << "the same bucket, specialized anew";
  EXPECT_EQ(Tuned(**tuned, 17), 0);
  EXPECT_EQ(Tuned(**tuned, 8), 0) << "not what the step before ran with";
  EXPECT_EQ(Tuned(**plain, 16), 0);
}

TEST_F(EngineTuningTest, DatabasesThatAreNotThereOrDamaged) {
  const absl::Status missing = Open(folder_ / "missing.json").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("missing.json\": there is no such file"));
  // A damaged one costs the tuning alone.
  const std::string path = folder_ / "damaged.json";
  std::ofstream(path) << "half a fi";
  const auto engine = Open(path);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->info().tuned_configs, 0);
}

TEST_F(EngineTuningTest, TheUsersDatabaseIsFoundByItself) {
  const std::string path = WriteDatabase();
  const fs::path cache = folder_ / "flashflow";
  fs::create_directories(cache);
  ASSERT_EQ(setenv("XDG_CACHE_HOME", folder_.c_str(), 1), 0);
  EXPECT_EQ((*Open(""))->info().tuning, "") << "there is none yet";
  fs::copy(path, cache / "tuning.json");
  const auto engine = Open("");
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->info().tuning, (cache / "tuning.json").string());
  EXPECT_GT((*engine)->info().tuned_configs, 0);
}

}  // namespace
}  // namespace flashflow::runtime
