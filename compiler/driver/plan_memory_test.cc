// The arenas of real plans: no live buffers share a byte, and hardly a byte is wasted.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/driver/compile.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/parser.h"
#include "compiler/passes/options.h"
#include "compiler/passes/random_decoder.h"
#include "compiler/plan/plan.h"
#include "gtest/gtest.h"

namespace flashflow::driver {
namespace {

// An arena, seen step by step and from scratch: a buffer is its offset and size from the step that writes it until
// the last that reads it, an alias of it, or what took its place.
struct Arena {
  int64_t bound = 0;      // the most bytes live at one step
  int64_t most_live = 0;  // buffers at one step, perhaps another
  int64_t unshared = 0;   // bytes if every result had memory of its own
};

Arena CheckArena(const plan::Plan& plan, const SymbolValues& most, const std::vector<int64_t>& offsets,
                 int64_t arena_bytes) {
  const auto owner = [&](int32_t i) {
    if (plan.tensors[i].alias_of >= 0) i = plan.tensors[i].alias_of;
    while (plan.tensors[i].in_place_of >= 0) i = plan.tensors[i].in_place_of;
    return i;
  };
  Arena arena;
  std::map<int32_t, std::pair<size_t, size_t>> life;  // by owner: first and last step
  std::vector<int64_t> bytes;
  for (const plan::Tensor& tensor : plan.tensors) {
    const auto count = NumElements(tensor.shape).Evaluate(most);
    EXPECT_TRUE(count.ok()) << count.status();
    bytes.push_back(*count * DTypeBytes(tensor.dtype));
  }
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const plan::Step& step = plan.steps[s];
    const auto touch = [&](int32_t i) {
      if (i < 0 || plan.tensors[i].storage != plan::Storage::kArena) return;
      life.try_emplace(owner(i), s, s).first->second.second = s;
    };
    std::ranges::for_each(step.inputs, touch);
    std::ranges::for_each(step.outputs, touch);
    touch(step.workspace);
    for (const int32_t i : step.outputs) {
      if (plan.tensors[i].storage == plan::Storage::kArena) arena.unshared += bytes[i];
    }
    if (step.workspace >= 0) arena.unshared += bytes[step.workspace];
  }
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    std::map<int64_t, int64_t> live;  // begin -> end
    int64_t sum = 0;
    for (const auto& [i, steps] : life) {
      if (s < steps.first || s > steps.second || bytes[i] == 0) continue;
      EXPECT_TRUE(live.emplace(offsets[i], offsets[i] + bytes[i]).second) << "tensor " << i << " at step " << s;
      EXPECT_LE(offsets[i] + bytes[i], arena_bytes);
      sum += bytes[i];
    }
    int64_t end = 0;
    for (const auto& [from, to] : live) {
      EXPECT_GE(from, end) << "step " << s;
      end = to;
    }
    arena.bound = std::max(arena.bound, sum);
    arena.most_live = std::max(arena.most_live, static_cast<int64_t>(live.size()));
  }
  EXPECT_LE(arena_bytes - arena.bound, std::max(arena.bound / 20, plan::kArenaAlignment * arena.most_live))
      << "bound " << arena.bound;
  return arena;
}

std::unique_ptr<ir::Graph> Import(const std::string& json) {
  auto graph = frontend::ImportGraph(json);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

void CheckBuckets(const ir::Graph& graph, const passes::CompileOptions& options) {
  const auto model = Compile(graph, options);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const plan::Bucket& bucket : model->plan.buckets) {
    SCOPED_TRACE(bucket.max_tokens);
    CheckArena(model->plan, plan::BucketSymbols(model->plan, bucket), bucket.offsets, bucket.arena_bytes);
  }
}

void CheckRectangle(const ir::Graph& graph) {
  const auto compiled = CompileGraph(graph, {});
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  for (const int64_t size : {1, 3, 7}) {
    SymbolValues most;
    for (const auto& [name, range] : compiled->plan.symbols) {
      most[name] = std::clamp<int64_t>(size * static_cast<int64_t>(most.size() + 1), range.min, range.max);
    }
    const auto layout = PlanGraphArena(compiled->plan, most);
    ASSERT_TRUE(layout.ok()) << layout.status();
    CheckArena(compiled->plan, most, layout->offsets, layout->arena_bytes);
  }
}

TEST(PlanMemoryTest, ModelsAreNearTheBoundInEveryBucket) {
  for (const int layers : {1, 2, 6}) {
    for (const auto& graph : {Import(frontend::Gpt2Json({.layers = layers})),
                              Import(frontend::LlamaJson({.layers = layers, .kv_heads = 2, .hidden = 72}))}) {
      SCOPED_TRACE(layers);
      CheckBuckets(*graph, {});
      CheckBuckets(*graph, {.max_tokens = 300, .max_rows = 3, .max_logit_rows = 2});
      CheckRectangle(*graph);
    }
  }
}

TEST(PlanMemoryTest, RandomDecodersAreNearTheBoundInEveryBucket) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    const auto graph = passes::RandomDecoder(seed);
    CheckBuckets(*graph, {.max_tokens = 100});
    CheckRectangle(*graph);
  }
}

// GPT-2 XL, 1.5B parameters, on 8 x 1024 tokens.
TEST(PlanMemoryTest, ActivationsOfALargeModelArePlanned) {
  constexpr int64_t kTokens = 8192, kHidden = 1600;
  const auto graph = Import(frontend::Gpt2Json({.layers = 48,
                                                .heads = 25,
                                                .kv_heads = 25,
                                                .head_dim = 64,
                                                .hidden = 4 * kHidden,
                                                .vocabulary = 50257,
                                                .context_length = 1024}));
  const auto model = Compile(*graph, {.max_tokens = kTokens, .max_rows = 8, .max_logit_rows = 8});
  ASSERT_TRUE(model.ok()) << model.status();
  const plan::Bucket& bucket = model->plan.buckets.back();
  ASSERT_EQ(bucket.max_tokens, kTokens);
  const Arena arena =
      CheckArena(model->plan, plan::BucketSymbols(model->plan, bucket), bucket.offsets, bucket.arena_bytes);
  // The residual stream, its norm and the MLP's hidden layer, in f32.
  EXPECT_EQ(arena.bound, kTokens * (2 * kHidden + 4 * kHidden) * 4);
  EXPECT_GT(arena.unshared, 50 * bucket.arena_bytes);
}

// What no fusion takes: a chain of elementwise operations is one buffer, and without it two.
TEST(PlanMemoryTest, ElementwiseChainsShareMemoryInPlace) {
  const auto graph = ir::Parse(R"ir(ffir 1
graph @chain {
  symbol N [1, 64]
  input %0 "x" : f32[N, 16]
  weight %1 "up" : f32[256, 16]
  weight %2 "down" : f32[16, 256]
  %3 = linear(%0, %1) : f32[N, 256]
  %4 = exp(%3) : f32[N, 256]
  %5 = sin(%4) : f32[N, 256]
  %6 = maximum(%5, %5) : f32[N, 256]
  %7 = softmax(%6) {axis = 1} : f32[N, 256]
  %8 = linear(%7, %2) : f32[N, 16]
  output "y" %8
}
)ir");
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto compiled = CompileGraph(**graph, {});
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  plan::Plan apart = compiled->plan;
  for (plan::Tensor& tensor : apart.tensors) tensor.in_place_of = -1;
  const SymbolValues most = {{"N", 64}};
  const auto in_place = PlanGraphArena(compiled->plan, most);
  const auto without = PlanGraphArena(apart, most);
  ASSERT_TRUE(in_place.ok() && without.ok());
  EXPECT_EQ(in_place->arena_bytes, 64 * 256 * 4);
  EXPECT_EQ(without->arena_bytes, 2 * 64 * 256 * 4);
}

}  // namespace
}  // namespace flashflow::driver
