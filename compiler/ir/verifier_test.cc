#include "compiler/ir/verifier.h"

#include <string>
#include <vector>

#include "compiler/ir/builder.h"
#include "compiler/ir/graph.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::ir {
namespace {

using ::testing::HasSubstr;

std::string Message(const Graph& graph) { return std::string(Verify(graph).message()); }

TEST(Verifier, AcceptsTheEmptyGraph) { EXPECT_TRUE(Verify(Graph("g")).ok()); }

TEST(Verifier, ChecksSources) {
  Graph unnamed("g");
  unnamed.AddInput("", TensorType{});
  EXPECT_THAT(Message(unnamed), HasSubstr("input \"\": has no name"));

  Graph twice("g");
  twice.AddWeight("w", {});
  twice.AddWeight("w", {});
  EXPECT_THAT(Message(twice), HasSubstr("weight \"w\": exists twice"));

  Graph undeclared("g");
  undeclared.AddInput("x", TensorType{DType::kF32, {DimExpr::Symbol("B")}});
  EXPECT_THAT(Message(undeclared), HasSubstr("symbol B in dimension B is not declared"));

  Graph negative("g");
  negative.AddInput("x", TensorType{DType::kF32, {-1}});
  EXPECT_THAT(Message(negative), HasSubstr("negative dimension"));

  Graph deep("g");
  deep.AddInput("x", TensorType{DType::kF32, Dims(7, 1)});
  EXPECT_THAT(Message(deep), HasSubstr("rank 6 or less"));

  Graph huge("g");
  huge.AddInput("x", TensorType{DType::kF32, Dims(5, int64_t{1} << 20)});
  EXPECT_THAT(Message(huge), HasSubstr("element count"));

  Graph empty_cache("g");
  empty_cache.AddInput("c", CacheType{0, 1, 1});
  EXPECT_THAT(Message(empty_cache), HasSubstr("positive dimensions"));
  Graph integer_cache("g");
  integer_cache.AddInput("c", CacheType{1, 1, 1, DType::kI32});
  EXPECT_THAT(Message(integer_cache), HasSubstr("a float dtype or i8"));

  Graph absent("g");
  absent.AddInput("x", Type());
  EXPECT_THAT(Message(absent), HasSubstr("has no type"));
}

TEST(Verifier, NamesTheNodeWhoseTypeNoLongerFits) {
  GraphBuilder builder("g");
  Value* x = builder.Input("x", DType::kF32, {4});
  builder.Add(Op::kExp, {x});
  builder.Add(Op::kNeg, {x}, {}, "mlp (m.py:7)");
  builder.graph().SetType(x, TensorType{DType::kI32, {4}});
  EXPECT_THAT(Message(builder.graph()), HasSubstr("%1 = exp: exp: x: expected a float dtype, got i32[4]"));
  builder.graph().SetType(x, TensorType{DType::kF32, {5}});
  EXPECT_THAT(Message(builder.graph()), HasSubstr("%1 = exp: result 0 is f32[4], inference gives f32[5]"));
  builder.graph().SetType(x, TensorType{DType::kF32, {4}});
  EXPECT_EQ(Message(builder.graph()), "");
}

TEST(Verifier, ChecksOperandOrderWithLocation) {
  GraphBuilder builder("g");
  Value* x = builder.Input("x", DType::kF32, {4});
  Value* a = builder.Add(Op::kExp, {x}, {}, "first (m.py:1)");
  Value* b = builder.Add(Op::kNeg, {x});
  builder.graph().SetOperand(a->def(), 0, b);
  EXPECT_EQ(Message(builder.graph()), "%1 = exp at \"first (m.py:1)\": operand 0 is used before it is defined");
}

TEST(Verifier, RefusesValuesOfAnotherGraph) {
  GraphBuilder other("other");
  Value* foreign = other.Input("x", DType::kF32, {4});
  GraphBuilder builder("g");
  Value* x = builder.Input("x", DType::kF32, {4});
  Value* y = builder.Add(Op::kExp, {x});
  builder.graph().SetOperand(y->def(), 0, foreign);
  EXPECT_THAT(Message(builder.graph()), HasSubstr("before it is defined"));
  EXPECT_THAT(Message(other.graph()), HasSubstr("input \"x\": its use list, of 1 entries, does not match its 0 uses"));
}

TEST(Verifier, ChecksOutputs) {
  GraphBuilder builder("g");
  Value* x = builder.Input("x", DType::kF32, {4});
  builder.Output("y", x);
  builder.Output("y", x);
  EXPECT_THAT(Message(builder.graph()), HasSubstr("output \"y\": exists twice"));

  GraphBuilder foreign("g");
  foreign.Output("y", x);
  EXPECT_THAT(Message(foreign.graph()), HasSubstr("output \"y\": is no value of the graph"));

  GraphBuilder unnamed("g");
  unnamed.Output("", unnamed.Input("x", DType::kF32, {4}));
  EXPECT_THAT(Message(unnamed.graph()), HasSubstr("output \"\": has no name"));
}

TEST(Verifier, ChecksSymbolsOfAttributes) {
  GraphBuilder builder("g");
  Value* x = builder.Input("x", DType::kF32, {4});
  const DimExpr q = DimExpr::Symbol("Q");
  builder.Add(Op::kSlice, {x}, {{"axis", 0}, {"start", q}, {"stop", q + 1}});
  EXPECT_THAT(Message(builder.graph()), HasSubstr("attribute start: symbol Q in dimension Q is not declared"));
}

// A step graph of one layer; the tests bend its use of the cache.
class CacheVerifierTest : public ::testing::Test {
 protected:
  CacheVerifierTest() {
    const DimExpr t = builder_.Symbol("T", 1, 8);
    const DimExpr r = builder_.Symbol("R", 1, 4);
    cache_ = builder_.CacheInput("cache", {2, 1, 4, DType::kF32});
    x_ = builder_.Input("x", DType::kF32, {t, 1, 4});
    rows_ = {builder_.Input("row_start", DType::kI32, {r + 1}), builder_.Input("kv_len", DType::kI32, {r}),
             builder_.Input("block_table", DType::kI32, {r, 3})};
  }

  Value* Append(Value* cache) {
    return builder_.Add(Op::kKvAppend, {cache, x_, x_, rows_[0], rows_[1], rows_[2]}, {{"layer", 0}});
  }
  Value* Read(Value* cache) {
    return builder_.Add(Op::kPagedAttention, {cache, x_, rows_[0], rows_[1], rows_[2]}, {{"layer", 0}, {"scale", 0.5}});
  }
  std::string Message() { return std::string(Verify(builder_.graph()).message()); }

  GraphBuilder builder_{"step"};
  Value *cache_, *x_;
  std::vector<Value*> rows_;
};

TEST_F(CacheVerifierTest, AcceptsAChainThatEndsAsAnOutput) {
  Value* appended = Append(cache_);
  builder_.Output("y", Read(appended));
  Value* again = Append(appended);
  builder_.Output("z", Read(again));
  builder_.Output("cache", again);
  EXPECT_EQ(Message(), "");
}

TEST_F(CacheVerifierTest, RefusesTwoConsumers) {
  Append(cache_);
  builder_.Output("cache", Append(cache_));
  EXPECT_THAT(Message(), HasSubstr("%6 = kv_append: the cache it takes is already consumed"));
}

TEST_F(CacheVerifierTest, RefusesAReadAfterConsumption) {
  Value* appended = Append(cache_);
  Read(cache_);
  builder_.Output("cache", appended);
  EXPECT_THAT(Message(), HasSubstr("%6 = paged_attention: the cache it takes is already consumed"));
}

TEST_F(CacheVerifierTest, RefusesAConsumedCacheAsOutput) {
  builder_.Output("old", (Append(cache_), cache_));
  EXPECT_THAT(Message(), HasSubstr("output \"old\": is a cache that is already consumed"));
}

TEST_F(CacheVerifierTest, RefusesACacheThatNothingConsumes) {
  EXPECT_THAT(Message(), HasSubstr("input \"cache\": is a cache that nothing consumes"));
  Append(cache_);
  EXPECT_THAT(Message(), HasSubstr("%5 = kv_append: is a cache that nothing consumes"));
}

}  // namespace
}  // namespace flashflow::ir
