#include "compiler/frontend/graph_json.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::frontend {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kGood = R"json({
  "format": "flashflow.graph", "version": 1, "producer": {"torch": "2.13.0"}, "name": "m",
  "metadata": {"context_length": 16, "theta": 1e4, "architecture": "llama", "tied": true},
  "symbols": [{"name": "B", "min": 1, "max": 4}],
  "inputs": [{"id": "x", "name": "x", "dtype": "f32", "shape": ["2*B", 3]}],
  "weights": [{"id": "w", "name": "layer.w", "dtype": "bf16", "shape": [5, 3]}],
  "nodes": [
    {"id": "a", "target": "t", "args": [{"ref": "x"}, null, -2, 0.5, true, "s", [1, {"dim": "B"}], {"dtype": "i64"},
     {"float": "-inf"}, {"other": "device(cpu)"}], "kwargs": {"k": {"ref": "w"}},
     "results": [{"dtype": "f32", "shape": []}, {"dtype": "bool", "shape": ["B"]}], "module": "m.a", "source": "m.py:3"}],
  "outputs": [{"id": "a", "name": "y"}]})json";

TEST(GraphJsonTest, ReadsEveryKindOfArgument) {
  absl::StatusOr<GraphJson> graph = ParseGraphJson(kGood);
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(std::get<int64_t>(graph->metadata.at("context_length")), 16);
  EXPECT_EQ(std::get<double>(graph->metadata.at("theta")), 1e4);
  EXPECT_EQ(graph->inputs[0].type.shape[0], DimExpr(2) * DimExpr::Symbol("B"));
  EXPECT_EQ(graph->weights[0].type.dtype, DType::kBF16);
  const JsonNode& node = graph->nodes[0];
  EXPECT_EQ(ArgToString(Arg{node.args}),
            R"json([the tensor "x", null, -2, 0.5, true, "s", [1, B], i64, -inf, device(cpu)])json");
  EXPECT_EQ(node.kwargs[0].first, "k");
  ASSERT_EQ(node.results.size(), 2u);
  EXPECT_EQ(node.results[1].dtype, DType::kBool);
  EXPECT_EQ(node.source, "m.py:3");
}

struct BadCase {
  std::string from, to, message;
};
class BadGraphJsonTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadGraphJsonTest, IsRefusedByName) {
  std::string text(kGood);
  const size_t at = text.find(GetParam().from);
  ASSERT_NE(at, std::string::npos);
  text.replace(at, GetParam().from.size(), GetParam().to);
  const absl::StatusOr<GraphJson> graph = ParseGraphJson(text);
  ASSERT_FALSE(graph.ok());
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, BadGraphJsonTest,
    ::testing::Values(
        BadCase{R"json("y"}]})json", R"json("y"}])json", "not valid JSON"},
        BadCase{"flashflow.graph", "onnx", R"(format: expected "flashflow.graph", got "onnx")"},
        BadCase{R"("version": 1)", R"("version": 2)", "version: expected 1"},
        BadCase{R"("version": 1)", R"("version": 18446744073709551615)", "64-bit integer"},
        BadCase{R"("outputs")", R"("output")", "unknown key"},
        BadCase{R"("name": "m",)", "", R"(key "name" is missing)"},
        BadCase{R"("name": "m",)", R"("name": "",)", "name: expected a name"},
        BadCase{"true}", "[1]}", "metadata.tied: expected an int, float, string or bool"},
        BadCase{R"("min": 1)", R"("min": 1.5)", "symbols[0].min"},
        BadCase{R"("dtype": "f32", "shape": ["2*B")", R"("dtype": "f64", "shape": ["2*B")", "inputs[0].dtype"},
        BadCase{R"(["2*B", 3])", R"(["B B", 3])", "inputs[0].shape"},
        BadCase{R"(["2*B", 3])", "[-1, 3]", "dims of 0 or more"},
        BadCase{R"(["2*B", 3])", "[1, 1, 1, 1, 1, 1, 1]", "at most 6 dims"},
        BadCase{"[5, 3]", R"(["B", 3])", "weights[0].shape: expected constant dims"},
        BadCase{R"("id": "w")", R"("id": "x")", R"(id "x" is used twice)"},
        BadCase{R"({"ref": "x"}, null)", R"({"ref": "z"}, null)", R"(nodes[0].args[0]: no input, weight or earlier)"},
        BadCase{R"({"ref": "x"}, null)", R"([{"ref": "a"}], null)",
                R"(no input, weight or earlier node has the id "a")"},
        BadCase{R"({"ref": "w"})", R"({"ref": "z"})", "nodes[0].kwargs.k"},
        BadCase{R"({"ref": "x"}, null)", R"({"reference": "x"}, null)", "nodes[0].args[0]: expected a number"},
        BadCase{R"({"ref": "x"}, null)", "[[[[[1]]]]], null", "less deeply nested"},
        BadCase{R"("results": [)", R"("results": [], "r": [)", "unknown key"},
        BadCase{R"("module": "m.a")", R"("dtype": "f32")", R"(either "dtype" and "shape")"},
        BadCase{R"([{"id": "a", "name": "y"}])", R"([{"id": "b", "name": "y"}])", "outputs[0]: no input"},
        BadCase{R"([{"id": "a", "name": "y"}])", R"({"id": "b"})", "outputs: expected a list"},
        BadCase{R"([{"id": "a", "name": "y"}])", "[7]", "outputs[0]: expected an object, got 7"}));

TEST(GraphJsonTest, SaysWhereATextIsNoJson) {
  EXPECT_EQ(ParseGraphJson("{\n  \"name\": ,\n}").status().message(), "graph.json: 2:11: not valid JSON");
  EXPECT_EQ(ParseGraphJson("x").status().message(), "graph.json: 1:1: not valid JSON");
  EXPECT_EQ(ParseGraphJson("{}\n }").status().message(), "graph.json: 2:2: not valid JSON");
}

TEST(GraphJsonTest, SaysWhereAValueIs) {
  const auto message = [](std::string_view from, std::string_view to) {
    std::string text(kGood);
    text.replace(text.find(from), from.size(), to);
    return std::string(ParseGraphJson(text).status().message());
  };
  EXPECT_EQ(message(R"("version": 1)", R"("version": 2)"),
            "graph.json: 2:43: version: expected 1, the only one that this build reads, got 2");
  EXPECT_THAT(message(R"({"ref": "w"})", R"({"ref": "z"})"), StartsWith("graph.json: 9:68: nodes[0].kwargs.k: no "));
  EXPECT_THAT(message(R"("dtype": "bool")", R"("dtype": "b")"), StartsWith("graph.json: 10:59: nodes[0].results[1]."));
  EXPECT_THAT(message(R"("name": "y")", R"("nome": "y")"), StartsWith("graph.json: 11:15: outputs[0]: unknown key"));
  EXPECT_EQ(ParseGraphJson("\n 7").status().message(), "graph.json: 2:2: expected an object, got 7");
}

TEST(GraphJsonTest, SurvivesAnyPrefixAndDeepNesting) {
  for (size_t size = 0; size < kGood.size(); ++size) EXPECT_FALSE(ParseGraphJson(kGood.substr(0, size)).ok());
  EXPECT_FALSE(ParseGraphJson(std::string(1 << 20, '[')).ok());
  const std::string nested = std::string(1 << 18, '[') + std::string(1 << 18, ']');
  EXPECT_FALSE(ParseGraphJson(nested).ok());
}

}  // namespace
}  // namespace flashflow::frontend
