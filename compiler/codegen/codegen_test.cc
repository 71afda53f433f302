#include "compiler/codegen/codegen.h"

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_replace.h"
#include "compiler/ir/parser.h"
#include "compiler/passes/options.h"
#include "compiler/plan/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::codegen {
namespace {

using plan::Storage;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One layer with a tied head, heads of 4: the smallest graph with everything in it.
constexpr std::string_view kStepGraph =
    R"ir(ffir 1
graph @tiny {
  symbol T [1, 16]
  symbol R [1, 4]
  symbol P [1, 4]
  symbol L [0, 4]
  metadata context_length = 64
  input %0 "token_ids" : i32[T]
  input %1 "row_start" : i32[R + 1]
  input %2 "kv_len" : i32[R]
  input %3 "block_table" : i32[R, P]
  input %4 "logit_rows" : i32[L]
  input %5 "cache" : cache[1, 2, 4, f32]
  weight %6 "wte" : f32[32, 8]
  weight %7 "norm" : f32[8]
  %8 = embedding(%6, %0) {dtype = f32} : f32[T, 8]
  %9 = rms_norm(%8, %7) {eps = 1e-05} : f32[T, 8] loc "norm (tiny.py:3)"
  %10 = reshape(%9) {shape = dims(T, 2, 4)} : f32[T, 2, 4]
  %11 = kv_append(%5, %10, %10, %1, %2, %3) {layer = 0} : cache[1, 2, 4, f32]
  %12 = paged_attention(%11, %10, %1, %2, %3) {layer = 0, scale = 0.5} : f32[T, 2, 4]
  %13 = reshape(%12) {shape = dims(T, 8)} : f32[T, 8]
  %14 = add(%8, %13) : f32[T, 8]
  %15 = gather_rows(%14, %4) : f32[L, 8]
  %16 = linear(%15, %6) : f32[L, 32]
  output "logits" %16
  output "cache" %11
}
)ir";

std::unique_ptr<ir::Graph> Graph(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

passes::CompileOptions Options() {
  passes::CompileOptions options;
  options.max_tokens = 12;
  options.max_rows = 4;
  options.max_logit_rows = 4;
  return options;
}

TEST(CodegenTest, StepsFollowTheGraphWithoutReshapesAndCacheOperands) {
  const auto plan = GeneratePlan(*Graph(kStepGraph), Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::string> kernels;
  for (const plan::Step& step : plan->steps) kernels.push_back(step.tactics[0].id);
  EXPECT_THAT(kernels, ElementsAre("cpu.embedding", "cpu.rms_norm", "cpu.kv_append", "cpu.paged_attention",
                                   "cpu.binary", "cpu.gather_rows", "cpu.linear.panel16"));
  const plan::Step& append = plan->steps[2];
  EXPECT_TRUE(append.uses_cache);
  EXPECT_TRUE(append.outputs.empty());
  ASSERT_EQ(append.inputs.size(), 5u);
  const plan::Tensor& keys = plan->tensors[append.inputs[0]];
  EXPECT_EQ(keys.alias_of, plan->steps[1].outputs[0]) << "a reshape is another view of the norm's result";
  EXPECT_EQ(plan->steps[1].loc, "norm (tiny.py:3)");
  EXPECT_EQ(plan->cache.layers, 1);
  EXPECT_EQ(plan->cache.head_dim, 4);
}

TEST(CodegenTest, TiedWeightIsListedOnceForEachLayout) {
  const auto plan = GeneratePlan(*Graph(kStepGraph), Options());
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->weights.size(), 3u);
  EXPECT_THAT(plan->weights[0].sources, ElementsAre("wte"));
  EXPECT_EQ(plan->weights[0].layout, "row_major");
  EXPECT_THAT(plan->weights[2].sources, ElementsAre("wte"));
  EXPECT_EQ(plan->weights[2].layout, "panel16");
}

// Merged layers: weights joined along axis 0 are one weight of the plan, and no step. A prologue gets its memory.
TEST(CodegenTest, JoinedWeightsAreLoadedAsOne) {
  std::string text(kStepGraph);
  text.replace(text.find("  %16 = linear"), text.find("  output \"logits\"") - text.find("  %16 = linear"),
               R"ir(  %16 = concat(%6, %6) {axis = 0} : f32[64, 8]
  %17 = fused_linear(%15, %16, _, _, %7) {eps = 1e-05, norm = "rms_norm"} : f32[L, 64]
)ir");
  text.replace(text.find("\"logits\" %16"), 12, "\"logits\" %17");
  const auto plan = GeneratePlan(*Graph(text), Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  const plan::Step& step = plan->steps.back();
  EXPECT_EQ(step.tactics[0].id, "cpu.fused_linear.panel16");
  ASSERT_EQ(plan->weights.size(), 3u);
  EXPECT_THAT(plan->weights[2].sources, ElementsAre("wte", "wte"));
  EXPECT_THAT(plan->weights[2].shape, ElementsAre(64, 8));
  EXPECT_EQ(plan->weights[2].layout, "panel16");
  EXPECT_EQ(plan->tensors[step.inputs[1]].name, "wte + wte");
  ASSERT_GE(step.workspace, 0);
  EXPECT_EQ(plan->tensors[step.workspace].shape, (Dims{DimExpr::Symbol("L") * 8 * 4}));
  for (const plan::Step& other : plan->steps) EXPECT_NE(other.op, "concat");
}

TEST(CodegenTest, AWeightThatIsStoredTransposedTakesNoStep) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @conv1d {
  input %0 "x" : f32[3, 8]
  weight %1 "w" : f32[8, 5]
  %2 = transpose(%1) {perm = [1, 0]} : f32[5, 8]
  %3 = linear(%0, %2) : f32[3, 5]
  %4 = fused_linear(%0, %2) {activation = "gelu"} : f32[3, 5]
  output "y" %3
  output "z" %4
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->steps.size(), 2);
  ASSERT_EQ(plan->weights.size(), 1);
  const plan::Weight& weight = plan->weights[0];
  EXPECT_TRUE(weight.transposed);
  EXPECT_THAT(weight.sources, ElementsAre("w"));
  EXPECT_THAT(weight.shape, ElementsAre(5, 8));
  EXPECT_EQ(weight.layout, "panel16");
}

TEST(CodegenTest, LogitsAreWrittenStraightIntoTheOutput) {
  const auto plan = GeneratePlan(*Graph(kStepGraph), Options());
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->outputs.size(), 1u);
  EXPECT_EQ(plan->steps.back().outputs[0], plan->outputs[0]);
  EXPECT_EQ(plan->tensors[plan->outputs[0]].storage, Storage::kOutput);
  EXPECT_EQ(plan->tensors[plan->outputs[0]].name, "logits");
}

TEST(CodegenTest, BucketsArePowersOfTwoUpToTheLimit) {
  const auto plan = GeneratePlan(*Graph(kStepGraph), Options());
  ASSERT_TRUE(plan.ok());
  std::vector<int64_t> tokens, arenas;
  for (const plan::Bucket& bucket : plan->buckets) {
    tokens.push_back(bucket.max_tokens);
    arenas.push_back(bucket.arena_bytes);
  }
  EXPECT_THAT(tokens, ElementsAre(1, 2, 4, 8, 12));
  // At 12 tokens a value [T, 8] has 384 bytes, 512 with alignment; the embedding lives beside the norm's and the
  // attention's result.
  EXPECT_EQ(arenas.back(), 3 * 512);
}

TEST(CodegenTest, SamePlanEveryTime) {
  EXPECT_EQ(plan::ToJson(*GeneratePlan(*Graph(kStepGraph), Options())),
            plan::ToJson(*GeneratePlan(*Graph(kStepGraph), Options())));
}

TEST(CodegenTest, OpWithoutKernelIsNamedWithItsPlace) {
  const auto graph = Graph(R"ir(ffir 1
graph @tiny {
  symbol T [1, 16]
  metadata context_length = 64
  input %0 "token_ids" : i32[T]
  weight %1 "w" : i64[T, 4]
  %2 = neg(%1) : i64[T, 4] loc "neg (tiny.py:9)"
  output "logits" %2
}
)ir");
  const absl::Status status = GeneratePlan(*graph, Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), HasSubstr("neg(i64)"));
  EXPECT_THAT(status.message(), HasSubstr("tiny.py:9"));
}

TEST(CodegenTest, OutputMustBeComputed) {
  const auto graph = Graph(R"ir(ffir 1
graph @tiny {
  symbol T [1, 16]
  metadata context_length = 64
  input %0 "token_ids" : i32[T]
  output "logits" %0
}
)ir");
  EXPECT_THAT(GeneratePlan(*graph, Options()).status().message(), HasSubstr("output \"logits\""));
}

TEST(CodegenTest, NoMoreRowsThanTokens) {
  passes::CompileOptions options = Options();
  options.max_tokens = 3;
  const auto plan = GeneratePlan(*Graph(kStepGraph), options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->limits.max_rows, 3);
  EXPECT_EQ(plan->limits.max_logit_rows, 3);
}

TEST(CodegenTest, OneCache) {
  const std::string two =
      absl::StrReplaceAll(kStepGraph, {{"  weight %6", "  input %second \"second\" : cache[1, 2, 4, f32]\n  weight %6"},
                                       {"  output \"cache\"", "  output \"second\" %second\n  output \"cache\""}});
  EXPECT_THAT(GeneratePlan(*Graph(two), Options()).status().message(), HasSubstr("\"second\", expected one"));
}

TEST(CodegenTest, MissingContextLengthAndBadOptionsAreErrors) {
  const auto graph = Graph("ffir 1\ngraph @empty {\n}\n");
  EXPECT_THAT(GeneratePlan(*graph, Options()).status().message(), HasSubstr("context_length"));
  passes::CompileOptions options = Options();
  options.max_tokens = 0;
  EXPECT_THAT(GeneratePlan(*Graph(kStepGraph), options).status().message(), HasSubstr("max_tokens"));
}

constexpr std::string_view kRectangular = R"ir(ffir 1
graph @mlp {
  symbol B [1, 64]
  symbol N [1, 32]
  input %0 "x" : f32[B, N, 8]
  input %1 "ids" : i64[N]
  weight %2 "up" : f32[16, 8]
  weight %3 "table" : f32[9, 16]
  %4 = linear(%0, %2) : f32[B, N, 16]
  %5 = embedding(%3, %1) {dtype = f32} : f32[N, 16]
  %6 = add(%4, %5) : f32[B, N, 16]
  %7 = reshape(%6) {shape = dims(B*N, 16)} : f32[B*N, 16]
  %8 = ge(%6, %4) : bool[B, N, 16]
  output "rows" %7
  output "grew" %8
}
)ir";

TEST(CodegenTest, ARectangularGraphHasNoLimitsAndAnArenaForAnySizes) {
  const auto plan = GenerateGraphPlan(*Graph(kRectangular), Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan::IsStepPlan(*plan));
  EXPECT_EQ(plan->limits.context_length, 0);
  EXPECT_TRUE(plan->buckets.empty());
  EXPECT_THAT(plan->symbols,
              ElementsAre(testing::Pair("B", SymbolRange{1, 64}), testing::Pair("N", SymbolRange{1, 32})));
  ASSERT_EQ(plan->outputs.size(), 2u);
  EXPECT_EQ(plan->tensors[plan->outputs[1]].dtype, DType::kBool);
  EXPECT_EQ(plan->weights[0].layout, "panel16");

  const auto arena = PlanArena(*plan, {{"B", 3}, {"N", 5}});
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_EQ(plan::ValidateLayout(*plan, *arena), absl::OkStatus());
  // The product, 3 x 5 rows of 16 floats, beside the embedding's 5 rows: 960 and 320 bytes, aligned.
  EXPECT_EQ(arena->arena_bytes, 1024 + 512);
  plan::ArenaLayout small = *arena;
  small.most["B"] = 4;
  small.most["N"] = 6;
  EXPECT_EQ(plan::ValidateLayout(*plan, small).code(), absl::StatusCode::kInvalidArgument) << "larger than laid out";
  EXPECT_EQ(PlanArena(*plan, {{"B", 3}}).status().code(), absl::StatusCode::kNotFound);
  const auto again = plan::FromJson(plan::ToJson(*plan));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(plan::ToJson(*again), plan::ToJson(*plan));
}

TEST(CodegenTest, ResultsTakeThePlaceOfOperandsThatDie) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @chain {
  symbol N [1, 32]
  input %0 "x" : f32[N, 8]
  weight %1 "w" : f32[8, 8]
  %2 = exp(%0) : f32[N, 8]
  %3 = neg(%2) : f32[N, 8]
  %4 = reshape(%3) {shape = dims(8*N)} : f32[8*N]
  %5 = tanh(%4) : f32[8*N]
  %6 = reshape(%5) {shape = dims(N, 8)} : f32[N, 8]
  %7 = mul(%2, %6) : f32[N, 8]
  %8 = linear(%7, %1) : f32[N, 8]
  %9 = ge(%8, %7) : bool[N, 8]
  %10 = logical_not(%9) : bool[N, 8]
  output "y" %10
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::pair<std::string, int32_t>> places;
  for (const plan::Step& step : plan->steps) {
    const int32_t place = plan->tensors[step.outputs[0]].in_place_of;
    int32_t writer = -1;
    for (size_t s = 0; s < plan->steps.size(); ++s) {
      if (place >= 0 && plan->steps[s].outputs[0] == place) writer = static_cast<int32_t>(s);
    }
    places.push_back({step.op, writer});
  }
  using testing::Pair;
  EXPECT_THAT(places, ElementsAre(Pair("exp", -1),            // an input is not ours
                                  Pair("neg", -1),            // exp's result is read later
                                  Pair("tanh", 1),            // through a reshape
                                  Pair("mul", 0),             // the first operand that dies
                                  Pair("linear", -1),         // its kernel reads rows again and again
                                  Pair("ge", -1),             // of another size
                                  Pair("logical_not", -1)));  // an output has memory of its own
  const auto arena = PlanArena(*plan, {{"N", 32}});
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_EQ(plan::ValidateLayout(*plan, *arena), absl::OkStatus());
  EXPECT_EQ(arena->arena_bytes, 2 * 32 * 8 * 4 + 256) << "two buffers and the comparison";
}

TEST(CodegenTest, TwoResultsTakeTwoPlacesAndNoWorkspace) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @two {
  symbol N [1, 32]
  input %0 "x" : f32[N, 8]
  %1 = exp(%0) : f32[N, 8]
  %2 = neg(%0) : f32[N, 8]
  %3, %4 = add_norm(%1, %2) {eps = 1e-05, norm = "rms_norm"} : f32[N, 8], f32[N, 8]
  %5 = mul(%3, %4) : f32[N, 8]
  output "y" %5
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->steps.size(), 4u);
  for (size_t i : {0, 1}) {
    EXPECT_EQ(plan->tensors[plan->steps[2].outputs[i]].in_place_of, plan->steps[i].outputs[0]);
  }
  for (const plan::Step& step : plan->steps) EXPECT_EQ(step.workspace, -1) << step.op;
}

TEST(CodegenTest, AnOperandReadInAnotherRoleTooIsNotOverwritten) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @twice {
  symbol N [1, 32]
  input %0 "x" : f32[N, 8]
  %1 = ge(%0, %0) : bool[N, 8]
  %2 = where(%1, %1, %1) : bool[N, 8]
  %3 = logical_not(%2) : bool[N, 8]
  %4 = logical_not(%3) : bool[N, 8]
  output "y" %4
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto place = [&](size_t step) { return plan->tensors[plan->steps[step].outputs[0]].in_place_of; };
  EXPECT_EQ(place(1), -1) << "its kernel may write over what it chooses from, not over the condition";
  EXPECT_EQ(place(2), plan->steps[1].outputs[0]);
}

TEST(CodegenTest, OutputsThatAreNotComputedAreCopied) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @views {
  symbol B [1, 8]
  input %0 "x" : i64[B, 6]
  weight %1 "w" : f32[4]
  %2 = reshape(%0) {shape = dims(B, 2, 3)} : i64[B, 2, 3]
  %3 = add(%0, %0) : i64[B, 6]
  %4 = reshape(%3) {shape = dims(B, 3, 2)} : i64[B, 3, 2]
  output "view" %2
  output "weight" %1
  output "sum" %3
  output "sum again" %4
  output "x" %0
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::string> ops;
  for (const plan::Step& step : plan->steps) ops.push_back(step.op);
  EXPECT_THAT(ops, ElementsAre("add", "cast", "cast", "cast", "cast"));
  EXPECT_EQ(plan->steps[0].outputs[0], plan->outputs[2]) << "the sum needs no copy";
  std::vector<std::string> names;
  for (int32_t output : plan->outputs) names.push_back(plan->tensors[output].name);
  EXPECT_THAT(names, ElementsAre("view", "weight", "sum", "sum again", "x"));
}

TEST(CodegenTest, JoinedWeightsThatAreGivenOutAreComputed) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @joined {
  weight %0 "w" : f32[4, 2]
  %1 = concat(%0, %0) {axis = 0} : f32[8, 2]
  %2 = reshape(%1) {shape = dims(16)} : f32[16]
  output "y" %2
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->steps.size(), 1u);
  EXPECT_EQ(plan->steps[0].op, "concat");
}

TEST(CodegenTest, ASliceFromASymbolOnIsGivenFromTheEnd) {
  const auto plan = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @last {
  symbol S [2, 8]
  input %0 "x" : f32[S]
  %1 = slice(%0) {axis = 0, start = dim(S - 2), stop = dim(S - 1)} : f32[1]
  output "y" %1
}
)ir"),
                                      Options());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(std::get<int64_t>(plan->steps[0].attrs.at("from_end")), 1);
  const auto middle = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @middle {
  symbol A [1, 8]
  symbol B [1, 8]
  input %0 "x" : f32[2*A + B]
  %1 = slice(%0) {axis = 0, start = dim(A), stop = dim(2*A)} : f32[A]
  output "y" %1
}
)ir"),
                                        Options());
  EXPECT_EQ(middle.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(middle.status().message(), HasSubstr("a slice from A to 2*A of"));
  const auto steps = GenerateGraphPlan(*Graph(R"ir(ffir 1
graph @steps {
  symbol S [4, 8]
  input %0 "x" : f32[S]
  %1 = slice(%0) {axis = 0, start = dim(S - 4), step = 2, stop = dim(S)} : f32[2]
  output "y" %1
}
)ir"),
                                       Options());
  EXPECT_THAT(steps.status().message(), HasSubstr("no kernel takes a slice"));
}

TEST(CodegenTest, EachFormHasItsFunction) {
  const absl::Status status = GenerateGraphPlan(*Graph(kStepGraph), Options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("KV cache, \"cache\", expected none"));
}

}  // namespace
}  // namespace flashflow::codegen
