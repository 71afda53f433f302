#include "compiler/frontend/import_graph.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "compiler/frontend/lowering.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/printer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace flashflow::frontend {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

// A graph of one node over x : f32[B, S, 4], i : i64[B, S], m : f32[4, 4], v : f32[4], s : f32[], n : i64[4] and
// h : f32[B, 2, S, 8].
Json OneNode(const std::string& target, const Json& args, const Json& result, const Json& kwargs = Json::object()) {
  auto tensor = [](const std::string& id, const std::string& dtype, const Json& shape) {
    return Json{{"id", id}, {"name", id}, {"dtype", dtype}, {"shape", shape}};
  };
  Json node = {{"id", "y"},        {"target", target},    {"args", args},
               {"kwargs", kwargs}, {"module", "block.0"}, {"source", "model.py:7"}};
  node.update(result);
  return {{"format", "flashflow.graph"},
          {"version", 1},
          {"name", "one"},
          {"symbols", {{{"name", "B"}, {"min", 1}, {"max", 8}}, {{"name", "S"}, {"min", 1}, {"max", 16}}}},
          {"inputs",
           {tensor("x", "f32", {"B", "S", 4}), tensor("i", "i64", {"B", "S"}), tensor("h", "f32", {"B", 2, "S", 8})}},
          {"weights",
           {tensor("m", "f32", {4, 4}), tensor("v", "f32", Json::array({4})), tensor("s", "f32", Json::array()),
            tensor("n", "i64", Json::array({4}))}},
          {"nodes", Json::array({node})},
          {"outputs", Json::array({{{"id", "y"}, {"name", "y"}}})}};
}
Json F32(const Json& shape) { return {{"dtype", "f32"}, {"shape", shape}}; }
Json I64(const Json& shape) { return {{"dtype", "i64"}, {"shape", shape}}; }
Json R(const char* id) { return {{"ref", id}}; }

// The node lines of the imported graph, or the error.
std::string Import(const Json& json) {
  const auto graph = ImportGraph(json.dump());
  if (!graph.ok()) return std::string(graph.status().message());
  const std::string text = ir::Print(**graph);
  std::string nodes;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    if (line.find(" = ") != std::string::npos && line.find("  %") == 0) absl::StrAppend(&nodes, line.substr(2), "\n");
    at = end + 1;
  }
  return absl::StrReplaceAll(nodes, {{" loc \"block.0 (model.py:7)\"", ""}});
}

struct Lowered {
  std::string target;
  Json args;
  Json result;
  std::string expected;
  Json kwargs = Json::object();
};

// Inputs and weights take %0 to %6: x, i, h, m, v, s, n.
TEST(ImportGraphTest, LowersEachTarget) {
  const Json xs = F32({"B", "S", 4});
  const std::string ty = " : f32[B, S, 4]\n";
  const Lowered cases[] = {
      {"aten.neg.default", {R("x")}, xs, "%7 = neg(%0)" + ty},
      {"aten.sin.default",
       {R("i")},
       F32({"B", "S"}),
       "%7 = cast(%1) {dtype = f32} : f32[B, S]\n%8 = sin(%7) : f32[B, S]\n"},
      {"aten.gelu.default", {R("x")}, xs, "%7 = gelu(%0) {approximate = \"tanh\"}" + ty, {{"approximate", "tanh"}}},
      {"aten.gelu.default", {R("x")}, xs, "%7 = gelu(%0)" + ty},
      // Promotion: a number or a tensor of shape [] raises only the category.
      {"aten.add.Tensor", {R("x"), R("s")}, xs, "%7 = add(%0, %5)" + ty},
      {"aten.add.Tensor", {R("x"), 2}, xs, "%7 = constant() {dtype = f32, value = 2.0} : f32[]\n%8 = add(%0, %7)" + ty},
      {"aten.add.Tensor",
       {R("i"), 2},
       I64({"B", "S"}),
       "%7 = constant() {dtype = i64, value = 2.0} : i64[]\n%8 = add(%1, %7) : i64[B, S]\n"},
      {"aten.mul.Tensor",
       {R("i"), 0.5},
       F32({"B", "S"}),
       "%7 = cast(%1) {dtype = f32} : f32[B, S]\n%8 = constant() {dtype = f32, value = 0.5} : f32[]\n"
       "%9 = mul(%7, %8) : f32[B, S]\n"},
      {"aten.mul.Tensor", {R("x"), R("n")}, xs, "%7 = cast(%6) {dtype = f32} : f32[4]\n%8 = mul(%0, %7)" + ty},
      {"aten.mul.Tensor",
       {R("n"), R("s")},
       F32(Json::array({4})),
       "%7 = cast(%6) {dtype = f32} : f32[4]\n%8 = mul(%7, %5) : f32[4]\n"},
      {"aten.div.Tensor",
       {R("i"), 2},
       F32({"B", "S"}),
       "%7 = cast(%1) {dtype = f32} : f32[B, S]\n%8 = constant() {dtype = f32, value = 2.0} : f32[]\n"
       "%9 = div(%7, %8) : f32[B, S]\n"},
      {"aten.rsub.Scalar",
       {R("x"), 1},
       xs,
       "%7 = constant() {dtype = f32, value = 1.0} : f32[]\n%8 = sub(%7, %0)" + ty},
      {"aten.sub.Tensor", {R("x"), R("v")}, xs, "%7 = sub(%0, %4)" + ty, {{"alpha", 1}}},
      {"aten.pow.Tensor_Scalar",
       {R("x"), 3},
       xs,
       "%7 = constant() {dtype = f32, value = 3.0} : f32[]\n%8 = pow(%0, %7)" + ty},
      // Shapes.
      {"aten.view.default",
       {R("x"), {{{"dim", "B*S"}}, -1}},
       F32({"B*S", 4}),
       "%7 = reshape(%0) {shape = dims(B*S, 4)} : f32[B*S, 4]\n"},
      {"aten.view.default",
       {R("x"), {-1, 2}},
       F32({"2*B*S", 2}),
       "%7 = reshape(%0) {shape = dims(2*B*S, 2)} : f32[2*B*S, 2]\n"},
      {"aten.transpose.int",
       {R("h"), 1, -2},
       F32({"B", "S", 2, 8}),
       "%7 = transpose(%2) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n"},
      {"aten.permute.default",
       {R("h"), {0, -2, 1, 3}},
       F32({"B", "S", 2, 8}),
       "%7 = transpose(%2) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n"},
      {"aten.t.default", {R("m")}, F32({4, 4}), "%7 = transpose(%3) {perm = [1, 0]} : f32[4, 4]\n"},
      {"aten.unsqueeze.default",
       {R("x"), -1},
       F32({"B", "S", 4, 1}),
       "%7 = reshape(%0) {shape = dims(B, S, 4, 1)} : f32[B, S, 4, 1]\n"},
      {"aten.expand.default",
       {R("v"), {{{"dim", "B"}}, 1, -1}},
       F32({"B", 1, 4}),
       "%7 = expand(%4) {shape = dims(B, 1, 4)} : f32[B, 1, 4]\n"},
      {"aten.slice.Tensor",
       {R("x"), -1, -3, 100},
       F32({"B", "S", 3}),
       "%7 = slice(%0) {axis = 2, start = dim(1), stop = dim(4)} : f32[B, S, 3]\n"},
      {"aten.slice.Tensor",
       {R("x"), 2, 3, 1},
       F32({"B", "S", 0}),
       "%7 = slice(%0) {axis = 2, start = dim(3), stop = dim(3)} : f32[B, S, 0]\n"},
      {"aten.slice.Tensor", {R("x"), 1, 0, {{"dim", "S"}}}, xs, ""},
      {"aten.select.int",
       {R("h"), 1, -1},
       F32({"B", "S", 8}),
       "%7 = slice(%2) {axis = 1, start = dim(1), stop = dim(2)} : f32[B, 1, S, 8]\n"
       "%8 = reshape(%7) {shape = dims(B, S, 8)} : f32[B, S, 8]\n"},
      {"aten.cat.default",
       {{R("x"), R("x")}, -1},
       F32({"B", "S", 8}),
       "%7 = concat(%0, %0) {axis = 2} : f32[B, S, 8]\n"},
      {"aten.embedding.default", {R("m"), R("i"), -1, false, false}, xs, "%7 = embedding(%3, %1) {dtype = f32}" + ty},
      {"aten.index.Tensor", {R("m"), Json::array({R("i")})}, xs, "%7 = embedding(%3, %1) {dtype = f32}" + ty},
      // Reductions and products.
      {"aten.mean.dim",
       {R("x"), Json::array({-1}), true},
       F32({"B", "S", 1}),
       "%7 = reduce_mean(%0) {axes = [2], keepdims = true} : f32[B, S, 1]\n"},
      {"aten.sum.dim_IntList", {R("m"), nullptr}, F32(Json::array()), "%7 = reduce_sum(%3) {axes = [0, 1]} : f32[]\n"},
      {"aten.softmax.int", {R("x"), -1}, xs, "%7 = softmax(%0) {axis = 2}" + ty},
      {"aten.layer_norm.default",
       {R("x"), Json::array({4}), nullptr, R("v")},
       xs,
       "%7 = layer_norm(%0, _, %4) {eps = 1e-05}" + ty},
      {"aten.rms_norm.default",
       {R("x"), Json::array({4}), R("v")},
       xs,
       "%7 = rms_norm(%0, %4) {eps = 1.1920928955078125e-07}" + ty},
      {"aten.linear.default", {R("x"), R("m"), R("v")}, xs, "%7 = linear(%0, %3, %4)" + ty},
      {"aten.matmul.default", {R("x"), R("m")}, xs, "%7 = matmul(%0, %3)" + ty},
      {"aten.addmm.default",
       {R("v"), R("m"), R("m")},
       F32({4, 4}),
       "%7 = transpose(%3) {perm = [1, 0]} : f32[4, 4]\n%8 = linear(%3, %7, %4) : f32[4, 4]\n"},
      {"aten.scaled_dot_product_attention.default",
       {R("h"), R("h"), R("h"), nullptr, 0.0, true},
       F32({"B", 2, "S", 8}),
       "%7 = attention(%2, %2, %2) {causal = true, scale = 0.35355339059327373} : f32[B, 2, S, 8]\n"},
      {"aten.scaled_dot_product_attention.default",
       {R("h"), R("h"), R("h")},
       F32({"B", 2, "S", 8}),
       "%7 = attention(%2, %2, %2) {causal = false, scale = 0.5} : f32[B, 2, S, 8]\n",
       {{"scale", 0.5}}},
      // Identities.
      {"aten.dropout.default", {R("x"), 0.1, false}, xs, ""},
      {"aten.contiguous.default", {R("x")}, xs, ""},
      {"aten.to.dtype", {R("x"), {{"dtype", "f32"}}}, xs, ""},
      {"aten._to_copy.default",
       {R("i")},
       F32({"B", "S"}),
       "%7 = cast(%1) {dtype = f32} : f32[B, S]\n",
       {{"dtype", {{"dtype", "f32"}}}, {"device", {{"other", "cpu"}}}}},
  };
  for (const Lowered& c : cases) {
    const Json args = c.args.is_array() ? c.args : Json::array({c.args});
    EXPECT_EQ(Import(OneNode(c.target, args, c.result, c.kwargs)), c.expected) << c.target << args;
  }
}

// What masks and positions are made of.
TEST(ImportGraphTest, LowersIndexArithmetic) {
  const Json is = I64({"B", "S"});
  const Json bs = {{"dtype", "bool"}, {"shape", {"B", "S"}}};
  const Json s_dim = {{"dim", "S"}};
  const std::string ti = " : i64[B, S]\n";
  const std::string tb = " : bool[B, S]\n";
  const std::string one = "%7 = constant() {dtype = i64, value = 1.0} : i64[]\n";
  const std::string i_as_bool = "%7 = cast(%1) {dtype = bool}" + tb;
  const Lowered cases[] = {
      {"aten.arange.default",
       Json::array({s_dim}),
       I64(Json::array({"S"})),
       "%7 = iota() {axis = 0, dtype = i64, shape = dims(S)} : i64[S]\n",
       {{"device", {{"other", "cpu"}}}, {"pin_memory", false}}},
      {"aten.arange.start",
       {2, s_dim},
       I64(Json::array({"S - 2"})),
       "%7 = iota() {axis = 0, dtype = i64, shape = dims(S - 2)} : i64[S - 2]\n"
       "%8 = constant() {dtype = i64, value = 2.0} : i64[]\n%9 = add(%7, %8) : i64[S - 2]\n"},
      {"aten.zeros.default", Json::array({Json::array({s_dim, 2})}), F32({"S", 2}),
       "%7 = constant() {dtype = f32, shape = dims(S, 2), value = 0.0} : f32[S, 2]\n"},
      {"aten.new_ones.default",
       {R("i"), Json::array()},
       {{"dtype", "bool"}, {"shape", Json::array()}},
       "%7 = constant() {dtype = bool, value = 1.0} : bool[]\n",
       {{"dtype", {{"dtype", "bool"}}}}},
      {"aten.full.default",
       {Json::array({2}), {{"float", "-inf"}}},
       F32(Json::array({2})),
       "%7 = constant() {dtype = f32, shape = dims(2), value = -inf} : f32[2]\n"},
      {"aten.full_like.default",
       {R("i"), 3},
       is,
       "%7 = constant() {dtype = i64, shape = dims(B, S), value = 3.0}" + ti},
      {"aten.ne.Scalar", {R("i"), 1}, bs, one + "%8 = ne(%1, %7)" + tb},
      {"aten.le.Tensor", {R("i"), R("i")}, bs, "%7 = le(%1, %1)" + tb},
      {"aten.logical_not.default", {R("i")}, bs, i_as_bool + "%8 = logical_not(%7)" + tb},
      {"aten.where.ScalarOther",
       {R("i"), R("s"), {{"float", "-inf"}}},
       F32({"B", "S"}),
       i_as_bool + "%8 = constant() {dtype = f32, value = -inf} : f32[]\n%9 = where(%7, %5, %8) : f32[B, S]\n"},
      {"aten.triu.default",
       {R("m"), 1},
       F32({4, 4}),
       "%7 = iota() {axis = 0, dtype = i64, shape = dims(4, 4)} : i64[4, 4]\n"
       "%8 = iota() {axis = 1, dtype = i64, shape = dims(4, 4)} : i64[4, 4]\n"
       "%9 = sub(%8, %7) : i64[4, 4]\n%10 = constant() {dtype = i64, value = 1.0} : i64[]\n"
       "%11 = ge(%9, %10) : bool[4, 4]\n%12 = constant() {dtype = f32, value = 0.0} : f32[]\n"
       "%13 = where(%11, %3, %12) : f32[4, 4]\n"},
      {"aten.cumsum.default", {R("i"), -1}, is, "%7 = cumsum(%1) {axis = 1}" + ti},
      {"aten.diff.default",
       {R("i"), 1, -1, R("i")},
       I64({"B", "2*S - 1"}),
       "%7 = concat(%1, %1) {axis = 1} : i64[B, 2*S]\n"
       "%8 = slice(%7) {axis = 1, start = dim(1), stop = dim(2*S)} : i64[B, 2*S - 1]\n"
       "%9 = slice(%7) {axis = 1, start = dim(0), stop = dim(2*S - 1)} : i64[B, 2*S - 1]\n"
       "%10 = sub(%8, %9) : i64[B, 2*S - 1]\n"},
      {"aten.index.Tensor",
       {R("i"), Json::array({R("n"), R("n")})},
       I64(Json::array({4})),
       "%7 = index(%1, %6, %6) : i64[4]\n"},
      {"aten.slice.Tensor",
       {R("i"), 1, 0, 1},
       I64({"B", 1}),
       "%7 = slice(%1) {axis = 1, start = dim(0), stop = dim(1)} : i64[B, 1]\n"},
      {"aten.slice.Tensor",
       {R("i"), 1, -1},
       I64({"B", 1}),
       "%7 = slice(%1) {axis = 1, start = dim(S - 1), stop = dim(S)} : i64[B, 1]\n"},
      {"aten.repeat_interleave.self_int",
       {R("h"), 3, 1},
       F32({"B", 6, "S", 8}),
       "%7 = reshape(%2) {shape = dims(B, 2, 1, S, 8)} : f32[B, 2, 1, S, 8]\n"
       "%8 = expand(%7) {shape = dims(B, 2, 3, S, 8)} : f32[B, 2, 3, S, 8]\n"
       "%9 = reshape(%8) {shape = dims(B, 6, S, 8)} : f32[B, 6, S, 8]\n"},
      {"aten.flatten.using_ints",
       {R("h"), 1, -2},
       F32({"B", "2*S", 8}),
       "%7 = reshape(%2) {shape = dims(B, 2*S, 8)} : f32[B, 2*S, 8]\n"},
      {"aten.unflatten.int",
       {R("x"), -1, {2, -1}},
       F32({"B", "S", 2, 2}),
       "%7 = reshape(%0) {shape = dims(B, S, 2, 2)} : f32[B, S, 2, 2]\n"},
  };
  for (const Lowered& c : cases) {
    const Json args = c.args.is_array() ? c.args : Json::array({c.args});
    EXPECT_EQ(Import(OneNode(c.target, args, c.result, c.kwargs)), c.expected) << c.target << args;
  }
}

TEST(ImportGraphTest, RefusesWithNodeAndReason) {
  const Json xs = F32({"B", "S", 4});
  const Json hs = F32({"B", 2, "S", 8});
  const Json causal = {{"is_causal", true}};
  const Lowered cases[] = {
      {"aten.fft_fft.default", {R("x")}, xs, "this operation is not supported"},
      {"aten.neg.default", {R("x"), 1}, xs, "at most 1 arguments"},
      {"aten.add.Tensor", {R("x")}, xs, "argument \"other\" is missing"},
      {"aten.add.Tensor", {R("x"), R("x")}, xs, "unknown argument \"beta\"", {{"beta", 1}}},
      {"aten.add.Tensor", {R("x"), R("x")}, xs, "argument \"other\" is given twice", {{"other", 1}}},
      {"aten.add.Tensor", {R("x"), R("x")}, xs, "argument \"alpha\" = 2 is not supported", {{"alpha", 2}}},
      {"aten.add.Tensor", {1, 2}, xs, "at least one tensor"},
      {"aten.add.Tensor", {R("x"), "z"}, xs, "expected a tensor or a number, got \"z\""},
      {"aten.add.Tensor", {R("i"), 9007199254740993}, I64({"B", "S"}), "2^53"},
      {"aten.add.Tensor", {R("x"), R("h")}, xs, "add: "},
      {"aten.neg.default", {R("x")}, F32({"B", "S", 5}), "declares f32[B, S, 5], but its operands give f32[B, S, 4]"},
      {"aten.neg.default", {R("x")}, I64({"B", "S", 4}), "declares i64[B, S, 4]"},
      {"aten.view.default", {R("x"), {-1, -1}}, xs, "at most one -1"},
      {"aten.view.default", {R("x"), {-1, 3}}, xs, "divide the elements"},
      {"aten.view.default", {R("x"), {3, 5}}, xs, "reshape: "},
      {"aten.transpose.int", {R("x"), 0, 3}, xs, "argument \"dim1\": expected an axis of a tensor of rank 3, got 3"},
      {"aten.permute.default", {R("x"), {0, 0, 1}}, xs, "perm"},
      {"aten.slice.Tensor", {R("x"), 1, 0, 3}, xs, "the sliced dim S is symbolic"},
      {"aten.slice.Tensor", {R("x"), 1, 0, {{"dim", "S + 1"}}}, xs, "expected a bound from 0 to S for all sizes"},
      {"aten.select.int", {R("x"), 1, 0}, xs, "an axis of constant size, not S"},
      {"aten.select.int", {R("x"), 2, 4}, xs, "an index below 4"},
      {"aten.split.Tensor", {R("x"), 0, 2}, xs, "give 0 results, but 1 are declared"},
      {"aten.split.Tensor", {R("x"), 2, 2}, xs, "give 2 results, but 1 are declared"},
      {"aten.split_with_sizes.default", {R("x"), {3, 2}, 2}, xs, "sizes that add up to 4"},
      {"aten.layer_norm.default", {R("x"), {"S", 4}}, xs, "normalized_shape"},
      {"aten.matmul.default", {R("v"), R("m")}, xs, "rank 2 or more"},
      {"aten.dropout.default", {R("x"), 0.1, true}, xs, "call model.eval()"},
      {"aten.scaled_dot_product_attention.default",
       {R("h"), R("h"), R("h"), R("m")},
       hs,
       "mask: expected a shape that broadcasts to [B, 2, S, S]"},
      {"aten.scaled_dot_product_attention.default", {R("h"), R("h"), R("h"), nullptr, 0.1}, hs, "model.eval()", causal},
      {"aten.scaled_dot_product_attention.default",
       {R("x"), R("h"), R("h")},
       hs,
       "\"query\": expected a tensor [batch"},
      {"aten.arange.start_step", {0, 8, 2}, I64(Json::array({4})), "only steps of 1 are"},
      {"aten.__and__.Tensor", {R("i"), R("i")}, I64({"B", "S"}), "argument \"self\": expected a bool tensor"},
      {"aten.diff.default", {R("i"), 2}, I64({"B", "S"}), "argument \"n\" = 2 is not supported"},
      {"aten.tril.default", {R("v")}, F32(Json::array({4})), "a tensor of rank 2 or more"},
      {"aten.repeat_interleave.self_int", {R("h"), 0, 1}, hs, "1 or more"},
      {"getitem", {R("x"), 1}, xs, "\"x\" has 1 results, not one at 1"},
      {"getitem", {R("x")}, xs, "expected a reference and an index"},
  };
  for (const Lowered& c : cases) {
    const Json args = c.args.is_array() ? c.args : Json::array({c.args});
    const auto graph = ImportGraph(OneNode(c.target, args, c.result, c.kwargs).dump());
    ASSERT_FALSE(graph.ok()) << c.target << args;
    EXPECT_EQ(graph.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(
        std::string(graph.status().message()),
        AllOf(HasSubstr(absl::StrCat("node \"y\" (", c.target, ") at block.0 (model.py:7): ")), HasSubstr(c.expected)));
  }
}

TEST(ImportGraphTest, GroupedHeadsWantTheFlag) {
  Json json = OneNode("aten.scaled_dot_product_attention.default", {R("h"), R("k"), R("k"), nullptr, 0.0, true},
                      F32({"B", 2, "S", 8}));
  json["inputs"].push_back({{"id", "k"}, {"name", "k"}, {"dtype", "f32"}, {"shape", {"B", 1, "S", 8}}});
  EXPECT_THAT(Import(json), HasSubstr("query has 2 heads and key 1; pass enable_gqa=True"));
  json["nodes"][0]["kwargs"] = {{"enable_gqa", true}};
  EXPECT_THAT(Import(json), HasSubstr("attention(%2, %3, %3)"));
}

TEST(ImportGraphTest, CausalAttentionWantsAsManyKeysAsQueries) {
  Json json = OneNode("aten.scaled_dot_product_attention.default", {R("h"), R("k"), R("k"), nullptr, 0.0, true},
                      F32({"B", 2, "S", 8}));
  json["inputs"].push_back({{"id", "k"}, {"name", "k"}, {"dtype", "f32"}, {"shape", {"B", 2, 16, 8}}});
  EXPECT_THAT(Import(json), HasSubstr("as many queries as keys, got S and 16"));
}

TEST(ImportGraphTest, NumbersDoNotWidenTensors) {
  Json json = OneNode("aten.mul.Tensor", {R("k"), 3}, {{"dtype", "i32"}, {"shape", Json::array({4})}});
  json["weights"].push_back({{"id", "k"}, {"name", "k"}, {"dtype", "i32"}, {"shape", Json::array({4})}});
  EXPECT_EQ(Import(json), "%8 = constant() {dtype = i32, value = 3.0} : i32[]\n%9 = mul(%7, %8) : i32[4]\n");
}

TEST(ImportGraphTest, TiedWeightsAreOneWeight) {
  Json json = OneNode("aten.linear.default", {R("x"), R("m2")}, F32({"B", "S", 4}));
  json["weights"].push_back({{"id", "m2"}, {"name", "m"}, {"dtype", "f32"}, {"shape", {4, 4}}});
  EXPECT_EQ(Import(json), "%7 = linear(%0, %3) : f32[B, S, 4]\n");
  json["weights"].back()["shape"] = {4, 5};
  EXPECT_THAT(Import(json), HasSubstr("the tied weight \"m\" is declared as f32[4, 4] and as f32[4, 5]"));
}

TEST(ImportGraphTest, RefusesContradictoryInterfaces) {
  Json json = OneNode("aten.neg.default", Json::array({R("x")}), F32({"B", "S", 4}));
  Json twice = json;
  twice["inputs"][1]["name"] = "x";
  EXPECT_THAT(Import(twice), HasSubstr("two inputs are named \"x\""));
  Json undeclared = json;
  undeclared["symbols"].erase(1);
  EXPECT_THAT(Import(undeclared), HasSubstr("S"));
  Json inverted = json;
  inverted["symbols"][0]["min"] = 9;
  EXPECT_THAT(Import(inverted), HasSubstr("symbol B"));
  Json outputs = json;
  outputs["outputs"].push_back(outputs["outputs"][0]);
  EXPECT_THAT(Import(outputs), HasSubstr("output \"y\""));
}

TEST(ImportGraphTest, ImportsModels) {
  const auto gpt2 = ImportGraph(Gpt2Json({}));
  ASSERT_TRUE(gpt2.ok()) << gpt2.status();
  const std::string text = ir::Print(**gpt2);
  EXPECT_THAT(text, HasSubstr("metadata context_length = 64"));
  EXPECT_THAT(text, HasSubstr("slice(%"));
  EXPECT_THAT(text, HasSubstr("loc \"layers.1 (model.py:"));
  EXPECT_EQ((*gpt2)->weights().size(), 2u + 2 * 12 + 2) << "the head is tied";
  const auto llama = ImportGraph(LlamaJson({.kv_heads = 2}));
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_THAT(ir::Print(**llama), HasSubstr("attention("));
}

TEST(LoweringTest, EachTargetHasOneRow) {
  for (const TargetGroup& group : TargetGroups()) {
    for (const TargetRow& row : group.rows) EXPECT_EQ(FindTarget(row.target), &row) << row.target;
  }
  EXPECT_EQ(FindTarget("aten.linear"), nullptr);
}

}  // namespace
}  // namespace flashflow::frontend
