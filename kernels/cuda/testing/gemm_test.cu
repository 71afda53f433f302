// The GEMM kernels against a float64 product on the device.
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/exact_activation.cuh"
#include "kernels/cuda/testing/gemm_case.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

template <class Element>
struct Operands {
  const Element *a, *w, *residual;
  const float* bias;
  int m, n, k;
  int64_t lda, ldw, ld_residual, ldd;
  Activation activation;
  bool gated, f32_output;
};

// An f32 sum of k products, in steps of 16 that may truncate, or of one that rounds, against the exact one.
template <class Element>
__device__ double SumError(int k, double absolute) {
  return (sizeof(Element) == 4 ? (k + 1) * 0x1p-24 : (k / 16 + 16) * 0x1p-23) * absolute;
}

// One thread an element of d, the padding between rows included (tolerance -1: must not be written).
template <class Element>
__global__ void OracleKernel(Operands<Element> p, double* expected, double* tolerance) {
  const int64_t index = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (index >= p.m * p.ldd) return;
  const int64_t i = index / p.ldd, j = index % p.ldd;
  if (j >= p.n) {
    tolerance[index] = -1;
    return;
  }
  double sum[2] = {0, 0}, absolute[2] = {0, 0};
  for (int part = 0; part < (p.gated ? 2 : 1); ++part) {
    const Element* a = p.a + i * p.lda;
    const Element* w = p.w + (part * int64_t{p.n} + j) * p.ldw;
    for (int k = 0; k < p.k; ++k) {
      const double product =
          static_cast<double>(static_cast<float>(a[k])) * static_cast<double>(static_cast<float>(w[k]));
      sum[part] += product;
      absolute[part] += fabs(product);
    }
    if (p.bias != nullptr) {
      const double bias = p.bias[part * p.n + j];
      sum[part] += bias;
      absolute[part] += fabs(bias);
    }
  }
  // The activations' slopes are at most 1.13; their approximations are good to 2^-19 of |x|.
  double value = ActivateExactly(p.activation, sum[0]);
  double error = 1.13 * SumError<Element>(p.k, absolute[0]);
  if (p.activation != Activation::kNone) error += 0x1p-19 * fabs(sum[0]);
  if (p.gated) {
    error = error * fabs(sum[1]) + SumError<Element>(p.k, absolute[1]) * (fabs(value) + error);
    value *= sum[1];
  }
  if (p.residual != nullptr) value += static_cast<float>(p.residual[i * p.ld_residual + j]);
  expected[index] = value;
  // Rounded to nearest: half a unit in the last place.
  const bool f16_output = !p.f32_output && std::is_same_v<Element, __half>;
  tolerance[index] = (p.f32_output ? 0x1p-24 : kHalfUnit<Element>)*fabs(value) + 2 * error +
                     (f16_output ? 0x1p-25 : 1e-30);  // half a unit of subnormals
}

using Case = GemmCase;
using Kernel = GemmKernel;

// Runs each of `kernels`: the first must be right, and the others must give its bits.
template <class Element, class Output>
void Run(const Case& test, uint64_t seed, const std::vector<Kernel>& kernels, Report& report) {
  const std::string name = Describe(sizeof(Element) == 4              ? "f32"
                                    : std::is_same_v<Element, __half> ? "f16"
                                                                      : "bf16",
                                    test);
  const char* where = name.c_str();
  const int rows_w = test.gated ? 2 * test.n : test.n;
  const auto pitch = [&](int columns) { return (columns + 7) / 8 * 8 + test.pad; };
  const int64_t lda = pitch(test.k), ldd = pitch(test.n);
  GuardedBuffer<Element> a(test.m * lda), w(rows_w * lda), residual(test.m * ldd);
  GuardedBuffer<float> bias(rows_w);
  GuardedBuffer<Output> d(test.m * ldd), again(test.m * ldd);
  Fill(a, seed + 1, 1.0f);
  Fill(w, seed + 2, 4.0f / std::sqrt(static_cast<float>(test.k)));
  Fill(bias, seed + 3, 1.0f);
  Fill(residual, seed + 4, 2.0f);

  GemmArgs args = ArgsOf(test, kDtype<Element>, lda, ldd, bias.data(), residual.data());
  args.a = a.data();
  args.w = w.data();

  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, d.size() * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, d.size() * sizeof(double)));
  const Operands<Element> operands = {a.data(),
                                      w.data(),
                                      static_cast<const Element*>(args.residual),
                                      args.bias,
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
      ExpectNear(out, expected, tolerance, ldd, where, report);
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
  if constexpr (std::is_same_v<Output, Element>) {
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

// Every epilogue, and the sizes at the edges of tiles, for `run(case)`.
template <class Element>
void TestElement(Report& report, uint64_t seed) {
  using enum Activation;
  const auto run = [&](const Case& test) {
    seed += 10;
    std::vector<Kernel> kernels;
    for (int tile_n : {0, 64, 128, 160, 192}) {
      if (tile_n == 160 && (test.gated || kDtype<Element> != Dtype::kBf16)) continue;
      kernels.push_back([=](const GemmArgs& args) { return GemmSm90(args, {tile_n}, nullptr); });
    }
    if (test.f32_output) {
      Run<Element, float>(test, seed, kernels, report);
    } else {
      Run<Element, Element>(test, seed, kernels, report);
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
}

template <class Element>
void TestElementSkinny(Report& report, uint64_t seed) {
  using enum Activation;
  const auto run = [&](const Case& test) {
    seed += 10;
    const Kernel kernel = [](const GemmArgs& args) { return GemmSkinny(args, nullptr); };
    if (test.f32_output) {
      Run<Element, float>(test, seed, {kernel, kernel}, report);
    } else {
      Run<Element, Element>(test, seed, {kernel, kernel}, report);
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
}

// Each number of slices of k has its own order of sums; its bits do not depend on the rows of w a tile.
template <class Element>
void TestElementRows(Report& report, uint64_t seed) {
  using enum Activation;
  const auto run = [&](const Case& test) {
    for (int split : {0, 1, 2, 4, 8}) {
      seed += 10;
      std::vector<Kernel> kernels;
      for (int tile_rows : {0, 64, 128}) {
        if (tile_rows == 128 && split != 1) continue;
        kernels.push_back([=](const GemmArgs& args) { return GemmRowsSm90(args, {split, tile_rows}, nullptr); });
      }
      if (test.f32_output) {
        Run<Element, float>(test, seed, kernels, report);
      } else {
        Run<Element, Element>(test, seed, kernels, report);
      }
    }
  };
  for (int m : {1, 7, 8, 9, 16, 17, 33, 63, 64}) {
    for (int n : {1, 63, 65, 127, 1000}) run({.m = m, .n = n, .k = 1032, .bias = n != 65, .pad = n == 63 ? 8 : 0});
    // Fewer blocks of k than slices, one, and more than a ring holds.
    for (int k : {8, 72, 200, 6400}) run({.m = m, .n = 320, .k = k, .bias = true, .residual = true});
    for (Activation activation : {kGeluTanh, kGeluErf, kSilu}) {
      run({.m = m, .n = 775, .k = 768, .activation = activation, .bias = true, .residual = m % 2 == 0});
    }
    run({.m = m, .n = 775, .k = 768, .bias = true, .residual = true, .f32_output = false, .pad = 8});
    run({.m = m, .n = 17001, .k = 136, .f32_output = true});
    for (int n : {1, 31, 33, 575}) {
      run({.m = m, .n = n, .k = 1032, .activation = kSilu, .bias = n != 33, .residual = n == 31, .gated = true});
    }
  }
  for (int m : {65, 127, 128, 200, 1023}) {
    run({.m = m, .n = 575, .k = 576, .activation = kSilu, .bias = m % 2 == 0, .gated = true, .pad = 8});
    for (int n : {1, 65, 1000}) run({.m = m, .n = n, .k = 1032, .bias = true, .residual = n == 65, .pad = 8});
    run({.m = m, .n = 775, .k = 768, .activation = kGeluTanh, .bias = true, .f32_output = m % 2 == 0});
  }
}

// Rows that the product normalizes give the bits of Norm and a product.
template <class Element>
void TestElementNormed(Report& report, uint64_t seed) {
  for (int k : {8, 72, 768, 1600, kMostNormedColumns}) {
    for (int m : {1, 2, 5, kMostNormedRows}) {
      for (int variant = 0; variant < 8; ++variant) {
        seed += 10;
        const GemmCase test = {.m = m,
                               .n = variant < 4 ? 327 : 63,
                               .k = k,
                               .activation = variant % 3 == 0 ? Activation::kSilu : Activation::kNone,
                               .bias = true,
                               .residual = variant % 4 == 3,
                               .gated = variant % 2 == 1,
                               .pad = 8};
        const std::string name = "normed " + Describe(std::is_same_v<Element, __half> ? "f16" : "bf16", test);
        const char* where = name.c_str();
        const int rows_w = test.gated ? 2 * test.n : test.n;
        const int64_t lda = k + test.pad, ldd = (test.n + 7) / 8 * 8 + test.pad;
        GuardedBuffer<Element> a(m * lda), normed(m * lda), w(rows_w * lda), residual(m * ldd), d(m * ldd),
            again(m * ldd);
        GuardedBuffer<float> bias(rows_w), gamma(k), beta(k);
        Fill(a, seed + 1, 2.0f);
        Fill(w, seed + 2, 4.0f / std::sqrt(static_cast<float>(k)));
        Fill(bias, seed + 3, 1.0f);
        Fill(residual, seed + 4, 2.0f);
        Fill(gamma, seed + 5, 2.0f);
        Fill(beta, seed + 6, 1.0f);
        NormArgs norm;
        norm.x = a.data();
        norm.y = normed.data();
        norm.gamma = gamma.data();
        norm.rms = variant % 2 == 0;
        norm.beta = norm.rms || variant == 1 ? nullptr : beta.data();
        norm.rows = m;
        norm.columns = k;
        norm.ld = lda;
        norm.epsilon = 1e-5f;
        norm.dtype = kDtype<Element>;
        FF_CUDA_OK(Norm(norm, nullptr));
        GemmArgs args = ArgsOf(test, kDtype<Element>, lda, ldd, bias.data(), residual.data());
        args.w = w.data();
        for (int split : {0, 1, 2, 4, 8}) {
          d.Poison();
          again.Poison();
          args.norm = {};
          args.a = normed.data();
          args.d = d.data();
          FF_CUDA_OK(GemmRowsSm90(args, {split}, nullptr));
          args.norm = {norm.gamma, norm.beta, norm.epsilon, norm.rms};
          args.a = a.data();
          args.d = again.data();
          FF_CUDA_OK(GemmRowsSm90(args, {split}, nullptr));
          report.Expect(SameBytes(d.data(), again.data(), d.size() * sizeof(Element)),
                        "bits are not those of Norm and a product", where);
          report.Expect(again.GuardsIntact() && a.GuardsIntact(), "a guard band was written to", where);
        }
        FF_CUDA_OK(Gemm(args, nullptr));
        args.m = kMostNormedRows + 1;
        report.Expect(GemmRowsSm90(args, {}, nullptr) == cudaErrorNotSupported, "too many rows are taken", where);
        args.m = 1;
        report.Expect(GemmSkinny(args, nullptr) == cudaErrorNotSupported &&
                          GemmSm90(args, {}, nullptr) == cudaErrorNotSupported &&
                          GemmPortable(args, nullptr) == cudaErrorNotSupported,
                      "a kernel without a norm takes one", where);
      }
    }
  }
}

// Chained sums of f32, whose every step rounds, have k of them.
template <class Element>
void TestElementPortable(Report& report, uint64_t seed) {
  using enum Activation;
  const auto run = [&](const Case& test) {
    seed += 10;
    const Kernel kernel = [](const GemmArgs& args) { return GemmPortable(args, nullptr); };
    if (test.f32_output) {
      Run<Element, float>(test, seed, {kernel, kernel}, report);
    } else {
      Run<Element, Element>(test, seed, {kernel, kernel}, report);
    }
  };
  for (int m : {1, 7, 63, 65, 127, 129, 1023}) {
    for (int n : {1, 63, 65, 127, 1000}) run({.m = m, .n = n, .k = 72, .bias = n != 65, .pad = n == 63 ? 8 : 0});
    for (Activation activation : {kNone, kGeluTanh, kGeluErf, kSilu}) {
      run({.m = m, .n = 200, .k = 520, .activation = activation, .bias = true, .residual = true});
      run({.m = m, .n = 135, .k = 200, .activation = activation, .bias = true, .residual = true, .gated = true});
    }
    for (int k : {8, 136, 1032}) run({.m = m, .n = 130, .k = k, .f32_output = true});
  }
}

}  // namespace

void TestGemmPortable(Report& report) {
  TestElementPortable<Bf16>(report, 40000);
  TestElementPortable<__half>(report, 50000);
  TestElementPortable<float>(report, 60000);
  GemmArgs bad;
  report.Expect(GemmPortable(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "portable gemm");

  // What is chosen by itself, by the shapes at which the choice changes.
  using enum Activation;
  const Kernel chosen = [](const GemmArgs& args) { return Gemm(args, nullptr); };
  for (int m : {2, 8, 9, 64, 65, 200}) {
    Run<float, float>({.m = m, .n = 200, .k = 72, .activation = kSilu, .gated = true}, 70000 + m, {chosen}, report);
  }
  for (bool gated : {false, true}) {
    Run<Bf16, Bf16>({.m = 1, .n = 200, .k = 72, .activation = kSilu, .gated = gated}, 71000, {chosen}, report);
  }
}

void TestGemm(Report& report) {
  TestElement<Bf16>(report, 1000);
  TestElement<__half>(report, 2000);
  GemmArgs bad;
  report.Expect(GemmSm90(bad, {}, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "gemm");
}

void TestGemmRows(Report& report) {
  TestElementRows<Bf16>(report, 8000);
  TestElementRows<__half>(report, 20000);
  TestElementNormed<Bf16>(report, 80000);
  TestElementNormed<__half>(report, 90000);
  GemmArgs bad;
  report.Expect(GemmRowsSm90(bad, {}, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "gemm rows");
}

void TestGemmSkinny(Report& report) {
  TestElementSkinny<Bf16>(report, 3000);
  TestElementSkinny<__half>(report, 6000);
  GemmArgs bad;
  report.Expect(GemmSkinny(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "skinny gemm");
}

}  // namespace flashflow::cuda::testing
