// Every op of the table against values computed by hand or, for transcendental functions, to 17 digits elsewhere.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/builder.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/op_table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::interpreter {
namespace {

using ir::Op;

constexpr double kInf = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

const Tensor kAbsent = Tensor{.dtype = DType::kBool, .shape = {-1}, .floats = {}, .ints = {}};  // an optional operand

struct Case {
  Op op;
  std::vector<Tensor> operands;
  AttrMap attrs;
  Tensor expected;
};

Tensor F(Shape shape, std::vector<double> values) { return Tensor::Floats(std::move(shape), std::move(values)); }
Tensor F(std::vector<double> values) {
  const auto size = static_cast<int64_t>(values.size());
  return F({size}, std::move(values));
}
Tensor I(Shape shape, std::vector<int64_t> values, DType dtype = DType::kI32) {
  return Tensor::Ints(std::move(shape), std::move(values), dtype);
}
Tensor I(std::vector<int64_t> values, DType dtype = DType::kI32) {
  const auto size = static_cast<int64_t>(values.size());
  return I({size}, std::move(values), dtype);
}
Tensor Bool(std::vector<int64_t> values) { return I(std::move(values), DType::kBool); }
using Ints = std::vector<int64_t>;

std::vector<Case> ElementwiseCases() {
  const Tensor x = F({-2.5, -0.5, 0, 0.75, 3});
  const Tensor roots = F({0.25, 2, 9});
  const Tensor a = F({2, 1}, {1, -4});
  const Tensor b = F({3}, {2, -4, kNan});
  const Tensor p = I({2, 1}, {1, 5});
  const Tensor q = I({2}, {1, 7});
  const AttrMap tanh_gelu = {{"approximate", "tanh"}};
  auto cast = [](DType dtype) { return AttrMap{{"dtype", dtype}}; };
  return {
      {Op::kNeg, {x}, {}, F({2.5, 0.5, -0.0, -0.75, -3})},
      {Op::kNeg, {I({-128, 5}, DType::kI8)}, {}, I({-128, -5}, DType::kI8)},
      {Op::kAbs, {x}, {}, F({2.5, 0.5, 0, 0.75, 3})},
      {Op::kAbs, {I({-7, -1, 7})}, {}, I({7, 1, 7})},
      {Op::kExp, {x}, {}, F({0.082084998623898795, 0.60653065971263342, 1, 2.1170000166126747, 20.085536923187668})},
      {Op::kSqrt, {roots}, {}, F({0.5, 1.4142135623730950, 3})},
      {Op::kSqrt, {F({-1, kInf})}, {}, F({kNan, kInf})},
      {Op::kRsqrt, {roots}, {}, F({2, 0.70710678118654752, 0.33333333333333333})},
      {Op::kReciprocal, {F({4, -0.5, 0})}, {}, F({0.25, -2, kInf})},
      {Op::kErf, {F({-0.5, 0, 2})}, {}, F({-0.52049987781304654, 0, 0.99532226501895273})},
      {Op::kTanh,
       {x},
       {},
       F({-0.98661429815143029, -0.46211715726000976, 0, 0.63514895238728732, 0.99505475368673045})},
      {Op::kSigmoid,
       {x},
       {},
       F({0.075858180021243551, 0.37754066879814544, 0.5, 0.67917869917539297, 0.95257412682243322})},
      {Op::kSigmoid, {F({-1000, 1000})}, {}, F({0, 1})},
      {Op::kSin, {x}, {}, F({-0.59847214410395649, -0.479425538604203, 0, 0.68163876002333417, 0.14112000805986722})},
      {Op::kCos, {x}, {}, F({-0.80114361554693371, 0.87758256189037272, 1, 0.73168886887382089, -0.98999249660044546})},
      {Op::kRelu, {F({-1, 0, 2, kNan})}, {}, F({0, 0, 2, kNan})},
      {Op::kRelu, {I({-1, 2})}, {}, I({0, 2})},
      {Op::kGelu,
       {x},
       {},
       F({-0.015524163314440338, -0.15426876936299345, 0, 0.58002948571734885, 2.9959503059051097})},
      {Op::kGelu, {F({-4, 20})}, {}, F({-0.00012668496733247969, 20})},
      {Op::kGelu,
       {x},
       tanh_gelu,
       F({-0.015084266089998582, -0.15428599017485608, 0, 0.5799605551656203, 2.996362607918227})},
      {Op::kSilu, {x}, {}, F({-0.18964545005310888, -0.18877033439907272, 0, 0.50938402438154473, 2.8577223804672997})},
      {Op::kCast, {F({-2.7, 2.7, kNan, 300, -kInf})}, cast(DType::kI8), I({-2, 2, 0, 127, -128}, DType::kI8)},
      {Op::kCast,
       {F({1e30, -1e30, kNan})},
       cast(DType::kI64),
       I({std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(), 0}, DType::kI64)},
      {Op::kCast, {F({0, -0.0, 0.25, kNan})}, cast(DType::kBool), Bool({0, 0, 1, 1})},
      {Op::kCast, {I({300, -129, 5})}, cast(DType::kI8), I({44, 127, 5}, DType::kI8)},
      {Op::kCast, {I({300, 0})}, cast(DType::kBool), Bool({1, 0})},
      {Op::kCast, {Bool({1, 0})}, cast(DType::kF32), F({1, 0})},
      {Op::kCast, {I({7, -3}, DType::kI64)}, cast(DType::kBF16), Tensor::Floats({2}, {7, -3}, DType::kBF16)},
      {Op::kLogicalNot, {Bool({1, 0})}, {}, Bool({0, 1})},

      {Op::kAdd, {a, b}, {}, F({2, 3}, {3, -3, kNan, -2, -8, kNan})},
      {Op::kAdd, {I({100, -100}, DType::kI8), I({100, -100}, DType::kI8)}, {}, I({-56, 56}, DType::kI8)},
      {Op::kSub, {a, b}, {}, F({2, 3}, {-1, 5, kNan, -6, 0, kNan})},
      {Op::kSub, {p, q}, {}, I({2, 2}, {0, -6, 4, -2})},
      {Op::kMul, {a, b}, {}, F({2, 3}, {2, -4, kNan, -8, 16, kNan})},
      {Op::kMul, {I({65536}), I({65537})}, {}, I({65536})},
      {Op::kDiv, {a, b}, {}, F({2, 3}, {0.5, -0.25, kNan, -2, 1, kNan})},
      {Op::kDiv, {F({1, -1, 0}), F(Shape{}, {0})}, {}, F({kInf, -kInf, kNan})},
      {Op::kPow, {F({2, 0.5, -3}), F({10, 1.5, 3})}, {}, F({1024, 0.35355339059327376, -27})},
      {Op::kMaximum, {a, b}, {}, F({2, 3}, {2, 1, kNan, 2, -4, kNan})},
      {Op::kMaximum, {b, a}, {}, F({2, 3}, {2, 1, kNan, 2, -4, kNan})},
      {Op::kMaximum, {p, q}, {}, I({2, 2}, {1, 7, 5, 7})},
      {Op::kMinimum, {a, b}, {}, F({2, 3}, {1, -4, kNan, -4, -4, kNan})},
      {Op::kMinimum, {b, a}, {}, F({2, 3}, {1, -4, kNan, -4, -4, kNan})},
      {Op::kMinimum, {p, q}, {}, I({2, 2}, {1, 1, 1, 5})},
      {Op::kEq, {a, b}, {}, I({2, 3}, {0, 0, 0, 0, 1, 0}, DType::kBool)},
      {Op::kEq, {Bool({1, 0}), Bool({1, 1})}, {}, Bool({1, 0})},
      {Op::kNe, {a, b}, {}, I({2, 3}, {1, 1, 1, 1, 0, 1}, DType::kBool)},
      {Op::kLt, {p, q}, {}, I({2, 2}, {0, 1, 0, 1}, DType::kBool)},
      {Op::kLt, {a, b}, {}, I({2, 3}, {1, 0, 0, 1, 0, 0}, DType::kBool)},
      {Op::kLe, {p, q}, {}, I({2, 2}, {1, 1, 0, 1}, DType::kBool)},
      {Op::kGt, {p, q}, {}, I({2, 2}, {0, 0, 1, 0}, DType::kBool)},
      {Op::kGe, {p, q}, {}, I({2, 2}, {1, 0, 1, 0}, DType::kBool)},
      {Op::kLogicalAnd, {Bool({0, 0, 1, 1}), Bool({0, 1, 0, 1})}, {}, Bool({0, 0, 0, 1})},
      {Op::kLogicalOr, {Bool({0, 0, 1, 1}), Bool({0, 1, 0, 1})}, {}, Bool({0, 1, 1, 1})},
      {Op::kWhere, {Bool({1, 0}), F({2, 1}, {1, 2}), F(Shape{}, {9})}, {}, F({2, 2}, {1, 9, 2, 9})},
      {Op::kWhere, {Bool({1, 0}), q, I({3, 4})}, {}, I({1, 4})},
  };
}

std::vector<Case> ShapeCases() {
  const Tensor x = F({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor cube = I({2, 2, 2}, {0, 1, 2, 3, 4, 5, 6, 7});
  return {
      {Op::kConstant, {}, {{"value", 1.5}, {"dtype", DType::kF32}, {"shape", Dims{2}}}, F({1.5, 1.5})},
      {Op::kConstant, {}, {{"value", -3.0}, {"dtype", DType::kI64}}, I(Shape{}, {-3}, DType::kI64)},
      {Op::kIota, {}, {{"dtype", DType::kI32}, {"shape", Dims{2, 3}}, {"axis", 1}}, I({2, 3}, {0, 1, 2, 0, 1, 2})},
      {Op::kIota, {}, {{"dtype", DType::kF32}, {"shape", Dims{2, 2}}, {"axis", 0}}, F({2, 2}, {0, 0, 1, 1})},
      {Op::kReshape, {x}, {{"shape", Dims{3, 1, 2}}}, F({3, 1, 2}, {1, 2, 3, 4, 5, 6})},
      {Op::kTranspose, {x}, {{"perm", Ints{1, 0}}}, F({3, 2}, {1, 4, 2, 5, 3, 6})},
      {Op::kTranspose, {cube}, {{"perm", Ints{2, 0, 1}}}, I({2, 2, 2}, {0, 2, 4, 6, 1, 3, 5, 7})},
      {Op::kExpand, {F({2, 1}, {7, 8})}, {{"shape", Dims{2, 2, 2}}}, F({2, 2, 2}, {7, 7, 8, 8, 7, 7, 8, 8})},
      {Op::kSlice, {x}, {{"axis", 1}, {"start", DimExpr(1)}, {"stop", DimExpr(3)}}, F({2, 2}, {2, 3, 5, 6})},
      {Op::kSlice,
       {x},
       {{"axis", 1}, {"start", DimExpr(0)}, {"stop", DimExpr(3)}, {"step", 2}},
       F({2, 2}, {1, 3, 4, 6})},
      {Op::kSlice, {x}, {{"axis", 0}, {"start", DimExpr(2)}, {"stop", DimExpr(2)}}, F({0, 3}, {})},
      {Op::kConcat, {x, F({2, 1}, {8, 9}), x}, {{"axis", 1}}, F({2, 7}, {1, 2, 3, 8, 1, 2, 3, 4, 5, 6, 9, 4, 5, 6})},
      {Op::kConcat, {I({1}), I({2, 3})}, {{"axis", 0}}, I({1, 2, 3})},
      {Op::kEmbedding,
       {x, I({2, 2}, {1, 0, 1, 1})},
       {{"dtype", DType::kF32}},
       F({2, 2, 3}, {4, 5, 6, 1, 2, 3, 4, 5, 6, 4, 5, 6})},
      {Op::kEmbedding,
       {x, I({0}, DType::kI64)},
       {{"dtype", DType::kBF16}},
       Tensor::Floats({1, 3}, {1, 2, 3}, DType::kBF16)},
      {Op::kEmbedding,
       {I({2, 3}, {1, -2, 127, -127, 0, 64}, DType::kI8), I({1, 0, 1}), F({2}, {0.5, 0.25})},
       {{"dtype", DType::kF32}},
       F({3, 3}, {-31.75, 0, 16, 0.5, -1, 63.5, -31.75, 0, 16})},
      {Op::kGatherRows, {cube, I({1})}, {}, I({1, 2, 2}, {4, 5, 6, 7})},
      {Op::kIndex, {x, I({2}, {1, -2})}, {}, F({2, 3}, {4, 5, 6, 1, 2, 3})},
      {Op::kIndex, {x, I({2, 1}, {0, 1}), I({2}, {2, -3}, DType::kI64)}, {}, F({2, 2}, {3, 1, 6, 4})},
      {Op::kIndex, {cube, I(Shape{}, {1}), I({1}, {0})}, {}, I({1, 2}, {4, 5})},
  };
}

std::vector<Case> ContractionCases() {
  const Tensor x = F({2, 3}, {1, 2, 3, 4, 5, -6});
  const Tensor row = F({1, 2, 3, 6});
  const Tensor scale = F({1, 2, 3, 4});
  const Tensor shift = F({0.5, 0.5, 0.5, -1});
  const Tensor q = F({1, 2, 2, 1}, {1, 2, 0, -1});  // two heads of two queries
  const Tensor k = F({1, 1, 2, 1}, {2, 4});
  const Tensor v = F({1, 1, 2, 1}, {10, 20});
  auto attention = [](bool causal, int window) {
    return AttrMap{{"causal", causal}, {"scale", 0.5}, {"window", window}};
  };
  auto axes = [](Ints list, bool keepdims) { return AttrMap{{"axes", list}, {"keepdims", keepdims}}; };
  return {
      {Op::kReduceSum, {x}, axes({1}, false), F({6, 3})},
      {Op::kReduceSum, {x}, axes({0}, true), F({1, 3}, {5, 7, -3})},
      {Op::kReduceSum, {I({2, 2}, {1, 2, 3, 4})}, axes({0, 1}, false), I(Shape{}, {10})},
      {Op::kReduceMean, {x}, axes({0, 1}, true), F({1, 1}, {1.5})},
      {Op::kReduceMean, {x}, axes({0}, false), F({2.5, 3.5, -1.5})},
      {Op::kReduceMax, {x}, axes({1}, false), F({3, 5})},
      {Op::kReduceMax, {F({3, 2}, {-3, kNan, kNan, -3, -5, -4})}, axes({1}, false), F({kNan, kNan, -4})},
      {Op::kReduceMax, {I({-3, -2})}, axes({0}, false), I(Shape{}, {-2})},
      {Op::kCumsum, {x}, {{"axis", 1}}, F({2, 3}, {1, 3, 6, 4, 9, 3})},
      {Op::kCumsum, {I({2, 2}, {1, 2, 3, 4})}, {{"axis", 0}}, I({2, 2}, {1, 2, 4, 6})},
      {Op::kSoftmax,
       {F({1, 2, 4})},
       {{"axis", 0}},
       F({0.042010066134066051, 0.11419519938459448, 0.84379473448133947})},
      {Op::kSoftmax,
       {F({2, 2}, {1000, -kInf, 999, 3})},
       {{"axis", 0}},
       F({2, 2}, {0.73105857863000488, 0, 0.26894142136999512, 1})},
      {Op::kMatmul, {x, F({3, 2}, {1, 0, 0, 1, 1, 1})}, {}, F({2, 2}, {4, 5, -2, -1})},
      {Op::kMatmul, {F({2, 1, 2}, {1, 2, 3, 4}), F({1, 2, 1}, {10, 1})}, {}, F({2, 1, 1}, {12, 34})},
      {Op::kLinear, {x, F({2, 3}, {1, 0, 1, 0, 1, 1})}, {}, F({2, 2}, {4, 5, -2, -1})},
      {Op::kLinear, {F({1, 2, 3}), F({2, 3}, {1, 0, 1, 0, 1, 1}), F({0.5, -10})}, {}, F({4.5, -5})},
      {Op::kLinear, {x, F({2, 3}, {1, 0, 1, 0, 1, 1}), F({0.5, -10})}, {}, F({2, 2}, {4.5, -5, -1.5, -11})},
      {Op::kLayerNorm, {row, scale, shift}, {{"eps", 0.5}}, F({-0.5, -0.5, 0.5, 5})},
      {Op::kLayerNorm, {row}, {{"eps", 0.5}}, F({-1, -0.5, 0, 1.5})},
      {Op::kRmsNorm,
       {row, scale},
       {{"eps", 0.5}},
       F({0.27735009811261456, 1.1094003924504582, 2.496150883013531, 6.6564023547027495})},
      {Op::kRmsNorm, {F({2, 1}, {3, -2})}, {{"eps", 0.0}}, F({2, 1}, {1, -1})},
      // Of two keys with scores s and t the second weighs sigmoid(t - s).
      {Op::kAttention,
       {q, k, v},
       attention(true, 0),
       F({1, 2, 2, 1}, {10, 18.807970779778824, 10, 12.689414213699951})},
      {Op::kAttention,
       {q, k, v},
       attention(false, 0),
       F({1, 2, 2, 1}, {17.310585786300049, 18.807970779778824, 15, 12.689414213699951})},
      {Op::kAttention, {q, k, v}, attention(true, 1), F({1, 2, 2, 1}, {10, 20, 10, 20})},
      {Op::kAttention, {F({1, 1, 1, 1}, {1}), k, v}, attention(true, 0), F({1, 1, 1, 1}, {17.310585786300049})},
      {Op::kAttention,
       {q, F({1, 1, 1, 1}, {2}), F({1, 1, 1, 1}, {10})},
       attention(true, 0),
       F({1, 2, 2, 1}, {0, 10, 0, 10})},
      // The first query of each head sees the second key only, the second one nothing; then a penalty that makes the
      // first key and query as good as the second.
      {Op::kAttention,
       {q, k, v, I({2, 2}, {0, 1, 0, 0}, DType::kBool)},
       attention(false, 0),
       F({1, 2, 2, 1}, {20, 0, 20, 0})},
      {Op::kAttention,
       {q, k, v, F({1, 2, 2, 2}, {1, 0, 2, 0, 0, 0, 0, 1})},
       attention(false, 0),
       F({1, 2, 2, 1}, {15, 15, 15, 15})},
      // A mask for each sequence of the batch.
      {Op::kAttention,
       {F({2, 1, 1, 1}, {1, 1}), F({2, 1, 2, 1}, {2, 4, 2, 4}), F({2, 1, 2, 1}, {10, 20, 10, 20}),
        I({2, 1, 1, 2}, {0, 1, 1, 0}, DType::kBool)},
       attention(false, 0),
       F({2, 1, 1, 1}, {20, 10})},
  };
}

std::vector<Case> FusedCases() {
  const Tensor x = F({5, 1}, {-2.5, -0.5, 0, 0.75, 3});
  const Tensor one = F({1, 1}, {1});
  const Tensor row = F({1, 4}, {1, 2, 3, 6});
  const Tensor scale = F({1, 2, 3, 4});
  const Tensor shift = F({0.5, 0.5, 0.5, -1});
  auto activation = [](std::string name) { return AttrMap{{"activation", std::move(name)}}; };
  return {
      {Op::kRope,
       {F({2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}), F({4}, {1, 2, 3, 4}), F({2, 4}, {10, 20, 30, 40, 0, 0, 0, 1})},
       {},
       F({2, 4}, {-29, -76, 39, 96, 5, 12, 21, 38})},
      {Op::kFusedLinear,
       {x, one},
       activation("gelu"),
       F({5, 1}, {-0.015524163314440338, -0.15426876936299345, 0, 0.58002948571734885, 2.9959503059051097})},
      {Op::kFusedLinear,
       {x, one},
       activation("gelu_tanh"),
       F({5, 1}, {-0.015084266089998582, -0.15428599017485608, 0, 0.5799605551656203, 2.996362607918227})},
      {Op::kFusedLinear,
       {x, one},
       activation("silu"),
       F({5, 1}, {-0.18964545005310888, -0.18877033439907272, 0, 0.50938402438154473, 2.8577223804672997})},
      // rms_norm gives 1 and -1; the products are 2 and 3 times that; the gate is the first half.
      {Op::kFusedLinear,
       {F({2, 1}, {3, -2}), F({2, 1}, {2, 3}), F({0.5, -10}), F({2, 1}, {1, 4})},
       {{"norm", "rms_norm"}, {"activation", "relu"}, {"gated", true}},
       F({2, 1}, {-16.5, 4})},
      {Op::kFusedLinear,
       {row, F({2, 4}, {1, 0, 1, 0, 0, 1, 0, 1}), F({0.5, -10}), F({1, 2}, {100, 200}), scale, shift},
       {{"norm", "layer_norm"}, {"eps", 0.5}},
       F({1, 2}, {100.5, 194.5})},
      {Op::kAddNorm, {row, row}, {{"norm", "rms_norm"}, {"eps", 0.0}}, F({1, 4}, {2, 4, 6, 12})},
      {Op::kQuantize,  // steps of 1, 2, 1/2, then zeros and what counts as zeros
       {F({5, 4}, {127, -3, 2.5, -1.5, 254, 1, 3, -5, -63.5, 0.25, 0.75, 20, 0, -0.0, 0, 0, 0x1p-101, 0, 0, 0})},
       {},
       I({5, 4}, {127, -3, 2, -2, 127, 0, 2, -2, -127, 0, 2, 40, 0, 0, 0, 0, 0, 0, 0, 0}, DType::kI8)},
      {Op::kQuantize, {F({4}, {500, -127.5, 3, -1000})}, {{"clip", 127.0}}, I({127, -127, 3, -127}, DType::kI8)},
      {Op::kQuantize, {F({3}, {1, kInf, 3})}, {{"clip", 127.0}}, I({0, 0, 0}, DType::kI8)},
      {Op::kFusedLinear,  // codes 127, -2 and 64 at steps of 2, against rows of scales 1/2 and 1/4
       {F({1, 3}, {254, -4, 128}), I({2, 3}, {1, 2, 3, 100, 0, -127}, DType::kI8), F({0.5, -1}), F({1, 2}, {1000, 1}),
        kAbsent, kAbsent, F({0.5, 0.25})},
       {{"activation", "relu"}},
       F({1, 2}, {1315.5, 2286})},
  };
}

std::vector<Case> AllCases() {
  std::vector<Case> cases = ElementwiseCases();
  for (const auto& more : {ShapeCases(), ContractionCases(), FusedCases()})
    cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

Dims ToDims(const Shape& shape) { return Dims(shape.begin(), shape.end()); }

absl::StatusOr<Tensor> Evaluate(const Case& c, Mode mode) {
  ir::GraphBuilder builder("op");
  std::vector<ir::Value*> operands;
  Values inputs;
  for (const Tensor& operand : c.operands) {
    if (operand.shape == kAbsent.shape) {
      operands.push_back(nullptr);
      continue;
    }
    const std::string name = "x" + std::to_string(operands.size());
    operands.push_back(builder.Input(name, operand.dtype, ToDims(operand.shape)));
    inputs.emplace(name, operand);
  }
  ir::Value* result = builder.Add(c.op, operands, c.attrs);
  EXPECT_EQ(result->type(), ir::Type(ir::TensorType{c.expected.dtype, ToDims(c.expected.shape)}));
  builder.Output("y", result);
  absl::StatusOr<Values> outputs = Interpret(*builder.Build(), std::move(inputs), WeightsFrom({}), mode);
  if (!outputs.ok()) return outputs.status();
  return std::get<Tensor>(outputs->at("y"));
}

std::string Name(const Case& c) { return std::string(ir::OpName(c.op)) + " -> " + ShapeToString(c.expected.shape); }

TEST(OpCases, WideModeGivesTheRealResult) {
  for (const Case& c : AllCases()) {
    SCOPED_TRACE(Name(c));
    absl::StatusOr<Tensor> got = Evaluate(c, Mode::kWide);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->shape, c.expected.shape);
    EXPECT_EQ(got->ints, c.expected.ints);
    ASSERT_EQ(got->floats.size(), c.expected.floats.size());
    for (size_t i = 0; i < got->floats.size(); ++i) {
      const double want = c.expected.floats[i];
      if (std::isfinite(want)) {
        // A handful of operations in double, each within an ulp; gelu's tail multiplies one of them by x^2 = 16.
        EXPECT_NEAR(got->floats[i], want, 24 * 0x1p-53 * std::abs(want)) << i;
      } else {
        EXPECT_THAT(got->floats[i], ::testing::NanSensitiveDoubleEq(want)) << i;
      }
    }
  }
}

TEST(OpCases, TypedModeRoundsIt) {
  for (Case& c : AllCases()) {
    SCOPED_TRACE(Name(c));
    absl::StatusOr<Tensor> got = Evaluate(c, Mode::kTyped);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->ints, c.expected.ints);
    // The operands are values of f32, so that rounding the true result is all that typed mode adds; the double's own
    // error would have to lie on a rounding boundary to show.
    RoundToDType(&c.expected);
    for (size_t i = 0; i < got->floats.size(); ++i) {
      EXPECT_THAT(got->floats[i], ::testing::NanSensitiveDoubleEq(c.expected.floats[i])) << i;
    }
  }
}

// The cache's ops have a test of their own, paged_attention_test.
TEST(OpCases, CoverTheTable) {
  absl::flat_hash_set<Op> covered = {Op::kKvAppend, Op::kPagedAttention, Op::kCachedAttention};
  for (const Case& c : AllCases()) covered.insert(c.op);
  for (const ir::OpDef& def : ir::OpTable()) EXPECT_TRUE(covered.contains(def.op)) << def.name << " has no case";
}

TEST(OpCases, RefuseIndicesOutsideTheirTable) {
  const Tensor table = F({2, 1}, {1, 2});
  for (int64_t index : {-1, 2}) {
    const Case embedding = {Op::kEmbedding, {table, I({0, index})}, {{"dtype", DType::kF32}}, F({2, 1}, {0, 0})};
    EXPECT_EQ(Evaluate(embedding, Mode::kTyped).status().code(), absl::StatusCode::kOutOfRange);
    const Case gather = {Op::kGatherRows, {table, I({0, index})}, {}, F({2, 1}, {0, 0})};
    EXPECT_THAT(Evaluate(gather, Mode::kTyped).status().message(),
                ::testing::HasSubstr("index " + std::to_string(index) + " at place 1 is outside a table of 2 rows"));
  }
}

// The second result: the norm of the sum, with every operand.
TEST(OpCases, AddNormNormalizesTheSum) {
  ir::GraphBuilder builder("op");
  ir::Value* x = builder.Input("x", DType::kF32, {1, 4});
  ir::Value* residual = builder.Input("residual", DType::kF32, {1, 4});
  ir::Value* weight = builder.Input("weight", DType::kF32, {4});
  ir::Value* bias = builder.Input("bias", DType::kF32, {4});
  ir::Value* sum = builder.Add(Op::kAddNorm, {x, residual, weight, bias}, {{"norm", "layer_norm"}, {"eps", 0.5}});
  builder.Output("norm", sum->def()->result(1));
  absl::StatusOr<Values> outputs = Interpret(*builder.Build(),
                                             {{"x", F({1, 4}, {0, 2, 3, 4})},
                                              {"residual", F({1, 4}, {1, 0, 0, 2})},
                                              {"weight", F({1, 2, 3, 4})},
                                              {"bias", F({0.5, 0.5, 0.5, -1})}},
                                             WeightsFrom({}), Mode::kTyped);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_THAT(std::get<Tensor>(outputs->at("norm")).floats, ::testing::ElementsAre(-0.5, -0.5, 0.5, 5));
}

TEST(OpCases, AddNormRoundsTheSumBeforeItNormalizes) {
  ir::GraphBuilder builder("op");
  ir::Value* x = builder.Input("x", DType::kBF16, {1, 2});
  ir::Value* residual = builder.Input("residual", DType::kBF16, {1, 2});
  ir::Value* sum = builder.Add(Op::kAddNorm, {x, residual}, {{"norm", "layer_norm"}, {"eps", 0.25}});
  builder.Output("norm", sum->def()->result(1));
  const auto graph = builder.Build();
  auto norm = [&](Mode mode) {
    const Values inputs = {{"x", Tensor::Floats({1, 2}, {256, 256}, DType::kBF16)},
                           {"residual", Tensor::Floats({1, 2}, {0, 1}, DType::kBF16)}};  // 257 rounds to 256
    return std::get<Tensor>(Interpret(*graph, inputs, WeightsFrom({}), mode)->at("norm")).floats;
  };
  EXPECT_THAT(norm(Mode::kTyped), ::testing::ElementsAre(0, 0));
  EXPECT_THAT(norm(Mode::kWide), ::testing::ElementsAre(::testing::Lt(-0.5), ::testing::Gt(0.5)));
}

// 32 elements l + s q of the codes q, and what codes them: two a byte.
struct Group {
  std::vector<double> elements;
  std::vector<int64_t> bytes;
};
Group GroupOf(double s, double l) {
  Group group;
  for (int i = 0; i < 32; ++i) {
    const int q = i * 7 % 16;  // each twice
    group.elements.push_back(l + s * q);
    if (i % 2 == 0) {
      group.bytes.push_back(q);
    } else {
      group.bytes.back() = static_cast<int8_t>(group.bytes.back() + 16 * q);
    }
  }
  return group;
}

TEST(OpCases, QuantizeGivesGroupsAScaleAndALeastValue) {
  const Group first = GroupOf(0.25, -1.5), second = GroupOf(2, 100);
  std::vector<double> x = first.elements;
  x.insert(x.end(), second.elements.begin(), second.elements.end());
  std::vector<int64_t> codes = first.bytes;
  codes.insert(codes.end(), second.bytes.begin(), second.bytes.end());
  for (const double wrong : {kInf, 1e30, 0.0}) {  // not finite, more than f16 holds, none: all 32 alike
    x.resize(x.size() + 32, wrong == 0 ? 3.0 : 1.0);
    if (wrong != 0) x.back() = wrong;
    codes.resize(codes.size() + 16, 0);
  }
  ir::GraphBuilder builder("op");
  ir::Value* coded = builder.Add(Op::kQuantize, {builder.Input("x", DType::kF32, {5, 32})}, {{"group", int64_t{32}}});
  builder.Output("codes", coded);
  builder.Output("scales", coded->def()->result(1));
  const auto graph = builder.Build();
  const Values inputs = {{"x", F({5, 32}, x)}};
  const auto results = Interpret(*graph, inputs, WeightsFrom({}), Mode::kTyped);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(std::get<Tensor>(results->at("codes")).ints, codes);
  using ::testing::IsNan;
  EXPECT_THAT(std::get<Tensor>(results->at("scales")).floats,
              ::testing::ElementsAre(0.25, -1.5, 2, 100, IsNan(), IsNan(), IsNan(), IsNan(), 0, 3));
}

// A range of 1 has steps of f16(1/15), and each element becomes the nearest.
TEST(OpCases, GroupCodesAreTheNearestOfTheRoundedScale) {
  std::vector<double> x(32, 0);
  x[1] = 1;
  const double step = RoundTo(DType::kF16, 1.0 / 15);
  x[2] = 1.49 * step;
  x[3] = 1.51 * step;
  ir::GraphBuilder builder("op");
  builder.Output("codes",
                 builder.Add(Op::kQuantize, {builder.Input("x", DType::kF32, {32})}, {{"group", int64_t{32}}}));
  const auto results = Interpret(*builder.Build(), {{"x", F({32}, x)}}, WeightsFrom({}), Mode::kTyped);
  ASSERT_TRUE(results.ok()) << results.status();
  const std::vector<int64_t>& bytes = std::get<Tensor>(results->at("codes")).ints;
  EXPECT_EQ(bytes[0], static_cast<int8_t>(15 * 16));
  EXPECT_EQ(bytes[1], 1 + 2 * 16);
}

// In floats, one operation a line: volatile keeps each rounding from being joined with the next.
TEST(OpCases, ProductsOfGroupCodesRoundGroupsOfX) {
  constexpr int kGroups = 64;
  const Group group = GroupOf(0.5, -3);
  std::vector<int64_t> bytes;
  std::vector<double> ranges, x(32 * kGroups);
  for (int g = 0; g < kGroups; ++g) {
    bytes.insert(bytes.end(), group.bytes.begin(), group.bytes.end());
    std::rotate(bytes.end() - 16, bytes.end() - 16 + g % 16, bytes.end());
    ranges.insert(ranges.end(), {0.5 + g / 128.0, -3 - g / 64.0});
  }
  for (int i = 0; i < 32 * kGroups; ++i) x[i] = static_cast<float>(std::sin(0.37 * i) * (i % 3 + 1));
  float z = 0;
  for (int g = 0; g < kGroups; ++g) {
    float most = 0;
    for (int i = 0; i < 32; ++i) most = std::max(most, std::abs(static_cast<float>(x[32 * g + i])));
    const volatile float factor = 127 / most;
    int products = 0, sum = 0;
    for (int i = 32 * g; i < 32 * (g + 1); ++i) {
      const volatile float scaled = static_cast<float>(x[i]) * factor;
      const int code = static_cast<uint8_t>(bytes[i / 2]) >> (i % 2 * 4) & 15;
      products += static_cast<int>(std::nearbyint(scaled)) * code;
      sum += static_cast<int>(std::nearbyint(scaled));
    }
    const volatile float scaled = static_cast<float>(ranges[2 * g]) * static_cast<float>(products);
    const volatile float least = static_cast<float>(ranges[2 * g + 1]) * static_cast<float>(sum);
    const volatile float both = scaled + least;
    const volatile float scale = most / 127;
    const volatile float term = scale * both;
    z += term;
  }
  const volatile float with_bias = z + 0.3f;
  const Case c = {Op::kFusedLinear,
                  {F({1, 32 * kGroups}, x), I({1, 16 * kGroups}, bytes, DType::kI8), F({1}, {0.3f}), kAbsent, kAbsent,
                   kAbsent, Tensor::Floats({1, kGroups, 2}, ranges, DType::kF16)},
                  {},
                  F({1, 1}, {with_bias})};
  const auto got = Evaluate(c, Mode::kTyped);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->floats, c.expected.floats);
}

TEST(OpCases, QuantizeGivesAScaleForEachRow) {
  ir::GraphBuilder builder("op");
  ir::Value* codes = builder.Add(Op::kQuantize, {builder.Input("x", DType::kF32, {5, 2})}, {{"clip", 254.0}});
  builder.Output("scale", codes->def()->result(1));
  const auto graph = builder.Build();
  const Values inputs = {{"x", F({5, 2}, {127, 1, 3, -1000, 0, 0, 1, 0.5, kNan, 1})}};
  const auto scales = [&](Mode mode) {
    return std::get<Tensor>(Interpret(*graph, inputs, WeightsFrom({}), mode)->at("scale")).floats;
  };
  using ::testing::IsNan;
  EXPECT_THAT(scales(Mode::kTyped), ::testing::ElementsAre(1, 2, 0, static_cast<double>(1.0f / 127), IsNan()));
  EXPECT_THAT(scales(Mode::kWide), ::testing::ElementsAre(1, 2, 0, 1.0 / 127, IsNan()));
}

// Each step rounds to f32: against the same steps in float arithmetic, on so many products that leaving any rounding
// out would show in one of them.
TEST(OpCases, ProductsOfCodesRoundAsFloatsDo) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> values(-3, 3);
  // Row 1 by the first half of the columns gives sums that no float holds.
  constexpr int64_t kRows = 16, kColumns = 32, kTerms = 1500;
  constexpr double kClip = 2.9;  // no float
  std::vector<double> x(kRows * kTerms), scales(kColumns), bias(kColumns), residual(kRows * kColumns), expected;
  std::vector<int64_t> weight(kColumns * kTerms);
  for (double& value : x) value = values(random);
  for (double& value : scales) value = std::abs(values(random)) / 100;
  for (double& value : bias) value = values(random);
  for (double& value : residual) value = values(random);
  for (int64_t& code : weight) code = static_cast<int64_t>(random() % 255) - 127;
  for (int64_t k = 0; k < kTerms; ++k) x[kTerms + k] = 3 - std::abs(x[kTerms + k]) / 100;
  for (int64_t i = 0; i < kColumns / 2 * kTerms; ++i) weight[i] = 127 - static_cast<int64_t>(random() % 4);
  for (int64_t i = 0; i < kRows; ++i) {
    if (i % 2 == 0) {  // not clipped
      for (int64_t k = 0; k < kTerms; ++k) x[i * kTerms + k] = static_cast<float>(x[i * kTerms + k] * 0.3);
    }
    float most = 0;
    for (int64_t k = 0; k < kTerms; ++k) most = std::max(most, std::abs(static_cast<float>(x[i * kTerms + k])));
    const float a = std::min(most, static_cast<float>(kClip));
    const float r = 127.0f / a;
    const float row_scale = a / 127.0f;
    std::vector<int32_t> codes;
    for (int64_t k = 0; k < kTerms; ++k) {
      const float scaled = static_cast<float>(x[i * kTerms + k]) * r;
      codes.push_back(static_cast<int32_t>(std::clamp(std::nearbyintf(scaled), -127.0f, 127.0f)));
    }
    for (int64_t j = 0; j < kColumns; ++j) {
      int32_t sum = 0;
      for (int64_t k = 0; k < kTerms; ++k) sum += codes[k] * static_cast<int32_t>(weight[j * kTerms + k]);
      const float scale = row_scale * static_cast<float>(scales[j]);
      const float product = static_cast<float>(sum) * scale;
      const float z = product + static_cast<float>(bias[j]);
      expected.push_back(static_cast<float>(z + residual[i * kColumns + j]));
    }
  }
  const Case c = {Op::kFusedLinear,
                  {F({kRows, kTerms}, x), I({kColumns, kTerms}, weight, DType::kI8), F(bias),
                   F({kRows, kColumns}, residual), kAbsent, kAbsent, F(scales)},
                  {{"clip", kClip}},
                  F({kRows, kColumns}, expected)};
  const auto typed = Evaluate(c, Mode::kTyped);
  ASSERT_TRUE(typed.ok()) << typed.status();
  EXPECT_EQ(typed->floats, expected);
  const auto wide = Evaluate(c, Mode::kWide);
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_NE(wide->floats, expected);
}

// A code where float arithmetic and exact arithmetic round to different integers.
TEST(OpCases, QuantizeRoundsProductsToFloatFirst) {
  const float a = 3.0f;
  const float r = 127.0f / a;
  std::vector<double> x = {a};
  std::vector<int64_t> expected = {127};
  int differing = 0;
  for (int code = 1; code < 120; ++code) {  // near the middle between two codes
    float near = (static_cast<float>(code) + 0.5f) / r;
    for (int step = -2; step <= 2; ++step) {
      const float value = step < 0 ? std::nextafter(near, 0.0f) : step > 0 ? std::nextafter(near, 9.0f) : near;
      const float product = value * r;
      x.push_back(value);
      expected.push_back(static_cast<int64_t>(std::nearbyintf(product)));
      differing += std::nearbyint(static_cast<double>(value) * r) != static_cast<double>(expected.back());
    }
  }
  ASSERT_GT(differing, 0);
  const auto size = static_cast<int64_t>(x.size());
  const Case c = {Op::kQuantize, {F({size}, x)}, {}, I({size}, expected, DType::kI8)};
  const auto typed = Evaluate(c, Mode::kTyped);
  ASSERT_TRUE(typed.ok()) << typed.status();
  EXPECT_EQ(typed->ints, expected);
}

TEST(OpCases, IndexRefusesPlacesOutsideAnAxis) {
  const Tensor x = F({2, 3}, {1, 2, 3, 4, 5, 6});
  for (int64_t index : {-4, 3}) {
    const Case c = {Op::kIndex, {x, I({0}), I({index})}, {}, F({0})};
    EXPECT_THAT(Evaluate(c, Mode::kTyped).status().message(),
                ::testing::HasSubstr("index " + std::to_string(index) + " is outside axis 1 of 3"));
  }
}

TEST(OpCases, MaxOfNothingIsAnError) {
  const Case c = {Op::kReduceMax, {F({2, 0}, {})}, {{"axes", Ints{1}}}, F({2}, {0, 0})};
  EXPECT_THAT(Evaluate(c, Mode::kTyped).status().message(), ::testing::HasSubstr("hold no element in shape [2, 0]"));
}

// Sizes that leave remainders in every blocking, against the definition.
TEST(OpCases, LinearAtOddSizes) {
  for (const auto& [m, n, k] :
       {std::tuple(1, 37, 5), std::tuple(2, 3, 7), std::tuple(16, 17, 33), std::tuple(35, 16, 4),
        std::tuple(40, 300, 129), std::tuple(0, 3, 2), std::tuple(2, 3, 0)}) {
    auto value = [](int64_t i) { return static_cast<double>((i * 37 + 11) % 23 - 11); };  // integers: sums are exact
    Tensor x = Tensor::Zeros(DType::kF32, {m, k});
    Tensor w = Tensor::Zeros(DType::kF32, {n, k});
    Tensor expected = Tensor::Zeros(DType::kF32, {m, n});
    for (size_t i = 0; i < x.floats.size(); ++i) x.floats[i] = value(static_cast<int64_t>(i));
    for (size_t i = 0; i < w.floats.size(); ++i) w.floats[i] = value(static_cast<int64_t>(i) + 5);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t l = 0; l < k; ++l) expected.floats[i * n + j] += x.floats[i * k + l] * w.floats[j * k + l];
      }
    }
    absl::StatusOr<Tensor> got = Evaluate({Op::kLinear, {x, w}, {}, expected}, Mode::kTyped);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->floats, expected.floats) << m << "x" << n << "x" << k;
  }
}

}  // namespace
}  // namespace flashflow::interpreter
