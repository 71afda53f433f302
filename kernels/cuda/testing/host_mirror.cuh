// Tensors in the device's memory and the same on the host, for kernels that are compared with functions of the host.
#ifndef KERNELS_CUDA_TESTING_HOST_MIRROR_CUH_
#define KERNELS_CUDA_TESTING_HOST_MIRROR_CUH_

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {

// The same numbers for the same seed: uniform in (-1, 1).
class HostRandom {
 public:
  explicit HostRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  double Uniform() { return static_cast<double>(static_cast<int64_t>(Bits())) * 0x1p-63; }
  int64_t Below(int64_t end) { return static_cast<int64_t>(Bits() % static_cast<uint64_t>(end)); }

 private:
  uint64_t Bits() {
    state_ += 0x9e3779b97f4a7c15ull;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  uint64_t state_;
};

// An operand: `host` is what `device` holds.
template <class T>
struct Input {
  explicit Input(std::vector<T> values, int64_t misalign = 0)
      : host(std::move(values)), device(static_cast<int64_t>(host.size()), misalign) {
    FF_CUDA_OK(cudaMemcpy(device.data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> host;
  GuardedBuffer<T> device;
};

template <class T>
Input<T> RandomInput(int64_t count, uint64_t seed, double scale = 1, int64_t misalign = 0) {
  HostRandom random(seed);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = static_cast<T>(static_cast<float>(random.Uniform() * scale));
  return Input<T>(std::move(values), misalign);
}

// A result: poisoned on the device, and zeros on the host.
template <class T>
struct Output {
  explicit Output(int64_t count, int64_t misalign = 0) : host(static_cast<size_t>(count)), device(count, misalign) {
    std::memset(static_cast<void*>(host.data()), 0, host.size() * sizeof(T));
  }
  std::vector<T> host;
  GuardedBuffer<T> device;
};

// The distance from |x| to the next larger number of T, at least that of the least normal number.
template <class T>
double Ulp(double x) {
  constexpr int kDigits = std::is_same_v<T, __nv_bfloat16> ? 8 : std::is_same_v<T, __half> ? 11 : 24;
  constexpr int kLeast = std::is_same_v<T, __half> ? -14 : -126;
  const int exponent = x == 0 || !std::isfinite(x) ? kLeast : std::max(std::ilogb(x), kLeast);
  return std::ldexp(1.0, exponent - kDigits + 1);
}

// Whether the device wrote what the host did, bit for bit (any NaN for NaN), and nothing beside it.
// tolerance: of floats, what element i may be off by; null for nothing.
template <class T>
void ExpectSame(const Output<T>& y, const std::function<double(int64_t)>& tolerance, const std::string& where,
                Report& report) {
  FF_CUDA_OK(cudaDeviceSynchronize());
  const std::vector<T> got = y.device.Read();
  int64_t bad = 0, first = -1;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    bool same = std::memcmp(&got[i], &y.host[i], sizeof(T)) == 0;
    if constexpr (!std::is_integral_v<T>) {
      const double a = static_cast<float>(got[i]), b = static_cast<float>(y.host[i]);
      if (std::isnan(b)) {
        same = std::isnan(a);
      } else if (tolerance != nullptr && std::isfinite(b)) {
        const double error = std::fabs(a - b), allowed = tolerance(static_cast<int64_t>(i));
        same = error <= allowed;
        if (error > 0) worst = std::max(worst, error / allowed);
      }
    }
    if (!same) {
      if (first < 0) first = static_cast<int64_t>(i);
      ++bad;
    }
  }
  char what[200] = "";
  if (bad > 0) {
    std::snprintf(what, sizeof(what), "%lld of %zu elements differ, first %lld, worst ratio %g",
                  static_cast<long long>(bad), got.size(), static_cast<long long>(first), worst);
    if constexpr (!std::is_integral_v<T>) {
      const size_t length = std::strlen(what);
      std::snprintf(what + length, sizeof(what) - length, ": got %.9g, expected %.9g",
                    static_cast<double>(static_cast<float>(got[static_cast<size_t>(first)])),
                    static_cast<double>(static_cast<float>(y.host[static_cast<size_t>(first)])));
    }
  }
  report.Expect(bad == 0, what, where.c_str());
  report.Expect(y.device.GuardsIntact(), "a guard band was written to", where.c_str());
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_MIRROR_CUH_
