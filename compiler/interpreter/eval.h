// Evaluation of single ops: one function for each rule, in files by group, and the table that says which is whose.
#ifndef COMPILER_INTERPRETER_EVAL_H_
#define COMPILER_INTERPRETER_EVAL_H_

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "compiler/interpreter/tensor.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/op_table.h"

namespace flashflow::interpreter {

enum class Mode : uint8_t {
  kTyped,  // each op computes in double (integers exactly) and rounds its result to the result's dtype
  kWide,   // floats stay double throughout
};

// One node about to run. Its operands have the types the op table asks for, and shapes that fit its own.
struct Evaluation {
  ir::Op op;
  Mode mode;
  const AttrMap& attrs;
  const SymbolValues& symbols;
  std::vector<const Tensor*> inputs;  // nullptr: an absent optional operand, or the cache
  Cache* cache = nullptr;             // the cache operand, which the op reads or changes in place
  std::vector<Tensor> results;        // one for each tensor result, of its dtype and shape, zeros; the caller rounds
  const Tensor& input(size_t i) const { return *inputs[i]; }
  Tensor& result(size_t i = 0) { return results[i]; }
  const Tensor& result(size_t i = 0) const { return results[i]; }
  bool HasInput(size_t i) const { return i < inputs.size() && inputs[i] != nullptr; }
  const Tensor* Optional(size_t i) const { return HasInput(i) ? inputs[i] : nullptr; }
  template <typename T>
  const T& attr(std::string_view name) const {
    return std::get<T>(attrs.find(name)->second);
  }
};

// InvalidArgument or OutOfRange for what only values show: an index outside its table, page tables that contradict.
using EvalFn = absl::Status (*)(Evaluation&);

// eval_elementwise.cc
absl::Status EvalUnary(Evaluation& e);
absl::Status EvalCast(Evaluation& e);
absl::Status EvalBinary(Evaluation& e);   // arithmetic
absl::Status EvalCompare(Evaluation& e);  // comparisons and logic: bool results
absl::Status EvalWhere(Evaluation& e);

// eval_shape.cc
absl::Status EvalConstant(Evaluation& e);
absl::Status EvalIota(Evaluation& e);
absl::Status EvalReshape(Evaluation& e);
absl::Status EvalTranspose(Evaluation& e);
absl::Status EvalExpand(Evaluation& e);
absl::Status EvalSlice(Evaluation& e);
absl::Status EvalConcat(Evaluation& e);
absl::Status EvalGather(Evaluation& e);  // embedding and gather_rows
absl::Status EvalIndex(Evaluation& e);

// eval_reduce.cc
absl::Status EvalReduce(Evaluation& e);
absl::Status EvalCumsum(Evaluation& e);
absl::Status EvalSoftmax(Evaluation& e);
absl::Status EvalNorm(Evaluation& e);  // layer_norm and rms_norm
absl::Status EvalAddNorm(Evaluation& e);

// eval_contraction.cc
absl::Status EvalMatmul(Evaluation& e);
absl::Status EvalLinear(Evaluation& e);
absl::Status EvalFusedLinear(Evaluation& e);

// eval_attention.cc
absl::Status EvalAttention(Evaluation& e);
absl::Status EvalKvAppend(Evaluation& e);
absl::Status EvalPagedAttention(Evaluation& e);
absl::Status EvalCachedAttention(Evaluation& e);

// eval_rope.cc
absl::Status EvalRope(Evaluation& e);

// eval_quantize.cc
absl::Status EvalQuantize(Evaluation& e);

// The rule of each op, in the order of Op.
struct EvalRow {
  ir::Op op;
  EvalFn eval;
};
inline constexpr EvalRow kEvalTable[] = {
    {ir::Op::kNeg, EvalUnary},
    {ir::Op::kAbs, EvalUnary},
    {ir::Op::kExp, EvalUnary},
    {ir::Op::kSqrt, EvalUnary},
    {ir::Op::kRsqrt, EvalUnary},
    {ir::Op::kReciprocal, EvalUnary},
    {ir::Op::kTanh, EvalUnary},
    {ir::Op::kErf, EvalUnary},
    {ir::Op::kSigmoid, EvalUnary},
    {ir::Op::kSin, EvalUnary},
    {ir::Op::kCos, EvalUnary},
    {ir::Op::kRelu, EvalUnary},
    {ir::Op::kGelu, EvalUnary},
    {ir::Op::kSilu, EvalUnary},
    {ir::Op::kCast, EvalCast},
    {ir::Op::kLogicalNot, EvalUnary},
    {ir::Op::kAdd, EvalBinary},
    {ir::Op::kSub, EvalBinary},
    {ir::Op::kMul, EvalBinary},
    {ir::Op::kDiv, EvalBinary},
    {ir::Op::kPow, EvalBinary},
    {ir::Op::kMaximum, EvalBinary},
    {ir::Op::kMinimum, EvalBinary},
    {ir::Op::kEq, EvalCompare},
    {ir::Op::kNe, EvalCompare},
    {ir::Op::kLt, EvalCompare},
    {ir::Op::kLe, EvalCompare},
    {ir::Op::kGt, EvalCompare},
    {ir::Op::kGe, EvalCompare},
    {ir::Op::kLogicalAnd, EvalCompare},
    {ir::Op::kLogicalOr, EvalCompare},
    {ir::Op::kWhere, EvalWhere},
    {ir::Op::kConstant, EvalConstant},
    {ir::Op::kIota, EvalIota},
    {ir::Op::kReshape, EvalReshape},
    {ir::Op::kTranspose, EvalTranspose},
    {ir::Op::kExpand, EvalExpand},
    {ir::Op::kSlice, EvalSlice},
    {ir::Op::kConcat, EvalConcat},
    {ir::Op::kEmbedding, EvalGather},
    {ir::Op::kGatherRows, EvalGather},
    {ir::Op::kIndex, EvalIndex},
    {ir::Op::kReduceSum, EvalReduce},
    {ir::Op::kReduceMean, EvalReduce},
    {ir::Op::kReduceMax, EvalReduce},
    {ir::Op::kCumsum, EvalCumsum},
    {ir::Op::kSoftmax, EvalSoftmax},
    {ir::Op::kMatmul, EvalMatmul},
    {ir::Op::kLinear, EvalLinear},
    {ir::Op::kLayerNorm, EvalNorm},
    {ir::Op::kRmsNorm, EvalNorm},
    {ir::Op::kAttention, EvalAttention},
    {ir::Op::kRope, EvalRope},
    {ir::Op::kFusedLinear, EvalFusedLinear},
    {ir::Op::kAddNorm, EvalAddNorm},
    {ir::Op::kQuantize, EvalQuantize},
    {ir::Op::kKvAppend, EvalKvAppend},
    {ir::Op::kPagedAttention, EvalPagedAttention},
    {ir::Op::kCachedAttention, EvalCachedAttention},
};

// CHECKs that the op has a row.
EvalFn GetEval(ir::Op op);  // eval_table.cc

// --- what the rules share ---

// One of the activation functions of fused_linear, by its name there. Precondition: it has that name.
double Activate(std::string_view activation, double x);  // eval_elementwise.cc

// layer_norm or rms_norm (`norm` is the op's name) of `rows` rows of `channels`; weight and bias may be nullptr.
void Normalize(std::string_view norm, const double* x, int64_t rows, int64_t channels, double eps, const Tensor* weight,
               const Tensor* bias, double* y);  // eval_reduce.cc

// rope, as the op table says. y has x's shape.
void Rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, Tensor* y);  // eval_rope.cc

// x as an operation of the mode would hold it in f32: the wide mode does not round.
double Single(Mode mode, double x);  // eval_quantize.cc

// quantize, as the op table says, of one row of `count` elements: codes into q, integers. Returns the scale.
double QuantizeRow(Mode mode, const double* x, int64_t count, double clip, double* q);  // eval_quantize.cc

// The weight[N, K] that codes i8[N, K/2] and scales f16[N, K/32, 2] stand for, as fused_linear says.

// A key or value of one head, as a KV cache of i8 gives it back: its codes times their scale, in f32.
void CodeHead(const double* from, int64_t dim, double* to);  // eval_attention.cc

}  // namespace flashflow::interpreter

#endif  // COMPILER_INTERPRETER_EVAL_H_
