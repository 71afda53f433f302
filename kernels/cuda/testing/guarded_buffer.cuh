// Device memory for tests: poisoned, with guard bands on both sides that a check finds written to.
#ifndef KERNELS_CUDA_TESTING_GUARDED_BUFFER_CUH_
#define KERNELS_CUDA_TESTING_GUARDED_BUFFER_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace flashflow::cuda::testing {

// Ends the program: a test cannot go on after an error of the runtime.
#define FF_CUDA_OK(expression)                                                                       \
  do {                                                                                               \
    const cudaError_t ff_error = (expression);                                                       \
    if (ff_error != cudaSuccess) {                                                                   \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, cudaGetErrorString(ff_error)); \
      std::exit(1);                                                                                  \
    }                                                                                                \
  } while (false)

// `count` elements of T, `misalign` elements past a 256-byte boundary. All bytes are 0xff at first: NaN in bf16 and
// f32.
template <class T>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(int64_t count, int64_t misalign = 0) : count_(count), misalign_(misalign) {
    FF_CUDA_OK(cudaMalloc(&base_, Bytes()));
    FF_CUDA_OK(cudaMemset(base_, 0xff, Bytes()));
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  ~GuardedBuffer() { cudaFree(base_); }

  T* data() const { return reinterpret_cast<T*>(base_ + kGuardBytes) + misalign_; }
  int64_t size() const { return count_; }

  void Poison() { FF_CUDA_OK(cudaMemset(base_, 0xff, Bytes())); }
  std::vector<T> Read() const {
    std::vector<T> host(count_);
    FF_CUDA_OK(cudaMemcpy(host.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  // Whether the bytes on both sides are still poison.
  bool GuardsIntact() const {
    const int64_t front = kGuardBytes + misalign_ * sizeof(T);
    return AllPoison(base_, front) && AllPoison(base_ + front + count_ * sizeof(T), kGuardBytes);
  }

 private:
  static constexpr int64_t kGuardBytes = 4096;

  int64_t Bytes() const { return 2 * kGuardBytes + (count_ + misalign_) * sizeof(T); }
  static bool AllPoison(const uint8_t* device, int64_t bytes) {
    std::vector<uint8_t> host(bytes);
    FF_CUDA_OK(cudaMemcpy(host.data(), device, bytes, cudaMemcpyDeviceToHost));
    for (uint8_t byte : host) {
      if (byte != 0xff) return false;
    }
    return true;
  }

  uint8_t* base_ = nullptr;
  int64_t count_, misalign_;
};

// A counter-based generator: the same numbers for the same seed, whatever the launch. Uniform in (-scale, scale).
__device__ inline float RandomUniform(uint64_t seed, uint64_t index, float scale) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + index + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  return (static_cast<float>(x >> 40) * 0x1p-23f - 1.0f) * scale;
}

// Rounded to T; where T is int8_t, to the nearest integer in [-127, 127].
template <class T>
__global__ void FillKernel(T* data, int64_t count, uint64_t seed, float scale) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const float x = RandomUniform(seed, i, scale);
    if constexpr (sizeof(T) == 1) {
      data[i] = static_cast<T>(max(-127, min(127, __float2int_rn(x))));
    } else {
      data[i] = static_cast<T>(x);
    }
  }
}
template <class T>
void Fill(const GuardedBuffer<T>& buffer, uint64_t seed, float scale) {
  FillKernel<<<256, 256>>>(buffer.data(), buffer.size(), seed, scale);
  FF_CUDA_OK(cudaGetLastError());
}

// What a comparison on the device found.
struct Mismatch {
  unsigned long long bad;    // elements outside their tolerance, NaN among them
  unsigned long long first;  // the least index of such
  float worst;               // the largest |got - expected| / tolerance
};

// got[i] against expected[i] with tolerance[i]; where tolerance[i] < 0, got must still be poison.
template <class T>
__global__ void CompareKernel(const T* got, const double* expected, const double* tolerance, int64_t count,
                              Mismatch* result) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    bool good;
    float ratio = 0;
    if (tolerance[i] < 0) {
      if constexpr (sizeof(T) == 4) {
        good = __float_as_uint(got[i]) == 0xffffffffu;
      } else {
        good = reinterpret_cast<const uint16_t*>(got)[i] == 0xffffu;
      }
    } else {
      const double error = fabs(static_cast<double>(static_cast<float>(got[i])) - expected[i]);
      good = error <= tolerance[i];
      ratio = static_cast<float>(error / tolerance[i]);
    }
    if (!good) {
      atomicAdd(&result->bad, 1ull);
      atomicMin(&result->first, static_cast<unsigned long long>(i));
    }
    if (ratio > 0) atomicMax(reinterpret_cast<int*>(&result->worst), __float_as_int(ratio));
  }
}
template <class T>
Mismatch Compare(const T* got, const double* expected, const double* tolerance, int64_t count) {
  Mismatch result = {0, ~0ull, 0.0f};
  Mismatch* device = nullptr;
  FF_CUDA_OK(cudaMalloc(&device, sizeof(result)));
  FF_CUDA_OK(cudaMemcpy(device, &result, sizeof(result), cudaMemcpyHostToDevice));
  CompareKernel<<<512, 256>>>(got, expected, tolerance, count, device);
  FF_CUDA_OK(cudaGetLastError());
  FF_CUDA_OK(cudaMemcpy(&result, device, sizeof(result), cudaMemcpyDeviceToHost));
  FF_CUDA_OK(cudaFree(device));
  return result;
}

// Whether two arrays in device memory hold the same bytes.
inline bool SameBytes(const void* a, const void* b, int64_t bytes) {
  std::vector<uint8_t> x(bytes), y(bytes);
  FF_CUDA_OK(cudaMemcpy(x.data(), a, bytes, cudaMemcpyDeviceToHost));
  FF_CUDA_OK(cudaMemcpy(y.data(), b, bytes, cudaMemcpyDeviceToHost));
  return std::memcmp(x.data(), y.data(), bytes) == 0;
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_GUARDED_BUFFER_CUH_
