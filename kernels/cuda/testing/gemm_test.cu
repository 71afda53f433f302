// The GEMM kernels against a float64 product on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

using Bf16 = __nv_bfloat16;

struct Operands {
  const Bf16 *a, *w, *bias, *residual;
  int m, n, k;
  int64_t lda, ldw, ld_residual, ldd;
  Activation activation;
  bool gated, f32_output;
};

// An f32 sum of k products, in steps of 16 that may truncate, against the exact one.
__device__ double SumError(int k, double absolute) { return (k / 16 + 16) * 0x1p-23 * absolute; }

__device__ double ActivateExactly(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    case Activation::kSilu:
      return x / (1 + exp(-x));
  }
  return 0;
}

// One thread an element of d, the padding between rows included (tolerance -1: must not be written).
__global__ void OracleKernel(Operands p, double* expected, double* tolerance) {
  const int64_t index = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (index >= p.m * p.ldd) return;
  const int64_t i = index / p.ldd, j = index % p.ldd;
  if (j >= p.n) {
    tolerance[index] = -1;
    return;
  }
  double sum[2] = {0, 0}, absolute[2] = {0, 0};
  for (int part = 0; part < (p.gated ? 2 : 1); ++part) {
    const Bf16* a = p.a + i * p.lda;
    const Bf16* w = p.w + (part * int64_t{p.n} + j) * p.ldw;
    for (int k = 0; k < p.k; ++k) {
      const double product = double{__bfloat162float(a[k])} * double{__bfloat162float(w[k])};
      sum[part] += product;
      absolute[part] += fabs(product);
    }
    if (p.bias != nullptr) {
      const double bias = __bfloat162float(p.bias[part * p.n + j]);
      sum[part] += bias;
      absolute[part] += fabs(bias);
    }
  }
  // The activations' slopes are at most 1.13; their approximations are good to 2^-19 of |x|.
  double value = ActivateExactly(p.activation, sum[0]);
  double error = 1.13 * SumError(p.k, absolute[0]);
  if (p.activation != Activation::kNone) error += 0x1p-19 * fabs(sum[0]);
  if (p.gated) {
    error = error * fabs(sum[1]) + SumError(p.k, absolute[1]) * (fabs(value) + error);
    value *= sum[1];
  }
  if (p.residual != nullptr) value += __bfloat162float(p.residual[i * p.ld_residual + j]);
  expected[index] = value;
  // Rounded to nearest: half a unit in the last place.
  tolerance[index] = (p.f32_output ? 0x1p-24 : 0x1p-8) * fabs(value) + 2 * error + 1e-30;
}

struct Case {
  int m, n, k;
  Activation activation = Activation::kNone;
  bool bias = false, residual = false, gated = false, f32_output = false;
  int pad = 0;  // elements from the end of a row to the next
};

using Kernel = std::function<cudaError_t(const GemmArgs&)>;

// Runs each of `kernels`: the first must be right, and the others must give its bits.
template <class Output>
void Run(const Case& test, uint64_t seed, const std::vector<Kernel>& kernels, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where), "gemm m %d n %d k %d act %d bias %d residual %d gated %d f32 %d pad %d", test.m,
                test.n, test.k, static_cast<int>(test.activation), test.bias, test.residual, test.gated,
                test.f32_output, test.pad);
  const int rows_w = test.gated ? 2 * test.n : test.n;
  const auto pitch = [&](int columns) { return (columns + 7) / 8 * 8 + test.pad; };
  const int64_t lda = pitch(test.k), ldd = pitch(test.n);
  GuardedBuffer<Bf16> a(test.m * lda), w(rows_w * lda), bias(rows_w), residual(test.m * ldd);
  GuardedBuffer<Output> d(test.m * ldd), again(test.m * ldd);
  Fill(a, seed + 1, 1.0f);
  Fill(w, seed + 2, 4.0f / std::sqrt(static_cast<float>(test.k)));
  Fill(bias, seed + 3, 1.0f);
  Fill(residual, seed + 4, 2.0f);

  GemmArgs args;
  args.a = a.data();
  args.w = w.data();
  args.bias = test.bias ? bias.data() : nullptr;
  args.residual = test.residual ? residual.data() : nullptr;
  args.d = d.data();
  args.m = test.m;
  args.n = test.n;
  args.k = test.k;
  args.lda = args.ldw = lda;
  args.ldd = args.ld_residual = ldd;
  args.activation = test.activation;
  args.gated = test.gated;
  args.f32_output = test.f32_output;

  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, d.size() * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, d.size() * sizeof(double)));
  const Operands operands = {a.data(),
                             w.data(),
                             static_cast<const Bf16*>(args.bias),
                             static_cast<const Bf16*>(args.residual),
                             test.m,
                             test.n,
                             test.k,
                             lda,
                             lda,
                             ldd,
                             ldd,
                             test.activation,
                             test.gated,
                             test.f32_output};
  OracleKernel<<<(d.size() + 127) / 128, 128>>>(operands, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());

  bool first = true;
  for (const Kernel& kernel : kernels) {
    GuardedBuffer<Output>& out = first ? d : again;
    out.Poison();
    args.d = out.data();
    const cudaError_t error = kernel(args);
    report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    if (first) {
      const Mismatch mismatch = Compare(out.data(), expected, tolerance, out.size());
      char what[160];
      std::snprintf(what, sizeof(what), "%llu elements outside the tolerance, first at (%lld, %lld), worst ratio %g",
                    mismatch.bad, static_cast<long long>(mismatch.first / ldd),
                    static_cast<long long>(mismatch.first % ldd), mismatch.worst);
      report.Expect(mismatch.bad == 0, what, where);
    } else {
      report.Expect(SameBytes(d.data(), again.data(), d.size() * sizeof(Output)),
                    "bits differ from run to run or depend on the tile", where);
    }
    report.Expect(out.GuardsIntact() && a.GuardsIntact() && w.GuardsIntact() && residual.GuardsIntact(),
                  "a guard band was written to", where);
    first = false;
  }
  // The first row's bits do not depend on how many rows there are, nor on what they hold.
  if (test.m > 1) {
    again.Poison();
    args.d = again.data();
    args.m = 1;
    report.Expect(kernels[0](args) == cudaSuccess, "m = 1 is refused", where);
    report.Expect(SameBytes(d.data(), again.data(), test.n * sizeof(Output)), "bits depend on the other rows", where);
    args.m = test.m;
  }
  if constexpr (sizeof(Output) == 2) {
    if (test.residual) {  // in place
      args.d = residual.data();
      report.Expect(kernels[0](args) == cudaSuccess, "in place is refused", where);
      const Mismatch mismatch = Compare(residual.data(), expected, tolerance, test.n);
      report.Expect(mismatch.bad == 0, "in place differs", where);
    }
  }
  cudaFree(expected);
  cudaFree(tolerance);
}

}  // namespace

void TestGemm(Report& report) {
  using enum Activation;
  uint64_t seed = 1000;
  const auto run = [&](const Case& test) {
    seed += 10;
    std::vector<Kernel> kernels;
    for (int tile_n : {0, 128, 160, 192}) {
      if (test.gated && tile_n == 160) continue;
      kernels.push_back([=](const GemmArgs& args) { return GemmSm90(args, {tile_n}, nullptr); });
    }
    if (test.f32_output) {
      Run<float>(test, seed, kernels, report);
    } else {
      Run<Bf16>(test, seed, kernels, report);
    }
  };
  // Every edge of the tiles, n and k off the tile and off the swizzle.
  for (int m : {1, 7, 63, 65, 127, 128, 129, 255, 1023}) {
    for (int n : {8, 64, 120, 200, 1000}) run({.m = m, .n = n, .k = 72, .bias = true});
  }
  for (int k : {8, 56, 64, 72, 136, 320, 1024, 3072}) run({.m = 130, .n = 328, .k = k, .pad = 8});
  // Every epilogue, with more tiles than one round of the GPU.
  for (int m : {1, 100, 1023, 4200}) {
    for (Activation activation : {kNone, kGeluTanh, kGeluErf}) {
      run({.m = m, .n = 776, .k = 192, .activation = activation, .bias = true, .pad = 16});
    }
    run({.m = m, .n = 776, .k = 192, .bias = true, .residual = true, .pad = 16});
    run({.m = m, .n = 776, .k = 192, .residual = true});
    run({.m = m, .n = 776, .k = 192, .bias = true, .f32_output = true, .pad = 8});
    run({.m = m, .n = 776, .k = 192, .f32_output = true});
    run({.m = m, .n = 776, .k = 192, .activation = kSilu, .gated = true});
    run({.m = m, .n = 1536, .k = 576, .activation = kSilu, .bias = true, .gated = true, .pad = 8});
  }
  // One block of k a tile, several tiles a warpgroup: an epilogue starts while the stores of the last are still under
  // way.
  for (Activation activation : {kNone, kGeluErf}) {
    run({.m = 8200, .n = 1000, .k = 8, .activation = activation, .bias = true});
  }
  run({.m = 8200, .n = 1000, .k = 8, .residual = true});
  run({.m = 8200, .n = 1000, .k = 8, .f32_output = true});
  run({.m = 8200, .n = 1000, .k = 8, .activation = kSilu, .gated = true});
  run({.m = 2048, .n = 3072, .k = 768, .activation = kGeluTanh, .bias = true});
  run({.m = 2048, .n = 768, .k = 3072, .bias = true, .residual = true});

  GemmArgs bad;
  report.Expect(GemmSm90(bad, {}, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "gemm");
}

void TestGemmSkinny(Report& report) {
  using enum Activation;
  uint64_t seed = 3000;
  const auto run = [&](const Case& test) {
    seed += 10;
    const Kernel kernel = [](const GemmArgs& args) { return GemmSkinny(args, nullptr); };
    if (test.f32_output) {
      Run<float>(test, seed, {kernel, kernel}, report);
    } else {
      Run<Bf16>(test, seed, {kernel, kernel}, report);
    }
  };
  for (int m : {1, 2, 7, 8, 9, 15, 16, 17, 32, 33, 63, 64}) {
    for (int n : {1, 7, 63, 65, 1000, 17001}) {
      for (int k : {8, 72, 768}) run({.m = m, .n = n, .k = k, .bias = n != 65, .pad = n == 63 ? 8 : 0});
    }
    for (Activation activation : {kNone, kGeluTanh, kGeluErf}) {
      run({.m = m, .n = 775, .k = 1024, .activation = activation, .bias = true, .residual = true});
    }
    run({.m = m, .n = 775, .k = 3080, .bias = true, .f32_output = true});
    run({.m = m, .n = 17001, .k = 520, .f32_output = true});
    if (m > 32) continue;
    run({.m = m, .n = 575, .k = 576, .activation = kSilu, .gated = true});
    run({.m = m, .n = 17001, .k = 200, .activation = kSilu, .bias = true, .gated = true});
  }
  GemmArgs bad;
  report.Expect(GemmSkinny(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "skinny gemm");
}

}  // namespace flashflow::cuda::testing
