#include "runtime/api/engine.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "compiler/driver/compile.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/api/generate_testing.h"
#include "runtime/api/test_engine.h"
#include "runtime/engine/engine_file.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::SizeIs;

constexpr int64_t kVocab = 61, kContext = 64;
constexpr int32_t kEos = 7;
constexpr double kF32Eps = 0x1p-24, kBF16Eps = 0x1p-9;  // of one rounding, relative
constexpr double kInt8Eps = 1 / 254.0;                  // of a code, relative to its head's largest element

// Steps so small that a prompt of a few dozen tokens is read in chunks.
passes::CompileOptions SmallSteps(std::string dtype, std::string kv_dtype = {}) {
  passes::CompileOptions options;
  options.dtype = std::move(dtype);
  options.kv_dtype = std::move(kv_dtype);
  options.page_size = 4;
  options.max_tokens = 16;
  options.max_rows = 6;
  options.max_logit_rows = 8;
  return options;
}

frontend::TestModelShape Shape(int64_t kv_heads) {
  frontend::TestModelShape shape;
  shape.kv_heads = kv_heads;
  shape.vocabulary = kVocab;
  shape.context_length = kContext;
  return shape;
}

std::vector<int32_t> Prompt(int64_t length, uint32_t seed) { return TestPrompt(length, seed, kVocab); }

struct ModelCase {
  std::string name, json, dtype, kv_dtype = {};
};

// One engine a model, built once for all tests.
struct Model {
  explicit Model(const ModelCase& model) : path(fs::path(::testing::TempDir()) / absl::StrCat(model.name, ".ff")) {
    auto imported = frontend::ImportGraph(model.json);
    CHECK_OK(imported.status());
    graph = *std::move(imported);
    weights = RandomWeights(*graph, 1);
    CHECK_OK(BuildTestEngine(path, *graph, weights, SmallSteps(model.dtype, model.kv_dtype), kEos));
    engine = Open({});
  }
  std::unique_ptr<Engine> Open(EngineOptions options) const {
    options.threads = 2;
    if (options.max_batch == EngineOptions().max_batch) options.max_batch = 6;
    auto opened = Engine::Open(path, options);
    CHECK_OK(opened.status());
    return *std::move(opened);
  }
  std::vector<float> Forward(const std::vector<int32_t>& tokens) const { return runtime::Forward(*engine, tokens); }

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

// The graph as the engine file holds it, evaluated in double on the whole sequence at once.
std::vector<double> Oracle(const Model& model, const std::vector<int32_t>& tokens) {
  const auto file = engine::EngineFile::Open(model.path);
  CHECK_OK(file.status());
  const auto graph = ir::Parse((*file)->section("ff.graph").value());
  CHECK_OK(graph.status());
  absl::flat_hash_map<std::string, interpreter::Tensor> weights;
  for (const auto& [name, stored] : (*file)->weights()) {
    const bool wide = stored.dtype == DType::kF32;
    std::vector<double> values(stored.bytes.size() / (wide ? 4 : 2));
    for (size_t i = 0; i < values.size(); ++i) {
      uint32_t bits = 0;
      if (wide) {
        std::memcpy(&bits, stored.bytes.data() + 4 * i, 4);
      } else {
        uint16_t half = 0;
        std::memcpy(&half, stored.bytes.data() + 2 * i, 2);
        bits = uint32_t{half} << 16;
      }
      values[i] = std::bit_cast<float>(bits);
    }
    weights.emplace(name, interpreter::Tensor::Floats(stored.shape, std::move(values), stored.dtype));
  }
  return WideLogits(**graph, std::move(weights), tokens);
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  params.logprobs = 1;
  return params;
}

class EngineModelTest : public ::testing::TestWithParam<ModelCase> {
 protected:
  const Model& model() const { return ModelOf(GetParam()); }
};

// f32: each of the about 60 additions that a logit's longest path takes (K = 32 and 48 in 2 layers, softmax over at
// most 64 slots) rounds once, against values up to the largest logit; errors of the layers before are passed on with a
// gain of a few. bf16 and int8 round keys and values once besides.
TEST_P(EngineModelTest, LogitsAreTheGraphs) {
  const double layers = 2, terms = 32 + 48 + 64, gain = 8;
  const double stored = GetParam().kv_dtype == "int8" ? kInt8Eps : GetParam().dtype == "bf16" ? kBF16Eps : 0;
  const double relative = layers * gain * (terms * kF32Eps + stored);
  const std::vector<int32_t> tokens = Prompt(kContext, 3);
  const std::vector<float> ours = model().Forward(tokens);
  const std::vector<double> oracle = Oracle(model(), tokens);
  ASSERT_EQ(ours.size(), oracle.size());
  for (size_t t = 0; t < tokens.size(); ++t) {
    double largest = 0, error = 0;
    for (size_t v = t * kVocab; v < (t + 1) * kVocab; ++v) {
      largest = std::max(largest, std::abs(oracle[v]));
      error = std::max(error, std::abs(ours[v] - oracle[v]));
    }
    EXPECT_LE(error, relative * largest) << "position " << t;
  }
}

// A token's logits are the same bits however its sequence came into the cache.
TEST_P(EngineModelTest, EachWayToTheSameTokensGivesTheSameBits) {
  Engine& engine = *model().engine;
  struct Expected {
    std::vector<int32_t> prompt;
    std::vector<TokenEvent> alone;
  };
  std::map<int64_t, Expected> expected;
  const int64_t lengths[] = {1, 5, 16, 17, 40, 3, 2, 33};  // below, at and above the step's 16 tokens
  std::vector<Expected> cases;
  for (int64_t length : lengths) {
    Expected one{Prompt(length, static_cast<uint32_t>(length)), {}};
    ASSERT_TRUE(engine.Submit(one.prompt, Greedy(12)).ok());
    one.alone = RunAll(engine).begin()->second;
    ASSERT_THAT(one.alone, SizeIs(12));
    cases.push_back(std::move(one));
  }
  for (const Expected& one : cases) expected[engine.Submit(one.prompt, Greedy(12)).value()] = one;
  const auto together = RunAll(engine);
  ASSERT_EQ(together.size(), expected.size());
  for (const auto& [id, one] : expected) {
    const std::vector<TokenEvent>& events = together.at(id);
    EXPECT_EQ(Tokens(events), Tokens(one.alone)) << one.prompt.size();
    for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].logprob, one.alone[i].logprob);

    const std::vector<int32_t> generated = Tokens(events);
    std::vector<int32_t> sequence = one.prompt;
    sequence.insert(sequence.end(), generated.begin(), generated.end());
    const std::vector<float> logits = model().Forward(sequence);
    for (size_t i = 0; i < events.size(); ++i) {
      const float* row = logits.data() + (one.prompt.size() + i - 1) * kVocab;
      EXPECT_EQ(std::max_element(row, row + kVocab) - row, events[i].token) << "token " << i;
      double sum = 0;
      for (int64_t v = 0; v < kVocab; ++v) sum += std::exp(double{row[v]} - row[events[i].token]);
      EXPECT_FLOAT_EQ(events[i].logprob, static_cast<float>(-std::log(sum))) << "token " << i;
    }
  }
}

TEST_P(EngineModelTest, InfoTellsTheModel) {
  const EngineInfo& info = model().engine->info();
  EXPECT_EQ(info.name, "tiny");
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.dtype, GetParam().dtype == "bf16" ? "bfloat16" : "float32");
  EXPECT_EQ(info.kv_dtype, GetParam().kv_dtype.empty() ? info.dtype : "int8");
  EXPECT_EQ(info.threads, 2);
  EXPECT_EQ(info.context_length, kContext);
  EXPECT_EQ(info.vocab_size, kVocab);
  EXPECT_EQ(info.eos_token_ids, std::vector<int32_t>{kEos});
  EXPECT_EQ(info.kv_cache_pages, 6 * kContext / 4);
  EXPECT_TRUE(info.plan_was_stored);
  // All but embeddings, norms and tables, padded to panels of 16: at least the head and 2 layers.
  const int64_t bytes = GetParam().dtype == "bf16" ? 2 : 4;
  EXPECT_GE(info.weight_bytes_per_token, bytes * (kVocab * 32 + 2 * 32 * (2 * 32 + 2 * 48)));
  EXPECT_LT(info.weight_bytes_per_token, info.weight_bytes);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineModelTest,
                         ::testing::Values(ModelCase{"gpt2_f32", frontend::Gpt2Json(Shape(4)), "f32"},
                                           ModelCase{"gpt2_bf16", frontend::Gpt2Json(Shape(4)), "bf16"},
                                           ModelCase{"llama_f32", frontend::LlamaJson(Shape(2)), "f32"},
                                           ModelCase{"llama_bf16", frontend::LlamaJson(Shape(2)), "bf16"},
                                           ModelCase{"llama_f32_kv_int8", frontend::LlamaJson(Shape(2)), "f32", "int8"},
                                           ModelCase{"gpt2_bf16_kv_int8", frontend::Gpt2Json(Shape(4)), "bf16",
                                                     "int8"}),
                         [](const auto& info) { return info.param.name; });

class EngineTest : public ::testing::Test {
 protected:
  const Model& model() const { return ModelOf({"llama_f32", frontend::LlamaJson(Shape(2)), "f32"}); }
  Engine& engine() const { return *model().engine; }

  // A copy of the engine file in which `change` has had its hands on the sections.
  std::string Rewritten(const std::function<void(std::vector<engine::EngineSection>&)>& change) const {
    const auto file = engine::EngineFile::Open(model().path);
    CHECK_OK(file.status());
    engine::EngineContents contents{"test", {}, {}};
    for (const char* name : {"ff.graph", "ff.plan.cpu", "ff.config", "ff.tokenizer"}) {
      contents.sections.push_back({name, std::string((*file)->section(name).value())});
    }
    change(contents.sections);
    for (const auto& [name, weight] : (*file)->weights())
      contents.weights.push_back({name, weight.dtype, weight.shape});
    const std::string path = fs::path(::testing::TempDir()) / "rewritten.ff";
    CHECK_OK(engine::WriteEngine(path, contents, [&](std::string_view name) -> absl::StatusOr<engine::SourceTensor> {
      const engine::EngineWeight* weight = (*file)->weight(name).value();
      return engine::SourceTensor{weight->bytes.data(), weight->dtype, weight->shape};
    }));
    return path;
  }
};

TEST_F(EngineTest, EndsWhereItIsToldTo) {
  const std::vector<int32_t> prompt = Prompt(5, 1);
  ASSERT_TRUE(engine().Submit(prompt, Greedy(20)).ok());
  const std::vector<TokenEvent> free_running = RunAll(engine()).begin()->second;
  EXPECT_EQ(free_running.back().finish_reason, FinishReason::kLength);
  for (size_t i = 0; i + 1 < free_running.size(); ++i) EXPECT_EQ(free_running[i].finish_reason, FinishReason::kNone);

  SamplingParams params = Greedy(20);
  const int32_t stop = free_running[6].token;
  params.stop_token_ids = {kVocab + 1, stop};
  ASSERT_TRUE(engine().Submit(prompt, params).ok());
  const std::vector<TokenEvent> stopped = RunAll(engine()).begin()->second;
  EXPECT_EQ(stopped.back().token, stop);
  EXPECT_EQ(stopped.back().finish_reason, FinishReason::kStop);
  EXPECT_THAT(stopped, SizeIs(Le(7)));
}

TEST_F(EngineTest, EndsAtTheModelsOwnToken) {
  SamplingParams params = Greedy(60);
  params.temperature = 50;  // nearly uniform: 60 draws of 61 tokens miss one token of these seeds' all but never
  params.ignore_eos = false;
  int ended = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    params.seed = seed;
    ASSERT_TRUE(engine().Submit({1}, params).ok());
    for (const auto& [id, events] : RunAll(engine())) {
      for (const TokenEvent& event : events) EXPECT_EQ(event.token == kEos, event.finish_reason == FinishReason::kEos);
      ended += events.back().finish_reason == FinishReason::kEos ? 1 : 0;
    }
  }
  EXPECT_GT(ended, 0);
}

TEST_F(EngineTest, EndsWhereTheContextDoes) {
  ASSERT_TRUE(engine().Submit(Prompt(kContext - 3, 1), Greedy(100)).ok());
  const auto events = RunAll(engine()).begin()->second;
  EXPECT_THAT(events, SizeIs(3));
  EXPECT_EQ(events.back().finish_reason, FinishReason::kLength);
}

TEST_F(EngineTest, TheSameSeedDrawsTheSameTokensWhateverRunsBesides) {
  SamplingParams params;
  params.max_tokens = 20;
  params.ignore_eos = true;
  params.temperature = 1.5;
  params.top_p = 0.95f;
  params.seed = 1234;
  ASSERT_TRUE(engine().Submit(Prompt(9, 1), params).ok());
  const std::vector<int32_t> alone = Tokens(RunAll(engine()).begin()->second);
  ASSERT_TRUE(engine().Submit(Prompt(30, 2), Greedy(30)).ok());
  const int64_t id = engine().Submit(Prompt(9, 1), params).value();
  params.seed = 1235;
  const int64_t other = engine().Submit(Prompt(9, 1), params).value();
  auto together = RunAll(engine());
  EXPECT_EQ(Tokens(together[id]), alone);
  EXPECT_NE(Tokens(together[other]), alone);
}

TEST_F(EngineTest, CanceledRequestsAreSilentAndGiveTheirPagesBack) {
  std::vector<int64_t> ids;
  for (uint32_t i = 0; i < 9; ++i) ids.push_back(engine().Submit(Prompt(kContext - 10, i), Greedy(10)).value());
  ASSERT_TRUE(engine().Step().ok());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i != 4) {
      EXPECT_TRUE(engine().Cancel(ids[i]));
    }
  }
  EXPECT_FALSE(engine().Cancel(ids[0]));
  EXPECT_FALSE(engine().Cancel(-5));
  const auto events = RunAll(engine());
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events.begin()->first, ids[4]);
  EXPECT_FALSE(engine().HasWork());
  EXPECT_THAT(engine().Step().value(), IsEmpty());
  // All six rows of the whole context fit at once again.
  for (uint32_t i = 0; i < 6; ++i) ASSERT_TRUE(engine().Submit(Prompt(kContext - 1, i), Greedy(1)).ok());
  EXPECT_THAT(RunAll(engine()), SizeIs(6));
}

TEST_F(EngineTest, BadRequestsAreNamed) {
  const auto error = [&](const std::vector<int32_t>& prompt, const SamplingParams& params) {
    const absl::Status status = engine().Submit(prompt, params).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(engine().HasWork());
    return std::string(status.message());
  };
  EXPECT_THAT(error({}, {}), HasSubstr("empty"));
  EXPECT_THAT(error({kVocab}, {}), HasSubstr("vocabulary"));
  EXPECT_THAT(error(Prompt(kContext, 1), {}), HasSubstr("context length"));
  SamplingParams params;
  params.top_p = 0;
  EXPECT_THAT(error({1}, params), HasSubstr("top_p"));
}

TEST_F(EngineTest, ForwardRefusesWhatItCannotTake) {
  std::vector<float> logits(2 * kVocab);
  const auto code = [&](const std::vector<int32_t>& tokens) {
    return engine().Forward(tokens, absl::MakeSpan(logits)).code();
  };
  EXPECT_EQ(code({1, 2}), absl::StatusCode::kOk);
  EXPECT_EQ(code({1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, kVocab}), absl::StatusCode::kInvalidArgument);
  logits.resize((kContext + 1) * kVocab);
  EXPECT_EQ(code(Prompt(kContext + 1, 1)), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, BatchInvariantOnTheCpuIsNoOtherPath) {
  EngineOptions options;
  options.batch_invariant = true;
  const auto engine = model().Open(options);
  std::vector<float> logits(40 * kVocab);
  ASSERT_EQ(engine->Forward(Prompt(40, 1), absl::MakeSpan(logits)), absl::OkStatus());
  EXPECT_EQ(logits, model().Forward(Prompt(40, 1)));
}

TEST_F(EngineTest, ForwardAndRequestsShareTheCacheFairly) {
  EngineOptions options;
  options.max_batch = 1;
  const auto engine = model().Open(options);
  EXPECT_EQ(engine->info().kv_cache_pages, kContext / 4);
  const std::vector<int32_t> tokens = Prompt(kContext, 1);
  std::vector<float> logits(kContext * kVocab);
  ASSERT_EQ(engine->Forward(tokens, absl::MakeSpan(logits)), absl::OkStatus());
  ASSERT_TRUE(engine->Submit(Prompt(8, 1), Greedy(10)).ok());
  ASSERT_TRUE(engine->Step().ok());
  EXPECT_EQ(engine->Forward(tokens, absl::MakeSpan(logits)).code(), absl::StatusCode::kResourceExhausted);
  RunAll(*engine);
  EXPECT_EQ(engine->Forward(tokens, absl::MakeSpan(logits)), absl::OkStatus());
}

TEST_F(EngineTest, ASmallCacheRefusesWhatItCouldNeverHold) {
  EngineOptions options;
  options.kv_cache_bytes = engine().info().kv_cache_bytes / engine().info().kv_cache_pages * 5;  // 20 tokens
  const auto engine = model().Open(options);
  EXPECT_EQ(engine->info().kv_cache_pages, 5);
  const absl::Status status = engine->Submit(Prompt(10, 1), Greedy(11)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("kv_cache_bytes"));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(engine->Submit(Prompt(10, 1), Greedy(10)).ok());
  EXPECT_THAT(RunAll(*engine), SizeIs(4));
}

TEST_F(EngineTest, BadOptionsAreNamed) {
  const auto error = [&](const EngineOptions& options, absl::StatusCode code) {
    const absl::Status status = Engine::Open(model().path, options).status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  };
  for (const EngineOptions& options : {EngineOptions{.device = "cuda"}, EngineOptions{.threads = -1}}) {
    EXPECT_EQ(Engine::CheckDevice(options).status(), Engine::Open("/nonexistent.ff", options).status());
  }
  EXPECT_EQ(Engine::CheckDevice({.device = "cpu", .threads = 1}).value(), "cpu");
  EXPECT_THAT(error({.device = "tpu"}, absl::StatusCode::kInvalidArgument), HasSubstr("\"tpu\""));
  EXPECT_THAT(error({.device = "cuda"}, absl::StatusCode::kFailedPrecondition), HasSubstr("use the device \"cpu\""));
  EXPECT_THAT(error({.threads = -1}, absl::StatusCode::kInvalidArgument), HasSubstr("threads is -1"));
  EXPECT_THAT(error({.max_batch = 0}, absl::StatusCode::kInvalidArgument), HasSubstr("max_batch is 0"));
  EXPECT_THAT(error({.max_batch = 7}, absl::StatusCode::kInvalidArgument), HasSubstr("takes 1 to 6"));
  EXPECT_THAT(error({.max_batch = 1, .kv_cache_bytes = 10}, absl::StatusCode::kInvalidArgument),
              HasSubstr("kv_cache_bytes"));
  EXPECT_THAT(std::string(Engine::Open("/nonexistent.ff").status().message()), HasSubstr("/nonexistent.ff"));
}

TEST_F(EngineTest, APlanThatDoesNotFitIsCompiledAnew) {
  const std::vector<int32_t> tokens = Prompt(20, 1);
  const std::vector<float> expected = model().Forward(tokens);
  const std::vector<std::function<void(std::string&)>> changes = {
      [](std::string& plan) { plan = "{}"; },
      [](std::string& plan) { plan = "garbage"; },
      [](std::string& plan) { plan.replace(plan.find("cpu/1"), 5, "cpu/0"); },
      [](std::string& plan) {
        const size_t at = plan.find("graph_sha256");
        plan[plan.find_first_of("0123456789abcdef", at + 15)] ^= 1;
      },
  };
  for (const auto& change : changes) {
    const std::string path = Rewritten([&](auto& sections) { change(sections[1].bytes); });
    const auto opened = Engine::Open(path, {.threads = 1, .max_batch = 2});
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_FALSE((*opened)->info().plan_was_stored);
    std::vector<float> logits(expected.size());
    ASSERT_EQ((*opened)->Forward(tokens, absl::MakeSpan(logits)), absl::OkStatus());
    EXPECT_EQ(logits, expected);
  }
}

TEST_F(EngineTest, SectionsThatSayNonsenseAreErrors) {
  const auto error = [&](size_t section, const std::string& bytes) {
    return Engine::Open(Rewritten([&](auto& sections) {
                          if (section == 0)
                            sections[1].bytes = "{}";  // or the graph would not be looked at beyond its hash
                          sections[section].bytes = bytes;
                        }),
                        {.max_batch = 1})
        .status();
  };
  EXPECT_EQ(error(0, "ffir 1\ngraph @x {").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error(2, "[]").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Engine::Open(Rewritten([](auto& sections) { sections.erase(sections.begin()); })).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(EngineTest, LogitsThatAreNoNumbersEndTheirRequestOnly) {
  TestWeights weights = model().weights;
  std::vector<float>* table = nullptr;
  for (auto& [name, values] : weights) {
    if (absl::StrContains(name, "embed") && values.size() == kVocab * 32) table = &values;
  }
  ASSERT_NE(table, nullptr);
  constexpr int32_t kPoison = 3;
  std::fill_n(table->begin() + kPoison * 32, 32, std::numeric_limits<float>::infinity());
  const std::string path = fs::path(::testing::TempDir()) / "poison.ff";
  ASSERT_EQ(BuildTestEngine(path, *model().graph, weights, SmallSteps("f32"), kEos), absl::OkStatus());
  const auto engine = Engine::Open(path, {.threads = 1, .max_batch = 4});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const int64_t healthy = (*engine)->Submit({1, 2}, Greedy(3)).value();
  const int64_t sick = (*engine)->Submit({1, kPoison}, Greedy(3)).value();
  const auto step = (*engine)->Step();
  EXPECT_EQ(step.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(step.status().message()), HasSubstr(absl::StrCat("request ", sick)));
  EXPECT_FALSE((*engine)->Cancel(sick));
  const auto events = RunAll(**engine);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_THAT(events.at(healthy), SizeIs(3));
}

// Four threads submit, step and cancel on one engine; what each finds is what it would have found alone.
TEST_F(EngineTest, ThreadsShareAnEngine) {
  std::vector<std::vector<int32_t>> expected;
  for (uint32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(engine().Submit(Prompt(10 + i, i), Greedy(8)).ok());
    expected.push_back(Tokens(RunAll(engine()).begin()->second));
  }
  std::mutex mutex;
  std::map<int64_t, std::vector<int32_t>> found;
  std::map<int64_t, uint32_t> owners;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        const int64_t id = engine().Submit(Prompt(10 + i, i), Greedy(8)).value();
        const int64_t dropped = engine().Submit(Prompt(30, i), Greedy(8)).value();
        {
          const std::lock_guard lock(mutex);
          owners[id] = i;
        }
        engine().Cancel(dropped);
        while (engine().HasWork()) {
          const std::lock_guard lock(mutex);  // events are noted in the order of their steps
          const auto events = engine().Step();
          CHECK_OK(events.status());
          for (const TokenEvent& event : *events) found[event.request].push_back(event.token);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(owners, SizeIs(20));
  for (const auto& [id, owner] : owners) EXPECT_EQ(found[id], expected[owner]);
}

}  // namespace
}  // namespace flashflow::runtime
