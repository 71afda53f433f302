// What computes row by row: norms, softmax, quantization, lookups.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cuda/testing/host_kernels.h"

namespace flashflow::cuda::testing {
namespace {

cudaError_t RefuseRows(Dtype dtype, int columns, std::initializer_list<int64_t> multiples_of_8) {
  bool taken = dtype != Dtype::kS8 && columns <= 32768 && columns % 8 == 0;
  for (const int64_t value : multiples_of_8) taken = taken && value % 8 == 0;
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

}  // namespace

void QuantizeRow(const std::vector<float>& x, float clip, int8_t* codes, float* scale) {
  float most = 0;
  bool finite = true;
  for (const float value : x) {
    finite = finite && std::isfinite(value);
    most = std::max(most, std::fabs(value));
  }
  most = std::min(most, clip);
  if (!finite || most < 0x1p-100f) {
    std::fill_n(codes, x.size(), int8_t{0});
    *scale = finite ? 0 : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float inverse = 127.0f / most;
  for (size_t j = 0; j < x.size(); ++j) {
    const float scaled = x[j] * inverse;
    codes[j] = static_cast<int8_t>(std::clamp(std::nearbyint(scaled), -127.0f, 127.0f));
  }
  *scale = most / 127.0f;
}

std::vector<float> NormalizedRow(const std::vector<float>& h, const RowNorm& norm) {
  const double columns = static_cast<double>(h.size());
  double mean = 0, variance = 0;
  for (const float x : h) mean += x / columns;
  if (norm.rms) mean = 0;
  for (const float x : h) variance += (x - mean) * (x - mean) / columns;
  std::vector<float> y;
  for (size_t j = 0; j < h.size(); ++j) {
    const double gamma = norm.gamma == nullptr ? 1 : norm.gamma[j];
    const double normal = (h[j] - mean) / std::sqrt(variance + norm.epsilon) * gamma;
    y.push_back(static_cast<float>(norm.beta == nullptr ? normal : normal + norm.beta[j]));
  }
  return y;
}

cudaError_t Refuse(const NormArgs& args) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.ld < args.columns ||
      (args.y == nullptr && args.codes == nullptr) || (args.rms && args.beta != nullptr) ||
      (args.codes != nullptr && (args.scale == nullptr || args.ld_codes < args.columns || !(args.clip > 0)))) {
    return cudaErrorInvalidValue;
  }
  if (args.codes == nullptr) return args.dtype == Dtype::kS8 ? cudaErrorNotSupported : cudaSuccess;
  const void* const pointers[] = {args.x, args.residual, args.sum, args.gamma, args.beta, args.y};
  for (const void* pointer : pointers) {
    if (!Aligned(pointer, 16)) return cudaErrorNotSupported;
  }
  if (args.gamma == nullptr || !Aligned(args.codes, 8)) return cudaErrorNotSupported;
  return RefuseRows(args.dtype, args.columns, {args.ld, args.ld_codes});
}

cudaError_t Compute(const HostMemory& memory, const NormArgs& args) {
  const auto holds = [&](const void* data) {
    return data == nullptr || memory.HoldsRows(data, args.dtype, args.rows, args.columns, args.ld);
  };
  const int64_t columns = args.columns;
  if (!holds(args.x) || !holds(args.residual) || !holds(args.sum) || !holds(args.y) ||
      (args.gamma != nullptr && !memory.Holds(args.gamma, columns * 4)) ||
      (args.beta != nullptr && !memory.Holds(args.beta, columns * 4)) ||
      (args.codes != nullptr && (!memory.HoldsRows(args.codes, Dtype::kS8, args.rows, columns, args.ld_codes) ||
                                 !memory.Holds(args.scale, int64_t{args.rows} * 4)))) {
    return cudaErrorIllegalAddress;
  }
  const RowNorm norm = {args.gamma, args.beta, args.epsilon, args.rms};
  std::vector<float> h(columns);
  for (int64_t i = 0; i < args.rows; ++i) {
    const int64_t at = i * args.ld;
    for (int64_t j = 0; j < columns; ++j) {
      h[j] = Load(args.dtype, args.x, at + j);
      if (args.residual != nullptr) h[j] = Rounded(args.dtype, h[j] + Load(args.dtype, args.residual, at + j));
    }
    const std::vector<float> y = NormalizedRow(h, norm);
    for (int64_t j = 0; j < columns; ++j) {
      if (args.sum != nullptr) Store(args.dtype, args.sum, at + j, h[j]);
      if (args.y != nullptr) Store(args.dtype, args.y, at + j, y[j]);
    }
    if (args.codes != nullptr) QuantizeRow(y, args.clip, args.codes + i * args.ld_codes, args.scale + i);
  }
  return cudaSuccess;
}

cudaError_t Refuse(const QuantizeArgs& args) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.codes == nullptr || args.scale == nullptr ||
      args.ldx < args.columns || args.ld_codes < args.columns || !(args.clip > 0)) {
    return cudaErrorInvalidValue;
  }
  if (!Aligned(args.x, 16) || !Aligned(args.codes, 8)) return cudaErrorNotSupported;
  return RefuseRows(args.dtype, args.columns, {args.ldx, args.ld_codes});
}

cudaError_t Compute(const HostMemory& memory, const QuantizeArgs& args) {
  if (!memory.HoldsRows(args.x, args.dtype, args.rows, args.columns, args.ldx) ||
      !memory.HoldsRows(args.codes, Dtype::kS8, args.rows, args.columns, args.ld_codes) ||
      !memory.Holds(args.scale, int64_t{args.rows} * 4)) {
    return cudaErrorIllegalAddress;
  }
  std::vector<float> x(args.columns);
  for (int64_t i = 0; i < args.rows; ++i) {
    for (int64_t j = 0; j < args.columns; ++j) x[j] = Load(args.dtype, args.x, i * args.ldx + j);
    QuantizeRow(x, args.clip, args.codes + i * args.ld_codes, args.scale + i);
  }
  return cudaSuccess;
}

cudaError_t Refuse(const SoftmaxArgs& args) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.y == nullptr || args.ldx < args.columns ||
      args.ldy < args.columns || !(args.scale > 0)) {
    return cudaErrorInvalidValue;
  }
  return args.dtype == Dtype::kS8 ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t Compute(const HostMemory& memory, const SoftmaxArgs& args) {
  if (!memory.HoldsRows(args.x, args.dtype, args.rows, args.columns, args.ldx) ||
      !memory.HoldsRows(args.y, args.dtype, args.rows, args.columns, args.ldy)) {
    return cudaErrorIllegalAddress;
  }
  std::vector<double> weights(args.columns);
  for (int64_t i = 0; i < args.rows; ++i) {
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < args.columns; ++j) most = std::fmax(most, Load(args.dtype, args.x, i * args.ldx + j));
    double sum = 0;
    for (int64_t j = 0; j < args.columns; ++j) {
      weights[j] = std::exp(double{args.scale} * (double{Load(args.dtype, args.x, i * args.ldx + j)} - most));
      sum += weights[j];
    }
    for (int64_t j = 0; j < args.columns; ++j) {
      Store(args.dtype, args.y, i * args.ldy + j, static_cast<float>(weights[j] / sum));
    }
  }
  return cudaSuccess;
}

cudaError_t Refuse(const EmbeddingArgs& args) {
  if (args.table == nullptr || args.ids == nullptr || args.out == nullptr || args.table_rows < 1 || args.tokens < 0 ||
      args.channels < 1 || (args.table_dtype == Dtype::kS8) != (args.scale != nullptr)) {
    return cudaErrorInvalidValue;
  }
  const bool taken = args.out_dtype != Dtype::kS8 && Aligned(args.scale, 4) &&
                     Aligned(args.table, ElementBytes(args.table_dtype)) &&
                     Aligned(args.out, ElementBytes(args.out_dtype)) && Aligned(args.ids, args.wide_ids ? 8 : 4);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t Compute(const HostMemory& memory, const EmbeddingArgs& args) {
  const int64_t channels = args.channels;
  if (!memory.HoldsRows(args.table, args.table_dtype, args.table_rows, channels, channels) ||
      !memory.HoldsRows(args.out, args.out_dtype, args.tokens, channels, channels) ||
      !memory.Holds(args.ids, args.tokens * (args.wide_ids ? 8 : 4)) ||
      (args.scale != nullptr && !memory.Holds(args.scale, args.table_rows * 4))) {
    return cudaErrorIllegalAddress;
  }
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t id =
        args.wide_ids ? static_cast<const int64_t*>(args.ids)[t] : static_cast<const int32_t*>(args.ids)[t];
    const bool known = id >= 0 && id < args.table_rows;
    for (int64_t j = 0; j < channels; ++j) {
      float value = std::numeric_limits<float>::quiet_NaN();
      if (known && args.scale != nullptr) {
        value = static_cast<float>(static_cast<const int8_t*>(args.table)[id * channels + j]) * args.scale[id];
      } else if (known) {
        value = Load(args.table_dtype, args.table, id * channels + j);
      }
      Store(args.out_dtype, args.out, t * channels + j, value);
    }
  }
  return cudaSuccess;
}

}  // namespace flashflow::cuda::testing
