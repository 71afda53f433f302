// The softmax against float64 on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <type_traits>

#include "kernels/cuda/softmax.h"
#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

// One block a row; the padding between rows gets the tolerance -1: it must not be written.
template <class T>
__global__ void OracleKernel(SoftmaxArgs p, double* y, double* tolerance) {
  __shared__ double reduced[256];
  const auto* x = static_cast<const T*>(p.x) + blockIdx.x * p.ldx;
  double maximum = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < p.columns; i += 256)
    maximum = fmax(maximum, static_cast<double>(static_cast<float>(x[i])) * p.scale);
  reduced[threadIdx.x] = maximum;
  __syncthreads();
  for (int i = 0; i < 256; ++i) maximum = fmax(maximum, reduced[i]);
  __syncthreads();
  for (int i = threadIdx.x; i < p.columns; i += 256)
    sum += exp(static_cast<double>(static_cast<float>(x[i])) * p.scale - maximum);
  reduced[threadIdx.x] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < 256; ++i) sum += reduced[i];
  for (int i = threadIdx.x; i < p.ldy; i += 256) {
    const int64_t index = blockIdx.x * p.ldy + i;
    if (i >= p.columns) {
      tolerance[index] = -1;
      continue;
    }
    const double t = static_cast<double>(static_cast<float>(x[i])) * p.scale;
    y[index] = exp(t - maximum) / sum;
    // The exponent is off by a few ulp of its terms; sums are trees over at most 512 serial terms; underflow to zero
    // below the least normal float.
    const double relative = 4 * 0x1p-23 * (fabs(t) + fabs(maximum) + 1) + 600 * 0x1p-24;
    tolerance[index] = y[index] * (kHalfUnit<T> + relative) + (std::is_same_v<T, __half> ? 0x1p-25 : 0x1p-125);
  }
}

template <class T>
void Run(int rows, int columns, int pad, int misalign, float magnitude, float scale, Report& report) {
  char where[160];
  std::snprintf(where, sizeof(where), "softmax of %zu bytes, rows %d columns %d pad %d misalign %d magnitude %g",
                sizeof(T), rows, columns, pad, misalign, magnitude);
  const int64_t ld = columns + pad;
  GuardedBuffer<T> x(rows * ld, misalign), y(rows * ld, misalign), again(rows * ld, misalign);
  Fill(x, 7 * columns + rows, magnitude);
  SoftmaxArgs args;
  args.x = x.data();
  args.y = y.data();
  args.rows = rows;
  args.columns = columns;
  args.ldx = args.ldy = ld;
  args.scale = scale;
  args.dtype = kDtype<T>;
  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, rows * ld * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, rows * ld * sizeof(double)));
  OracleKernel<T><<<rows, 256>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());
  report.Expect(Softmax(args, nullptr) == cudaSuccess, "refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(y.data(), expected, tolerance, rows * ld);
  char what[120];
  std::snprintf(what, sizeof(what), "%llu elements outside the tolerance, first %lld, worst ratio %g", mismatch.bad,
                static_cast<long long>(mismatch.first), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);
  report.Expect(x.GuardsIntact() && y.GuardsIntact(), "a guard band was written to", where);

  // The last row alone, in place.
  FF_CUDA_OK(cudaMemcpy(again.data(), x.data(), rows * ld * sizeof(T), cudaMemcpyDeviceToDevice));
  const int64_t skip = (rows - 1) * ld;
  args.rows = 1;
  args.x = args.y = again.data() + skip;
  report.Expect(Softmax(args, nullptr) == cudaSuccess, "one row is refused", where);
  report.Expect(SameBytes(again.data() + skip, y.data() + skip, columns * sizeof(T)), "bits depend on other rows",
                where);
  cudaFree(expected);
  cudaFree(tolerance);
}

}  // namespace

void TestSoftmax(Report& report) {
  for (int columns : {1, 7, 8, 63, 65, 127, 256, 512, 1000, 1023, 1024, 1032, 2048, 4096, 8192, 8200, 50257, 262144}) {
    for (int rows : {1, 5, 130}) {
      if (rows * int64_t{columns} > 8 << 20) continue;
      Run<Bf16>(rows, columns, 0, 0, 4.0f, 1.0f, report);
      Run<Bf16>(rows, columns, 8, 0, 40.0f, 0.5f, report);
      Run<Bf16>(rows, columns, 3, 1, 200.0f, 1.0f, report);
      Run<__half>(rows, columns, 3, 1, 20.0f, 1.0f, report);
      Run<float>(rows, columns, 3, 1, 20.0f, 1.0f, report);
      Run<float>(rows, columns, 8, 0, 20.0f, 1.0f, report);
    }
  }
  // Several rows a multiprocessor, each of another alignment.
  for (int columns : {9001, 20011}) {
    Run<Bf16>(400, columns, 0, 0, 20.0f, 1.0f, report);
    Run<__half>(400, columns, 2, 3, 20.0f, 1.0f, report);
    Run<float>(400, columns, 0, 0, 20.0f, 1.0f, report);
  }
  SoftmaxArgs bad;
  report.Expect(Softmax(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "softmax");
}

}  // namespace flashflow::cuda::testing
