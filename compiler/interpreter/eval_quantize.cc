#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "compiler/interpreter/eval.h"

namespace flashflow::interpreter {
namespace {

constexpr double kMostCode = 127;
constexpr double kLeastScaled = 0x1p-100;  // rows of smaller elements are zeros

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
