// Engines on device "cuda" where there is no GPU: kernels compute on the host, as late as a GPU might.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/log_severity.h"
#include "absl/log/check.h"
#include "absl/log/globals.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/testing/host_library.h"
#include "runtime/api/engine.h"
#include "runtime/api/generate_testing.h"
#include "runtime/api/test_engine.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::SizeIs;

constexpr int64_t kVocab = 61, kContext = 64;

struct ModelCase {
  std::string name, json, dtype, kv_dtype = {};
};

frontend::TestModelShape Shape(int64_t kv_heads) {
  frontend::TestModelShape shape;
  shape.kv_heads = kv_heads;
  shape.vocabulary = kVocab;
  shape.context_length = kContext;
  return shape;
}

std::vector<int32_t> Prompt(int64_t length, uint32_t seed) { return TestPrompt(length, seed, kVocab); }

std::string Build(const ModelCase& model) {
  const std::string path = fs::path(::testing::TempDir()) / absl::StrCat(model.name, ".ff");
  auto graph = frontend::ImportGraph(model.json);
  CHECK_OK(graph.status());
  passes::CompileOptions options;
  options.dtype = model.dtype;
  options.kv_dtype = model.kv_dtype;
  CHECK_OK(BuildTestEngine(path, **graph, RandomWeights(**graph, 1), options, /*eos=*/7));
  return path;
}

std::unique_ptr<Engine> Open(const std::string& path, const std::string& device, bool batch_invariant = false) {
  EngineOptions options;
  options.device = device;
  options.threads = 2;
  options.max_batch = 6;
  options.batch_invariant = batch_invariant;
  auto opened = Engine::Open(path, options);
  CHECK_OK(opened.status());
  return *std::move(opened);
}

SamplingParams Params(int max_tokens, float temperature = 0, uint64_t seed = 0) {
  SamplingParams params;
  params.max_tokens = max_tokens;
  params.temperature = temperature;
  params.top_p = temperature > 0 ? 0.95f : 1;
  params.seed = seed;
  params.ignore_eos = true;
  return params;
}

class EngineCudaHostTest : public ::testing::TestWithParam<ModelCase> {
 protected:
  EngineCudaHostTest() : path_(Build(GetParam())), engine_(Open(path_, "cuda")) {}
  const std::string path_;
  const std::unique_ptr<Engine> engine_;
};

TEST_P(EngineCudaHostTest, LogitsAreThoseOfTheCpu) {
  EXPECT_EQ(engine_->info().device, "cuda");
  EXPECT_EQ(engine_->info().kv_dtype == "int8", GetParam().kv_dtype == "int8");
  EXPECT_EQ(engine_->info().device_description, "host memory, 1 GiB, CUDA 13.0");
  const std::vector<int32_t> tokens = Prompt(kContext, 3);
  const std::vector<float> ours = Forward(*engine_, tokens), cpu = Forward(*Open(path_, "cpu"), tokens);
  // f32: sums of at most 64 terms, a handful deep. bf16: about ten roundings a layer one after the other, which the
  // layers after them pass on with a gain of a few.
  // Codes that a rounding tips over are one step of their head's largest element off, and few.
  const float tipped = GetParam().kv_dtype.empty() ? 0 : 4 / 254.0f;
  const float bound = tipped + (GetParam().dtype == "f32" ? 1e-4f : 2 * 4 * 10 * 0x1p-9f);
  for (size_t t = 0; t < tokens.size(); ++t) {
    float largest = 0, error = 0;
    for (size_t v = t * kVocab; v < (t + 1) * kVocab; ++v) {
      largest = std::max(largest, std::fabs(cpu[v]));
      error = std::max(error, std::fabs(cpu[v] - ours[v]));
    }
    ASSERT_LE(error, bound * largest) << "position " << t;
  }
}

// As near to the CPU's as bf16 activations are: norms differ by a rounding, so that a code is now and then another.
TEST(EngineCudaHostInt8Test, RunsCodes) {
  auto graph = frontend::ImportGraph(frontend::LlamaJson(Shape(2)));
  CHECK_OK(graph.status());
  passes::CompileOptions options;
  options.dtype = "bf16";
  options.quantize = "int8";
  const std::string path = fs::path(::testing::TempDir()) / "int8_on_cuda.ff";
  CHECK_OK(BuildTestEngine(path, **graph, RandomWeights(**graph, 1), options, /*eos=*/7));
  for (const bool batch_invariant : {false, true}) {
    const std::unique_ptr<Engine> engine = Open(path, "cuda", batch_invariant);
    EXPECT_EQ(engine->info().dtype, "int8");
    EXPECT_TRUE(engine->info().plan_was_stored);
    const std::vector<int32_t> tokens = Prompt(kContext, 3);
    const std::vector<float> ours = Forward(*engine, tokens), cpu = Forward(*Open(path, "cpu"), tokens);
    float largest = 0, error = 0;
    for (size_t i = 0; i < ours.size(); ++i) {
      largest = std::max(largest, std::fabs(cpu[i]));
      error = std::max(error, std::fabs(cpu[i] - ours[i]));
    }
    EXPECT_LE(error, 2 * 4 * 10 * 0x1p-9f * largest);
    EXPECT_EQ(Generate(*engine, {1, 2, 3}, Params(8)).size(), 8u);
  }
}

// Tokens that are drawn on the device and go from step to step there, by recorded steps; and what the host draws from
// logits that it reads.
TEST_P(EngineCudaHostTest, TheSameTokensOnEveryWay) {
  const std::vector<int32_t> prompt = Prompt(9, 1);
  for (const SamplingParams& params : {Params(40), Params(40, 1.5f, 11)}) {
    const std::vector<int32_t> alone = Generate(*engine_, prompt, params);
    ASSERT_THAT(alone, SizeIs(40));
    SamplingParams on_host = params;
    on_host.logprobs = 1;
    EXPECT_EQ(Generate(*engine_, prompt, on_host), alone) << "drawn by the host";
    EXPECT_EQ(Generate(*Open(path_, "cuda", /*batch_invariant=*/true), prompt, params), alone);

    // Beside others that come and go.
    std::map<int64_t, std::vector<int32_t>> tokens;
    int64_t mine = 0;
    for (int step = 0; step == 0 || engine_->HasWork(); ++step) {
      if (step < 5) {
        const bool is_mine = step == 2;
        const auto id = engine_->Submit(is_mine ? prompt : Prompt(5 + 3 * step, static_cast<uint32_t>(step)),
                                        is_mine ? params : Params(4 + 7 * step, 1, static_cast<uint64_t>(step)));
        ASSERT_TRUE(id.ok()) << id.status();
        if (is_mine) mine = *id;
      }
      const auto events = engine_->Step();
      ASSERT_TRUE(events.ok()) << events.status();
      for (const TokenEvent& event : *events) tokens[event.request].push_back(event.token);
      if (step == 12) engine_->Cancel(mine + 1);
    }
    EXPECT_EQ(tokens[mine], alone);
    EXPECT_THAT(tokens, SizeIs(5));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineCudaHostTest,
                         ::testing::Values(ModelCase{"gpt2_f32", frontend::Gpt2Json(Shape(4)), "f32"},
                                           ModelCase{"gpt2_bf16", frontend::Gpt2Json(Shape(4)), "bf16"},
                                           ModelCase{"llama_f32", frontend::LlamaJson(Shape(2)), "f32"},
                                           ModelCase{"llama_bf16", frontend::LlamaJson(Shape(2)), "bf16"},
                                           ModelCase{"gpt2_f32_kv_int8", frontend::Gpt2Json(Shape(4)), "f32", "int8"},
                                           ModelCase{"llama_bf16_kv_int8", frontend::LlamaJson(Shape(2)), "bf16",
                                                     "int8"}),
                         [](const auto& info) { return info.param.name; });

// What steers the library that the runtime has loaded.
class EngineCudaFailuresTest : public ::testing::Test {
 protected:
  EngineCudaFailuresTest() {
    absl::SetMinLogLevel(absl::LogSeverityAtLeast::kWarning);
    void* library = dlopen(std::getenv("FLASHFLOW_CUDA_LIBRARY"), RTLD_NOW);
    CHECK(library != nullptr) << dlerror();
    fail_ = reinterpret_cast<decltype(fail_)>(dlsym(library, "flashflow_host_fail"));
    take_back_ = reinterpret_cast<decltype(take_back_)>(dlsym(library, "flashflow_host_take_back_failures"));
    live_objects_ = reinterpret_cast<decltype(live_objects_)>(dlsym(library, "flashflow_host_live_objects"));
  }
  // The call of that name after `skip` others: out of memory, or else a failed launch.
  void Fail(const std::string& function, int skip) {
    fail_(function.c_str(), function.starts_with("malloc") ? 2 : 719, skip);
  }

  const std::string path_ = Build({"failures", frontend::LlamaJson(Shape(2)), "bf16"});
  decltype(&cuda::testing::flashflow_host_fail) fail_;
  decltype(&cuda::testing::flashflow_host_take_back_failures) take_back_;
  decltype(&cuda::testing::flashflow_host_live_objects) live_objects_;
};

// Two requests, whose prompts are read and whose tokens are drawn on the device and on the host.
absl::Status SubmitTwo(Engine& engine) {
  SamplingParams params = Params(6, 1, 1);
  FF_RETURN_IF_ERROR(engine.Submit(Prompt(5, 1), params).status());
  params.logprobs = 1;
  return engine.Submit(Prompt(3, 2), params).status();
}

// Each call of the CUDA runtime and of a kernel that an engine makes fails once: whoever called is told, nothing is
// left behind, and the next engine works.
TEST_F(EngineCudaFailuresTest, EveryCallMayFail) {
  const auto run = [&]() -> absl::StatusOr<std::map<int64_t, std::vector<int32_t>>> {
    FF_ASSIGN_OR_RETURN(const auto engine, Engine::Open(path_, {.device = "cuda", .threads = 1, .max_batch = 2}));
    FF_RETURN_IF_ERROR(SubmitTwo(*engine));
    std::map<int64_t, std::vector<int32_t>> tokens;
    while (engine->HasWork()) {
      FF_ASSIGN_OR_RETURN(const auto events, engine->Step());
      for (const TokenEvent& event : events) tokens[event.request].push_back(event.token);
    }
    return tokens;
  };
  const auto expected = run();
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(live_objects_(), 0);

  constexpr int kCalls = 16;  // of a function, that are made to fail one after the other
  int failed = 0;
  for (const std::string function : {"get_device_info",
                                     "malloc_device",
                                     "malloc_host",
                                     "memcpy_async",
                                     "memset_async",
                                     "stream_create",
                                     "stream_synchronize",
                                     "event_create",
                                     "event_record",
                                     "event_synchronize",
                                     "stream_begin_capture",
                                     "stream_end_capture",
                                     "graph_instantiate",
                                     "graph_launch",
                                     "gemm",
                                     "norm",
                                     "embedding",
                                     "rope_append",
                                     "paged_attention",
                                     "paged_prefill",
                                     "sample"}) {
    int reached = 0;
    for (int skip = 0; skip < kCalls; ++skip) {
      SCOPED_TRACE(absl::StrCat(function, " after ", skip));
      Fail(function, skip);
      const auto tokens = run();
      if (take_back_()) break;  // not called as often
      ++reached;
      // Who destroys an engine has nobody to tell.
      if (tokens.ok()) {
        EXPECT_EQ(function, "stream_synchronize");
        EXPECT_EQ(*tokens, *expected);
      }
      EXPECT_EQ(live_objects_(), 0);
    }
    EXPECT_GT(reached, 0) << function;
    failed += reached;
  }
  EXPECT_GT(failed, 80);
  const auto after = run();
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(*after, *expected);
}

// A step that fails may leave work behind it on the GPU, or lose what it computed. The engine is told once and goes on:
// it tries anew or ends requests, and others are as if nothing had been.
TEST_F(EngineCudaFailuresTest, AnEngineOutlivesAStepThatFails) {
  const std::vector<int32_t> prompt = Prompt(20, 3),
                             expected = Generate(*Open(path_, "cuda"), prompt, Params(10, 1, 5));
  for (const std::string function : {"memcpy_async", "stream_synchronize", "event_record", "event_synchronize",
                                     "stream_begin_capture", "stream_end_capture", "graph_instantiate", "graph_launch",
                                     "gemm", "rope_append", "paged_attention", "paged_prefill", "sample"}) {
    for (const int skip : {0, 1, 2, 3, 4, 7}) {
      SCOPED_TRACE(absl::StrCat(function, " after ", skip));
      const auto engine = Open(path_, "cuda");
      ASSERT_EQ(SubmitTwo(*engine), absl::OkStatus());
      Fail(function, skip);
      int errors = 0;
      for (int step = 0; engine->HasWork(); ++step) {
        ASSERT_LT(step, 20);
        if (engine->Step().ok()) continue;
        ++errors;
        // Every other time, the next step is another one.
        for (int64_t request = 1; skip % 2 == 1 && request <= 2; ++request) engine->Cancel(request);
      }
      EXPECT_EQ(errors, take_back_() ? 0 : 1);
      ASSERT_EQ(Generate(*engine, prompt, Params(10, 1, 5)), expected);
    }
  }
  EXPECT_EQ(live_objects_(), 0);
}

}  // namespace
}  // namespace flashflow::runtime
