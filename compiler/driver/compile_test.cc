#include "compiler/driver/compile.h"

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/passes/options.h"
#include "compiler/plan/plan.h"
#include "compiler/plan/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::driver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// One attention layer of two heads of 4, a tied head.
constexpr std::string_view kRectangular = R"ir(ffir 1
graph @tiny {
  symbol B [1, 8]
  symbol S [1, 64]
  metadata context_length = 64
  input %0 "input_ids" : i64[B, S]
  input %1 "position_ids" : i64[B, S]
  weight %2 "wte" : f32[32, 8]
  weight %3 "wpe" : f32[64, 8]
  %4 = embedding(%2, %0) {dtype = f32} : f32[B, S, 8]
  %5 = embedding(%3, %1) {dtype = f32} : f32[B, S, 8]
  %6 = add(%4, %5) : f32[B, S, 8]
  %7 = reshape(%6) {shape = dims(B, S, 2, 4)} : f32[B, S, 2, 4]
  %8 = transpose(%7) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 4]
  %9 = attention(%8, %8, %8) {causal = true, scale = 0.5} : f32[B, 2, S, 4] loc "attn (tiny.py:7)"
  %10 = transpose(%9) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 4]
  %11 = reshape(%10) {shape = dims(B, S, 8)} : f32[B, S, 8]
  %12 = linear(%11, %2) : f32[B, S, 32]
  output "logits" %12
}
)ir";

std::unique_ptr<ir::Graph> Graph(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

TEST(CompileTest, MakesAPlanOfARectangularGraph) {
  const auto graph = Graph(kRectangular);
  const auto model = Compile(*graph, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(plan::Validate(model->plan).ok());
  EXPECT_EQ(model->plan.cache.layers, 1);
  EXPECT_EQ(model->plan.cache.kv_heads, 2);
  EXPECT_EQ(model->plan.limits.context_length, 64);
  EXPECT_EQ(model->plan.graph_sha256, Sha256Hex(ir::Print(*graph)));
  EXPECT_NE(model->step_graph->FindInput("block_table"), nullptr);
  EXPECT_TRUE(StructurallyEqual(*graph, *Graph(kRectangular))) << "the graph that was given is not changed";
  for (const plan::Step& step : model->plan.steps) {
    EXPECT_NE(step.op, "transpose") << "moving heads beside tokens moves nothing in a step graph";
  }
}

TEST(CompileTest, HeadRunsOnTheRowsWhoseLogitsAreWanted) {
  const auto model = Compile(*Graph(kRectangular), {});
  ASSERT_TRUE(model.ok());
  const plan::Step& head = model->plan.steps.back();
  EXPECT_EQ(head.op, "linear");
  EXPECT_EQ(model->plan.tensors[head.inputs[0]].shape[0], DimExpr::Symbol("L"));
}

// Steps by op, and how many there are of them.
std::map<std::string, int> StepsByOp(const std::string& json, const passes::CompileOptions& options = {}) {
  const auto graph = frontend::ImportGraph(json);
  EXPECT_TRUE(graph.ok()) << graph.status();
  const auto model = Compile(**graph, options);
  EXPECT_TRUE(model.ok()) << model.status();
  std::map<std::string, int> count;
  for (const plan::Step& step : model->plan.steps) ++count[step.op];
  return count;
}

// Five steps a layer: norm + QKV, rope + append + attention, output + residual, norm + MLP's first layers, MLP's second
// + residual. Beside them the lookups, and of the last layer the rows whose logits are wanted.
TEST(CompileTest, ALayerIsFiveSteps) {
  for (const int layers : {2, 5}) {
    EXPECT_THAT(StepsByOp(frontend::Gpt2Json({.layers = layers})),
                ElementsAre(Pair("add", 1), Pair("cached_attention", layers), Pair("embedding", 2),
                            Pair("fused_linear", 4 * layers + 1), Pair("gather_rows", 2)));
    EXPECT_THAT(StepsByOp(frontend::LlamaJson({.layers = layers, .kv_heads = 2})),
                ElementsAre(Pair("cached_attention", layers), Pair("embedding", 3),
                            Pair("fused_linear", 4 * layers + 1), Pair("gather_rows", 2)));
  }
}

passes::CompileOptions OnGpu(const std::string& dtype) {
  passes::CompileOptions options;
  options.device = "cuda";
  options.dtype = options.activation_dtype = dtype;
  return options;
}

// The same steps, in whatever the layers hand each other: nothing is cast on the way.
TEST(CompileTest, ALayerIsFiveStepsOnAGpu) {
  for (const std::string dtype : {"f32", "bf16"}) {
    for (const std::string& json : {frontend::Gpt2Json({}), frontend::LlamaJson({.kv_heads = 2})}) {
      EXPECT_EQ(StepsByOp(json, OnGpu(dtype)), StepsByOp(json)) << dtype;
    }
  }
}

// Matrices are bf16 and what layers hand each other too, the KV cache as well; norms, biases, positions and logits stay
// f32. Each step has a kernel with one order of sums at any number of tokens.
TEST(CompileTest, PlansForAGpu) {
  for (const std::string& json : {frontend::Gpt2Json({}), frontend::LlamaJson({.kv_heads = 2})}) {
    const auto graph = frontend::ImportGraph(json);
    ASSERT_TRUE(graph.ok()) << graph.status();
    const auto model = Compile(**graph, OnGpu("bf16"));
    ASSERT_TRUE(model.ok()) << model.status();
    const plan::Plan& plan = model->plan;
    EXPECT_EQ(plan.cache.dtype, DType::kBF16);
    ASSERT_EQ(plan.outputs.size(), 1u);
    EXPECT_EQ(plan.tensors[plan.outputs[0]].dtype, DType::kF32);
    for (const plan::Weight& weight : plan.weights) {
      EXPECT_EQ(weight.layout, "row_major");
      const bool of_positions = absl::c_any_of(std::array{"wpe", "cos", "sin"}, [&](std::string_view part) {
        return absl::StrContains(weight.sources[0], part);
      });
      EXPECT_EQ(weight.dtype, weight.shape.size() == 2 && !of_positions ? DType::kBF16 : DType::kF32)
          << weight.sources[0];
    }
    for (const plan::Step& step : plan.steps) {
      SCOPED_TRACE(step.op);
      EXPECT_EQ(step.tactics[0].id, step.op == "add" ? "cuda.binary" : "cuda." + step.op);
      const bool chooses_by_rows = step.op == "fused_linear" || step.op == "cached_attention";
      ASSERT_EQ(step.tactics.size(), chooses_by_rows ? 2u : 1u);
      if (chooses_by_rows) {
        EXPECT_EQ(step.tactics[1].id, step.tactics[0].id + ".invariant");
      }
      if (step.op == "embedding" || step.outputs[0] == plan.outputs[0]) continue;
      EXPECT_EQ(plan.tensors[step.outputs[0]].dtype, DType::kBF16);
    }
  }
}

// As it is, without a KV cache: attention on heads that are moved beside the sequence, and queries, keys and values
// that are slices of one product.
TEST(CompileTest, ALayerOfARectangleIsFusedToo) {
  const auto steps = [](const std::string& json) {
    const auto graph = frontend::ImportGraph(json);
    EXPECT_TRUE(graph.ok()) << graph.status();
    const auto compiled = CompileGraph(**graph, {});
    EXPECT_TRUE(compiled.ok()) << compiled.status();
    std::map<std::string, int> count;
    for (const plan::Step& step : compiled->plan.steps) ++count[step.op];
    return count;
  };
  for (const int layers : {2, 5}) {
    EXPECT_THAT(
        steps(frontend::Gpt2Json({.layers = layers})),
        ElementsAre(Pair("add", 1), Pair("attention", layers), Pair("embedding", 2),
                    Pair("fused_linear", 4 * layers + 1), Pair("slice", 3 * layers), Pair("transpose", 4 * layers)));
    EXPECT_THAT(steps(frontend::LlamaJson({.layers = layers, .kv_heads = 2})),
                ElementsAre(Pair("attention", layers), Pair("embedding", 3), Pair("fused_linear", 4 * layers + 1),
                            Pair("rope", 2 * layers), Pair("slice", 3 * layers), Pair("transpose", 4 * layers)));
  }
}

TEST(CompileTest, ARectanglesPositionsMayBeAnything) {
  constexpr std::string_view kMasked = R"ir(ffir 1
graph @masked {
  symbol B [1, 8]
  symbol S [1, 64]
  input %0 "position_ids" : i64[B, S]
  input %1 "x" : f32[B, 2, S, 4]
  %2 = reshape(%0) {shape = dims(B, 1, S, 1)} : i64[B, 1, S, 1]
  %3 = reshape(%0) {shape = dims(B, 1, 1, S)} : i64[B, 1, 1, S]
  %4 = le(%3, %2) : bool[B, 1, S, S]
  %5 = attention(%1, %1, %1, %4) {causal = false, scale = 0.5} : f32[B, 2, S, 4]
  output "y" %5
}
)ir";
  const auto compiled = CompileGraph(*Graph(kMasked), {});
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_EQ(compiled->plan.steps.back().inputs.size(), 4) << "the mask stays: positions need not rise";
}

TEST(CompileTest, WhoeverBringsAGpusWeightsWidensItsVectors) {
  constexpr std::string_view kLayers = R"ir(ffir 1
graph @layers {
  symbol T [1, 8]
  input %0 "x" : bf16[T, 8]
  weight %1 "gamma" : bf16[8]
  weight %2 "w" : bf16[16, 8]
  weight %3 "b" : bf16[8]
  weight %4 "c" : bf16[8]
  %5 = rms_norm(%0, %1) {eps = 1e-05} : bf16[T, 8]
  %6 = concat(%3, %4) {axis = 0} : bf16[16]
  %7 = linear(%5, %2, %6) : bf16[T, 16]
  output "y" %7
}
)ir";
  passes::CompileOptions options;
  options.device = "cuda";
  const auto compiled = CompileGraph(*Graph(kLayers), options);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_EQ(compiled->plan.steps.size(), 1) << "no cast is a step";
  std::map<std::vector<std::string>, DType> weights;
  for (const plan::Weight& weight : compiled->plan.weights) weights[weight.sources] = weight.dtype;
  EXPECT_THAT(weights, ElementsAre(Pair(ElementsAre("b", "c"), DType::kF32), Pair(ElementsAre("gamma"), DType::kF32),
                                   Pair(ElementsAre("w"), DType::kBF16)));
}

TEST(CompileTest, RefusalCarriesThePassesReason) {
  const auto graph = Graph(absl::StrReplaceAll(kRectangular, {{"causal = true", "causal = false"}}));
  const absl::Status status = Compile(*graph, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("kv-cache"));
  EXPECT_THAT(status.message(), HasSubstr("tiny.py:7"));
  EXPECT_THAT(status.message(), HasSubstr("causal"));
}

TEST(CompileTest, StoredGraphIsRectangularAndInTheChosenDType) {
  passes::CompileOptions options;
  options.dtype = "bf16";
  const auto stored = PrepareForStorage(*Graph(kRectangular), options);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_NE((*stored)->FindInput("input_ids"), nullptr);
  EXPECT_EQ((*stored)->FindWeight("wte")->tensor().dtype, DType::kBF16);
  // Compiled later with no options of its own, it keeps its dtype: precision is part of the model.
  const auto model = Compile(**stored, {});
  ASSERT_TRUE(model.ok()) << model.status();
  for (const plan::Weight& weight : model->plan.weights) {
    EXPECT_EQ(weight.dtype, weight.sources[0] == "wte" ? DType::kBF16 : DType::kF32) << "only the head is a product";
  }
  EXPECT_EQ(model->plan.cache.dtype, DType::kBF16);
}

TEST(CompileTest, AStoredGraphOfCodesStaysOne) {
  passes::CompileOptions options;
  options.dtype = "bf16";
  options.quantize = "int8";
  const auto stored = PrepareForStorage(*Graph(kRectangular), options);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ((*stored)->FindWeight("wte")->tensor().dtype, DType::kF32) << "codes are made of what is stored";
  const auto model = Compile(**stored, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->plan.cache.dtype, DType::kBF16);
  // A tied table's codes are read in rows by the lookup and in panels by the head; their scales are the same.
  std::vector<std::string> weights;
  for (const plan::Weight& weight : model->plan.weights) {
    weights.push_back(absl::StrCat(weight.sources[0], " ", DTypeName(weight.dtype), " ", weight.layout));
  }
  EXPECT_THAT(weights, ElementsAre("wte.codes i8 row_major", "wte.scales f32 row_major", "wpe f32 row_major",
                                   "wte.codes i8 panel16_int8"));
  EXPECT_EQ(model->plan.steps.back().tactics[0].id, "cpu.fused_linear.int8");
  const auto wrong =
      Graph(absl::StrReplaceAll(kRectangular, {{"metadata", "metadata quantize = \"int3\"\n  metadata"}}));
  EXPECT_THAT(Compile(*wrong, {}).status().message(), HasSubstr("\"int8\", \"int4\", got \"int3\""));
}

TEST(CompileTest, AStoredGraphKeepsItsCacheOfCodes) {
  passes::CompileOptions options;
  options.kv_dtype = "int8";
  const auto stored = PrepareForStorage(*Graph(kRectangular), options);
  ASSERT_TRUE(stored.ok()) << stored.status();
  const auto model = Compile(**stored, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->plan.cache.dtype, DType::kI8);
  EXPECT_EQ(model->plan.weights[0].dtype, DType::kF32);
  options.page_size = 6;
  EXPECT_THAT(Compile(**stored, options).status().message(), HasSubstr("expected a page_size of whole fours"));
  const auto wrong =
      Graph(absl::StrReplaceAll(kRectangular, {{"metadata", "metadata kv_dtype = \"int4\"\n  metadata"}}));
  EXPECT_THAT(Compile(*wrong, {}).status().message(), HasSubstr("option kv_dtype: expected one of"));
}

}  // namespace
}  // namespace flashflow::driver
