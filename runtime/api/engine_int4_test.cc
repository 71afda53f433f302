// Engines of int4 models on the CPU: what their files hold, and that they compute what their codes stand for.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/float_convert.h"
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

passes::CompileOptions Int4Options() {
  passes::CompileOptions options;
  options.quantize = "int4";
  options.page_size = 4;
  options.max_tokens = 16;
  options.max_rows = 6;
  options.max_logit_rows = 8;
  return options;
}

struct ModelCase {
  std::string name, json;
};

class EngineInt4Test : public ::testing::TestWithParam<ModelCase> {
 protected:
  EngineInt4Test() : path_(fs::path(::testing::TempDir()) / absl::StrCat(GetParam().name, "_int4.ff")) {
    auto imported = frontend::ImportGraph(GetParam().json);
    CHECK_OK(imported.status());
    graph_ = *std::move(imported);
    weights_ = RandomWeights(*graph_, 1);
    CHECK_OK(BuildTestEngine(path_, *graph_, weights_, Int4Options(), kEos));
    auto opened = engine::EngineFile::Open(path_);
    CHECK_OK(opened.status());
    file_ = *std::move(opened);
  }

  // Floats that the file's codes stand for; empty if it has none of this weight.
  std::vector<float> Decoded(const std::string& name) const {
    const auto codes = file_->weight(absl::StrCat(name, plan::kCodesSuffix));
    if (!codes.ok()) return {};
    const auto scales = file_->weight(absl::StrCat(name, plan::kScalesSuffix));
    CHECK_OK(scales.status());
    const bool groups = (*scales)->dtype == DType::kF16;
    std::vector<float> values(codes.value()->bytes.size() * (groups ? 2 : 1));
    for (size_t i = 0; i < values.size(); ++i) {
      if (groups) {
        uint16_t range[2];
        std::memcpy(range, (*scales)->bytes.data() + i / 32 * sizeof(range), sizeof(range));
        const int code = static_cast<uint8_t>((*codes)->bytes[i / 2]) >> (i % 2 * 4) & 15;
        values[i] = static_cast<float>(F16ToDouble(range[0]) * code + F16ToDouble(range[1]));
      } else {
        float step;
        std::memcpy(&step, (*scales)->bytes.data() + i / static_cast<size_t>((*codes)->shape[1]) * sizeof(step),
                    sizeof(step));
        values[i] = step * static_cast<float>(static_cast<int8_t>((*codes)->bytes[i]));
      }
    }
    return values;
  }

  std::string path_;
  std::unique_ptr<ir::Graph> graph_;
  TestWeights weights_;
  std::unique_ptr<const engine::EngineFile> file_;
};

TEST_P(EngineInt4Test, TheFileHoldsGroupsInPlaceOfTheLayersMatrices) {
  int groups = 0, rows = 0;
  for (const auto& [name, values] : weights_) {
    const std::vector<float> decoded = Decoded(name);
    EXPECT_EQ(file_->weight(name).ok(), decoded.empty()) << name;
    if (decoded.empty()) continue;
    const engine::EngineWeight* scales = *file_->weight(absl::StrCat(name, plan::kScalesSuffix));
    ASSERT_EQ(decoded.size(), values.size());
    ++(scales->dtype == DType::kF16 ? groups : rows);
    if (scales->dtype != DType::kF16) continue;
    // Within half a step, which is a fifteenth of a group's range.
    for (size_t i = 0; i < values.size(); i += 32) {
      const auto [least, most] = std::minmax_element(values.begin() + i, values.begin() + i + 32);
      for (size_t j = i; j < i + 32; ++j) ASSERT_NEAR(decoded[j], values[j], (*most - *least) / 15 * 0.52) << name;
    }
  }
  EXPECT_GE(groups, 8) << "each layer's matrices";
  EXPECT_GE(rows, 1) << "the table, and the head";
}

// The model of the floats that the codes stand for. Of a group of x the largest element is some 2.3 times the root mean
// square, and codes err by 1/sqrt(12) of a step of 1/127 of it: half a percent a product, and nine of them in a row,
// those of two layers and the head's, err by three times that. Twice as much is granted.
TEST_P(EngineInt4Test, LogitsAreThoseOfWhatTheCodesStandFor) {
  auto opened = Engine::Open(path_, {.threads = 2, .max_batch = 6});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->info().dtype, "int4");
  EXPECT_TRUE((*opened)->info().plan_was_stored);
  TestWeights stood_for = weights_;
  for (auto& [name, values] : stood_for) {
    if (std::vector<float> decoded = Decoded(name); !decoded.empty()) values = std::move(decoded);
  }
  const std::vector<int32_t> tokens = TestPrompt(40, 3, kVocab);
  const std::vector<double> want = WideLogits(*graph_, InterpreterWeights(*graph_, stood_for), tokens);
  const std::vector<float> got = Forward(**opened, tokens);
  EXPECT_LT(RelativeDistance(got, want), 0.03);
}

TEST_P(EngineInt4Test, AWeightThatF16DoesNotHoldHasNoCodes) {
  TestWeights damaged = weights_;
  for (auto& [name, values] : damaged) {
    if (absl::StrContains(name, ".down") || absl::StrContains(name, ".out")) values.back() = 1e6;
  }
  const absl::Status status = BuildTestEngine(path_ + ".damaged", *graph_, damaged, Int4Options(), kEos);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("larger than f16 holds, in row"));
}

frontend::TestModelShape Shape() {
  return {.kv_heads = 2, .hidden = 64, .vocabulary = kVocab, .context_length = kContext};
}

INSTANTIATE_TEST_SUITE_P(
    Models, EngineInt4Test,
    ::testing::Values(ModelCase{"gpt2",
                                frontend::Gpt2Json({.hidden = 64, .vocabulary = kVocab, .context_length = kContext})},
                      ModelCase{"llama", frontend::LlamaJson(Shape())}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace flashflow::runtime
