#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "compiler/interpreter/eval.h"
#include "compiler/ir/float_convert.h"

namespace flashflow::interpreter {
namespace {

constexpr double kMostCode = 127;
constexpr double kLeastScaled = 0x1p-100;  // rows of smaller elements are zeros

constexpr double kMostGroupCode = 15;

double Half(Mode mode, double x) { return mode == Mode::kWide ? x : RoundTo(DType::kF16, x); }

struct GroupRange {
  double scale = std::numeric_limits<double>::quiet_NaN();
  double least = std::numeric_limits<double>::quiet_NaN();
};

// Of kCodeGroup elements; their codes go to q.
GroupRange QuantizeGroup(Mode mode, const double* x, double* q) {
  std::fill_n(q, kCodeGroup, 0.0);
  if (!std::all_of(x, x + kCodeGroup, [](double value) { return std::isfinite(value); })) return {};
  const auto fl = [mode](double value) { return Single(mode, value); };
  const auto [min, max] = std::minmax_element(x, x + kCodeGroup);
  const GroupRange range = {Half(mode, fl(fl(*max - *min) / kMostGroupCode)), Half(mode, *min)};
  if (!std::isfinite(range.scale) || !std::isfinite(range.least)) return {};
  if (range.scale == 0) return range;
  for (int64_t i = 0; i < kCodeGroup; ++i) {
    q[i] = std::clamp(std::nearbyint(fl(fl(x[i] - range.least) / range.scale)), 0.0, kMostGroupCode);
  }
  return range;
}

absl::Status EvalQuantizeGroups(Evaluation& e) {
  const Tensor& x = e.input(0);
  double q[kCodeGroup];
  for (size_t group = 0; group < x.floats.size() / kCodeGroup; ++group) {
    const GroupRange range = QuantizeGroup(e.mode, x.floats.data() + group * kCodeGroup, q);
    e.result(1).floats[2 * group] = range.scale;
    e.result(1).floats[2 * group + 1] = range.least;
    for (size_t i = 0; i < kCodeGroup; i += 2) {
      const int64_t byte = static_cast<int64_t>(q[i]) + 16 * static_cast<int64_t>(q[i + 1]);
      e.result(0).ints[(group * kCodeGroup + i) / 2] = static_cast<int8_t>(byte);
    }
  }
  return absl::OkStatus();
}

}  // namespace

// Every operation below takes floats and has an exact result of fewer than 53 bits, or is a division or a sum, whose
// double rounding from double to float is the right rounding (Figueroa 1995): so Single gives what float arithmetic
// gives.
double Single(Mode mode, double x) { return mode == Mode::kWide ? x : static_cast<double>(static_cast<float>(x)); }

double QuantizeRow(Mode mode, const double* x, int64_t count, double clip, double* q) {
  double most = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite &= std::isfinite(x[i]);
    most = std::max(most, std::abs(x[i]));
  }
  std::fill_n(q, count, 0.0);
  if (!finite) return std::numeric_limits<double>::quiet_NaN();
  const double a = std::min(most, Single(mode, clip));
  if (a < kLeastScaled) return 0;
  const double r = Single(mode, kMostCode / a);
  for (int64_t i = 0; i < count; ++i) {
    q[i] = std::clamp(std::nearbyint(Single(mode, x[i] * r)), -kMostCode, kMostCode);
  }
  return Single(mode, a / kMostCode);
}

absl::Status EvalQuantize(Evaluation& e) {
  if (e.attr<int64_t>("group") != 0) return EvalQuantizeGroups(e);
  const Tensor& x = e.input(0);
  const int64_t k = x.shape.back();
  const int64_t rows = e.result(1).NumElements();
  std::vector<double> codes(k);
  for (int64_t row = 0; row < rows; ++row) {
    e.result(1).floats[row] = QuantizeRow(e.mode, x.floats.data() + row * k, k, e.attr<double>("clip"), codes.data());
    for (int64_t i = 0; i < k; ++i) e.result(0).ints[row * k + i] = static_cast<int64_t>(codes[i]);
  }
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
