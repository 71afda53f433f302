#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cuda/testing/host_kernels.h"

namespace flashflow::cuda::testing {
namespace {

constexpr int kMostK = 131072;  // of 8-bit codes

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

// Row i of `a`, ready for products.
struct RowA {
  std::vector<float> values;  // of codes none
  std::vector<int8_t> codes;
  float scale = 0;  // of the codes
};

// Of 8-bit codes: the sum is exact, and each of the header's three roundings is made.
float CodesTerm(const GemmArgs& args, const RowA& a, int64_t row) {
  const int8_t* w = static_cast<const int8_t*>(args.w) + row * args.ldw;
  int32_t sum = 0;
  for (int k = 0; k < args.k; ++k) sum += int32_t{a.codes[k]} * w[k];
  const float scale = a.scale * args.w_scale[row];
  const float product = static_cast<float>(sum) * scale;
  return args.bias == nullptr ? product : product + args.bias[row];
}

// The type of what `a` points to.
Dtype TypeOfA(const GemmArgs& args) { return args.quantize ? Dtype::kBf16 : args.dtype; }

RowA RowOfA(const GemmArgs& args, int64_t i) {
  RowA row;
  if (args.dtype == Dtype::kS8 && !args.quantize) {
    const int8_t* codes = static_cast<const int8_t*>(args.a) + i * args.lda;
    row.codes.assign(codes, codes + args.k);
    row.scale = args.a_scale[i];
    return row;
  }
  row.values.resize(args.k);
  for (int k = 0; k < args.k; ++k) row.values[k] = Load(TypeOfA(args), args.a, i * args.lda + k);
  if (args.norm.gamma != nullptr) row.values = NormalizedRow(row.values, args.norm);
  if (args.quantize) {
    row.codes.resize(args.k);
    QuantizeRow(row.values, args.clip, row.codes.data(), &row.scale);
  } else {
    for (float& x : row.values) x = Rounded(args.dtype, x);
  }
  return row;
}

double Term(const GemmArgs& args, const RowA& a, int64_t row) {
  if (args.dtype == Dtype::kS8) return CodesTerm(args, a, row);
  double sum = 0;
  for (int k = 0; k < args.k; ++k) sum += double{a.values[k]} * Load(args.dtype, args.w, row * args.ldw + k);
  return args.bias == nullptr ? sum : sum + args.bias[row];
}

}  // namespace

namespace {

cudaError_t RefuseOperands(const GemmArgs& args) {
  if (args.m < 1 || args.n < 1 || args.k < 1 || args.a == nullptr || args.w == nullptr || args.d == nullptr) {
    return cudaErrorInvalidValue;
  }
  if (args.quantize && (args.dtype != Dtype::kS8 || !(args.clip > 0))) return cudaErrorInvalidValue;
  if (args.dtype == Dtype::kS8 && ((args.a_scale == nullptr && !args.quantize) || args.w_scale == nullptr)) {
    return cudaErrorInvalidValue;
  }
  if (args.dtype == Dtype::kF32) return cudaSuccess;
  const int step = 16 / ElementBytes(args.dtype);
  const bool taken = args.k % step == 0 && args.lda % step == 0 && args.ldw % step == 0 && Aligned(args.a, 16) &&
                     Aligned(args.w, 16) && (args.dtype != Dtype::kS8 || args.k <= kMostK);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

}  // namespace

cudaError_t RefuseGemmPortable(const GemmArgs& args) {
  if (cudaError_t error = RefuseOperands(args)) return error;
  return args.norm.gamma != nullptr || args.quantize ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t RefuseGemmRowsSm90(const GemmArgs& args, int compute_capability) {
  if (cudaError_t error = RefuseOperands(args)) return error;
  if (compute_capability / 10 != 9 || args.dtype == Dtype::kF32) return cudaErrorNotSupported;
  if (args.quantize && args.m > kMostNormedRows) return cudaErrorNotSupported;
  if (args.norm.gamma == nullptr) {
    const bool long_rows = args.m > 1 && args.k > kMostCodedColumns;
    return args.quantize && (args.gated || long_rows) ? cudaErrorNotSupported : cudaSuccess;
  }
  if (args.norm.rms && args.norm.beta != nullptr) return cudaErrorInvalidValue;
  const bool taken = args.m <= kMostNormedRows && args.k <= kMostNormedColumns &&
                     (args.dtype != Dtype::kS8 || args.quantize) && Aligned(args.norm.gamma, 16) &&
                     Aligned(args.norm.beta, 16);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t RefuseGemm(const GemmArgs& args, int compute_capability) {
  const bool makes_a = args.norm.gamma != nullptr || args.quantize;
  return makes_a ? RefuseGemmRowsSm90(args, compute_capability) : RefuseGemmPortable(args);
}

cudaError_t Compute(const HostMemory& memory, const GemmArgs& args) {
  const int64_t w_rows = args.gated ? 2 * int64_t{args.n} : args.n;
  const bool s8 = args.dtype == Dtype::kS8;
  const Dtype residual_dtype = s8 ? Dtype::kBf16 : args.dtype;
  const Dtype d_dtype = args.f32_output ? Dtype::kF32 : residual_dtype;
  if (!memory.HoldsRows(args.a, TypeOfA(args), args.m, args.k, args.lda) ||
      !memory.HoldsRows(args.w, args.dtype, w_rows, args.k, args.ldw) ||
      (args.norm.gamma != nullptr && !memory.Holds(args.norm.gamma, int64_t{args.k} * 4)) ||
      (args.norm.beta != nullptr && !memory.Holds(args.norm.beta, int64_t{args.k} * 4)) ||
      !memory.HoldsRows(args.d, d_dtype, args.m, args.n, args.ldd) ||
      (args.bias != nullptr && !memory.Holds(args.bias, w_rows * 4)) ||
      (args.residual != nullptr &&
       !memory.HoldsRows(args.residual, residual_dtype, args.m, args.n, args.ld_residual)) ||
      (s8 && !memory.Holds(args.w_scale, w_rows * 4)) ||
      (s8 && !args.quantize && !memory.Holds(args.a_scale, int64_t{args.m} * 4))) {
    return cudaErrorIllegalAddress;
  }
  std::vector<float> row(args.n);
  for (int64_t i = 0; i < args.m; ++i) {
    const RowA a = RowOfA(args, i);
    for (int64_t j = 0; j < args.n; ++j) {
      double value = Activate(args.activation, Term(args, a, j));
      if (args.gated) value *= Term(args, a, args.n + j);
      if (args.residual != nullptr) value += Load(residual_dtype, args.residual, i * args.ld_residual + j);
      row[j] = static_cast<float>(value);
    }
    for (int64_t j = 0; j < args.n; ++j) Store(d_dtype, args.d, i * args.ldd + j, row[j]);
  }
  return cudaSuccess;
}

}  // namespace flashflow::cuda::testing
