#include "compiler/passes/random_decoder.h"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/builder.h"

namespace flashflow::passes {
namespace {

using ir::Op;
using ir::Value;

constexpr int64_t kHeads = 4;
constexpr int64_t kHeadDim = 4;
constexpr int64_t kWidth = kHeads * kHeadDim;

class Generator {
 public:
  explicit Generator(uint32_t seed) : random_(seed), builder_(absl::StrCat("random_", seed)) {
    batch_ = builder_.Symbol("B", 1, 8);
    sequence_ = builder_.Symbol("S", 1, kDecoderContext);
    builder_.graph().metadata()["context_length"] = kDecoderContext;
    ids_ = builder_.Input("input_ids", DType::kI64, {batch_, sequence_});
    if (Pick(3) > 0) {
      position_batch_ = batch_;
      positions_ = builder_.Input("position_ids", DType::kI64, {batch_, sequence_});
    } else {  // it counts them itself
      position_batch_ = 1;
      positions_ = Add(Op::kIota, {},
                       {{"dtype", DType::kI64}, {"shape", Dims{position_batch_, sequence_}}, {"axis", int64_t{1}}});
    }
    kv_heads_ = int64_t{1} << Pick(3);
  }

  std::unique_ptr<ir::Graph> Run() {
    Value* table = Weight({kDecoderVocabulary, kWidth});
    hidden_ = {Lookup(table, ids_)};
    if (Pick(2) == 0) {
      hidden_.push_back(Add(Op::kExpand, {Lookup(Weight({kDecoderContext, kWidth}), positions_)},
                            {{"shape", Dims{batch_, sequence_, kWidth}}}));
    }
    angles_ = Add(Op::kReshape, {Lookup(Weight({kDecoderContext, kHeadDim}), ShiftedBack(positions_))},
                  {{"shape", Dims{position_batch_, 1, sequence_, kHeadDim}}});
    const int steps = 3 + Pick(8);
    const int attention_at = Pick(steps);
    for (int i = 0; i < steps; ++i) {
      Value* y = i == attention_at ? Attention() : Step();
      // Chains grow: a mean with what came before keeps values of order one.
      hidden_.push_back(Pick(2) == 0 ? Norm(y) : Add(Op::kAdd, {Noise(y), Scaled(Old(), 0.5)}));
    }
    Value* last = Norm(Add(Op::kAdd, {hidden_.back(), attention_}));  // so that one attention at least is live
    builder_.Output("logits", Add(Op::kLinear, {last, Pick(2) == 0 ? table : Weight({kDecoderVocabulary, kWidth})}));
    return builder_.Build();
  }

 private:
  int Pick(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  Value* Add(Op op, std::vector<Value*> operands, AttrMap attrs = {}) {
    return builder_.Add(op, std::move(operands), std::move(attrs), absl::StrCat("gadget ", ++count_));
  }
  Value* Weight(Dims shape) { return builder_.Weight(absl::StrCat("w", ++count_), std::move(shape)); }
  Value* Old() { return hidden_[Pick(static_cast<int>(hidden_.size()))]; }
  Value* Constant(double value, DType dtype = DType::kF32) {
    return Add(Op::kConstant, {}, {{"value", value}, {"dtype", dtype}});
  }
  Value* Scaled(Value* x, double by) { return Add(Op::kMul, {x, Constant(by)}); }
  Value* Lookup(Value* table, Value* ids) { return Add(Op::kEmbedding, {table, ids}, {{"dtype", DType::kF32}}); }
  // Index arithmetic on positions that stays inside the table.
  Value* ShiftedBack(Value* positions) {
    if (Pick(2) == 0) return positions;
    Value* back = Add(Op::kSub, {positions, Constant(1, DType::kI64)});
    return Add(Op::kMaximum, {back, Constant(0, DType::kI64)});
  }
  Value* Reshape(Value* x, Dims shape) { return Add(Op::kReshape, {x}, {{"shape", std::move(shape)}}); }
  Value* Transpose(Value* x, std::vector<int64_t> perm) {
    return Add(Op::kTranspose, {x}, {{"perm", std::move(perm)}});
  }
  // Norms and activations as models write them out.
  Value* WrittenOutNorm(Value* x) {
    const AttrMap over_last = {{"axes", std::vector<int64_t>{2}}, {"keepdims", true}};
    const bool centered = Pick(2) == 0;
    if (centered) x = Add(Op::kSub, {x, Add(Op::kReduceMean, {x}, over_last)});
    Value* square = Pick(2) == 0 ? Add(Op::kMul, {x, x}) : Add(Op::kPow, {x, Constant(2)});
    Value* variance = Add(Op::kAdd, {Add(Op::kReduceMean, {square}, over_last), Constant(1e-2)});
    Value* norm =
        Pick(2) == 0 ? Add(Op::kMul, {x, Add(Op::kRsqrt, {variance})}) : Add(Op::kDiv, {x, Add(Op::kSqrt, {variance})});
    norm = Add(Op::kMul, {Weight({kWidth}), norm});
    return centered ? Add(Op::kAdd, {norm, Weight({kWidth})}) : norm;
  }
  Value* WrittenOutActivation(Value* x) {
    switch (Pick(3)) {
      case 0:
        return Add(Op::kMul, {x, Add(Op::kSigmoid, {x})});
      case 1: {
        Value* curve = Add(Op::kErf, {Add(Op::kDiv, {x, Constant(1.4142135623730951)})});
        return Add(Op::kMul, {Scaled(x, 0.5), Add(Op::kAdd, {curve, Constant(1)})});
      }
      default: {
        Value* cubic = Add(Op::kAdd, {x, Scaled(Add(Op::kPow, {x, Constant(3)}), 0.044715)});
        Value* curve = Add(Op::kTanh, {Scaled(cubic, 0.7978845608028654)});
        return Add(Op::kMul, {Scaled(x, 0.5), Add(Op::kAdd, {Constant(1), curve})});
      }
    }
  }
  Value* Norm(Value* x) {
    if (Pick(4) == 0) return WrittenOutNorm(x);
    Value* weight = Pick(3) == 0 ? nullptr : Weight({kWidth});
    if (Pick(2) == 0) return Add(Op::kRmsNorm, {x, weight}, {{"eps", 1e-2}});
    return Add(Op::kLayerNorm, {x, weight, Pick(2) == 0 ? nullptr : Weight({kWidth})}, {{"eps", 1e-2}});
  }
  Value* Bounded(Value* x) {
    if (Pick(6) == 0) return WrittenOutActivation(x);
    constexpr Op kOps[] = {Op::kTanh, Op::kSigmoid, Op::kGelu, Op::kSilu, Op::kSin, Op::kCos, Op::kNeg, Op::kRelu};
    return Add(kOps[Pick(std::size(kOps))], {x});
  }
  Value* Linear(Value* x, int64_t in, int64_t out) {
    return Add(Op::kLinear, {x, Weight({out, in}), Pick(2) == 0 ? nullptr : Weight({out})});
  }

  // Something that changes nothing.
  Value* Noise(Value* x) {
    switch (Pick(14)) {
      case 8:  // there and back by powers of two
        return Add(Op::kDiv, {Scaled(x, 0.25), Constant(0.25)});
      case 9:
        return Add(Op::kSub, {x, Add(Op::kNeg, {Scaled(x, 0.5)})});
      case 10: {  // a condition that holds everywhere
        Value* places = Add(Op::kIota, {}, {{"dtype", DType::kI64}, {"shape", Dims{kWidth}}, {"axis", int64_t{0}}});
        Value* always = Add(Op::kGe, {places, Constant(0, DType::kI64)});
        return Add(Op::kWhere, {always, x, Old()});
      }
      case 11: {  // cut and joined again
        const auto part = [&](int64_t start, int64_t stop) {
          return Add(Op::kSlice, {x}, {{"axis", int64_t{2}}, {"start", DimExpr(start)}, {"stop", DimExpr(stop)}});
        };
        return Add(Op::kConcat, {part(0, 5), part(5, 6), part(6, kWidth)}, {{"axis", int64_t{2}}});
      }
      case 12:  // the same twice
        return Add(Op::kMaximum,
                   {Add(Op::kNeg, {Add(Op::kNeg, {x})}), Add(Op::kMul, {Constant(-1), Add(Op::kNeg, {x})})});
      case 13: {
        Value* weight = Weight({1, 1, kWidth});
        Value* repeated = Add(Op::kExpand, {weight}, {{"shape", Dims{1, 4, kWidth}}});
        Value* first = Add(Op::kSlice, {repeated}, {{"axis", int64_t{1}}, {"start", DimExpr(2)}, {"stop", DimExpr(3)}});
        return Add(Op::kMul, {x, Add(Op::kMul, {first, Constant(0.5)})});
      }
      case 0:
        return Reshape(x, x->tensor().shape);
      case 1:
        return Add(Op::kNeg, {Add(Op::kNeg, {x})});
      case 2:
        return Add(Op::kMul, {x, Constant(1)});
      case 3:
        return Add(Op::kAdd, {Constant(0), x});
      case 4:
        return Add(Op::kCast, {x}, {{"dtype", DType::kF32}});
      case 5:
        return Transpose(Transpose(x, {1, 0, 2}), {1, 0, 2});
      case 6:
        return Reshape(Reshape(x, {batch_ * sequence_, kWidth}), {batch_, sequence_, kWidth});
      default:
        return x;
    }
  }

  // [B, S, heads * d] -> [B, heads, S, d] and back
  Value* SplitHeads(Value* x, int64_t heads) {
    return Transpose(Reshape(x, {batch_, sequence_, heads, kHeadDim}), {0, 2, 1, 3});
  }
  Value* JoinHeads(Value* x, int64_t heads) {
    return Reshape(Transpose(x, {0, 2, 1, 3}), {batch_, sequence_, heads * kHeadDim});
  }

  // A value [B, heads, S, d] changed by position, by head or within heads.
  Value* InHeads(Value* x, int64_t heads) {
    switch (Pick(6)) {
      case 0:
        return Add(Op::kMul, {x, angles_});
      case 1: {
        const auto half = [&](int64_t start) {
          return Add(Op::kSlice, {x}, {{"axis", int64_t{3}}, {"start", DimExpr(start)}, {"stop", DimExpr(start + 2)}});
        };
        Value* rotated = Add(Op::kConcat, {Add(Op::kNeg, {half(2)}), half(0)}, {{"axis", int64_t{3}}});
        return Add(Op::kAdd, {Add(Op::kMul, {x, angles_}), rotated});
      }
      case 2:
        return Add(Op::kAdd, {x, Weight({heads, 1, kHeadDim})});
      case 3:
        return Add(Op::kSoftmax, {x}, {{"axis", int64_t{Pick(2) == 0 ? 1 : 3}}});
      case 4: {
        const int64_t axis = Pick(2) == 0 ? 1 : 3;
        Value* mean = Add(Op::kReduceMean, {x}, {{"axes", std::vector<int64_t>{axis}}, {"keepdims", true}});
        return Add(Op::kSub, {x, mean});
      }
      default: {
        Value* sum = Add(Op::kReduceSum, {x}, {{"axes", std::vector<int64_t>{1}}});  // [B, S, d]
        Value* one = Reshape(sum, {batch_, 1, sequence_, kHeadDim});
        return Add(Op::kExpand, {one}, {{"shape", Dims{batch_, heads, sequence_, kHeadDim}}});
      }
    }
  }

  Value* Attention() {
    Value* x = Norm(Old());
    Value* q = SplitHeads(Linear(x, kWidth, kWidth), kHeads);
    Value* k = SplitHeads(Linear(x, kWidth, kv_heads_ * kHeadDim), kv_heads_);
    Value* v = SplitHeads(Linear(Pick(3) == 0 ? Old() : x, kWidth, kv_heads_ * kHeadDim), kv_heads_);
    if (Pick(2) == 0) {
      q = Add(Op::kMul, {q, angles_});
      k = Add(Op::kMul, {k, angles_});
    }
    Value* o = Add(Op::kAttention, {q, k, v},
                   {{"causal", true}, {"scale", 0.5}, {"window", int64_t{Pick(3) == 0 ? 1 + Pick(6) : 0}}});
    return attention_ = Linear(JoinHeads(o, kHeads), kWidth, kWidth);
  }

  Value* Step() {
    Value* x = Noise(Old());
    switch (Pick(11)) {
      case 0:
        return Attention();
      case 8: {  // axes of channels exchanged, next to the tokens or around them
        Value* heads = Pick(2) == 0 ? Transpose(SplitHeads(x, kHeads), {0, 2, 3, 1})
                                    : Transpose(Reshape(x, {batch_, sequence_, kHeads, kHeadDim}), {0, 1, 3, 2});
        return Reshape(heads, {batch_, sequence_, kWidth});
      }
      case 10: {  // heads in front of the tokens
        Value* heads = Transpose(SplitHeads(x, kHeads), {1, 0, 2, 3});
        Value* peaked = Add(Op::kSoftmax, {heads}, {{"axis", int64_t{0}}});
        return Reshape(Transpose(peaked, {1, 2, 0, 3}), {batch_, sequence_, kWidth});
      }
      case 9:  // sequence first, then back
        return Transpose(Linear(Transpose(x, {1, 0, 2}), kWidth, kWidth), {1, 0, 2});
      case 1:
        return Bounded(x);
      case 2:
        return Add(Op::kMul, {Bounded(x), Bounded(Old())});
      case 3:
        return Linear(Bounded(Linear(Norm(x), kWidth, 24)), 24, kWidth);
      case 4:
        return JoinHeads(InHeads(SplitHeads(x, kHeads), kHeads), kHeads);
      case 5: {  // as addmm is exported
        Value* flat = Reshape(x, {batch_ * sequence_, kWidth});
        return Reshape(Add(Op::kMatmul, {Bounded(flat), Weight({kWidth, kWidth})}), {batch_, sequence_, kWidth});
      }
      case 6: {  // a product with a transposed weight, as x @ w.T
        return Add(Op::kMatmul, {x, Transpose(Weight({kWidth, kWidth}), {1, 0})});
      }
      default: {
        Value* peak = Add(Op::kReduceMax, {x}, {{"axes", std::vector<int64_t>{2}}, {"keepdims", true}});
        return Add(Op::kMaximum, {Add(Op::kSub, {x, peak}), Add(Op::kAdd, {Old(), Weight({1, 1, kWidth})})});
      }
    }
  }

  std::minstd_rand random_;
  ir::GraphBuilder builder_;
  int count_ = 0;
  int64_t kv_heads_ = 1;
  DimExpr batch_, sequence_;
  Value* ids_ = nullptr;
  DimExpr position_batch_;      // 1: the same positions for all sequences
  Value* positions_ = nullptr;  // [position_batch_, S]
  Value* angles_ = nullptr;     // [position_batch_, 1, S, d], a function of the position
  Value* attention_ = nullptr;  // the last one's result
  std::vector<Value*> hidden_;  // [B, S, width]
};

}  // namespace

std::unique_ptr<ir::Graph> RandomDecoder(uint32_t seed) { return Generator(seed).Run(); }

}  // namespace flashflow::passes
