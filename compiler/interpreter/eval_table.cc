#include <array>

#include "absl/log/check.h"
#include "compiler/interpreter/eval.h"

namespace flashflow::interpreter {
namespace {

using ir::Op;

struct Row {
  Op op;
  EvalFn eval;
};

// In the order of Op.
constexpr Row kRows[] = {
    {Op::kNeg, EvalUnary},
    {Op::kAbs, EvalUnary},
    {Op::kExp, EvalUnary},
    {Op::kSqrt, EvalUnary},
    {Op::kRsqrt, EvalUnary},
    {Op::kReciprocal, EvalUnary},
    {Op::kTanh, EvalUnary},
    {Op::kErf, EvalUnary},
    {Op::kSigmoid, EvalUnary},
    {Op::kSin, EvalUnary},
    {Op::kCos, EvalUnary},
    {Op::kRelu, EvalUnary},
    {Op::kGelu, EvalUnary},
    {Op::kSilu, EvalUnary},
    {Op::kCast, EvalCast},
    {Op::kLogicalNot, EvalUnary},
    {Op::kAdd, EvalBinary},
    {Op::kSub, EvalBinary},
    {Op::kMul, EvalBinary},
    {Op::kDiv, EvalBinary},
    {Op::kPow, EvalBinary},
    {Op::kMaximum, EvalBinary},
    {Op::kMinimum, EvalBinary},
    {Op::kEq, EvalCompare},
    {Op::kNe, EvalCompare},
    {Op::kLt, EvalCompare},
    {Op::kLe, EvalCompare},
    {Op::kGt, EvalCompare},
    {Op::kGe, EvalCompare},
    {Op::kLogicalAnd, EvalCompare},
    {Op::kLogicalOr, EvalCompare},
    {Op::kWhere, EvalWhere},
    {Op::kConstant, EvalConstant},
    {Op::kIota, EvalIota},
    {Op::kReshape, EvalReshape},
    {Op::kTranspose, EvalTranspose},
    {Op::kExpand, EvalExpand},
    {Op::kSlice, EvalSlice},
    {Op::kConcat, EvalConcat},
    {Op::kEmbedding, EvalGather},
    {Op::kGatherRows, EvalGather},
    {Op::kIndex, EvalIndex},
    {Op::kReduceSum, EvalReduce},
    {Op::kReduceMean, EvalReduce},
    {Op::kReduceMax, EvalReduce},
    {Op::kCumsum, EvalCumsum},
    {Op::kSoftmax, EvalSoftmax},
    {Op::kMatmul, EvalMatmul},
    {Op::kLinear, EvalLinear},
    {Op::kLayerNorm, EvalNorm},
    {Op::kRmsNorm, EvalNorm},
    {Op::kAttention, EvalAttention},
    {Op::kRope, EvalRope},
    {Op::kFusedLinear, EvalFusedLinear},
    {Op::kAddNorm, EvalAddNorm},
    {Op::kQuantize, EvalQuantize},
    {Op::kKvAppend, EvalKvAppend},
    {Op::kPagedAttention, EvalPagedAttention},
    {Op::kCachedAttention, EvalCachedAttention},
};

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].op) != i) return false;
  }
  return true;
}
static_assert(InOrder());

}  // namespace

EvalFn GetEval(Op op) {
  CHECK_LT(static_cast<size_t>(op), std::size(kRows)) << "an op has no evaluation";
  return kRows[static_cast<size_t>(op)].eval;
}

}  // namespace flashflow::interpreter
