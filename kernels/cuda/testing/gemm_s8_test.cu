// The products of 8-bit codes against integer sums on the device, exactly where no activation follows.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/exact_activation.cuh"
#include "kernels/cuda/testing/gemm_case.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

// One thread an element of d, the padding between rows included (tolerance -1: must not be written).
__global__ void OracleKernel(GemmArgs p, double* expected, double* tolerance) {
  const int64_t index = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (index >= p.m * p.ldd) return;
  const int64_t i = index / p.ldd, j = index % p.ldd;
  if (j >= p.n) {
    tolerance[index] = -1;
    return;
  }
  float z[2] = {0, 0};
  for (int part = 0; part < (p.gated ? 2 : 1); ++part) {
    const int64_t row_w = part * int64_t{p.n} + j;
    const int8_t* a = static_cast<const int8_t*>(p.a) + i * p.lda;
    const int8_t* w = static_cast<const int8_t*>(p.w) + row_w * p.ldw;
    int64_t sum = 0;
    for (int k = 0; k < p.k; ++k) sum += int64_t{a[k]} * w[k];
    z[part] = __fmul_rn(static_cast<float>(sum), __fmul_rn(p.a_scale[i], p.w_scale[row_w]));
    if (p.bias != nullptr) z[part] = __fadd_rn(z[part], p.bias[row_w]);
  }
  const float added =
      p.residual == nullptr ? 0.0f : __bfloat162float(static_cast<const Bf16*>(p.residual)[i * p.ld_residual + j]);
  if (p.activation == Activation::kNone && !p.gated) {
    const float value = p.residual == nullptr ? z[0] : __fadd_rn(z[0], added);
    expected[index] = p.f32_output ? value : __bfloat162float(__float2bfloat16(value));
    tolerance[index] = 0;
    return;
  }
  const double factor = p.gated ? z[1] : 1.0;
  const double value = ActivateExactly(p.activation, z[0]) * factor + added;
  expected[index] = value;
  tolerance[index] = (p.f32_output ? 0x1p-23 : 0x1p-8) * (fabs(value) + fabs(added)) + 0x1p-18 * fabs(z[0] * factor);
}

using Case = GemmCase;
using Kernel = GemmKernel;

template <class Output>
void Run(const Case& test, uint64_t seed, const std::vector<Kernel>& kernels, Report& report) {
  const std::string name = Describe("s8", test);
  const char* where = name.c_str();
  const int rows_w = test.gated ? 2 * test.n : test.n;
  const int64_t lda = test.k + 2 * test.pad, ldd = (test.n + 7) / 8 * 8 + test.pad;
  GuardedBuffer<int8_t> a(test.m * lda), w(rows_w * lda);
  GuardedBuffer<float> a_scale(test.m), w_scale(rows_w), bias(rows_w);
  GuardedBuffer<Bf16> residual(test.m * ldd);
  GuardedBuffer<Output> d(test.m * ldd), again(test.m * ldd);
  Fill(a, seed + 1, test.magnitude);
  Fill(w, seed + 2, test.magnitude);
  // Signed scales take the same path and test more; their product with a sum is about 1.
  Fill(a_scale, seed + 3, 0.01f);
  Fill(w_scale, seed + 4, 0.01f / std::sqrt(static_cast<float>(test.k)));
  Fill(bias, seed + 5, 1.0f);
  Fill(residual, seed + 6, 2.0f);
  GemmArgs args = ArgsOf(test, Dtype::kS8, lda, ldd, bias.data(), residual.data());
  args.a = a.data();
  args.w = w.data();
  args.a_scale = a_scale.data();
  args.w_scale = w_scale.data();

  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, d.size() * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, d.size() * sizeof(double)));
  OracleKernel<<<(d.size() + 127) / 128, 128>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());
  bool first = true;
  for (const Kernel& kernel : kernels) {
    GuardedBuffer<Output>& out = first ? d : again;
    out.Poison();
    args.d = out.data();
    const cudaError_t error = kernel(args);
    report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    ExpectNear(out, expected, tolerance, ldd, where, report);
    report.Expect(first || SameBytes(d.data(), again.data(), d.size() * sizeof(Output)),
                  "bits depend on how the product is shared out", where);
    report.Expect(out.GuardsIntact() && a.GuardsIntact() && w.GuardsIntact() && residual.GuardsIntact(),
                  "a guard band was written to", where);
    first = false;
  }
  cudaFree(expected);
  cudaFree(tolerance);
}

// Codes that the product makes of rows of bf16 give the bits of Norm or Quantize and a product.
void RunMade(const Case& test, bool norm, float clip, uint64_t seed, Report& report) {
  const std::string name =
      (norm ? "normed and coded " : "coded ") + Describe("s8", test) + " clip " + std::to_string(clip);
  const char* where = name.c_str();
  const int rows_w = test.gated ? 2 * test.n : test.n;
  const int64_t lda = test.k + 2 * test.pad, ldd = (test.n + 7) / 8 * 8 + test.pad;
  GuardedBuffer<Bf16> x(test.m * lda), residual(test.m * ldd), d(test.m * ldd), again(test.m * ldd);
  GuardedBuffer<int8_t> codes(test.m * lda), w(rows_w * lda);
  GuardedBuffer<float> scale(test.m), w_scale(rows_w), bias(rows_w), gamma(test.k), beta(test.k);
  Fill(x, seed + 1, 3.0f);
  Fill(w, seed + 2, test.magnitude);
  Fill(w_scale, seed + 3, 0.01f / std::sqrt(static_cast<float>(test.k)));
  Fill(bias, seed + 4, 1.0f);
  Fill(residual, seed + 5, 2.0f);
  Fill(gamma, seed + 6, 2.0f);
  Fill(beta, seed + 7, 1.0f);
  // Rows with what is special: zeros, a NaN, an infinity at the end, ties at a factor of 1.
  std::vector<Bf16> host = x.Read();
  for (int row = 0; row < test.m; ++row) {
    Bf16* at = host.data() + row * lda;
    if (row % 6 == 1) std::fill_n(at, test.k, static_cast<Bf16>(0.0f));
    if (row % 6 == 2) at[test.k / 2] = static_cast<Bf16>(NAN);
    if (row % 6 == 3) at[test.k - 1] = static_cast<Bf16>(-INFINITY);
    if (row % 6 == 4) {
      for (int i = 0; i < test.k; ++i) at[i] = static_cast<Bf16>(static_cast<float>(i % 128) * 0.5f);
      at[test.k - 1] = static_cast<Bf16>(-127.0f);
    }
  }
  FF_CUDA_OK(cudaMemcpy(x.data(), host.data(), host.size() * sizeof(Bf16), cudaMemcpyHostToDevice));
  NormArgs norm_args;
  norm_args.x = x.data();
  norm_args.gamma = gamma.data();
  norm_args.rms = test.m % 2 == 0;
  norm_args.beta = norm_args.rms ? nullptr : beta.data();
  norm_args.rows = test.m;
  norm_args.columns = test.k;
  norm_args.ld = norm_args.ld_codes = lda;
  norm_args.epsilon = 1e-5f;
  norm_args.codes = codes.data();
  norm_args.scale = scale.data();
  norm_args.clip = clip;
  norm_args.dtype = Dtype::kBf16;
  QuantizeArgs quantize;
  quantize.x = x.data();
  quantize.codes = codes.data();
  quantize.scale = scale.data();
  quantize.rows = test.m;
  quantize.columns = test.k;
  quantize.ldx = quantize.ld_codes = lda;
  quantize.clip = clip;
  quantize.dtype = Dtype::kBf16;
  FF_CUDA_OK(norm ? Norm(norm_args, nullptr) : Quantize(quantize, nullptr));

  GemmArgs args = ArgsOf(test, Dtype::kS8, lda, ldd, bias.data(), residual.data());
  args.w = w.data();
  args.a = codes.data();
  args.a_scale = scale.data();
  args.w_scale = w_scale.data();
  d.Poison();
  args.d = d.data();
  FF_CUDA_OK(GemmRowsSm90(args, {}, nullptr));
  args.a = x.data();
  args.a_scale = nullptr;
  args.quantize = true;
  args.clip = clip;
  if (norm) args.norm = {norm_args.gamma, norm_args.beta, norm_args.epsilon, norm_args.rms};
  args.d = again.data();
  int taken = 0;
  for (int split : {0, 1, 2, 4, 8}) {
    again.Poison();
    const cudaError_t error = GemmRowsSm90(args, {split}, nullptr);
    if (error == cudaErrorNotSupported && split != 0) continue;
    ++taken;
    report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    report.Expect(SameBytes(d.data(), again.data(), d.size() * sizeof(Bf16)),
                  "bits are not those of codes made ahead of the product", where);
    report.Expect(again.GuardsIntact() && x.GuardsIntact(), "a guard band was written to", where);
  }
  report.Expect(taken > 1, "no split is taken", where);
  report.Expect(GemmSkinny(args, nullptr) == cudaErrorNotSupported &&
                    GemmSm90(args, {}, nullptr) == cudaErrorNotSupported &&
                    GemmPortable(args, nullptr) == cudaErrorNotSupported,
                "a kernel that makes no codes takes floats", where);
  args.m = kMostNormedRows + 1;
  report.Expect(GemmRowsSm90(args, {}, nullptr) == cudaErrorNotSupported, "too many rows are taken", where);
  if (!norm && test.k == kMostCodedColumns) {  // of the rows' 16 columns more, were they there, nothing is read
    args.m = 2;
    args.k = args.lda = args.ldw = kMostCodedColumns + 16;
    report.Expect(GemmRowsSm90(args, {}, nullptr) == cudaErrorNotSupported, "rows that are too long are taken", where);
    args.k = test.k;
    args.lda = args.ldw = lda;
  }
  args.m = test.m;
  args.clip = 0;
  report.Expect(GemmRowsSm90(args, {}, nullptr) == cudaErrorInvalidValue, "a clip of 0 is accepted", where);
}

void TestMade(Report& report) {
  using enum Activation;
  uint64_t seed = 190000;
  for (float clip : {INFINITY, 1.5f}) {
    for (int k : {16, 144, 768, 1600, kMostNormedColumns}) {
      for (int m : {1, 2, 5, kMostNormedRows}) {
        for (bool gated : {false, true}) {
          const Case test = {.m = m,
                             .n = m % 2 == 0 ? 327 : 63,
                             .k = k,
                             .activation = gated ? kSilu : kNone,
                             .bias = true,
                             .residual = !gated && m == 5,
                             .gated = gated,
                             .pad = 8};
          RunMade(test, /*norm=*/true, clip, seed += 10, report);
        }
      }
    }
    for (int m : {1, 2, 5, 7, kMostNormedRows}) {
      for (int k : {16, 144, 384, 768, 1536, 3072}) {
        RunMade({.m = m, .n = k == 384 ? 1 : 327, .k = k, .bias = true, .residual = k != 144, .pad = 8}, false, clip,
                seed += 10, report);
      }
    }
    RunMade({.m = 1, .n = 200, .k = 6400, .activation = kGeluTanh}, false, clip, seed += 10, report);
    RunMade({.m = 1, .n = 2048, .k = 8192, .residual = true, .magnitude = 1e9f}, false, clip, seed += 10, report);
  }
}

}  // namespace

void TestGemmS8(Report& report) {
  if (report.hopper) TestMade(report);
  using enum Activation;
  uint64_t seed = 90000;
  const auto run_with = [&](const Case& test, const std::vector<Kernel>& kernels) {
    seed += 10;
    if (test.f32_output) {
      Run<float>(test, seed, kernels, report);
    } else {
      Run<Bf16>(test, seed, kernels, report);
    }
  };
  std::vector<Kernel> many = {[](const GemmArgs& args) { return GemmPortable(args, nullptr); },
                              [](const GemmArgs& args) { return Gemm(args, nullptr); }};
  for (int tile_n : {0, 128, 192}) {
    if (!report.hopper) break;
    many.push_back([=](const GemmArgs& args) { return GemmSm90(args, {tile_n}, nullptr); });
  }
  for (int m : {1, 7, 63, 65, 127, 128, 129, 255, 1023}) {
    for (int n : {8, 64, 120, 200, 1000}) run_with({.m = m, .n = n, .k = 144, .bias = true}, many);
  }
  for (int k : {16, 112, 128, 144, 272, 640, 1024, 3072}) run_with({.m = 130, .n = 328, .k = k, .pad = 8}, many);
  run_with({.m = 130, .n = 328, .k = 16384, .magnitude = 1e9f}, many);  // all codes +-127
  for (int m : {1, 100, 1023, 4200}) {
    for (Activation activation : {kNone, kGeluTanh, kGeluErf}) {
      run_with({.m = m, .n = 776, .k = 384, .activation = activation, .bias = true, .pad = 16}, many);
    }
    run_with({.m = m, .n = 776, .k = 384, .bias = true, .residual = true, .pad = 16}, many);
    run_with({.m = m, .n = 776, .k = 384, .residual = true}, many);
    run_with({.m = m, .n = 776, .k = 384, .bias = true, .f32_output = true, .pad = 8}, many);
    run_with({.m = m, .n = 776, .k = 384, .f32_output = true}, many);
    run_with({.m = m, .n = 776, .k = 384, .activation = kSilu, .gated = true}, many);
    run_with({.m = m, .n = 1536, .k = 576, .activation = kSilu, .bias = true, .gated = true, .pad = 8}, many);
  }
  // One block of k a tile, several tiles a warpgroup.
  run_with({.m = 8200, .n = 1000, .k = 16, .activation = kGeluErf, .bias = true}, many);
  run_with({.m = 8200, .n = 1000, .k = 16, .residual = true}, many);
  run_with({.m = 8200, .n = 1000, .k = 16, .f32_output = true}, many);
  run_with({.m = 2048, .n = 3072, .k = 768, .activation = kGeluTanh, .bias = true}, many);

  // The kernels for few rows: sums are exact, so all of them give the same bits.
  for (int m : {1, 7, 8, 9, 16, 17, 33, 63, 64}) {
    std::vector<Kernel> exact = {[](const GemmArgs& args) { return GemmSkinny(args, nullptr); }};
    for (int split : {0, 1, 2, 4, 8}) {
      if (!report.hopper) break;
      for (int tile_rows : {64, 128}) {
        if (tile_rows == 128 && split > 1) continue;
        exact.push_back([=](const GemmArgs& args) { return GemmRowsSm90(args, {split, tile_rows}, nullptr); });
      }
    }
    for (int n : {1, 63, 65, 1000}) {
      for (int k : {16, 144, 768}) run_with({.m = m, .n = n, .k = k, .bias = n != 65, .pad = n == 63 ? 8 : 0}, exact);
    }
    run_with({.m = m, .n = 775, .k = 3088, .bias = true, .residual = true}, exact);
    run_with({.m = m, .n = 775, .k = 3088, .bias = true, .residual = true, .f32_output = true}, exact);
    run_with({.m = m, .n = 775, .k = 1024, .activation = kGeluTanh, .bias = true, .residual = true}, exact);
    if (m <= 32) run_with({.m = m, .n = 575, .k = 576, .activation = kSilu, .bias = true, .gated = true}, exact);
  }
}

}  // namespace flashflow::cuda::testing
