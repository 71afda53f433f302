#include "compiler/ir/parser.h"

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/builder.h"
#include "compiler/ir/printer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::ir {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kTiny = R"ffir(ffir 1
graph @tiny {
  symbol B [1, 64]
  symbol S [1, 1024]
  metadata context_length = 1024
  input %0 "ids" : i64[B, S]
  weight %1 "wte.weight" : f32[256, 32]
  weight %2 "ln.bias" : f32[32]
  %3 = embedding(%1, %0) {dtype = f32} : f32[B, S, 32] loc "wte (tiny.py:4)"
  %4 = layer_norm(%3, _, %2) {eps = 1e-05} : f32[B, S, 32]
  %5 = reshape(%4) {shape = dims(B*S, 32)} : f32[B*S, 32]
  output "hidden" %5
}
)ffir";

// The whole step of one layer, with every form a line can have.
constexpr std::string_view kStep = R"ffir(ffir 1
graph @"step graph" {
  symbol T [1, 512]
  symbol R [1, 64]
  symbol P [1, 128]
  metadata dtype = bf16
  metadata "odd key" = "quote \" backslash \\ newline \n unicode é"
  metadata shapes = dims(T, 2*R - 1, 3)
  input %0 "cache" : cache[2, 3, 64, bf16]
  input %1 "q" : f32[T, 9, 64]
  input %2 "kv" : f32[T, 3, 64]
  input %3 "row_start" : i32[R + 1]
  input %4 "kv_len" : i32[R]
  input %5 "block_table" : i32[R, P]
  %6 = kv_append(%0, %2, %2, %3, %4, %5) {layer = 0} : cache[2, 3, 64, bf16]
  %7 = paged_attention(%6, %1, %3, %4, %5) {layer = 0, scale = 0.125, window = 7} : f32[T, 9, 64]
  %8 = concat(%7, %1, %7) {axis = 1} : f32[T, 27, 64] loc "cat \"x\""
  %9 = constant() {dtype = f32, value = -inf} : f32[]
  %10 = maximum(%8, %9) : f32[T, 27, 64]
  output "y" %10
  output "cache" %6
}
)ffir";

std::string Error(std::string_view text) {
  absl::StatusOr<std::unique_ptr<Graph>> graph = Parse(text);
  return graph.ok() ? "" : std::string(graph.status().message());
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to) {
  std::string result(text);
  const size_t at = result.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return result.replace(at, from.size(), to);
}

void ExpectRoundTrip(const Graph& graph) {
  const std::string text = Print(graph);
  absl::StatusOr<std::unique_ptr<Graph>> parsed = Parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status() << "\n" << text;
  EXPECT_TRUE(StructurallyEqual(graph, **parsed)) << text;
  EXPECT_EQ(Print(**parsed), text);
}

TEST(Parser, PrintGivesBackCanonicalText) {
  for (std::string_view text : {kTiny, kStep}) {
    absl::StatusOr<std::unique_ptr<Graph>> graph = Parse(text);
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_EQ(Print(**graph), text);
  }
}

TEST(Parser, AcceptsNamesCommentsAndFreeLayout) {
  absl::StatusOr<std::unique_ptr<Graph>> graph = Parse(
      "// a comment\nffir 1 graph@g{input %x.in \"x\":f32[ 4 ]%y=relu(%x.in):f32[(1+1)*2]// more\noutput \"y\"%y}//");
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ((*graph)->nodes().size(), 1u);
}

TEST(Parser, RoundTripsEveryKindOfMetadata) {
  GraphBuilder builder("");
  AttrMap& metadata = builder.graph().metadata();
  metadata["int"] = std::numeric_limits<int64_t>::min();
  metadata["float"] = 0.1;
  metadata["tiny"] = std::numeric_limits<double>::denorm_min();
  metadata["large"] = std::numeric_limits<double>::max();
  metadata["negative_zero"] = -0.0;
  metadata["inf"] = std::numeric_limits<double>::infinity();
  metadata["minus_inf"] = -std::numeric_limits<double>::infinity();
  metadata["nan"] = std::nan("");
  metadata["yes"] = true;
  metadata["no"] = false;
  metadata["empty"] = "";
  metadata["string"] = std::string("\"quotes\" \\ \n\r\t \x01\x7f \0 é 日本 \xff // }", 32);
  metadata["ints"] = std::vector<int64_t>{-1, 0, 1};
  metadata["no_ints"] = std::vector<int64_t>{};
  metadata["dim"] = DimExpr::Symbol("B") * 2 - 1;
  metadata["dims"] = Dims{DimExpr::Symbol("B"), 64};
  metadata["no_dims"] = Dims{};
  for (DType dtype : kAllDTypes) metadata[std::string("dtype.") + std::string(DTypeName(dtype))] = dtype;
  metadata["odd key = \"x\"\n"] = 1;
  metadata[""] = 2;
  metadata["true"] = 3;
  ExpectRoundTrip(builder.graph());
}

TEST(Parser, RoundTripsOddNames) {
  const std::string odd = "a \"b\" \\c\n\t}{%0 // é\x80";
  GraphBuilder builder(odd);
  Value* x = builder.Input(odd, DType::kI8, {});
  builder.Weight(odd, {2, 0});
  builder.Output(odd, builder.Add(Op::kNeg, {x}, {}, odd));
  ExpectRoundTrip(builder.graph());
}

TEST(Parser, SaysWhereWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(Error(""), "1:1: expected 'ffir', got the end of the text");
  EXPECT_EQ(Error("ffir 2"), "1:6: expected '1', got \"2\"");
  EXPECT_EQ(Error(Replace(kTiny, "[1, 64]", "[1, x]")), "3:16: expected an integer that fits 64 bits, got \"x]\"");
  EXPECT_EQ(Error(Replace(kTiny, "[1, 64]", "[2, 1]")), "3:10: symbol B: expected 0 <= min <= max, got [2, 1]");
  EXPECT_EQ(Error(Replace(kTiny, "i64[B, S]", "i65[B, S]")),
            "6:20: expected a type, as f32[B, 8] or cache[30, 3, 64, f32]");
  EXPECT_THAT(Error(Replace(kTiny, "i64[B, S]", "i64[B, S+]")),
              StartsWith("6:27: dimension 'S+': expected an integer"));
  EXPECT_THAT(Error(Replace(kTiny, "i64[B, S]", "i64[B, S")), StartsWith("7:3: expected ']'"));
  EXPECT_EQ(Error(Replace(kTiny, "embedding(", "embeding(")), "9:8: there is no such op");
  EXPECT_EQ(Error(Replace(kTiny, "(%1, %0)", "(%1, %9)")), "9:22: %9 is not defined");
  EXPECT_EQ(Error(Replace(kTiny, "%4 = layer", "%3 = layer")), "10:3: %3 is defined twice");
  EXPECT_THAT(Error(Replace(kTiny, "{dtype = f32}", "{dtype = 3}")),
              StartsWith("9:8: embedding: attribute dtype: expected dtype, got int 3"));
  EXPECT_EQ(Error(Replace(kTiny, "{dtype = f32}", "{dtype = f32, dtype = f32}")), "9:40: attribute exists twice");
  EXPECT_EQ(Error(Replace(kTiny, ": f32[B, S, 32] loc", ": f32[B, 32] loc")),
            "9:3: embedding gives f32[B, S, 32], the text says f32[B, 32]");
  EXPECT_EQ(Error(Replace(kTiny, "%3 = emb", "%3, %x = emb")), "9:3: embedding has 1 results");
  EXPECT_EQ(Error(Replace(kTiny, "tiny.py:4)\"", "tiny.py:4)")), "9:60: the string has no end");
  EXPECT_EQ(Error(Replace(kTiny, "context_length = 1024", "context_length = 99999999999999999999")),
            "5:29: expected a number that fits 64 bits, got \"99999999999999999999\"");
  EXPECT_EQ(Error(Replace(kTiny, "context_length = 1024", "context_length = 1e999")),
            "5:29: expected a number that fits 64 bits, got \"1e999\"");
  EXPECT_THAT(Error(Replace(kTiny, "symbol S", "symbl S")), StartsWith("4:3: expected a statement"));
  EXPECT_THAT(Error(std::string(kTiny) + "x"), StartsWith("14:1: expected the end of the text"));
  EXPECT_THAT(Error(Replace(kTiny, "\n}", "\n")), HasSubstr("or '}', got the end of the text"));
  EXPECT_THAT(Error("ffir 1 graph @g { weight %0 \"w\" : cache[1, 1, 1, f32] }"), HasSubstr("a weight is a tensor"));
}

TEST(Parser, VerifiesWhatItRead) {
  EXPECT_THAT(Error(Replace(kStep, "  output \"cache\" %6\n", "")), HasSubstr("a cache that nothing consumes"));
  EXPECT_THAT(Error(Replace(kTiny, "  symbol S [1, 1024]\n", "")),
              HasSubstr("symbol S in dimension S is not declared"));
}

TEST(Parser, SaysWhereTheVerifierRefuses) {
  const auto at = [](std::string_view body) { return Error(absl::StrCat("ffir 1\ngraph @g {\n", body, "\n}")); };
  EXPECT_EQ(at("input %0 \"x\" : f32[]\n  input %1 \"x\" : f32[]"), "4:9: input \"x\": exists twice");
  EXPECT_THAT(at("input %0 \"x\" : f32[]\nweight %1 \"w\" : f32[Q]"), StartsWith("4:8: weight \"w\""));
  EXPECT_EQ(at("input %0 \"x\" : f32[]\noutput \"y\" %0\noutput \"y\" %0"), "5:8: output \"y\": exists twice");
  EXPECT_THAT(at("input %0 \"c\" : cache[1, 1, 1, f32]\ninput %1 \"x\" : f32[]\n%2 = neg(%1) : f32[]"),
              StartsWith("3:7: input \"c\": is a cache that nothing consumes"));
  EXPECT_THAT(at("input %0 \"x\" : f32[2]\n  %1 = expand(%0) {shape = dims(Q, 2)} : f32[Q, 2]"), StartsWith("4:3: "));
}

TEST(Parser, RefusesTooLargeTexts) {
  EXPECT_THAT(Error(std::string(kMaxTextBytes + 1, ' ')), StartsWith("1:1: expected at most "));
  std::string outputs = "ffir 1 graph @g { input %0 \"x\" : f32[]";
  for (int i = 0; i < 1025; ++i) outputs += " output \"" + std::to_string(i) + "\" %0";
  EXPECT_THAT(Error(outputs + "}"), HasSubstr("at most 1024 outputs"));
  EXPECT_THAT(Error("ffir 1 graph @g { input %0 \"x\" : f32[" + std::string(1 << 20, '(') + "] }"),
              StartsWith("1:38: dimension is nested"));
}

// What a text editor, a torn write or an adversary may do to a valid text: never a crash, and whatever is accepted
// prints and parses again.
TEST(Parser, SurvivesDamagedTexts) {
  std::mt19937 random(7);
  auto below = [&random](size_t n) { return random() % n; };
  int accepted = 0;
  for (std::string_view valid : {kTiny, kStep}) {
    for (size_t length = 0; length < valid.size() - 1; ++length) {
      EXPECT_NE(Error(valid.substr(0, length)), "") << "truncated at " << length;
    }
    for (int round = 0; round < 4000; ++round) {
      std::string text(valid);
      for (size_t edits = 1 + below(3); edits > 0; --edits) {
        const size_t at = below(text.size());
        switch (below(4)) {
          case 0:
            text[at] = static_cast<char>(below(256));
            break;
          case 1:
            text.erase(at, 1 + below(12));
            break;
          case 2:
            text.insert(at, text.substr(below(text.size()), 1 + below(24)));
            break;
          default:
            text[at] = "(){}[]%,=-*\"0_9"[below(15)];
        }
      }
      absl::StatusOr<std::unique_ptr<Graph>> graph = Parse(text);
      if (!graph.ok()) continue;
      ++accepted;
      ExpectRoundTrip(**graph);
    }
  }
  EXPECT_GT(accepted, 0) << "no edit was harmless: the second half of this test saw nothing";
}

// Random graphs of elementwise, shape and contraction ops.
TEST(Parser, RoundTripsRandomGraphs) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    auto below = [&random](size_t n) { return static_cast<int64_t>(random() % n); };
    GraphBuilder builder("random");
    const DimExpr b = builder.Symbol("B", 1, 8);
    const DimExpr s = builder.Symbol("S", 0, 100);
    std::vector<Value*> values = {builder.Input("x", DType::kF32, {b, s, 8}), builder.Input("y", DType::kF32, {8})};
    Value* w = builder.Weight("w", {8, 8});
    for (int i = 0; i < 40; ++i) {
      Value* v = values[below(values.size())];
      const Dims shape = v->tensor().shape;
      const int64_t axis = below(shape.size());
      switch (below(7)) {
        case 0:
          values.push_back(builder.Add(Op::kGelu, {v}, {{"approximate", below(2) ? "tanh" : "none"}}));
          break;
        case 1:
          values.push_back(builder.Add(Op::kMul, {v, v}, {}, "node " + std::to_string(i)));
          break;
        case 2:
          if (shape.back() == DimExpr(8)) values.push_back(builder.Add(Op::kLinear, {v, w}));
          break;
        case 3:
          values.push_back(builder.Add(Op::kReshape, {v}, {{"shape", Dims{NumElements(shape)}}}));
          break;
        case 4:
          if (NumElements(shape).ToString().size() < 40) {
            values.push_back(builder.Add(Op::kConcat, {v, v}, {{"axis", axis}}));
          }
          break;
        case 5:
          values.push_back(builder.Add(Op::kSoftmax, {v}, {{"axis", axis}}));
          break;
        default:
          values.push_back(
              builder.Add(Op::kSlice, {v}, {{"axis", axis}, {"start", DimExpr(0)}, {"stop", shape[axis]}}));
      }
    }
    builder.Output("out", values.back());
    ExpectRoundTrip(*builder.Build());
  }
}

}  // namespace
}  // namespace flashflow::ir
