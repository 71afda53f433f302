#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "absl/log/log.h"
#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/strides.h"

namespace flashflow::interpreter {
namespace {

using ir::Op;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// x * Phi(x); erfc keeps the left tail, where 1 + erf(x) cancels.
double GeluErf(double x) { return x * std::erfc(-x / std::numbers::sqrt2) / 2; }

double GeluTanh(double x) {
  const double inner = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return x * (1 + std::tanh(inner)) / 2;
}

double FloatUnary(Op op, bool tanh_gelu, double x) {
  switch (op) {
    case Op::kNeg:
      return -x;
    case Op::kAbs:
      return std::abs(x);
    case Op::kExp:
      return std::exp(x);
    case Op::kSqrt:
      return std::sqrt(x);
    case Op::kRsqrt:
      return 1 / std::sqrt(x);
    case Op::kReciprocal:
      return 1 / x;
    case Op::kTanh:
      return std::tanh(x);
    case Op::kErf:
      return std::erf(x);
    case Op::kSigmoid:
      return Sigmoid(x);
    case Op::kSin:
      return std::sin(x);
    case Op::kCos:
      return std::cos(x);
    case Op::kRelu:
      return x < 0 ? 0 : x;  // keeps NaN
    case Op::kGelu:
      return tanh_gelu ? GeluTanh(x) : GeluErf(x);
    case Op::kSilu:
      return x * Sigmoid(x);
    default:
      LOG(FATAL) << ir::OpName(op) << " is no unary float op";
  }
}

// Integers wrap around at 64 bits here, and at their dtype's width when the result is rounded.
int64_t Wrap(uint64_t bits) { return static_cast<int64_t>(bits); }

int64_t IntUnary(Op op, int64_t x) {
  switch (op) {
    case Op::kNeg:
      return Wrap(-static_cast<uint64_t>(x));
    case Op::kAbs:
      return x < 0 ? Wrap(-static_cast<uint64_t>(x)) : x;
    case Op::kRelu:
      return std::max<int64_t>(x, 0);
    case Op::kLogicalNot:
      return x == 0;
    default:
      LOG(FATAL) << ir::OpName(op) << " is no unary integer op";
  }
}

double FloatBinary(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return a + b;
    case Op::kSub:
      return a - b;
    case Op::kMul:
      return a * b;
    case Op::kDiv:
      return a / b;
    case Op::kPow:
      return std::pow(a, b);
    case Op::kMaximum:
      return std::isnan(a) || a > b ? a : b;
    case Op::kMinimum:
      return std::isnan(a) || a < b ? a : b;
    default:
      LOG(FATAL) << ir::OpName(op) << " is no binary float op";
  }
}

int64_t IntBinary(Op op, int64_t a, int64_t b) {
  const auto x = static_cast<uint64_t>(a);
  const auto y = static_cast<uint64_t>(b);
  switch (op) {
    case Op::kAdd:
      return Wrap(x + y);
    case Op::kSub:
      return Wrap(x - y);
    case Op::kMul:
      return Wrap(x * y);
    case Op::kMaximum:
      return std::max(a, b);
    case Op::kMinimum:
      return std::min(a, b);
    default:
      LOG(FATAL) << ir::OpName(op) << " is no binary integer op";
  }
}

template <typename T>
bool Compare(Op op, T a, T b) {
  switch (op) {
    case Op::kEq:
      return a == b;
    case Op::kNe:
      return a != b;
    case Op::kLt:
      return a < b;
    case Op::kLe:
      return a <= b;
    case Op::kGt:
      return a > b;
    case Op::kGe:
      return a >= b;
    case Op::kLogicalAnd:
      return a != 0 && b != 0;
    case Op::kLogicalOr:
      return a != 0 || b != 0;
    default:
      LOG(FATAL) << ir::OpName(op) << " is no comparison";
  }
}

// Truncated towards zero and clamped to the dtype's range; NaN gives 0.
int64_t ToInteger(double x, DType dtype) {
  if (std::isnan(x)) return 0;
  const int bits = static_cast<int>(8 * DTypeBytes(dtype));
  const int64_t max = std::numeric_limits<int64_t>::max() >> (64 - bits);
  if (x >= std::ldexp(1.0, bits - 1)) return max;
  if (x < -std::ldexp(1.0, bits - 1)) return -max - 1;
  return static_cast<int64_t>(x);
}

// result[i] = f(op, a, b) over the result's elements; `values` says which of the operands' values are meant.
template <typename T, typename R, typename F>
void MapPair(Evaluation& e, std::vector<T> Tensor::* values, std::vector<R>& result, const F& f) {
  const Tensor& a = e.input(0);
  const Tensor& b = e.input(1);
  const size_t rank = e.result().shape.size();
  Walk<2>(e.result().shape, {BroadcastStrides(a.shape, rank), BroadcastStrides(b.shape, rank)}, {0, 0},
          [&](int64_t i, const std::array<int64_t, 2>& at) {
            result[i] = f(e.op, (a.*values)[at[0]], (b.*values)[at[1]]);
          });
}

}  // namespace

double Activate(std::string_view activation, double x) {
  if (activation == "gelu") return GeluErf(x);
  if (activation == "gelu_tanh") return GeluTanh(x);
  if (activation == "silu") return x * Sigmoid(x);
  if (activation == "relu") return FloatUnary(Op::kRelu, false, x);
  return x;
}

absl::Status EvalUnary(Evaluation& e) {
  const Tensor& x = e.input(0);
  const bool tanh_gelu = e.op == Op::kGelu && e.attr<std::string>("approximate") == "tanh";
  for (size_t i = 0; i < x.floats.size(); ++i) e.result().floats[i] = FloatUnary(e.op, tanh_gelu, x.floats[i]);
  for (size_t i = 0; i < x.ints.size(); ++i) e.result().ints[i] = IntUnary(e.op, x.ints[i]);
  return absl::OkStatus();
}

absl::Status EvalCast(Evaluation& e) {
  const Tensor& x = e.input(0);
  Tensor& y = e.result();
  if (IsFloat(x.dtype) && IsFloat(y.dtype)) {
    y.floats = x.floats;
  } else if (IsFloat(y.dtype)) {
    std::copy(x.ints.begin(), x.ints.end(), y.floats.begin());
  } else if (!IsFloat(x.dtype)) {
    y.ints = x.ints;
  } else if (y.dtype == DType::kBool) {
    std::transform(x.floats.begin(), x.floats.end(), y.ints.begin(), [](double v) { return v != 0; });
  } else {
    std::transform(x.floats.begin(), x.floats.end(), y.ints.begin(), [&y](double v) { return ToInteger(v, y.dtype); });
  }
  return absl::OkStatus();
}

absl::Status EvalBinary(Evaluation& e) {
  if (IsFloat(e.input(0).dtype)) {
    MapPair(e, &Tensor::floats, e.result().floats, FloatBinary);
  } else {
    MapPair(e, &Tensor::ints, e.result().ints, IntBinary);
  }
  return absl::OkStatus();
}

absl::Status EvalCompare(Evaluation& e) {
  if (IsFloat(e.input(0).dtype)) {
    MapPair(e, &Tensor::floats, e.result().ints, Compare<double>);
  } else {
    MapPair(e, &Tensor::ints, e.result().ints, Compare<int64_t>);
  }
  return absl::OkStatus();
}

absl::Status EvalWhere(Evaluation& e) {
  const Tensor& condition = e.input(0);
  const Tensor& a = e.input(1);
  const Tensor& b = e.input(2);
  const size_t rank = e.result().shape.size();
  Walk<3>(e.result().shape,
          {BroadcastStrides(condition.shape, rank), BroadcastStrides(a.shape, rank), BroadcastStrides(b.shape, rank)},
          {0, 0, 0}, [&](int64_t i, const std::array<int64_t, 3>& at) {
            const bool holds = condition.ints[at[0]] != 0;
            if (IsFloat(a.dtype)) {
              e.result().floats[i] = holds ? a.floats[at[1]] : b.floats[at[2]];
            } else {
              e.result().ints[i] = holds ? a.ints[at[1]] : b.ints[at[2]];
            }
          });
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
