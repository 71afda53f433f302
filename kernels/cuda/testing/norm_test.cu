// The norms against float64 on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "kernels/cuda/norm.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

// One thread a row; the padding between rows gets the tolerance -1: it must not be written.
template <class T>
__global__ void OracleKernel(NormArgs p, double* y, double* y_tolerance, double* sum, double* sum_tolerance) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= p.rows) return;
  const auto at = [&](const void* data, int64_t i) {
    return static_cast<double>(static_cast<float>(static_cast<const T*>(data)[i]));
  };
  const int64_t start = row * p.ld;
  double mean = 0, squares = 0, absolute = 0;
  for (int i = 0; i < p.columns; ++i) {
    double h = at(p.x, start + i);
    if (p.residual != nullptr) {
      h = static_cast<float>(static_cast<T>(static_cast<float>(h + at(p.residual, start + i))));
    }
    sum[start + i] = h;  // exact: the f32 sum, rounded to T
    sum_tolerance[start + i] = 0x1p-100;
    mean += h;
    absolute += fabs(h);
  }
  mean = p.rms ? 0 : mean / p.columns;
  for (int i = 0; i < p.columns; ++i) squares += (sum[start + i] - mean) * (sum[start + i] - mean);
  const double scale = 1 / sqrt(squares / p.columns + p.epsilon);
  // f32 sums of `columns` terms, of which one thread adds at most 64 and the rest are in trees.
  const double relative = 128 * 0x1p-24;
  for (int i = 0; i < p.columns; ++i) {
    const double gamma = p.gamma[i];
    const double value = (sum[start + i] - mean) * scale * gamma + (p.beta != nullptr ? p.beta[i] : 0);
    y[start + i] = value;
    y_tolerance[start + i] = kHalfUnit<T> * fabs(value) + 0x1p-25 +
                             relative * fabs(scale * gamma) * (absolute / p.columns + 2 * fabs(sum[start + i] - mean)) +
                             1e-30;
  }
  for (int i = p.columns; i < p.ld; ++i) y_tolerance[start + i] = sum_tolerance[start + i] = -1;
}

template <class T>
void Run(int rows, int columns, int pad, bool rms, bool residual, bool beta, float mean, Report& report) {
  char where[160];
  std::snprintf(where, sizeof(where),
                "norm of %zu bytes, rows %d columns %d pad %d rms %d residual %d beta %d scale %g", sizeof(T), rows,
                columns, pad, rms, residual, beta, mean);
  const int64_t ld = columns + pad;
  GuardedBuffer<T> x(rows * ld), r(rows * ld), y(rows * ld), sum(rows * ld), again(rows * ld);
  GuardedBuffer<float> gamma(columns), b(columns);
  Fill(x, 11 * columns + rows, mean);
  Fill(r, 12 * columns + rows, mean);
  Fill(gamma, 13, 2.0f);
  Fill(b, 14, 1.0f);
  NormArgs args;
  args.x = x.data();
  args.residual = residual ? r.data() : nullptr;
  args.sum = residual ? sum.data() : nullptr;
  args.gamma = gamma.data();
  args.beta = beta ? b.data() : nullptr;
  args.y = y.data();
  args.rows = rows;
  args.columns = columns;
  args.ld = ld;
  args.epsilon = 1e-5f;
  args.rms = rms;
  args.dtype = kDtype<T>;

  double* oracle[4];
  for (double*& pointer : oracle) FF_CUDA_OK(cudaMalloc(&pointer, rows * ld * sizeof(double)));
  OracleKernel<T><<<(rows + 31) / 32, 32>>>(args, oracle[0], oracle[1], oracle[2], oracle[3]);
  FF_CUDA_OK(cudaGetLastError());
  report.Expect(Norm(args, nullptr) == cudaSuccess, "refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(y.data(), oracle[0], oracle[1], rows * ld);
  char what[120];
  std::snprintf(what, sizeof(what), "%llu elements outside the tolerance, first %lld, worst ratio %g", mismatch.bad,
                static_cast<long long>(mismatch.first), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);
  if (residual) {
    report.Expect(Compare(sum.data(), oracle[2], oracle[3], rows * ld).bad == 0, "the sum is not exact", where);
  }
  report.Expect(x.GuardsIntact() && r.GuardsIntact() && y.GuardsIntact() && sum.GuardsIntact(),
                "a guard band was written to", where);

  // The last row alone, in place: the same bits.
  FF_CUDA_OK(cudaMemcpy(again.data(), x.data(), rows * ld * sizeof(T), cudaMemcpyDeviceToDevice));
  const int64_t skip = (rows - 1) * ld;
  args.rows = 1;
  args.x = args.y = again.data() + skip;
  args.residual = residual ? r.data() + skip : nullptr;
  args.sum = nullptr;
  report.Expect(Norm(args, nullptr) == cudaSuccess, "one row is refused", where);
  report.Expect(SameBytes(again.data() + skip, y.data() + skip, columns * sizeof(T)), "bits depend on other rows",
                where);
  for (double* pointer : oracle) cudaFree(pointer);
}

// The f32 row that is written is the one that is quantized: its codes are those of Quantize. And without y, from bf16.
void RunQuantized(int rows, int columns, bool rms, float clip, Report& report) {
  char where[120];
  std::snprintf(where, sizeof(where), "quantized norm rows %d columns %d rms %d clip %g", rows, columns, rms, clip);
  GuardedBuffer<float> x(rows * columns), gamma(columns), y(rows * columns), scale(rows), again(rows);
  GuardedBuffer<int8_t> codes(rows * columns), recoded(rows * columns);
  Fill(x, columns + rows, 3.0f);
  Fill(gamma, 13, 2.0f);
  NormArgs args;
  args.dtype = Dtype::kF32;
  args.x = x.data();
  args.gamma = gamma.data();
  args.y = y.data();
  args.rows = rows;
  args.columns = columns;
  args.ld = args.ld_codes = columns;
  args.epsilon = 1e-5f;
  args.rms = rms;
  args.codes = codes.data();
  args.scale = scale.data();
  args.clip = clip;
  report.Expect(Norm(args, nullptr) == cudaSuccess, "refused", where);
  QuantizeArgs quantize;
  quantize.dtype = Dtype::kF32;
  quantize.x = y.data();
  quantize.codes = recoded.data();
  quantize.scale = again.data();
  quantize.rows = rows;
  quantize.columns = columns;
  quantize.ldx = quantize.ld_codes = columns;
  quantize.clip = clip;
  report.Expect(Quantize(quantize, nullptr) == cudaSuccess, "quantize is refused", where);
  report.Expect(SameBytes(codes.data(), recoded.data(), rows * int64_t{columns}), "codes are not those of y", where);
  report.Expect(SameBytes(scale.data(), again.data(), rows * sizeof(float)), "scales are not those of y", where);
  report.Expect(codes.GuardsIntact() && scale.GuardsIntact() && y.GuardsIntact(), "a guard band was written to", where);

  // Operands that bf16 holds exactly give the same codes without y.
  GuardedBuffer<Bf16> narrow(rows * columns);
  Fill(narrow, columns + rows, 3.0f);
  const auto widen = [](const GuardedBuffer<Bf16>& from, const GuardedBuffer<float>& to) {
    std::vector<float> wide;
    for (const Bf16 value : from.Read()) wide.push_back(__bfloat162float(value));
    FF_CUDA_OK(cudaMemcpy(to.data(), wide.data(), wide.size() * sizeof(float), cudaMemcpyHostToDevice));
  };
  widen(narrow, x);
  report.Expect(Norm(args, nullptr) == cudaSuccess, "refused", where);
  args.dtype = Dtype::kBf16;
  args.x = narrow.data();
  args.gamma = gamma.data();
  args.y = nullptr;
  args.codes = recoded.data();
  args.scale = again.data();
  recoded.Poison();
  report.Expect(Norm(args, nullptr) == cudaSuccess, "codes alone are refused", where);
  // The two differ in the order of the sums: a code by one at most, where it was near a tie.
  const std::vector<int8_t> one = codes.Read(), other = recoded.Read();
  int64_t different = 0, far = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    different += one[i] != other[i];
    far += std::abs(one[i] - other[i]) > 1;
  }
  report.Expect(far == 0 && different <= 2 + static_cast<int64_t>(one.size()) / 1000, "codes of bf16 differ", where);
}

}  // namespace

void TestNorm(Report& report) {
  for (int columns :
       {8, 64, 248, 256, 512, 768, 1016, 1024, 1032, 1600, 2048, 2056, 4096, 5000, 8192, 8200, 16384, 32768}) {
    for (int rows : {1, 3, 127, 1023}) {
      if (rows * int64_t{columns} > 8 << 20) continue;
      for (bool rms : {false, true}) {
        Run<Bf16>(rows, columns, 0, rms, false, !rms, 3.0f, report);
        Run<Bf16>(rows, columns, 8, rms, true, false, 0.01f, report);
        Run<__half>(rows, columns, 8, rms, true, !rms, 3.0f, report);
        Run<float>(rows, columns, 8, rms, true, !rms, 3.0f, report);
        RunQuantized(rows, columns, rms, rms ? 1.5f : INFINITY, report);
      }
    }
  }
  NormArgs bad;
  report.Expect(Norm(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "norm");
}

}  // namespace flashflow::cuda::testing
