#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/strides.h"

namespace flashflow::interpreter {
namespace {

using ir::Op;

// NaN wins.
double Greater(double a, double b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

absl::Status EvalReduce(Evaluation& e) {
  const Tensor& x = e.input(0);
  const std::vector<int64_t>& axes = e.attr<std::vector<int64_t>>("axes");
  // The result's strides as x's index sees them: 0 along the reduced axes.
  Shape kept = x.shape;
  int64_t reduced = 1;
  for (int64_t axis : axes) {
    reduced *= kept[axis];
    kept[axis] = 1;
  }
  if (e.op == Op::kReduceMax && reduced == 0) {
    return absl::InvalidArgumentError(absl::StrCat("x: the axes hold no element in shape ", ShapeToString(x.shape)));
  }
  const Shape strides = BroadcastStrides(kept, kept.size());
  auto reduce = [&](const auto& from, auto& to, auto combine) {
    Walk<1>(x.shape, {strides}, {0},
            [&](int64_t i, const std::array<int64_t, 1>& at) { to[at[0]] = combine(to[at[0]], from[i]); });
  };
  Tensor& y = e.result();
  if (e.op == Op::kReduceMax) {
    std::fill(y.floats.begin(), y.floats.end(), -std::numeric_limits<double>::infinity());
    std::fill(y.ints.begin(), y.ints.end(), std::numeric_limits<int64_t>::min());
    if (IsFloat(x.dtype)) {
      reduce(x.floats, y.floats, Greater);
    } else {
      reduce(x.ints, y.ints, [](int64_t a, int64_t b) { return std::max(a, b); });
    }
    return absl::OkStatus();
  }
  if (IsFloat(x.dtype)) {
    reduce(x.floats, y.floats, [](double a, double b) { return a + b; });
  } else {
    reduce(x.ints, y.ints, [](int64_t a, int64_t b) {
      return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    });
  }
  if (e.op == Op::kReduceMean) {
    for (double& value : y.floats) value /= static_cast<double>(reduced);
  }
  return absl::OkStatus();
}

absl::Status EvalCumsum(Evaluation& e) {
  const Tensor& x = e.input(0);
  const auto axis = static_cast<size_t>(e.attr<int64_t>("axis"));
  const int64_t length = x.shape[axis];
  const int64_t stride = DenseStrides(x.shape)[axis];
  for (int64_t i = 0; i < x.NumElements(); ++i) {
    const bool first = i / stride % length == 0;
    if (IsFloat(x.dtype)) {
      e.result().floats[i] = x.floats[i] + (first ? 0 : e.result().floats[i - stride]);
    } else {
      const uint64_t before = first ? 0 : static_cast<uint64_t>(e.result().ints[i - stride]);
      e.result().ints[i] = static_cast<int64_t>(static_cast<uint64_t>(x.ints[i]) + before);  // wraps around
    }
  }
  return absl::OkStatus();
}

absl::Status EvalSoftmax(Evaluation& e) {
  const Tensor& x = e.input(0);
  const int64_t axis = e.attr<int64_t>("axis");
  const int64_t length = x.shape[axis];
  const int64_t stride = DenseStrides(x.shape)[axis];
  Shape lines = x.shape;  // one index for each line along the axis
  lines[axis] = length == 0 ? 0 : 1;
  Walk<1>(lines, {DenseStrides(x.shape)}, {0}, [&](int64_t, const std::array<int64_t, 1>& at) {
    const double* in = x.floats.data() + at[0];
    double* out = e.result().floats.data() + at[0];
    double max = in[0];
    for (int64_t i = 1; i < length; ++i) max = Greater(max, in[i * stride]);
    double sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += out[i * stride] = std::exp(in[i * stride] - max);
    for (int64_t i = 0; i < length; ++i) out[i * stride] /= sum;
  });
  return absl::OkStatus();
}

void Normalize(std::string_view norm, const double* x, int64_t rows, int64_t channels, double eps, const Tensor* weight,
               const Tensor* bias, double* y) {
  for (int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    double mean = 0;
    if (norm == "layer_norm") {
      for (int64_t c = 0; c < channels; ++c) mean += x[c];
      mean /= static_cast<double>(channels);
    }
    double square = 0;
    for (int64_t c = 0; c < channels; ++c) square += (x[c] - mean) * (x[c] - mean);
    const double scale = 1 / std::sqrt(square / static_cast<double>(channels) + eps);
    for (int64_t c = 0; c < channels; ++c) {
      y[c] = (x[c] - mean) * scale;
      if (weight != nullptr) y[c] *= weight->floats[c];
      if (bias != nullptr) y[c] += bias->floats[c];
    }
  }
}

absl::Status EvalNorm(Evaluation& e) {
  const Tensor& x = e.input(0);
  const int64_t channels = x.shape.back();
  Normalize(ir::OpName(e.op), x.floats.data(), channels == 0 ? 0 : x.NumElements() / channels, channels,
            e.attr<double>("eps"), e.Optional(1), e.Optional(2), e.result().floats.data());
  return absl::OkStatus();
}

absl::Status EvalAddNorm(Evaluation& e) {
  Tensor& sum = e.result(0);
  const int64_t channels = sum.shape.back();
  for (size_t i = 0; i < sum.floats.size(); ++i) sum.floats[i] = e.input(0).floats[i] + e.input(1).floats[i];
  if (e.mode == Mode::kTyped) RoundToDType(&sum);
  Normalize(e.attr<std::string>("norm"), sum.floats.data(), channels == 0 ? 0 : sum.NumElements() / channels, channels,
            e.attr<double>("eps"), e.Optional(2), e.Optional(3), e.result(1).floats.data());
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
