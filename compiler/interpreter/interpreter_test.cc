#include "compiler/interpreter/interpreter.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::interpreter {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<ir::Graph> Parse(std::string_view text) {
  absl::StatusOr<std::unique_ptr<ir::Graph>> graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return graph.ok() ? *std::move(graph) : nullptr;
}

absl::StatusOr<Tensor> RunToY(std::string_view text, Values inputs,
                              absl::flat_hash_map<std::string, Tensor> weights = {}, Mode mode = Mode::kTyped) {
  absl::StatusOr<Values> outputs = Interpret(*Parse(text), std::move(inputs), WeightsFrom(std::move(weights)), mode);
  if (!outputs.ok()) return outputs.status();
  return std::get<Tensor>(outputs->at("y"));
}

constexpr std::string_view kLinear = R"ffir(ffir 1
graph @g {
  symbol B [1, 4]
  input %x "x" : f32[B, 2]
  weight %w "w" : bf16[3, 2]
  %y = linear(%x, %w) : f32[B, 3] loc "proj (m.py:5)"
  output "y" %y
}
)ffir";

const Tensor kWeight = Tensor::Floats({3, 2}, {1, 0, 0, 1, 1 + 0x1p-9, 0});

TEST(Interpreter, RunsWithWeights) {
  absl::StatusOr<Tensor> y = RunToY(kLinear, {{"x", Tensor::Floats({1, 2}, {1, 0.1})}}, {{"w", kWeight}});
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_EQ(y->shape, (Shape{1, 3}));
  // Typed: x is rounded to f32 and the weight to bf16.
  EXPECT_THAT(y->floats, ElementsAre(1, static_cast<double>(0.1f), 1));
}

TEST(Interpreter, WideModeRoundsNothing) {
  absl::StatusOr<Tensor> y = RunToY(kLinear, {{"x", Tensor::Floats({1, 2}, {1, 0.1})}}, {{"w", kWeight}}, Mode::kWide);
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_THAT(y->floats, ElementsAre(1, 0.1, 1 + 0x1p-9));
}

TEST(Interpreter, WideModeKeepsFloatsThroughCastsAndWrapsIntegers) {
  constexpr std::string_view kText = R"ffir(ffir 1
graph @g {
  input %x "x" : f32[2]
  input %i "i" : i8[2]
  %a = cast(%x) {dtype = bf16} : bf16[2]
  %b = cast(%a) {dtype = f32} : f32[2]
  %c = add(%i, %i) : i8[2]
  %d = cast(%c) {dtype = f32} : f32[2]
  %y = add(%b, %d) : f32[2]
  output "y" %y
}
)ffir";
  const Values inputs = {{"x", Tensor::Floats({2}, {0.1, 1 + 0x1p-20})},
                         {"i", Tensor::Ints({2}, {100, 1}, DType::kI8)}};
  EXPECT_THAT(RunToY(kText, inputs, {}, Mode::kWide)->floats, ElementsAre(0.1 - 56, 3 + 0x1p-20));
  EXPECT_THAT(RunToY(kText, inputs)->floats, ElementsAre(0.10009765625 - 56, 3));
}

TEST(Interpreter, EvaluatesSymbolsFromInputs) {
  absl::StatusOr<Tensor> y = RunToY(R"ffir(ffir 1
graph @g {
  symbol S [0, 8]
  input %n "n" : i32[S]
  input %x "x" : f32[S + 2]
  %y = slice(%x) {axis = 0, start = dim(S), stop = dim(S + 1)} : f32[1]
  output "y" %y
}
)ffir",
                                    {{"n", Tensor::Ints({3}, {0, 0, 0})}, {"x", Tensor::Floats({5}, {0, 1, 2, 3, 4})}});
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_THAT(y->floats, ElementsAre(3));
}

TEST(Interpreter, ChecksWhatOnlyShapesShow) {
  constexpr std::string_view kText = R"ffir(ffir 1
graph @g {
  symbol S [0, 1000000000]
  input %x "x" : f32[S]
  %s = slice(%x) {axis = 0, start = dim(0), stop = dim(2)} : f32[2]
  %e = constant() {dtype = f32, shape = dims(S, S, S), value = 0.0} : f32[S, S, S] loc "big (m.py:1)"
  %y = reduce_sum(%e) {axes = [0, 1, 2]} : f32[]
  output "y" %y
  output "s" %s
}
)ffir";
  EXPECT_THAT(RunToY(kText, {{"x", Tensor::Floats({1}, {0})}}).status().message(),
              HasSubstr("%1 = slice: start and stop: expected 0 <= start <= stop <= 1, got 0 and 2"));
  const absl::Status status = RunToY(kText, {{"x", Tensor::Zeros(DType::kF32, {10000})}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("%2 = constant at \"big (m.py:1)\": shape [S, S, S] has too many elements"));
}

TEST(Interpreter, NamesWrongInputs) {
  auto error = [](Values inputs) {
    return std::string(RunToY(kLinear, std::move(inputs), {{"w", kWeight}}).status().message());
  };
  const Tensor x = Tensor::Floats({1, 2}, {1, 2});
  EXPECT_EQ(error({}), "input \"x\" is missing");
  EXPECT_EQ(error({{"x", x}, {"z", x}}), "the graph has no input \"z\"");
  EXPECT_EQ(error({{"x", Tensor::Ints({1, 2}, {1, 2})}}), "input \"x\": expected f32, got i32");
  EXPECT_EQ(error({{"x", Tensor::Floats({2}, {1, 2})}}), "input \"x\": expected shape [B, 2], got [2]");
  EXPECT_EQ(error({{"x", Tensor::Floats({1, 3}, {1, 2, 3})}}),
            "input \"x\": expected shape [B, 2] = [1, 2], got [1, 3]");
  EXPECT_EQ(error({{"x", Tensor::Zeros(DType::kF32, {5, 2})}}), "input \"x\": B = 5 in shape [5, 2] is outside [1, 4]");
  EXPECT_EQ(error({{"x", Cache::Empty({1, 1, 1}, 1, 1)}}), "input \"x\": expected a tensor, got a cache");
  Tensor torn = x;
  torn.floats.pop_back();
  EXPECT_EQ(error({{"x", torn}}), "input \"x\": shape [1, 2] does not hold 1 elements");
}

TEST(Interpreter, ChecksTheRangeOfIntegers) {
  constexpr std::string_view kText = R"ffir(ffir 1
graph @g {
  input %x "x" : i8[1]
  input %b "b" : bool[1]
  output "y" %x
}
)ffir";
  auto error = [&](int64_t x, int64_t b) {
    return std::string(
        RunToY(kText, {{"x", Tensor::Ints({1}, {x}, DType::kI8)}, {"b", Tensor::Ints({1}, {b}, DType::kBool)}})
            .status()
            .message());
  };
  EXPECT_EQ(error(-128, 1), "");
  EXPECT_EQ(error(128, 1), "input \"x\": 128 is no value of i8");
  EXPECT_EQ(error(-129, 1), "input \"x\": -129 is no value of i8");
  EXPECT_EQ(error(0, 2), "input \"b\": 2 is no value of bool");
}

TEST(Interpreter, NamesWrongWeights) {
  const Values inputs = {{"x", Tensor::Floats({1, 2}, {1, 2})}};
  EXPECT_EQ(RunToY(kLinear, inputs).status(),
            absl::NotFoundError("%2 = linear at \"proj (m.py:5)\": weight \"w\": there is none of that name"));
  EXPECT_THAT(RunToY(kLinear, inputs, {{"w", Tensor::Floats({2, 3}, {1, 2, 3, 4, 5, 6})}}).status().message(),
              HasSubstr("weight \"w\": expected shape [3, 2] = [3, 2], got [2, 3]"));
  EXPECT_THAT(RunToY(kLinear, inputs, {{"w", Tensor::Ints({3, 2}, {1, 2, 3, 4, 5, 6})}}).status().message(),
              HasSubstr("expected bf16, got i32"));
}

TEST(Interpreter, AsksForEachWeightOnceAndLetsGoOfIt) {
  constexpr std::string_view kText = R"ffir(ffir 1
graph @g {
  input %x "x" : f32[2]
  weight %a "a" : f32[2]
  weight %b "b" : f32[2]
  weight %unused "unused" : f32[2]
  %1 = add(%x, %a) : f32[2]
  %2 = mul(%1, %a) : f32[2]
  %y = add(%2, %b) : f32[2]
  output "y" %y
}
)ffir";
  std::vector<std::string> asked;
  std::weak_ptr<const Tensor> first;
  const WeightSource source = [&](const std::string& name) -> absl::StatusOr<std::shared_ptr<const Tensor>> {
    asked.push_back(name);
    EXPECT_TRUE(first.expired()) << "a is still held when b is asked for";
    auto tensor = std::make_shared<const Tensor>(Tensor::Floats({2}, {2, 3}));
    first = tensor;
    return tensor;
  };
  absl::StatusOr<Values> outputs = Interpret(*Parse(kText), {{"x", Tensor::Floats({2}, {1, 1})}}, source, Mode::kWide);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_THAT(asked, ElementsAre("a", "b"));
  EXPECT_THAT(std::get<Tensor>(outputs->at("y")).floats, ElementsAre(8, 15));
}

TEST(Interpreter, AHookSeesAndChangesWhatNodesCompute) {
  std::vector<std::string> seen;
  const auto hook = [&seen](const ir::Node& node, Tensor* result) {
    seen.push_back(node.loc());
    for (double& value : result->floats) value *= 2;
  };
  const auto outputs = Interpret(*Parse(kLinear), {{"x", Tensor::Floats({1, 2}, {1, 3})}},
                                 WeightsFrom({{"w", kWeight}}), Mode::kTyped, hook);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_THAT(std::get<Tensor>(outputs->at("y")).floats, ElementsAre(2, 6, 2));
  EXPECT_THAT(seen, ElementsAre("proj (m.py:5)"));
}

TEST(Interpreter, InputsAndWeightsCanBeOutputs) {
  absl::StatusOr<Values> outputs =
      Interpret(*Parse(R"ffir(ffir 1
graph @g {
  input %c "c" : cache[1, 1, 2, f32]
  weight %w "w" : f32[1]
  output "y" %w
  output "c" %c
}
)ffir"),
                {{"c", Cache::Empty({1, 1, 2}, 3, 4)}}, WeightsFrom({{"w", Tensor::Floats({1}, {5})}}), Mode::kTyped);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_THAT(std::get<Tensor>(outputs->at("y")).floats, ElementsAre(5));
  EXPECT_EQ(std::get<Cache>(outputs->at("c")).num_pages, 3);
}

}  // namespace
}  // namespace flashflow::interpreter
