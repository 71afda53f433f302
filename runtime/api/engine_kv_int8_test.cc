// Engines whose KV cache is of int8 codes: what they compute, and what they hold.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "compiler/driver/compile.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/interpreter/interpreter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/api/engine.h"
#include "runtime/api/generate_testing.h"
#include "runtime/api/test_engine.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::SizeIs;

constexpr int64_t kVocab = 61, kContext = 64, kPageSize = 4;

struct Model {
  explicit Model(const std::string& kv_dtype) {
    frontend::TestModelShape shape;
    shape.kv_heads = 2;
    shape.vocabulary = kVocab;
    shape.context_length = kContext;
    auto imported = frontend::ImportGraph(frontend::LlamaJson(shape));
    CHECK_OK(imported.status());
    graph = *std::move(imported);
    weights = RandomWeights(*graph, 1);
    options.kv_dtype = kv_dtype;
    options.page_size = kPageSize;
    options.max_tokens = 16;
    path = fs::path(::testing::TempDir()) / ("llama_kv_" + kv_dtype + ".ff");
    CHECK_OK(BuildTestEngine(path, *graph, weights, options, /*eos=*/7));
  }
  std::unique_ptr<Engine> Open(int64_t kv_cache_bytes = 0) const {
    auto opened = Engine::Open(path, {.threads = 2, .max_batch = 3, .kv_cache_bytes = kv_cache_bytes});
    CHECK_OK(opened.status());
    return *std::move(opened);
  }
  std::string path;
  std::unique_ptr<ir::Graph> graph;
  TestWeights weights;
  passes::CompileOptions options;
};

// The step graph by the interpreter, one row of all tokens at once, each value rounded or coded as its type says.
std::vector<double> StepLogits(const Model& model, const std::vector<int32_t>& tokens) {
  passes::CompileOptions options = model.options;
  options.max_tokens = options.max_logit_rows = kContext;
  const auto compiled = driver::Compile(*model.graph, options);
  CHECK_OK(compiled.status());
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t pages = (count + kPageSize - 1) / kPageSize;
  std::vector<int64_t> positions, table;
  for (int64_t i = 0; i < count; ++i) positions.push_back(i);
  for (int64_t p = 0; p < pages; ++p) table.push_back(p);
  interpreter::Values inputs;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, const std::vector<int64_t>& values) {
    inputs.emplace(name, interpreter::Tensor::Ints(std::move(shape), values));
  };
  add("token_ids", {count}, {tokens.begin(), tokens.end()});
  add("positions", {count}, positions);
  add("logit_rows", {count}, positions);
  add("row_start", {2}, {0, count});
  add("kv_len", {1}, {count});
  add("block_table", {1, pages}, table);
  const ir::CacheType cache = compiled->step_graph->FindInput("cache")->type().cache();
  inputs.emplace("cache", interpreter::Cache::Empty(cache, pages, kPageSize));
  const auto outputs = interpreter::Interpret(*compiled->step_graph, std::move(inputs),
                                              interpreter::WeightsFrom(InterpreterWeights(*model.graph, model.weights)),
                                              interpreter::Mode::kTyped);
  CHECK_OK(outputs.status());
  return std::get<interpreter::Tensor>(outputs->at("logits")).floats;
}

template <typename A, typename B>
double Distance(const std::vector<A>& a, const std::vector<B>& b) {
  CHECK_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

// The engine's keys and values have the interpreter's codes but for those that a rounding tips over, each by a step of
// its own element: far less than what coding all of them does to the logits of the float model.
TEST(EngineKvInt8Test, LogitsAreTheInterpreters) {
  const Model model("int8");
  const std::unique_ptr<Engine> engine = model.Open();
  const std::vector<int32_t> tokens = TestPrompt(kContext, 3, kVocab);
  const std::vector<float> ours = Forward(*engine, tokens);
  const std::vector<double> coded = StepLogits(model, tokens);
  const std::vector<double> floats = WideLogits(*model.graph, InterpreterWeights(*model.graph, model.weights), tokens);
  EXPECT_LT(Distance(ours, coded), Distance(floats, coded) / 16);
  EXPECT_GT(Distance(floats, coded), 0);
}

// Head_dim 8 in f32 takes 32 bytes a head, key and token; codes and a scale take 12.
TEST(EngineKvInt8Test, TheSameMemoryHoldsMoreTokens) {
  const std::unique_ptr<Engine> plain = Model("").Open(), coded = Model("int8").Open();
  EXPECT_EQ(plain->info().kv_dtype, "float32");
  EXPECT_EQ(coded->info().kv_dtype, "int8");
  EXPECT_EQ(coded->info().dtype, "float32");
  EXPECT_EQ(coded->info().kv_cache_pages, plain->info().kv_cache_pages);
  EXPECT_EQ(coded->info().kv_cache_bytes * 32, plain->info().kv_cache_bytes * 12);
  const int64_t bytes = plain->info().kv_cache_bytes / 4;
  EXPECT_EQ(Model("").Open(bytes)->info().kv_cache_pages, plain->info().kv_cache_pages / 4);
  EXPECT_EQ(Model("int8").Open(bytes)->info().kv_cache_pages, plain->info().kv_cache_pages / 4 * 32 / 12);
}

// Pages that one request gave back hold the next one's codes: what was in them before leaves no trace.
TEST(EngineKvInt8Test, PagesAreUsedAgain) {
  const Model model("int8");
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = 20;
  params.ignore_eos = true;
  const std::unique_ptr<Engine> large = model.Open();
  const int64_t one_context = large->info().kv_cache_bytes / 3;
  const std::unique_ptr<Engine> small = model.Open(one_context);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const std::vector<int32_t> prompt = TestPrompt(11 + 5 * seed, seed, kVocab);
    EXPECT_EQ(Generate(*small, prompt, params), Generate(*model.Open(), prompt, params)) << seed;
  }
  // More than fits at once: requests wait for pages.
  for (uint32_t seed = 0; seed < 6; ++seed) ASSERT_TRUE(small->Submit(TestPrompt(30, seed, kVocab), params).ok());
  const auto waited = RunAll(*small);
  EXPECT_THAT(waited, SizeIs(6));
  uint32_t seed = 0;
  for (const auto& [id, events] : waited) {
    EXPECT_EQ(Tokens(events), Generate(*large, TestPrompt(30, seed++, kVocab), params));
  }
}

}  // namespace
}  // namespace flashflow::runtime
