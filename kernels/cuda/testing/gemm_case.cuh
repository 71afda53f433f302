// What the tests of products share: a product to check, and the arguments that it is called with.
#ifndef KERNELS_CUDA_TESTING_GEMM_CASE_CUH_
#define KERNELS_CUDA_TESTING_GEMM_CASE_CUH_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {

struct GemmCase {
  int m, n, k;
  Activation activation = Activation::kNone;
  bool bias = false, residual = false, gated = false, f32_output = false;
  int pad = 0;               // elements from the end of a row to the next
  float magnitude = 127.0f;  // of the codes, where there are any
};

using GemmKernel = std::function<cudaError_t(const GemmArgs&)>;

// Names the case in reports. type: of a and w.
inline std::string Describe(const char* type, const GemmCase& test) {
  char text[200];
  std::snprintf(text, sizeof(text), "gemm %s m %d n %d k %d act %d bias %d residual %d gated %d f32 %d pad %d", type,
                test.m, test.n, test.k, static_cast<int>(test.activation), test.bias, test.residual, test.gated,
                test.f32_output, test.pad);
  return text;
}

// The case's arguments; a, w, their scales and d are the caller's to set. bias and residual: those of a case that has
// them. lda: of a and w; ldd: of d and the residual.
inline GemmArgs ArgsOf(const GemmCase& test, Dtype dtype, int64_t lda, int64_t ldd, const float* bias,
                       const void* residual) {
  GemmArgs args;
  args.dtype = dtype;
  args.bias = test.bias ? bias : nullptr;
  args.residual = test.residual ? residual : nullptr;
  args.m = test.m;
  args.n = test.n;
  args.k = test.k;
  args.lda = args.ldw = lda;
  args.ldd = args.ld_residual = ldd;
  args.activation = test.activation;
  args.gated = test.gated;
  args.f32_output = test.f32_output;
  return args;
}

// Expects every element of d within its tolerance (see Compare).
template <class Output>
void ExpectNear(const GuardedBuffer<Output>& d, const double* expected, const double* tolerance, int64_t ldd,
                const char* where, Report& report) {
  const Mismatch mismatch = Compare(d.data(), expected, tolerance, d.size());
  char what[160];
  std::snprintf(what, sizeof(what), "%llu elements outside the tolerance, first at (%lld, %lld), worst ratio %g",
                mismatch.bad, static_cast<long long>(mismatch.first / ldd),
                static_cast<long long>(mismatch.first % ldd), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_GEMM_CASE_CUH_
