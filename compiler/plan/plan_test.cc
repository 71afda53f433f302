#include "compiler/plan/plan.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::plan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const DimExpr T = DimExpr::Symbol("T");
const DimExpr L = DimExpr::Symbol("L");

// token_ids -> embedding (2) -> [alias 3] -> append to the cache; exp (4, with workspace 6) -> linear -> logits (5).
Plan SmallPlan() {
  Plan plan;
  plan.device_key = "cpu/1";
  plan.graph_sha256 = std::string(64, 'a');
  plan.symbols = {{"T", {1, 32}}, {"L", {1, 4}}};
  plan.limits = {.context_length = 100, .max_tokens = 32, .max_rows = 8, .max_logit_rows = 4};
  plan.cache = {.layers = 1, .kv_heads = 2, .head_dim = 4, .page_size = 16, .dtype = DType::kBF16};
  plan.tensors = {
      {.name = "token_ids", .dtype = DType::kI32, .shape = {T}, .storage = Storage::kInput, .index = 0},
      {.name = "wte", .shape = {10, 8}, .storage = Storage::kWeight, .index = 0},
      {.shape = {T, 8}},
      {.shape = {T, 2, 4}, .alias_of = 2},
      {.shape = {T, 8}},
      {.name = "logits", .shape = {T, 10}, .storage = Storage::kOutput, .index = 0},
      {.dtype = DType::kI8, .shape = {64}},
  };
  plan.inputs = {0};
  plan.outputs = {5};
  plan.weights = {
      {.sources = {"wte.weight"}, .dtype = DType::kF32, .shape = {10, 8}, .layout = "panel16", .transposed = true}};
  plan.steps = {
      {.op = "embedding", .tactics = {{"cpu.embedding", 1}}, .inputs = {1, 0}, .outputs = {2}},
      {.op = "kv_append",
       .tactics = {{"cpu.kv_append", 1}},
       .inputs = {3, 3},
       .attrs = {{"layer", 0}},
       .uses_cache = true},
      {.op = "exp", .tactics = {{"cpu.unary", 1}}, .inputs = {2}, .outputs = {4}, .workspace = 6, .loc = "x (m.py:3)"},
      {.op = "linear", .tactics = {{"a", 1}, {"b", 2}}, .inputs = {4, 1, -1}, .outputs = {5}},
  };
  for (int64_t tokens : {8, 32}) {
    const int64_t bytes = tokens * 8 * 4;
    plan.buckets.push_back(
        {.max_tokens = tokens, .arena_bytes = 2 * bytes + 256, .offsets = {-1, -1, 0, 0, bytes, -1, 2 * bytes}});
  }
  return plan;
}

std::string Broken(const std::function<void(Plan&)>& change) {
  Plan plan = SmallPlan();
  change(plan);
  const absl::Status status = Validate(plan);
  EXPECT_NE(status.code(), absl::StatusCode::kInternal);
  return std::string(status.message());
}

TEST(Validate, AcceptsAPlan) { EXPECT_EQ(Validate(SmallPlan()), absl::OkStatus()); }

// The plan without its cache, as that of a rectangular graph.
Plan GraphPlan() {
  Plan plan = SmallPlan();
  plan.limits = {};
  plan.buckets.clear();
  plan.steps.erase(plan.steps.begin() + 1);
  return plan;
}

TEST(Validate, AcceptsARectangularGraphsPlanAndItsArena) {
  const Plan plan = GraphPlan();
  EXPECT_EQ(Validate(plan), absl::OkStatus());
  const ArenaLayout layout = {{{"T", 8}, {"L", 2}}, 768, {-1, -1, 0, 0, 256, -1, 512}};
  EXPECT_EQ(ValidateLayout(plan, layout), absl::OkStatus());
  const auto broken = [&](const std::function<void(ArenaLayout&)>& change) {
    ArenaLayout copy = layout;
    change(copy);
    return std::string(ValidateLayout(plan, copy).message());
  };
  EXPECT_THAT(broken([](ArenaLayout& a) { a.most["T"] = 9; }), HasSubstr("overlaps"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.most.erase("T"); }), HasSubstr("has no size"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.arena_bytes = 512; }), HasSubstr("64 bytes inside the 512"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.offsets[4] = 0; }), HasSubstr("overlaps"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.offsets[4] = 8; }), HasSubstr("not a multiple"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.offsets[3] = 256; }), HasSubstr("lies elsewhere"));
  EXPECT_THAT(broken([](ArenaLayout& a) { a.offsets.pop_back(); }), HasSubstr("6 offsets for 7 tensors"));
}

TEST(Validate, OnlyAStepGraphsPlanHasLimitsBucketsAndACache) {
  Plan plan = GraphPlan();
  plan.limits.max_rows = 1;
  EXPECT_THAT(std::string(Validate(plan).message()), HasSubstr("max_rows 1"));
  plan = GraphPlan();
  plan.buckets = SmallPlan().buckets;
  EXPECT_THAT(std::string(Validate(plan).message()), HasSubstr("buckets"));
  plan = SmallPlan();
  plan.limits = {};
  plan.buckets.clear();
  EXPECT_THAT(std::string(Validate(plan).message()), HasSubstr("a step uses it"));
}

TEST(Validate, ChecksTheHeader) {
  EXPECT_THAT(Broken([](Plan& p) { p.version = 5; }), HasSubstr("version: expected 4, got 5"));
  EXPECT_THAT(Broken([](Plan& p) { p.symbols[1].first = "T"; }), HasSubstr("symbols"));
  EXPECT_THAT(Broken([](Plan& p) { p.symbols[1].second = {3, 2}; }), HasSubstr("symbols"));
  EXPECT_THAT(Broken([](Plan& p) { p.limits.max_rows = 0; }), HasSubstr("max_rows 0 is out of range"));
  EXPECT_THAT(Broken([](Plan& p) { p.limits.context_length = int64_t{1} << 40; }), HasSubstr("context_length"));
  EXPECT_THAT(Broken([](Plan& p) { p.cache.page_size = 0; }), HasSubstr("page_size 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.cache.head_dim = -4; }), HasSubstr("head_dim -4"));
  EXPECT_THAT(Broken([](Plan& p) { p.cache.layers = 0; }), HasSubstr("layers 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.cache.dtype = DType::kI32; }), HasSubstr("a float dtype, or i8"));
  EXPECT_THAT(Broken([](Plan& p) {
                p.cache.dtype = DType::kI8;
                p.cache.page_size = 6;
              }),
              HasSubstr("of i8, expected a page_size of whole fours"));
  EXPECT_THAT(Broken([](Plan& p) { p.cache.layers = p.cache.kv_heads = p.cache.head_dim = 1 << 30; }),
              HasSubstr("64 bits"));
}

TEST(Validate, ChecksWeights) {
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].sources = {""}; }), HasSubstr("no source"));
  EXPECT_THAT(Broken([](Plan& p) {
                p.weights[0].transposed = true;
                p.weights[0].sources = {"a", "b"};
              }),
              HasSubstr("no matrix of one source"));
  EXPECT_THAT(Broken([](Plan& p) {
                p.weights[0].transposed = true;
                p.weights[0].shape = {80};
              }),
              HasSubstr("no matrix of one source"));
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].layout = ""; }), HasSubstr("no layout"));
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].shape = {10, 9}; }),
              HasSubstr("differs in dtype or shape from weight 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].dtype = DType::kBF16; }), HasSubstr("differs in dtype or shape"));
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].shape = {-1, 8}; }), HasSubstr("no size"));
  EXPECT_THAT(Broken([](Plan& p) { p.weights[0].shape = {int64_t{1} << 62, 8}; }), HasSubstr("no size"));
}

TEST(Validate, ChecksTensors) {
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[4].shape = Dims(7, 1); }), HasSubstr("too many dimensions"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[4].shape = {int64_t{1} << 62, 4}; }), HasSubstr("no size"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[4].shape = {T - 100}; }), HasSubstr("has no size in bucket 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[4].shape = {DimExpr::Symbol("Q")}; }), HasSubstr("dimension Q"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[4].index = 0; }), HasSubstr("in the arena and has index 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[1].index = 1; }), HasSubstr("index 1 is outside a list of 1"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[0].index = -1; }), HasSubstr("index -1 is outside"));
}

TEST(Validate, ChecksAliases) {
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[3].alias_of = 7; }), HasSubstr("aliases 7"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[3].alias_of = -2; }), HasSubstr("aliases -2"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[3].alias_of = 3; }), HasSubstr("aliases an alias"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[3].shape = {T, 7}; }), HasSubstr("size from tensor 2"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[3].dtype = DType::kI32; }), HasSubstr("differs in dtype"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].offsets[3] = 256; }), HasSubstr("lies elsewhere than what it aliases"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[0].outputs = {3}; }), HasSubstr("may not write tensor 3"));
}

// The exp's result over its operand, which the append reads before.
void MakeInPlace(Plan& plan) {
  plan.tensors[4].in_place_of = 2;
  for (Bucket& bucket : plan.buckets) bucket.offsets[4] = bucket.offsets[2];
}

TEST(Validate, AcceptsAResultInPlaceOfAnOperandThatDies) {
  Plan plan = SmallPlan();
  MakeInPlace(plan);
  EXPECT_EQ(Validate(plan), absl::OkStatus());
  const absl::StatusOr<Plan> read = FromJson(ToJson(plan));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tensors[4].in_place_of, 2);
  plan.buckets[1].offsets[6] = 512;
  EXPECT_THAT(std::string(Validate(plan).message()), HasSubstr("tensor 6: overlaps tensor 4, live in step 2"));
}

TEST(Validate, RefusesToWriteOverWhatIsStillRead) {
  const auto broken = [](const std::function<void(Plan&)>& change) {
    return Broken([&](Plan& p) {
      MakeInPlace(p);
      change(p);
    });
  };
  EXPECT_THAT(broken([](Plan& p) { p.steps[3].inputs[2] = 2; }),
              HasSubstr("tensor 4: is written in place of tensor 2, which step 3 still reads"));
  EXPECT_THAT(broken([](Plan& p) { p.steps[3].inputs[2] = 3; }), HasSubstr("step 3 still reads")) << "by its alias";
  EXPECT_THAT(broken([](Plan& p) { std::swap(p.steps[1], p.steps[2]); }), HasSubstr("step 2 still reads"));
  EXPECT_THAT(broken([](Plan& p) { p.steps[2].inputs = {0}; }), HasSubstr("which it does not read"));
  EXPECT_THAT(broken([](Plan& p) { p.buckets[1].offsets[4] = 1024; }), HasSubstr("what it is in place of"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].in_place_of = 4; }), HasSubstr("expected a tensor before it"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].in_place_of = -7; }), HasSubstr("expected a tensor before it"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].in_place_of = 3; }), HasSubstr("tensor 4: differs"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].in_place_of = 0; }), HasSubstr("tensor 4: differs"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].dtype = DType::kI32; }), HasSubstr("differs in dtype"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[4].shape = {T, 7}; }), HasSubstr("differs in dtype or size"));
  EXPECT_THAT(broken([](Plan& p) { p.tensors[5].in_place_of = 4; }), HasSubstr("no memory in the arena"));
  EXPECT_THAT(broken([](Plan& p) {  // two results of one step
                p.tensors.push_back(p.tensors[4]);
                p.steps[2].outputs.push_back(7);
                for (Bucket& b : p.buckets) b.offsets.push_back(b.offsets[2]);
              }),
              HasSubstr("in place of tensor 2, as another step does"));
}

TEST(Validate, ChecksPublicLists) {
  EXPECT_THAT(Broken([](Plan& p) { p.inputs = {9}; }), HasSubstr("input 0: tensor 9 does not exist"));
  EXPECT_THAT(Broken([](Plan& p) { p.outputs = {4}; }), HasSubstr("output 0: tensor 4 does not say so"));
  EXPECT_THAT(Broken([](Plan& p) { p.tensors[0].name = ""; }), HasSubstr("a name of its own"));
  EXPECT_THAT(Broken([](Plan& p) {
                p.tensors.push_back(p.tensors[0]);
                for (Bucket& b : p.buckets) b.offsets.push_back(-1);
              }),
              HasSubstr("claims the place of tensor 0"));
  EXPECT_THAT(Broken([](Plan& p) {
                p.inputs.push_back(7);
                p.tensors.push_back(p.tensors[0]);
                p.tensors.back().index = 1;
                for (Bucket& b : p.buckets) b.offsets.push_back(-1);
              }),
              HasSubstr("input 1: needs a name of its own, got 'token_ids'"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps.pop_back(); }), HasSubstr("output 0: no step writes it"));
}

TEST(Validate, ChecksSteps) {
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].op = ""; }), HasSubstr("step 2 (): has no op"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].tactics.clear(); }), HasSubstr("step 2 (exp): has no tactic"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].tactics[0].version = 0; }), HasSubstr("tactic without id or version"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].inputs = {-2}; }), HasSubstr("input tensor -2 does not exist"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].inputs = {7}; }), HasSubstr("input tensor 7 does not exist"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].outputs = {-1}; }), HasSubstr("output tensor -1 does not exist"));
  EXPECT_THAT(Broken([](Plan& p) { std::swap(p.steps[0], p.steps[2]); }), HasSubstr("reads tensor 2, not yet written"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[1].inputs = {4}; }), HasSubstr("reads tensor 4, not yet written"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].outputs = {2}; }),
              HasSubstr("writes tensor 2, which is already written"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].outputs = {0}; }), HasSubstr("may not write tensor 0"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].outputs = {1}; }), HasSubstr("may not write tensor 1"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[1].uses_cache = false; }), HasSubstr("writes nothing"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].workspace = 2; }), HasSubstr("workspace 2 is no i8 tensor"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[2].workspace = 99; }), HasSubstr("workspace 99"));
  EXPECT_THAT(Broken([](Plan& p) { p.steps[3].workspace = 6; }), HasSubstr("workspace 6 is in use elsewhere"));
}

TEST(Validate, ChecksBuckets) {
  EXPECT_THAT(Broken([](Plan& p) { p.buckets.clear(); }), HasSubstr("there is none"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets.pop_back(); }), HasSubstr("the last holds 8 tokens of 32"));
  EXPECT_THAT(Broken([](Plan& p) { std::swap(p.buckets[0], p.buckets[1]); }), HasSubstr("does not ascend"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].max_tokens = -8; }), HasSubstr("does not ascend"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets.push_back(p.buckets[1]); }), HasSubstr("32 does not ascend"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].offsets.pop_back(); }), HasSubstr("6 offsets for 7 tensors"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].offsets[0] = 0; }), HasSubstr("is not in the arena"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].offsets[4] = 257; }), HasSubstr("offset 257 is not a multiple"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].offsets[4] = -256; }), HasSubstr("offset -256"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].arena_bytes -= 256; }), HasSubstr("inside the 2048 of bucket 1"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].offsets[4] = std::numeric_limits<int64_t>::max() - 255; }),
              HasSubstr("inside the"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[0].arena_bytes = std::numeric_limits<int64_t>::max(); }),
              HasSubstr("arena_bytes"));
}

TEST(Validate, FindsOverlapsOfLiveTensors) {
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].offsets[4] = 0; }), HasSubstr("overlaps tensor 2, live in step 2"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].offsets[4] = 768; }), HasSubstr("tensor 4: overlaps tensor 2"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].offsets[6] = 1024; }), HasSubstr("overlaps tensor 4"));
  EXPECT_THAT(Broken([](Plan& p) { p.buckets[1].offsets[6] = 256; }), HasSubstr("tensor 6: overlaps tensor 2"));
}

TEST(Validate, LetsDeadTensorsShareTheirBytes) {
  Plan plan = SmallPlan();
  plan.steps[2].inputs = {0};  // now the last reader of tensor 2 is the append, through its alias
  for (Bucket& bucket : plan.buckets) bucket.offsets[4] = 0;
  EXPECT_EQ(Validate(plan), absl::OkStatus());
  plan.steps[3].inputs = {4, 1, 3};  // and now it is the linear
  EXPECT_THAT(Validate(plan).message(), HasSubstr("tensor 4: overlaps tensor 2"));
}

TEST(BucketSymbols, AreTheUpperEnds) {
  const Plan plan = SmallPlan();
  EXPECT_EQ(BucketSymbols(plan, plan.buckets[0]), (SymbolValues{{"T", 8}, {"R", 8}, {"L", 4}, {"P", 7}}));
  EXPECT_EQ(BucketSymbols(plan, plan.buckets[1]), (SymbolValues{{"T", 32}, {"R", 8}, {"L", 4}, {"P", 7}}));
}

TEST(Json, RoundTrips) {
  Plan plan = SmallPlan();
  plan.tensors[5].name = "logits \"ü\"\n";
  plan.steps[2].attrs = {{"int", std::numeric_limits<int64_t>::min()},
                         {"float", 0.1},
                         {"whole", 2.0},
                         {"large", 1e300},
                         {"minus_zero", -0.0},
                         {"inf", std::numeric_limits<double>::infinity()},
                         {"minus_inf", -std::numeric_limits<double>::infinity()},
                         {"nan", std::nan("")},
                         {"bool", true},
                         {"string", "f32"},
                         {"ints", std::vector<int64_t>{1, -2}},
                         {"no_ints", std::vector<int64_t>{}},
                         {"dtype", DType::kBF16},
                         {"dim", T * 2 - 1},
                         {"constant_dim", DimExpr(4)},
                         {"dims", Dims{T, 4}},
                         {"no_dims", Dims{}}};
  const std::string text = ToJson(plan);
  absl::StatusOr<Plan> read = FromJson(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), text);
  EXPECT_TRUE(SameAttrs(read->steps[2].attrs, plan.steps[2].attrs));
  EXPECT_EQ(read->tensors[5].name, plan.tensors[5].name);
  EXPECT_EQ(read->tensors[3].shape, plan.tensors[3].shape);
  EXPECT_EQ(read->tensors[3].alias_of, 2);
  EXPECT_EQ(read->symbols, plan.symbols);
  EXPECT_EQ(read->cache.dtype, DType::kBF16);
  EXPECT_EQ(read->steps[3].tactics, plan.steps[3].tactics);
  EXPECT_EQ(read->steps[2].workspace, 6);
  EXPECT_TRUE(read->steps[1].uses_cache);
  EXPECT_EQ(read->buckets[1].offsets, plan.buckets[1].offsets);
}

TEST(Json, WritesNamesThatAreNoUtf8) {
  Plan plan = SmallPlan();
  plan.steps[0].loc = "\xff\xfe";
  EXPECT_TRUE(FromJson(ToJson(plan)).ok());
}

std::string ReadError(std::string_view from, std::string_view to) {
  std::string text = ToJson(SmallPlan());
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return std::string(FromJson(text).status().message());
}

TEST(Json, NamesWhatIsWrong) {
  EXPECT_EQ(FromJson("").status().message(), "plan: the text is not JSON");
  EXPECT_EQ(FromJson("[1]").status().message(), "plan: expected an object, got array");
  EXPECT_EQ(FromJson("{}").status().message(), "plan: version: expected this key, got nothing");
  EXPECT_THAT(ReadError("\"version\": 4", "\"version\": 5"),
              StartsWith("plan: expected version 4, as this build reads"));
  EXPECT_THAT(ReadError("\"device_key\"", "\"device\""), StartsWith("plan: expected no keys but version, device_key"));
  EXPECT_EQ(ReadError("\"max_rows\": 8,", ""), "plan: limits.max_rows: expected this key, got nothing");
  EXPECT_EQ(ReadError("\"max_rows\": 8", "\"max_rows\": 8.0"),
            "plan: limits.max_rows: expected an integer that fits 64 bits, got 8.0");
  EXPECT_EQ(ReadError("\"max_rows\": 8", "\"max_rows\": 18446744073709551615"),
            "plan: limits.max_rows: expected an integer that fits 64 bits, got 18446744073709551615");
  EXPECT_EQ(ReadError("\"alias_of\": 2", "\"alias_of\": 4294967298"),
            "plan: tensors[3].alias_of: expected an integer that fits 32 bits, got 4294967298");
  EXPECT_EQ(ReadError("\"max_rows\": 8", "\"max_rows\": 1e999"), "plan: the text is not JSON");
  EXPECT_EQ(ReadError("\"storage\": \"arena\"", "\"storage\": \"heap\""),
            "plan: tensors[2].storage: expected input, weight, arena or output, got \"heap\"");
  EXPECT_EQ(ReadError("\"i32\"", "\"i33\""), "plan: tensors[0].dtype: expected a dtype, got \"i33\"");
  EXPECT_THAT(ReadError("\"T\",\n    8", "\"T+\",\n    8"),
              StartsWith("plan: tensors[2].shape[0]: expected dimension 'T+'"));
  EXPECT_THAT(ReadError("\"layer\": 0", "\"layer\": null"),
              StartsWith("plan: steps[1].attrs.layer: expected an attribute"));
  EXPECT_THAT(ReadError("\"layer\": 0", "\"layer\": {\"dtype\": \"f32\", \"dim\": 1}"),
              HasSubstr("expected an attribute"));
  EXPECT_THAT(ReadError("\"layer\": 0", "\"layer\": {\"float\": \"huge\"}"), HasSubstr("\"inf\", \"-inf\" or \"nan\""));
  EXPECT_THAT(ReadError("\"layer\": 0", "\"layer\": [1, \"x\"]"),
              StartsWith("plan: steps[1].attrs.layer[1]: expected"));
  EXPECT_THAT(ReadError("\"uses_cache\": true", "\"uses_cache\": 1"), HasSubstr("expected true or false, got 1"));
  EXPECT_THAT(ReadError("\"arena_bytes\": 2304", "\"arena_bytes\": 2048"), HasSubstr("tensor 6: offset 2048"));
}

TEST(Json, BoundsDepthAndSize) {
  EXPECT_EQ(FromJson(std::string(1 << 20, '[')).status().message(), "plan: the JSON is nested too deeply");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_EQ(FromJson(objects).status().message(), "plan: the JSON is nested too deeply");
  EXPECT_THAT(FromJson(std::string((16 << 20) + 1, ' ')).status().message(), StartsWith("plan: expected at most"));
}

// Damaged plans are refused or valid, never a crash.
TEST(Json, SurvivesDamage) {
  const std::string valid = ToJson(SmallPlan());
  for (size_t length = 0; length + 2 < valid.size(); length += 3) EXPECT_FALSE(FromJson(valid.substr(0, length)).ok());
  std::mt19937 random(3);
  auto below = [&random](size_t n) { return random() % n; };
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = valid;
    for (size_t edits = 1 + below(2); edits > 0; --edits) {
      const size_t at = below(text.size());
      switch (below(3)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text[at] = "0123456789-{}[],\""[below(17)];
          break;
        default:
          text.insert(at, text.substr(below(text.size()), 1 + below(20)));
      }
    }
    absl::StatusOr<Plan> plan = FromJson(text);
    if (!plan.ok()) continue;
    ++accepted;
    EXPECT_TRUE(FromJson(ToJson(*plan)).ok());
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace flashflow::plan
