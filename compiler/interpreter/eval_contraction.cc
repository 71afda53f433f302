#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/parallel.h"
#include "compiler/interpreter/strides.h"

namespace flashflow::interpreter {
namespace {

constexpr int64_t kLanes = 16;  // rows of x, or of the weight, that one pass over k serves

// acc[i] = sum over k of lanes[k * kLanes + i] * row[k], each summed in the order of k.
void DotLanes(const double* lanes, const double* row, int64_t k, double* acc) {
  double sums[kLanes] = {};
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t i = 0; i < kLanes; ++i) sums[i] += lanes[j * kLanes + i] * row[j];
  }
  std::copy_n(sums, kLanes, acc);
}

// Up to kLanes rows of a [rows, k] matrix from `first` on, interleaved as DotLanes reads them; missing rows are zeros.
void PackLanes(const double* matrix, int64_t rows, int64_t k, int64_t first, double* lanes) {
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < k; ++j) lanes[j * kLanes + i] = first + i < rows ? matrix[(first + i) * k + j] : 0;
  }
}

// One row: the weight's rows are the lanes, taken as they lie.
void LinearRow(const double* x, const double* weight, int64_t n, int64_t k, double* y) {
  for (int64_t first = 0; first < n; first += kLanes) {
    const int64_t count = std::min(kLanes, n - first);
    double sums[kLanes] = {};
    for (int64_t j = 0; j < k; ++j) {
      for (int64_t i = 0; i < count; ++i) sums[i] += weight[(first + i) * k + j] * x[j];
    }
    std::copy_n(sums, count, y + first);
  }
}

// y[m, n] = x[m, k] * weight[n, k]^T. Every element is summed in the order of k, whatever m is.
void Linear(const double* x, const double* weight, int64_t m, int64_t n, int64_t k, double* y) {
  if (m == 1) {
    ParallelFor(n, k, [&](int64_t begin, int64_t end) { LinearRow(x, weight + begin * k, end - begin, k, y + begin); });
    return;
  }
  std::vector<double> lanes(k * kLanes);
  for (int64_t first = 0; first < m; first += kLanes) {
    PackLanes(x, m, k, first, lanes.data());
    const int64_t count = std::min(kLanes, m - first);
    ParallelFor(n, k * kLanes, [&](int64_t begin, int64_t end) {
      double sums[kLanes];
      for (int64_t j = begin; j < end; ++j) {
        DotLanes(lanes.data(), weight + j * k, k, sums);
        for (int64_t i = 0; i < count; ++i) y[(first + i) * n + j] = sums[i];
      }
    });
  }
}

// z of fused_linear for a weight of codes: h[m, K], z[m, N].
void QuantizedLinear(const Evaluation& e, const std::vector<double>& h, int64_t m, double* z) {
  const Tensor& weight = e.input(1);
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  const Tensor* bias = e.Optional(2);
  const auto fl = [&e](double x) { return Single(e.mode, x); };
  std::vector<double> row(k), codes(m * k), scales(m);
  for (int64_t i = 0; i < m; ++i) {
    std::transform(h.begin() + i * k, h.begin() + (i + 1) * k, row.begin(), fl);
    scales[i] = QuantizeRow(e.mode, row.data(), k, e.attr<double>("clip"), codes.data() + i * k);
  }
  const std::vector<double> weight_codes(weight.ints.begin(), weight.ints.end());
  Linear(codes.data(), weight_codes.data(), m, n, k, z);  // sums of integers below 2^53: exact
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double& y = z[i * n + j];
      y = fl(fl(y) * fl(scales[i] * e.input(6).floats[j]));
      if (bias != nullptr) y = fl(y + bias->floats[j]);
    }
  }
}

// The same for a weight of codes of groups.
void GroupsLinear(const Evaluation& e, const std::vector<double>& h, int64_t m, int64_t k, double* z) {
  const Tensor& weight = e.input(1);
  const std::vector<double>& ranges = e.input(6).floats;
  const Tensor* bias = e.Optional(2);
  const int64_t n = weight.shape[0];
  const int64_t groups = k / kCodeGroup;
  const auto fl = [&e](double x) { return Single(e.mode, x); };
  std::vector<double> x(h.size()), codes(h.size()), scales(m * groups), sums(m * groups);
  std::ranges::transform(h, x.begin(), fl);
  for (int64_t i = 0; i < m * groups; ++i) {
    double* q = codes.data() + i * kCodeGroup;
    scales[i] = QuantizeRow(e.mode, x.data() + i * kCodeGroup, kCodeGroup, std::numeric_limits<double>::infinity(), q);
    sums[i] = std::accumulate(q, q + kCodeGroup, 0.0);
  }
  ParallelFor(n, m * k, [&](int64_t begin, int64_t end) {
    std::vector<double> row(k);
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t i = 0; i < k; ++i) {
        const auto byte = static_cast<uint8_t>(weight.ints[(j * k + i) / 2]);
        row[i] = i % 2 == 0 ? byte % 16 : byte / 16;
      }
      const double* range = ranges.data() + j * groups * 2;
      for (int64_t i = 0; i < m; ++i) {
        double y = 0;
        for (int64_t g = 0; g < groups; ++g) {
          const double* q = codes.data() + i * k + g * kCodeGroup;
          const double products = std::inner_product(q, q + kCodeGroup, row.data() + g * kCodeGroup, 0.0);
          const int64_t at = i * groups + g;
          const double sum = fl(fl(range[2 * g] * products) + range[2 * g + 1] * sums[at]);
          y = fl(y + fl(scales[at] * sum));
        }
        z[i * n + j] = bias == nullptr ? y : fl(y + bias->floats[j]);
      }
    }
  });
}

}  // namespace

absl::Status EvalLinear(Evaluation& e) {
  const Tensor& x = e.input(0);
  const Tensor& weight = e.input(1);
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  const int64_t m = n == 0 ? 0 : e.result().NumElements() / n;
  Linear(x.floats.data(), weight.floats.data(), m, n, k, e.result().floats.data());
  if (e.HasInput(2)) {
    for (int64_t i = 0; i < m * n; ++i) e.result().floats[i] += e.input(2).floats[i % n];
  }
  return absl::OkStatus();
}

absl::Status EvalFusedLinear(Evaluation& e) {
  const Tensor& x = e.input(0);
  const Tensor& weight = e.input(1);
  const int64_t n = weight.shape[0];
  const int64_t k = x.shape.back();
  const int64_t m = NumElements(Shape(x.shape.begin(), x.shape.end() - 1));
  std::vector<double> normalized = x.floats;
  if (const auto& norm = e.attr<std::string>("norm"); norm != "none") {
    Normalize(norm, x.floats.data(), m, k, e.attr<double>("eps"), e.Optional(4), e.Optional(5), normalized.data());
  }
  std::vector<double> products(m * n);
  const Tensor* bias = e.Optional(2);
  const bool groups = e.HasInput(6) && e.input(6).dtype == DType::kF16;
  if (groups) {
    GroupsLinear(e, normalized, m, k, products.data());
  } else if (weight.dtype == DType::kI8) {
    QuantizedLinear(e, normalized, m, products.data());
  } else {
    Linear(normalized.data(), weight.floats.data(), m, n, k, products.data());
    for (int64_t i = 0; bias != nullptr && i < m * n; ++i) products[i] += bias->floats[i % n];
  }
  const std::string& activation = e.attr<std::string>("activation");
  const bool gated = e.attr<bool>("gated");
  const int64_t columns = gated ? n / 2 : n;
  const Tensor* residual = e.Optional(3);
  for (int64_t row = 0; row < m; ++row) {
    auto at = [&](int64_t column) { return products[row * n + column]; };
    for (int64_t c = 0; c < columns; ++c) {
      double value = Activate(activation, at(c));
      if (gated) value *= at(columns + c);
      if (residual != nullptr) value += residual->floats[row * columns + c];
      e.result().floats[row * columns + c] = value;
    }
  }
  return absl::OkStatus();
}

absl::Status EvalMatmul(Evaluation& e) {
  const Tensor& a = e.input(0);
  const Tensor& b = e.input(1);
  const size_t rank = e.result().shape.size();
  const int64_t m = e.result().shape[rank - 2];
  const int64_t n = e.result().shape[rank - 1];
  const int64_t k = a.shape.back();
  // Walk the leading axes in units of matrices.
  const Shape batch(e.result().shape.begin(), e.result().shape.end() - 2);
  const Shape batch_a(a.shape.begin(), a.shape.end() - 2);
  const Shape batch_b(b.shape.begin(), b.shape.end() - 2);
  Walk<2>(batch, {BroadcastStrides(batch_a, batch.size()), BroadcastStrides(batch_b, batch.size())}, {0, 0},
          [&](int64_t i, const std::array<int64_t, 2>& at) {
            const double* left = a.floats.data() + at[0] * m * k;
            const double* right = b.floats.data() + at[1] * k * n;
            double* out = e.result().floats.data() + i * m * n;
            ParallelFor(m, k * n, [&](int64_t begin, int64_t end) {
              for (int64_t row = begin; row < end; ++row) {
                for (int64_t j = 0; j < k; ++j) {
                  const double factor = left[row * k + j];
                  for (int64_t column = 0; column < n; ++column) {
                    out[row * n + column] += factor * right[j * n + column];
                  }
                }
              }
            });
          });
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
