// Engines on a GPU against the interpreter, the CPU and themselves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/interpreter/interpreter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/api/engine.h"
#include "runtime/api/generate_testing.h"
#include "runtime/api/test_engine.h"
#include "runtime/cuda/cuda_library.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int64_t kVocab = 61, kContext = 512;
constexpr double kF32Eps = 0x1p-24, kBF16Eps = 0x1p-9;  // of one rounding, relative
constexpr double kInt8Eps = 1 / 254.0;                  // of a code, relative to its head's largest element

frontend::TestModelShape Shape(int64_t head_dim, int64_t kv_heads, int64_t mlp = 136) {
  frontend::TestModelShape shape;
  shape.heads = 4;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.hidden = mlp;
  shape.vocabulary = kVocab;
  shape.context_length = kContext;
  return shape;
}

std::vector<int32_t> Prompt(int64_t length, uint32_t seed) { return TestPrompt(length, seed, kVocab); }

struct ModelCase {
  std::string name, json, dtype;
  int64_t width;  // of the residual stream
  std::string kv_dtype = {};
  std::string quantize = {};  // as CompileOptions
};

std::unique_ptr<Engine> OpenOn(const std::string& path, std::string device, bool batch_invariant = false) {
  EngineOptions options;
  options.device = std::move(device);
  options.threads = 2;
  options.max_batch = 64;
  options.batch_invariant = batch_invariant;
  auto opened = Engine::Open(path, options);
  CHECK_OK(opened.status());
  return *std::move(opened);
}

// One engine file a model, built once for all tests, and open on the GPU.
struct Model {
  explicit Model(const ModelCase& model) : path(fs::path(::testing::TempDir()) / absl::StrCat(model.name, ".ff")) {
    auto imported = frontend::ImportGraph(model.json);
    CHECK_OK(imported.status());
    graph = *std::move(imported);
    weights = RandomWeights(*graph, 1, 0.2f);
    passes::CompileOptions options;
    options.dtype = model.dtype;
    options.kv_dtype = model.kv_dtype;
    options.quantize = model.quantize;
    CHECK_OK(BuildTestEngine(path, *graph, weights, options, /*eos=*/7));
    engine = OpenOn(path, "cuda");
  }

  std::string path;
  std::unique_ptr<ir::Graph> graph;
  TestWeights weights;
  std::unique_ptr<Engine> engine;
};

const Model& ModelOf(const ModelCase& model) {
  static auto* models = new std::map<std::string, std::unique_ptr<Model>>;
  std::unique_ptr<Model>& entry = (*models)[model.name];
  if (!entry) entry = std::make_unique<Model>(model);
  return *entry;
}

// The rectangular graph in double, its weights in f32, on the whole sequence at once.
std::vector<double> Oracle(const Model& model, const std::vector<int32_t>& tokens) {
  return WideLogits(*model.graph, InterpreterWeights(*model.graph, model.weights), tokens);
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

SamplingParams Random(int max_tokens, uint64_t seed) {
  SamplingParams params = Greedy(max_tokens);
  params.temperature = 1.5f;
  params.top_p = 0.95f;
  params.seed = seed;
  return params;
}

class EngineCudaTest : public ::testing::TestWithParam<ModelCase> {
 protected:
  const Model& model() const { return ModelOf(GetParam()); }
  Engine& engine() const { return *model().engine; }
  bool is_bf16() const { return GetParam().dtype == "bf16"; }
  bool is_coded() const { return GetParam().kv_dtype == "int8"; }

  // The share of the largest logit that a logit may be off by. Each of two layers sums products over its width, over
  // its MLP's 136 and over at most kContext values, and passes on the errors before it with a gain of a few. f32: every
  // addition rounds. bf16: sums are f32, and about ten values a layer are rounded to bf16 one after the other, weights
  // among them. Codes of keys and values round once more.
  double Bound() const {
    const double layers = 2, gain = 8, codes = is_coded() ? kInt8Eps : 0;
    if (is_bf16()) return layers * gain * (10 * kBF16Eps + codes);
    return layers * gain * (static_cast<double>(GetParam().width + 136 + kContext) * kF32Eps + codes);
  }
};

double LargestOf(const double* row) {
  double largest = 0;
  for (int64_t v = 0; v < kVocab; ++v) largest = std::max(largest, std::abs(row[v]));
  return largest;
}

TEST_P(EngineCudaTest, LogitsAreTheGraphs) {
  EXPECT_EQ(engine().info().device, "cuda");
  const std::vector<int32_t> tokens = Prompt(300, 3);  // more than Forward takes in one step
  const std::vector<float> ours = Forward(engine(), tokens);
  std::vector<double> oracle;
  if (GetParam().quantize.empty()) {
    oracle = Oracle(model(), tokens);
  } else {  // codes of the same weights, by the CPU: what differs are roundings to bf16, and codes that they tip over
    EXPECT_EQ(engine().info().dtype, GetParam().quantize);
    const std::vector<float> cpu = Forward(*OpenOn(model().path, "cpu"), tokens);
    oracle.assign(cpu.begin(), cpu.end());
  }
  ASSERT_EQ(ours.size(), oracle.size());
  for (size_t t = 0; t < tokens.size(); ++t) {
    const double* row = oracle.data() + t * kVocab;
    double error = 0;
    for (int64_t v = 0; v < kVocab; ++v) error = std::max(error, std::abs(ours[t * kVocab + v] - row[v]));
    EXPECT_LE(error, Bound() * LargestOf(row)) << "position " << t;
  }
}

// 200 tokens one at a time, by recorded steps; each step's log-probabilities against the CPU, which reads the sequence
// as a prompt, and each token where its margin is beyond what both may be off by.
TEST_P(EngineCudaTest, DecodingFollowsTheCpu) {
  const std::vector<int32_t> prompt = Prompt(9, 1);
  SamplingParams params = Greedy(200);
  params.logprobs = kVocab;
  ASSERT_TRUE(engine().Submit(prompt, params).ok());
  const std::vector<TokenEvent> events = RunAll(engine()).begin()->second;
  ASSERT_THAT(events, SizeIs(200));
  EXPECT_EQ(Generate(engine(), prompt, Greedy(200)), Tokens(events)) << "drawn on the GPU and on the host";

  std::vector<int32_t> sequence = prompt;
  for (const TokenEvent& event : events) sequence.push_back(event.token);
  const std::unique_ptr<Engine> cpu = OpenOn(model().path, "cpu");
  const std::vector<float> logits = Forward(*cpu, sequence);
  int skipped = 0;
  for (size_t i = 0; i < events.size(); ++i) {
    const float* row = logits.data() + (prompt.size() + i - 1) * kVocab;
    std::vector<double> wide(row, row + kVocab);
    const double bound = 2 * Bound() * LargestOf(wide.data());
    double sum = 0;
    for (const double logit : wide) sum += std::exp(logit);
    for (const auto& [token, logprob] : events[i].top_logprobs) {
      EXPECT_LE(std::abs(wide[static_cast<size_t>(token)] - std::log(sum) - logprob), 2 * bound) << "step " << i;
    }
    const auto best = std::max_element(wide.begin(), wide.end());
    const double margin = *best - wide[static_cast<size_t>(events[i].token)];
    if (margin > 0) ++skipped;
    EXPECT_LE(margin, 2 * bound) << "step " << i;
  }
  EXPECT_LE(skipped, is_bf16() || is_coded() ? 20 : 4);
}

TEST_P(EngineCudaTest, TheSameBitsWhateverTheNeighboursAndThePlace) {
  const std::vector<int32_t> prompt = Prompt(21, 5);
  std::vector<int32_t> expected;
  std::mt19937 random(1);
  for (int run = 0; run < 100; ++run) {
    // A batch of four: the same bucket, other neighbours, another place.
    const int place = run % 4;
    int64_t mine = 0;
    for (int i = 0; i < 4; ++i) {
      const bool is_mine = i == place;
      const auto id = engine().Submit(is_mine ? prompt : Prompt(21, static_cast<uint32_t>(random())),
                                      Random(40, is_mine ? 11 : random()));
      ASSERT_TRUE(id.ok()) << id.status();
      if (is_mine) mine = *id;
    }
    const std::vector<int32_t> tokens = Tokens(RunAll(engine()).at(mine));
    if (run == 0) expected = tokens;
    EXPECT_EQ(tokens, expected) << "run " << run;
  }
}

TEST_P(EngineCudaTest, BatchInvariantInBatchesOfAnySizeAndPromptsInChunks) {
  const std::unique_ptr<Engine> invariant = OpenOn(model().path, "cuda", /*batch_invariant=*/true);
  const std::vector<int32_t> prompt = Prompt(300, 5);  // Forward cuts it
  SamplingParams params = Greedy(24);
  params.logprobs = kVocab;
  ASSERT_TRUE(invariant->Submit(prompt, params).ok());
  const std::vector<TokenEvent> alone = RunAll(*invariant).begin()->second;
  for (const int batch : {3, 8, 64}) {
    int64_t mine = 0;
    for (int i = 0; i < batch; ++i) {
      const auto id = invariant->Submit(i == batch / 2 ? prompt : Prompt(1 + i % 40, static_cast<uint32_t>(i)), params);
      ASSERT_TRUE(id.ok()) << id.status();
      if (i == batch / 2) mine = *id;
    }
    const auto together = RunAll(*invariant);
    const std::vector<TokenEvent>& events = together.at(mine);
    EXPECT_EQ(Tokens(events), Tokens(alone)) << "batch " << batch;
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].top_logprobs, alone[i].top_logprobs) << "batch " << batch << ", token " << i;
    }
  }
  std::vector<int32_t> sequence = prompt;
  for (const TokenEvent& event : alone) sequence.push_back(event.token);
  const std::vector<float> logits = Forward(*invariant, sequence);
  for (size_t i = 0; i < alone.size(); ++i) {
    const float* row = logits.data() + (prompt.size() + i - 1) * kVocab;
    EXPECT_EQ(std::max_element(row, row + kVocab) - row, alone[i].token) << "token " << i;
    double sum = 0;
    for (int64_t v = 0; v < kVocab; ++v) sum += std::exp(double{row[v]} - row[alone[i].token]);
    EXPECT_EQ(alone[i].top_logprobs[0].second, static_cast<float>(-std::log(sum))) << "token " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, EngineCudaTest,
    ::testing::Values(ModelCase{"gpt2_f32", frontend::Gpt2Json(Shape(16, 4)), "f32", 64},
                      ModelCase{"gpt2_bf16", frontend::Gpt2Json(Shape(64, 4)), "bf16", 256},
                      ModelCase{"llama_f32", frontend::LlamaJson(Shape(16, 2)), "f32", 64},
                      ModelCase{"llama_bf16", frontend::LlamaJson(Shape(64, 2)), "bf16", 256},
                      ModelCase{"gpt2_bf16_kv_int8", frontend::Gpt2Json(Shape(64, 4)), "bf16", 256, "int8"},
                      ModelCase{"llama_f32_kv_int8", frontend::LlamaJson(Shape(16, 2)), "f32", 64, "int8"},
                      ModelCase{"gpt2_int8", frontend::Gpt2Json(Shape(64, 4, 144)), "bf16", 256, "", "int8"},
                      ModelCase{"llama_int8", frontend::LlamaJson(Shape(64, 2, 144)), "bf16", 256, "", "int8"}),
    [](const auto& info) { return info.param.name; });

class CudaServingTest : public ::testing::Test {
 protected:
  const Model& model() const { return ModelOf({"llama_bf16", frontend::LlamaJson(Shape(64, 2)), "bf16", 256}); }
  static int64_t FreeBytes() {
    const auto api = LoadCudaLibrary();
    CHECK_OK(api.status());
    size_t free = 0, total = 0;
    CHECK((*api)->mem_get_info(&free, &total) == cudaSuccess);
    return static_cast<int64_t>(free);
  }
};

TEST_F(CudaServingTest, AThousandRequestsLeaveNothingBehind) {
  Engine& engine = *model().engine;
  std::mt19937 random(3);
  int64_t before = 0, tokens = 0, expected = 0;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 100; ++i) {
      const int length = 1 + static_cast<int>(random() % 90), count = 1 + static_cast<int>(random() % 30);
      const auto id = engine.Submit(Prompt(length, static_cast<uint32_t>(random())), Random(count, random()));
      ASSERT_TRUE(id.ok()) << id.status();
      if (i % 10 == 9) {
        EXPECT_TRUE(engine.Cancel(*id));
      } else {
        expected += count;
      }
    }
    for (const auto& [id, events] : RunAll(engine)) tokens += static_cast<int64_t>(events.size());
    if (round == 0) before = FreeBytes();  // every size of step has come up
  }
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(FreeBytes(), before);
  // All pages are free: as many requests of the whole context run at once as there were to begin with.
  const int64_t whole = engine.info().kv_cache_pages * engine.info().page_size / kContext;
  for (int64_t i = 0; i < whole; ++i) ASSERT_TRUE(engine.Submit(Prompt(kContext - 2, 1), Greedy(2)).ok());
  EXPECT_THAT(RunAll(engine), SizeIs(static_cast<size_t>(whole)));
}

TEST_F(CudaServingTest, CancelledAndEndedRequestsInFlightHarmNobody) {
  Engine& engine = *model().engine;
  const std::vector<int32_t> prompt = Prompt(30, 2);
  const std::vector<int32_t> expected = Generate(engine, prompt, Greedy(40));
  SamplingParams stops = Greedy(40);
  stops.stop_token_ids = {expected[10]};
  const int64_t mine = *engine.Submit(prompt, Greedy(40)), stopped = *engine.Submit(prompt, stops),
                cancelled = *engine.Submit(Prompt(12, 9), Greedy(40));
  std::map<int64_t, std::vector<int32_t>> tokens;
  for (int step = 0; engine.HasWork(); ++step) {
    const auto events = engine.Step();
    ASSERT_TRUE(events.ok()) << events.status();
    for (const TokenEvent& event : *events) tokens[event.request].push_back(event.token);
    if (step == 5) {
      EXPECT_TRUE(engine.Cancel(cancelled));
      // Its pages are taken at once.
      ASSERT_TRUE(engine.Submit(prompt, Greedy(40)).ok());
    }
  }
  const auto first_stop = std::find(expected.begin(), expected.end(), expected[10]) - expected.begin();
  EXPECT_THAT(tokens[stopped], SizeIs(static_cast<size_t>(first_stop) + 1));
  EXPECT_LE(tokens[cancelled].size(), 6u);
  EXPECT_THAT(tokens[mine], SizeIs(40));
  EXPECT_THAT(tokens[cancelled + 1], SizeIs(40));
}

TEST_F(CudaServingTest, MemoryThatIsNotThereIsNamedAndTheEngineGoesOn) {
  const std::vector<int32_t> before = Generate(*model().engine, Prompt(5, 1), Greedy(8));
  EngineOptions options;
  options.device = "cuda";
  options.max_batch = 256;
  options.kv_cache_bytes = int64_t{1} << 50;
  const auto opened = Engine::Open(model().path, options);
  // Held to what max_batch can use, it may fit; then it works.
  if (!opened.ok()) {
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("kv_cache_bytes"));
  }
  EXPECT_EQ(Generate(*model().engine, Prompt(5, 1), Greedy(8)), before);
  options.device = "cuda:63";
  EXPECT_EQ(Engine::Open(model().path, options).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CudaServingTest, TwoEnginesAndSeveralThreads) {
  const std::unique_ptr<Engine> other = OpenOn(model().path, "cuda");
  const std::vector<int32_t> expected = Generate(*other, Prompt(20, 4), Greedy(30));
  std::vector<std::vector<int32_t>> tokens(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < tokens.size(); ++i) {
    threads.emplace_back([&, i] {
      // Whoever steps gets everybody's events: each thread has an engine of its own, two share the process's GPU state.
      const std::unique_ptr<Engine> own = OpenOn(model().path, "cuda");
      tokens[i] = Generate(*own, Prompt(20, 4), Greedy(30));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int32_t>& one : tokens) EXPECT_EQ(one, expected);
}

}  // namespace
}  // namespace flashflow::runtime
