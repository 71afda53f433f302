#include "compiler/ir/op_table.h"

#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::ir {
namespace {

using ::testing::HasSubstr;

const DimExpr B = DimExpr::Symbol("B");
const DimExpr S = DimExpr::Symbol("S");
const DimExpr R = DimExpr::Symbol("R");
const DimExpr T = DimExpr::Symbol("T");

Type F32(Dims shape) { return TensorType{DType::kF32, std::move(shape)}; }
Type BF16(Dims shape) { return TensorType{DType::kBF16, std::move(shape)}; }
Type I32(Dims shape) { return TensorType{DType::kI32, std::move(shape)}; }
Type Bool(Dims shape) { return TensorType{DType::kBool, std::move(shape)}; }

// The only result's type as text, or the error.
std::string Infer(Op op, std::vector<Type> operands, AttrMap attrs = {}) {
  absl::StatusOr<std::vector<Type>> types = InferTypes(op, operands, &attrs);
  if (!types.ok()) return std::string(types.status().message());
  EXPECT_EQ(types->size(), 1u);
  return types->front().ToString();
}

TEST(OpTable, RowsAreInTheOrderOfOp) {
  for (size_t i = 0; i < OpTable().size(); ++i) {
    const OpDef& def = OpTable()[i];
    EXPECT_EQ(static_cast<size_t>(def.op), i) << def.name;
    EXPECT_EQ(FindOp(def.name), &def);
    EXPECT_FALSE(def.doc.empty()) << def.name;
    for (const AttrDef& attr : def.attrs) {
      if (!attr.default_value.has_value()) continue;
      EXPECT_EQ(KindOf(*attr.default_value), attr.kind) << def.name;
    }
    for (size_t j = 1; j < def.operands.size(); ++j) {
      EXPECT_LE(def.operands[j - 1].kind, def.operands[j].kind) << def.name << ": optional operands trail";
    }
  }
  EXPECT_EQ(static_cast<size_t>(Op::kCachedAttention) + 1, OpTable().size());
  EXPECT_EQ(FindOp("no_such_op"), nullptr);
}

TEST(InferTypes, ChecksOperandsAndAttributes) {
  EXPECT_THAT(Infer(Op::kAdd, {F32({B})}), HasSubstr("add: operands: expected operands (a, b), got 1"));
  EXPECT_THAT(Infer(Op::kLinear, {F32({B})}), HasSubstr("(x, weight, bias?)"));
  EXPECT_THAT(Infer(Op::kNeg, {Type()}), HasSubstr("x: expected a value, got _"));
  EXPECT_THAT(Infer(Op::kNeg, {CacheType{1, 1, 1}}), HasSubstr("x: expected a tensor, got cache[1, 1, 1, f32]"));
  EXPECT_THAT(Infer(Op::kConcat, {}, {{"axis", 0}}), HasSubstr("expected operands (xs...), got 0"));
  EXPECT_THAT(Infer(Op::kSoftmax, {F32({B})}), HasSubstr("attribute axis (int) is missing"));
  EXPECT_THAT(Infer(Op::kSoftmax, {F32({B})}, {{"axis", 1.0}}),
              HasSubstr("attribute axis: expected int, got float 1.0"));
  EXPECT_THAT(Infer(Op::kNeg, {F32({B})}, {{"axis", 1}}), HasSubstr("no attribute is called \"axis\""));
  AttrMap attrs;
  ASSERT_TRUE(InferTypes(Op::kGelu, {F32({B})}, &attrs).ok());
  EXPECT_EQ(std::get<std::string>(attrs.at("approximate")), "none");
}

TEST(InferTypes, BoundsResults) {
  EXPECT_THAT(Infer(Op::kIota, {}, {{"dtype", DType::kI32}, {"shape", Dims(7, 1)}, {"axis", 0}}),
              HasSubstr("rank 6 or less"));
  EXPECT_THAT(Infer(Op::kConstant, {}, {{"value", 0.0}, {"dtype", DType::kF32}, {"shape", Dims{-1}}}),
              HasSubstr("no negative dimension"));
  const Dims huge = {std::numeric_limits<int64_t>::max(), 2};
  EXPECT_THAT(Infer(Op::kConstant, {}, {{"value", 0.0}, {"dtype", DType::kF32}, {"shape", huge}}),
              HasSubstr("element count"));
}

TEST(InferTypes, Elementwise) {
  EXPECT_EQ(Infer(Op::kExp, {BF16({B, 3})}), "bf16[B, 3]");
  EXPECT_THAT(Infer(Op::kExp, {I32({B})}), HasSubstr("exp: x: expected a float dtype, got i32[B]"));
  EXPECT_EQ(Infer(Op::kRelu, {I32({B})}), "i32[B]");
  EXPECT_THAT(Infer(Op::kNeg, {Bool({B})}), HasSubstr("float or integer"));
  EXPECT_EQ(Infer(Op::kCast, {Bool({B})}, {{"dtype", DType::kF16}}), "f16[B]");
  EXPECT_THAT(Infer(Op::kGelu, {F32({B})}, {{"approximate", "fast"}}), HasSubstr("got \"fast\""));
  EXPECT_EQ(Infer(Op::kLogicalNot, {Bool({B})}), "bool[B]");
  EXPECT_THAT(Infer(Op::kLogicalNot, {F32({B})}), HasSubstr("expected bool"));

  EXPECT_EQ(Infer(Op::kAdd, {F32({B, 1, 8}), F32({S, 1})}), "f32[B, S, 8]");
  EXPECT_EQ(Infer(Op::kMul, {F32({}), F32({S})}), "f32[S]");
  EXPECT_THAT(Infer(Op::kAdd, {F32({B}), F32({S})}), HasSubstr("[B] and [S] do not broadcast"));
  EXPECT_THAT(Infer(Op::kAdd, {F32({B}), BF16({B})}), HasSubstr("b: expected f32, got bf16[B]"));
  EXPECT_THAT(Infer(Op::kDiv, {I32({B}), I32({B})}), HasSubstr("a float dtype"));
  EXPECT_THAT(Infer(Op::kSub, {Bool({B}), Bool({B})}), HasSubstr("float or integer"));
  EXPECT_EQ(Infer(Op::kEq, {Bool({B}), Bool({1})}), "bool[B]");
  EXPECT_EQ(Infer(Op::kLt, {I32({B}), I32({1})}), "bool[B]");
  EXPECT_THAT(Infer(Op::kLt, {Bool({B}), Bool({1})}), HasSubstr("float or integer"));
  EXPECT_EQ(Infer(Op::kLogicalAnd, {Bool({B, 1}), Bool({S})}), "bool[B, S]");
  EXPECT_EQ(Infer(Op::kWhere, {Bool({S, 1}), F32({B}), F32({})}), "f32[S, B]");
  EXPECT_THAT(Infer(Op::kWhere, {F32({S}), F32({S}), F32({S})}), HasSubstr("condition: expected bool"));
}

TEST(InferTypes, CreationAndShape) {
  EXPECT_EQ(Infer(Op::kConstant, {}, {{"value", 2.0}, {"dtype", DType::kI8}}), "i8[]");
  EXPECT_THAT(Infer(Op::kConstant, {}, {{"value", 128.0}, {"dtype", DType::kI8}}), HasSubstr("a value of i8"));
  EXPECT_THAT(Infer(Op::kConstant, {}, {{"value", 0.5}, {"dtype", DType::kI64}}), HasSubstr("a value of i64"));
  EXPECT_THAT(Infer(Op::kConstant, {}, {{"value", 0x1p63}, {"dtype", DType::kI64}}), HasSubstr("a value of i64"));
  EXPECT_EQ(Infer(Op::kIota, {}, {{"dtype", DType::kI64}, {"shape", Dims{B, S}}, {"axis", 1}}), "i64[B, S]");
  EXPECT_THAT(Infer(Op::kIota, {}, {{"dtype", DType::kI64}, {"shape", Dims{B}}, {"axis", 1}}), HasSubstr("an axis"));

  EXPECT_EQ(Infer(Op::kReshape, {F32({B, S, 12, 64})}, {{"shape", Dims{S * B, 768}}}), "f32[B*S, 768]");
  EXPECT_THAT(Infer(Op::kReshape, {F32({B, 4})}, {{"shape", Dims{B, 5}}}), HasSubstr("4*B elements"));
  EXPECT_EQ(Infer(Op::kTranspose, {F32({B, S, 3})}, {{"perm", std::vector<int64_t>{2, 0, 1}}}), "f32[3, B, S]");
  EXPECT_THAT(Infer(Op::kTranspose, {F32({B, S})}, {{"perm", std::vector<int64_t>{0, 0}}}),
              HasSubstr("each axis once"));
  EXPECT_THAT(Infer(Op::kTranspose, {F32({B, S})}, {{"perm", std::vector<int64_t>{0}}}), HasSubstr("2 axes"));
  EXPECT_EQ(Infer(Op::kExpand, {F32({B, 1})}, {{"shape", Dims{2, B, S}}}), "f32[2, B, S]");
  EXPECT_THAT(Infer(Op::kExpand, {F32({B, 2})}, {{"shape", Dims{B, 1}}}), HasSubstr("broadcasts to"));
  EXPECT_THAT(Infer(Op::kExpand, {F32({1, B})}, {{"shape", Dims{B}}}), HasSubstr("broadcasts to"));

  auto slice = [](DimExpr start, DimExpr stop, int64_t step) {
    return Infer(Op::kSlice, {F32({B, 10})}, {{"axis", 1}, {"start", start}, {"stop", stop}, {"step", step}});
  };
  EXPECT_EQ(slice(2, 10, 1), "f32[B, 8]");
  EXPECT_EQ(slice(2, 10, 3), "f32[B, 3]");
  EXPECT_EQ(slice(5, 5, 1), "f32[B, 0]");
  EXPECT_EQ(slice(0, S * 2, 2), "f32[B, S]");
  for (const std::string& text : {slice(-1, 5, 1), slice(5, 4, 1), slice(0, 11, 1)}) {
    EXPECT_THAT(text, HasSubstr("0 <= start <= stop <= 10"));
  }
  EXPECT_THAT(slice(0, 10, 0), HasSubstr("at least 1"));
  EXPECT_THAT(slice(0, S, 2), HasSubstr("a divisor of the length S"));

  EXPECT_EQ(Infer(Op::kConcat, {F32({B, 2}), F32({B, S}), F32({B, 3})}, {{"axis", 1}}), "f32[B, S + 5]");
  EXPECT_THAT(Infer(Op::kConcat, {F32({B, 2}), F32({S, 2})}, {{"axis", 1}}),
              HasSubstr("operand 1: expected shape [B, 2]"));
  EXPECT_THAT(Infer(Op::kConcat, {F32({B}), I32({B})}, {{"axis", 0}}), HasSubstr("expected f32, got i32[B]"));
  EXPECT_THAT(Infer(Op::kConcat, {F32({B}), F32({B, 1})}, {{"axis", 0}}), HasSubstr("rank 1"));
}

TEST(InferTypes, Lookups) {
  EXPECT_EQ(Infer(Op::kEmbedding, {BF16({100, 8}), I32({B, S})}, {{"dtype", DType::kF32}}), "f32[B, S, 8]");
  EXPECT_THAT(Infer(Op::kEmbedding, {F32({100, 8}), F32({B})}, {{"dtype", DType::kF32}}), HasSubstr("i32 or i64"));
  EXPECT_THAT(Infer(Op::kEmbedding, {F32({100, 8}), I32({B})}, {{"dtype", DType::kI8}}), HasSubstr("a float dtype"));
  EXPECT_EQ(Infer(Op::kGatherRows, {F32({T, 8}), I32({R})}), "f32[R, 8]");
  EXPECT_THAT(Infer(Op::kGatherRows, {F32({}), I32({R})}), HasSubstr("rank 1 or more"));
  EXPECT_THAT(Infer(Op::kGatherRows, {F32({T}), F32({R})}), HasSubstr("rows: expected i32"));
}

TEST(InferTypes, ReductionsAndContractions) {
  const std::vector<int64_t> axes = {0, 2};
  EXPECT_EQ(Infer(Op::kReduceSum, {I32({B, S, 3})}, {{"axes", axes}}), "i32[S]");
  EXPECT_EQ(Infer(Op::kReduceMax, {F32({B, S, 3})}, {{"axes", axes}, {"keepdims", true}}), "f32[1, S, 1]");
  EXPECT_THAT(Infer(Op::kReduceMean, {I32({B, S, 3})}, {{"axes", axes}}), HasSubstr("a float dtype"));
  EXPECT_THAT(Infer(Op::kReduceSum, {F32({B, S})}, {{"axes", axes}}), HasSubstr("an axis of a tensor of rank 2"));
  EXPECT_THAT(Infer(Op::kReduceSum, {F32({B, S})}, {{"axes", std::vector<int64_t>{1, 1}}}), HasSubstr("at most once"));
  EXPECT_THAT(Infer(Op::kReduceSum, {F32({B, S})}, {{"axes", std::vector<int64_t>{}}}), HasSubstr("at least one axis"));
  EXPECT_EQ(Infer(Op::kSoftmax, {F32({B, S})}, {{"axis", 1}}), "f32[B, S]");
  EXPECT_THAT(Infer(Op::kSoftmax, {F32({B, S})}, {{"axis", -1}}), HasSubstr("axis"));

  EXPECT_EQ(Infer(Op::kMatmul, {F32({B, 1, S, 8}), BF16({12, 8, T})}), "f32[B, 12, S, T]");
  EXPECT_THAT(Infer(Op::kMatmul, {F32({S, 8}), F32({9, T})}), HasSubstr("b: expected 8 rows"));
  EXPECT_THAT(Infer(Op::kMatmul, {F32({8}), F32({8, T})}), HasSubstr("rank 2 or more"));
  EXPECT_EQ(Infer(Op::kLinear, {F32({B, S, 8}), BF16({16, 8})}), "f32[B, S, 16]");
  EXPECT_EQ(Infer(Op::kLinear, {F32({8}), F32({16, 8}), F32({16})}), "f32[16]");
  EXPECT_THAT(Infer(Op::kLinear, {F32({B, 8}), F32({16, 9})}), HasSubstr("weight: expected shape [16, 8]"));
  EXPECT_THAT(Infer(Op::kLinear, {F32({B, 8}), F32({16, 8}), F32({8})}), HasSubstr("bias: expected shape [16]"));
  EXPECT_EQ(Infer(Op::kLayerNorm, {F32({B, 8}), Type(), F32({8})}, {{"eps", 1e-5}}), "f32[B, 8]");
  EXPECT_EQ(Infer(Op::kLayerNorm, {F32({B, 8})}, {{"eps", 1e-5}}), "f32[B, 8]");
  EXPECT_THAT(Infer(Op::kLayerNorm, {F32({B, 8}), F32({8}), F32({B})}, {{"eps", 0.0}}),
              HasSubstr("bias: expected shape [8]"));
  EXPECT_THAT(Infer(Op::kRmsNorm, {F32({B, 8})}, {{"eps", -1.0}}), HasSubstr("eps: expected at least 0"));
  EXPECT_THAT(Infer(Op::kRmsNorm, {F32({B, 8}), F32({8}), F32({8})}, {{"eps", 0.0}}), HasSubstr("(x, weight?)"));
}

TEST(InferTypes, IndexAndCumsum) {
  EXPECT_EQ(Infer(Op::kIndex, {F32({B, S, 8}), I32({B, 1}), I32({3})}), "f32[B, 3, 8]");
  EXPECT_EQ(Infer(Op::kIndex, {F32({B, S}), I32({}), I32({})}), "f32[]");
  EXPECT_THAT(Infer(Op::kIndex, {F32({B}), I32({}), I32({})}), HasSubstr("indices: expected 1 at most"));
  EXPECT_THAT(Infer(Op::kIndex, {F32({B}), F32({B})}), HasSubstr("indices: expected i32 or i64"));
  EXPECT_THAT(Infer(Op::kIndex, {F32({B, S}), I32({B}), I32({S})}), HasSubstr("do not broadcast"));
  EXPECT_EQ(Infer(Op::kCumsum, {I32({B, S})}, {{"axis", 1}}), "i32[B, S]");
  EXPECT_THAT(Infer(Op::kCumsum, {I32({B, S})}, {{"axis", 2}}), HasSubstr("an axis of a tensor of rank 2"));
  EXPECT_THAT(Infer(Op::kCumsum, {Bool({B})}, {{"axis", 0}}), HasSubstr("float or integer"));
}

TEST(InferTypes, Attention) {
  const AttrMap attrs = {{"causal", true}, {"scale", 0.125}};
  EXPECT_EQ(Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 3, T, 64}), F32({B, 3, T, 32})}, attrs),
            "f32[B, 9, S, 32]");
  EXPECT_THAT(Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 2, T, 64}), F32({B, 2, T, 64})}, attrs),
              HasSubstr("a multiple of 2 heads"));
  EXPECT_THAT(Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 3, T, 60}), F32({B, 3, T, 64})}, attrs),
              HasSubstr("k: expected shape [B, 3, T, 64]"));
  EXPECT_THAT(Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 3, T, 64}), F32({B, 3, S, 64})}, attrs),
              HasSubstr("v: expected shape [B, 3, T, 64]"));
  EXPECT_THAT(Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 3, T, 64}), F32({B, 3, T, 64})},
                    {{"causal", false}, {"scale", 1.0}, {"window", 4}}),
              HasSubstr("window: expected 0"));
  const auto masked = [&](Type mask) {
    AttrMap full = {{"causal", false}, {"scale", 0.5}};
    return Infer(Op::kAttention, {F32({B, 9, S, 64}), F32({B, 3, T, 64}), F32({B, 3, T, 64}), std::move(mask)}, full);
  };
  EXPECT_EQ(masked(Bool({B, 1, S, T})), "f32[B, 9, S, 64]");
  EXPECT_EQ(masked(F32({S, 1})), "f32[B, 9, S, 64]");
  EXPECT_THAT(masked(I32({S, T})), HasSubstr("mask: expected bool or f32, got i32[S, T]"));
  EXPECT_THAT(masked(Bool({T, S})), HasSubstr("mask: expected a shape that broadcasts to [B, 9, S, T]"));
  EXPECT_THAT(masked(Bool({2, B, 1, S, T})), HasSubstr("mask: expected a shape that broadcasts"));
}

TEST(InferTypes, PagedCache) {
  const CacheType cache{2, 3, 64, DType::kBF16};
  const DimExpr p = DimExpr::Symbol("P");
  const std::vector<Type> append = {cache, F32({T, 3, 64}), F32({T, 3, 64}), I32({R + 1}), I32({R}), I32({R, p})};
  EXPECT_EQ(Infer(Op::kKvAppend, append, {{"layer", 1}}), "cache[2, 3, 64, bf16]");
  EXPECT_THAT(Infer(Op::kKvAppend, append, {{"layer", 2}}), HasSubstr("layer: expected one of the 2 layers"));
  auto with = [&append](size_t i, Type type) {
    std::vector<Type> changed = append;
    changed[i] = std::move(type);
    return Infer(Op::kKvAppend, changed, {{"layer", 0}});
  };
  EXPECT_THAT(with(0, F32({T})), HasSubstr("cache: expected a cache, got f32[T]"));
  EXPECT_THAT(with(1, F32({T, 3, 32})), HasSubstr("k: expected shape [T, 3, 64]"));
  EXPECT_THAT(with(2, F32({R, 3, 64})), HasSubstr("v: expected f32[T, 3, 64]"));
  EXPECT_THAT(with(3, I32({R})), HasSubstr("row_start: expected shape [R + 1]"));
  EXPECT_THAT(with(4, F32({R})), HasSubstr("kv_len: expected i32"));
  EXPECT_THAT(with(5, I32({T, p})), HasSubstr("block_table: expected shape [R, P]"));

  const std::vector<Type> read = {cache, F32({T, 9, 64}), I32({R + 1}), I32({R}), I32({R, p})};
  EXPECT_EQ(Infer(Op::kPagedAttention, read, {{"layer", 1}, {"scale", 0.125}}), "f32[T, 9, 64]");
  EXPECT_THAT(Infer(Op::kPagedAttention, read, {{"layer", -1}, {"scale", 0.125}}), HasSubstr("layer"));
  EXPECT_THAT(Infer(Op::kPagedAttention, read, {{"layer", 1}, {"scale", std::numeric_limits<double>::infinity()}}),
              HasSubstr("scale: expected a finite number"));
}

TEST(InferTypes, CachedAttention) {
  const CacheType cache{2, 3, 64, DType::kBF16};
  const DimExpr p = DimExpr::Symbol("P");
  const std::vector<Type> operands = {cache,       F32({T, 15 * 64}), I32({R + 1}), I32({R}),
                                      I32({R, p}), F32({T, 64}),      F32({T, 64})};
  const AttrMap attrs = {{"layer", 1}, {"heads", 9}, {"scale", 0.125}};
  AttrMap complete = attrs;
  const auto types = InferTypes(Op::kCachedAttention, operands, &complete);
  ASSERT_TRUE(types.ok()) << types.status();
  EXPECT_EQ(*types, (std::vector<Type>{cache, F32({T, 9 * 64})}));
  auto with = [&](size_t i, Type type) {
    std::vector<Type> changed = operands;
    changed[i] = std::move(type);
    return Infer(Op::kCachedAttention, changed, attrs);
  };
  EXPECT_THAT(with(1, F32({T, 14 * 64})), HasSubstr("qkv: expected shape [T, 960]"));
  EXPECT_THAT(with(5, F32({T, 32})), HasSubstr("cos: expected shape [T, 64]"));
  EXPECT_THAT(with(5, Type()), HasSubstr("both or neither"));
  EXPECT_THAT(with(3, F32({R})), HasSubstr("kv_len: expected i32"));
  EXPECT_THAT(Infer(Op::kCachedAttention, operands, {{"layer", 1}, {"heads", 8}, {"scale", 0.125}}),
              HasSubstr("heads: expected a multiple of the cache's 3 heads, got 8"));
  const CacheType odd{2, 3, 5, DType::kF32};
  EXPECT_THAT(
      Infer(Op::kCachedAttention, {odd, F32({T, 45}), I32({R + 1}), I32({R}), I32({R, p}), F32({T, 5}), F32({T, 5})},
            {{"layer", 0}, {"heads", 3}, {"scale", 0.125}}),
      HasSubstr("an even head_dim"));
}

TEST(InferTypes, Fused) {
  EXPECT_EQ(Infer(Op::kRope, {F32({B, 9, S, 64}), F32({B, 1, S, 64}), F32({S, 64})}), "f32[B, 9, S, 64]");
  EXPECT_THAT(Infer(Op::kRope, {F32({T, 9, 5}), F32({5}), F32({5})}), HasSubstr("x: expected an even last dim"));
  EXPECT_THAT(Infer(Op::kRope, {F32({T, 9, 6}), F32({T, 1, 1}), F32({6})}),
              HasSubstr("cos: expected as many channels"));
  EXPECT_THAT(Infer(Op::kRope, {F32({T, 1, 6}), F32({6}), F32({T, 9, 6})}), HasSubstr("sin: expected"));

  const AttrMap norm = {{"norm", "layer_norm"}, {"eps", 1e-5}};
  EXPECT_EQ(Infer(Op::kFusedLinear, {F32({T, 8}), BF16({6, 8})}), "f32[T, 6]");
  EXPECT_EQ(Infer(Op::kFusedLinear, {F32({T, 8}), BF16({6, 8}), F32({6}), F32({T, 3})}, {{"gated", true}}),
            "f32[T, 3]");
  EXPECT_EQ(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), Type(), Type(), F32({8}), F32({8})}, norm), "f32[T, 6]");
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), F32({3})}, {{"gated", true}}), HasSubstr("bias"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({7, 8})}, {{"gated", true}}), HasSubstr("even number of rows"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), Type(), F32({T, 8})}),
              HasSubstr("residual: expected f32[T, 6]"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), Type(), Type(), F32({8})}), HasSubstr("norm is none"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), Type(), Type(), Type(), F32({8})},
                    {{"norm", "rms_norm"}, {"eps", 0.0}}),
              HasSubstr("norm_bias: expected none"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8}), Type(), Type(), F32({9})}, norm),
              HasSubstr("norm_weight: expected shape [8]"));
  EXPECT_THAT(Infer(Op::kFusedLinear, {F32({T, 8}), F32({6, 8})}, {{"activation", "swish"}}),
              HasSubstr("activation: expected none, gelu, gelu_tanh, silu, relu, got \"swish\""));

  AttrMap attrs = norm;
  const auto types = InferTypes(Op::kAddNorm, std::vector<Type>{F32({T, 8}), F32({T, 8}), F32({8}), F32({8})}, &attrs);
  ASSERT_TRUE(types.ok()) << types.status();
  EXPECT_EQ(*types, (std::vector<Type>{F32({T, 8}), F32({T, 8})}));
  EXPECT_THAT(Infer(Op::kAddNorm, {F32({T, 8}), F32({8})}, norm), HasSubstr("residual: expected f32[T, 8]"));
  EXPECT_THAT(Infer(Op::kAddNorm, {F32({T, 8}), F32({T, 8}), F32({9})}, norm), HasSubstr("weight: expected shape [8]"));
  EXPECT_THAT(Infer(Op::kAddNorm, {F32({T, 8}), F32({T, 8}), F32({8}), F32({8})}, {{"norm", "rms_norm"}, {"eps", 0.0}}),
              HasSubstr("bias: expected none"));
}

TEST(InferTypes, CodesOfGroups) {
  const auto types = [](Dims shape, AttrMap attrs) {
    attrs.emplace("group", int64_t{32});
    return InferTypes(Op::kQuantize, std::vector<Type>{F32(std::move(shape))}, &attrs);
  };
  EXPECT_EQ(*types({B, 96}, {}),
            (std::vector<Type>{TensorType{DType::kI8, {B, 48}}, TensorType{DType::kF16, {B, 3, 2}}}));
  EXPECT_THAT(types({B, 80}, {}).status().message(), HasSubstr("x: expected a last dim that is a multiple of 32"));
  EXPECT_THAT(types({B, 96}, {{"group", int64_t{16}}}).status().message(), HasSubstr("group: expected 0 or 32"));
  EXPECT_THAT(types({B, 96}, {{"clip", 2.0}}).status().message(), HasSubstr("clip: expected inf"));
  const auto linear = [](Dims codes, Type scale, AttrMap attrs = {}) {
    return Infer(Op::kFusedLinear,
                 {F32({T, 64}), TensorType{DType::kI8, std::move(codes)}, Type(), Type(), Type(), Type(), scale},
                 std::move(attrs));
  };
  const Type scales = TensorType{DType::kF16, {6, 2, 2}};
  EXPECT_EQ(linear({6, 32}, scales), "f32[T, 6]");
  EXPECT_EQ(linear({6, 32}, scales, {{"gated", true}}), "f32[T, 3]");
  EXPECT_THAT(linear({6, 32}, TensorType{DType::kF16, {6, 1, 2}}), HasSubstr("weight_scale: expected f16[6, 2, 2]"));
  EXPECT_THAT(linear({6, 24}, scales), HasSubstr("weight: expected rows of a multiple of 16"));
  EXPECT_THAT(linear({6, 16}, TensorType{DType::kF16, {6, 1, 2}}), HasSubstr("weight: expected shape [6, 64]"));
  EXPECT_THAT(linear({6}, scales), HasSubstr("weight: expected rank 2"));
  EXPECT_THAT(linear({6, 32}, scales, {{"clip", 2.0}}), HasSubstr("clip: expected inf"));
}

TEST(InferTypes, Quantization) {
  const auto types = [](Dims shape, AttrMap attrs) {
    return InferTypes(Op::kQuantize, std::vector<Type>{F32(std::move(shape))}, &attrs);
  };
  EXPECT_EQ(*types({B, S, 8}, {}), (std::vector<Type>{TensorType{DType::kI8, {B, S, 8}}, F32({B, S})}));
  EXPECT_THAT(types({}, {}).status().message(), HasSubstr("x: expected rank 1 or more"));
  for (const double clip : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(types({B}, {{"clip", clip}}).status().message(), HasSubstr("clip: expected a number above 0"));
  }
  const Type codes = TensorType{DType::kI8, {6, 8}};
  const auto linear = [](Type weight, Type scale, AttrMap attrs = {}) {
    return Infer(Op::kFusedLinear, {F32({T, 8}), weight, Type(), Type(), Type(), Type(), scale}, std::move(attrs));
  };
  EXPECT_EQ(linear(codes, F32({6}), {{"clip", 3.0}}), "f32[T, 6]");
  EXPECT_EQ(linear(F32({6, 8}), Type(), {{"dtype", DType::kBF16}}), "bf16[T, 6]");
  EXPECT_THAT(linear(codes, Type()), HasSubstr("weight_scale: expected a scale for each row"));
  EXPECT_THAT(linear(codes, F32({8})), HasSubstr("weight_scale: expected f32[6], got f32[8]"));
  EXPECT_THAT(linear(codes, BF16({6})), HasSubstr("weight_scale: expected f32[6], got bf16[6]"));
  EXPECT_THAT(linear(F32({6, 8}), F32({6})), HasSubstr("weight_scale: expected none"));
  EXPECT_THAT(linear(F32({6, 8}), Type(), {{"clip", 3.0}}), HasSubstr("clip: expected inf"));
  EXPECT_THAT(linear(codes, F32({6}), {{"dtype", DType::kI32}}), HasSubstr("dtype: expected a float"));
  EXPECT_THAT(linear(TensorType{DType::kI8, {6, 9}}, F32({6})), HasSubstr("weight: expected shape [6, 8]"));
  EXPECT_THAT(linear(TensorType{DType::kI8, {6}}, F32({6})), HasSubstr("weight: expected rank 2"));
  constexpr int64_t kMost = int64_t{1} << 17;
  const auto long_rows = [&](int64_t k) {
    return Infer(Op::kFusedLinear,
                 {F32({T, k}), TensorType{DType::kI8, {6, k}}, Type(), Type(), Type(), Type(), F32({6})});
  };
  EXPECT_EQ(long_rows(kMost), "f32[T, 6]");
  EXPECT_THAT(long_rows(kMost + 1), HasSubstr("rows of 131072 codes at most"));
}

}  // namespace
}  // namespace flashflow::ir
