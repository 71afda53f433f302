// Engines of int8 models on the CPU: what their files hold, and what they compute.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/parser.h"
#include "compiler/plan/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/api/engine.h"
#include "runtime/api/generate_testing.h"
#include "runtime/api/test_engine.h"
#include "runtime/engine/engine_file.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 61, kContext = 64;
constexpr int32_t kEos = 7;

passes::CompileOptions Int8Options() {
  passes::CompileOptions options;
  options.quantize = "int8";
  options.page_size = 4;
  options.max_tokens = 16;
  options.max_rows = 6;
  options.max_logit_rows = 8;
  return options;
}

struct ModelCase {
  std::string name, json;
};

class EngineInt8Test : public ::testing::TestWithParam<ModelCase> {
 protected:
  EngineInt8Test() : path_(fs::path(::testing::TempDir()) / absl::StrCat(GetParam().name, "_int8.ff")) {
    auto imported = frontend::ImportGraph(GetParam().json);
    CHECK_OK(imported.status());
    graph_ = *std::move(imported);
    weights_ = RandomWeights(*graph_, 1);
    CHECK_OK(BuildTestEngine(path_, *graph_, weights_, Int8Options(), kEos));
    auto opened = Engine::Open(path_, {.threads = 2, .max_batch = 6});
    CHECK_OK(opened.status());
    engine_ = *std::move(opened);
  }

  std::string path_;
  std::unique_ptr<ir::Graph> graph_;
  TestWeights weights_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(EngineInt8Test, TheFileHoldsCodesAndScalesInPlaceOfMatrices) {
  EXPECT_EQ(engine_->info().dtype, "int8");
  EXPECT_TRUE(engine_->info().plan_was_stored);
  const auto file = engine::EngineFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  int coded = 0;
  for (const auto& [name, values] : weights_) {
    const auto plain = (*file)->weight(name);
    const auto codes = (*file)->weight(absl::StrCat(name, plan::kCodesSuffix));
    if (!codes.ok()) {
      EXPECT_TRUE(plain.ok()) << name;
      continue;
    }
    ++coded;
    EXPECT_FALSE(plain.ok()) << name;
    const auto scales = (*file)->weight(absl::StrCat(name, plan::kScalesSuffix));
    ASSERT_TRUE(scales.ok()) << scales.status();
    EXPECT_EQ((*codes)->dtype, DType::kI8);
    // Each code is the weight within half a step; one code of each scale is the largest.
    const bool by_rows = (*scales)->shape[0] == (*codes)->shape[0];
    const int64_t columns = (*codes)->shape[1];
    std::vector<float> steps((*scales)->bytes.size() / sizeof(float));
    std::memcpy(steps.data(), (*scales)->bytes.data(), (*scales)->bytes.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const float step = steps[by_rows ? i / static_cast<size_t>(columns) : i % static_cast<size_t>(columns)];
      const float back = step * static_cast<float>(static_cast<int8_t>((*codes)->bytes[i]));
      ASSERT_NEAR(back, values[i], 0.501f * step) << name << " at " << i;
    }
  }
  EXPECT_GE(coded, 5) << "each layer's matrices, the table and the head";
}

// Codes of rows and weights each err by half a step of 1/127 of the largest element, at random: a few percent of the
// logits after two layers. One wrong scale, layout or offset makes other logits altogether.
TEST_P(EngineInt8Test, LogitsAreNearThoseOfTheFloatModel) {
  const std::vector<int32_t> tokens = TestPrompt(40, 3, kVocab);
  const std::vector<double> want = WideLogits(*graph_, InterpreterWeights(*graph_, weights_), tokens);
  const std::vector<float> got = Forward(*engine_, tokens);
  EXPECT_LT(RelativeDistance(got, want), 0.05);
  EXPECT_GT(RelativeDistance(got, want), 0);
}

// Prompts that are read in chunks beside rows that decode: each request's tokens and their probabilities as alone.
TEST_P(EngineInt8Test, MixedBatchesChangeNoBits) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = 12;
  params.ignore_eos = true;
  params.logprobs = 1;
  std::map<int64_t, std::vector<int32_t>> prompts;
  for (uint32_t seed = 0; seed < 5; ++seed) {
    const std::vector<int32_t> prompt = TestPrompt(1 + 9 * seed, seed, kVocab);
    const auto id = engine_->Submit(prompt, params);
    ASSERT_TRUE(id.ok()) << id.status();
    prompts[*id] = prompt;
  }
  const auto together = RunAll(*engine_);
  for (const auto& [id, prompt] : prompts) {
    ASSERT_TRUE(engine_->Submit(prompt, params).ok());
    const std::vector<TokenEvent> alone = RunAll(*engine_).begin()->second;
    const std::vector<TokenEvent>& batched = together.at(id);
    ASSERT_EQ(alone.size(), batched.size());
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(alone[i].token, batched[i].token);
      EXPECT_EQ(alone[i].logprob, batched[i].logprob);
    }
  }
}

TEST_P(EngineInt8Test, AWeightThatIsNotFiniteHasNoCodes) {
  TestWeights damaged = weights_;
  for (auto& [name, values] : damaged) {
    if (values.size() > 1000) values.back() = std::numeric_limits<float>::infinity();
  }
  const absl::Status status = BuildTestEngine(path_ + ".damaged", *graph_, damaged, Int8Options(), kEos);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("not finite"));
}

frontend::TestModelShape Shape() {
  frontend::TestModelShape shape;
  shape.kv_heads = 2;
  shape.vocabulary = kVocab;
  shape.context_length = kContext;
  return shape;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineInt8Test,
                         ::testing::Values(ModelCase{"gpt2", frontend::Gpt2Json({.vocabulary = kVocab,
                                                                                 .context_length = kContext})},
                                           ModelCase{"llama", frontend::LlamaJson(Shape())}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace flashflow::runtime
