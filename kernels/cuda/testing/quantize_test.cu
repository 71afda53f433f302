// Codes and scales against the same arithmetic on the CPU, bit by bit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/cuda/quantize.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

template <class T>
void Run(int rows, int columns, int pad, float magnitude, float clip, Report& report) {
  char where[160];
  std::snprintf(where, sizeof(where), "quantize %zu-byte rows %d columns %d pad %d magnitude %g clip %g", sizeof(T),
                rows, columns, pad, magnitude, clip);
  const int64_t ld = columns + pad;
  GuardedBuffer<T> x(rows * ld);
  GuardedBuffer<int8_t> codes(rows * ld);
  GuardedBuffer<float> scale(rows);
  Fill(x, 31 * columns + rows, magnitude);
  // Rows with what is special: zeros, the least, a NaN, an infinity, ties.
  std::vector<T> host = x.Read();
  for (int row = 0; row < rows; ++row) {
    T* at = host.data() + row * ld;
    switch (row % 7) {
      case 1:
        std::fill_n(at, columns, static_cast<T>(0.0f));
        break;
      case 2:
        at[columns / 2] = static_cast<T>(NAN);
        break;
      case 3:
        at[columns - 1] = static_cast<T>(-INFINITY);
        break;
      case 4:  // r is 1: multiples of a half are ties
        for (int i = 0; i < columns; ++i) at[i] = static_cast<T>(static_cast<float>(i % 128) * 0.5f);
        at[columns - 1] = static_cast<T>(-127.0f);
        break;
      case 5:
        std::fill_n(at, columns, static_cast<T>(0x1p-120f));
        break;
      default:
        break;
    }
  }
  FF_CUDA_OK(cudaMemcpy(x.data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  QuantizeArgs args;
  args.x = x.data();
  args.codes = codes.data();
  args.scale = scale.data();
  args.rows = rows;
  args.columns = columns;
  args.ldx = args.ld_codes = ld;
  args.clip = clip;
  args.dtype = std::is_same_v<T, float> ? Dtype::kF32 : std::is_same_v<T, __nv_bfloat16> ? Dtype::kBf16 : Dtype::kF16;
  report.Expect(Quantize(args, nullptr) == cudaSuccess, "refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const std::vector<int8_t> got = codes.Read();
  const std::vector<float> got_scale = scale.Read();
  int bad_codes = 0, bad_scales = 0, bad_padding = 0;
  for (int row = 0; row < rows; ++row) {
    const T* at = host.data() + row * ld;
    float most = 0;
    bool finite = true;
    for (int i = 0; i < columns; ++i) {
      finite = finite && std::isfinite(static_cast<float>(at[i]));
      most = std::max(most, std::abs(static_cast<float>(at[i])));
    }
    const float a = std::min(most, clip);
    const bool zero = !finite || a < 0x1p-100f;
    const float r = zero ? 0 : 127.0f / a;
    const float expected_scale = !finite ? NAN : zero ? 0 : a / 127.0f;
    if (finite ? std::memcmp(&got_scale[row], &expected_scale, 4) != 0 : !std::isnan(got_scale[row])) ++bad_scales;
    for (int i = 0; i < columns; ++i) {
      const float product = zero ? 0 : static_cast<float>(at[i]) * r;
      const float code = std::clamp(std::nearbyint(product), -127.0f, 127.0f);
      if (got[row * ld + i] != static_cast<int8_t>(code)) ++bad_codes;
    }
    for (int i = columns; i < ld; ++i) bad_padding += got[row * ld + i] != -1;
  }
  report.Expect(bad_codes == 0, "codes differ", where);
  report.Expect(bad_scales == 0, "scales differ", where);
  report.Expect(bad_padding == 0 && codes.GuardsIntact() && scale.GuardsIntact() && x.GuardsIntact(),
                "written outside the rows", where);
}

}  // namespace

void TestQuantize(Report& report) {
  for (int columns : {8, 24, 64, 248, 256, 520, 768, 1024, 1600, 2048, 3072, 4096, 6400, 8192, 16384, 32768}) {
    for (int rows : {1, 7, 129}) {
      for (float clip : {INFINITY, 2.0f}) {
        Run<__nv_bfloat16>(rows, columns, 0, 3.0f, clip, report);
        Run<__half>(rows, columns, 8, 3.0f, clip, report);
        Run<float>(rows, columns, 8, 3.0f, clip, report);
      }
      Run<float>(rows, columns, 0, 1e30f, INFINITY, report);
    }
  }
  QuantizeArgs bad;
  report.Expect(Quantize(bad, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "quantize");
}

}  // namespace flashflow::cuda::testing
