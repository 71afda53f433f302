// Host memory that stands for a GPU's: what is allocated, so that a kernel which reaches beyond it is found out.
#ifndef KERNELS_CUDA_TESTING_HOST_MEMORY_H_
#define KERNELS_CUDA_TESTING_HOST_MEMORY_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda::testing {

class HostMemory {
 public:
  HostMemory(int64_t capacity, bool poisoned) : capacity_(capacity), poisoned_(poisoned) {}
  ~HostMemory() {
    for (const auto& [begin, bytes] : blocks_) std::free(reinterpret_cast<void*>(begin));
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // 256-byte aligned, and where poisoned filled with 0xff, which is NaN in every floating type; null past the capacity.
  void* Allocate(int64_t bytes) {
    if (bytes < 0 || bytes > capacity_ - used_) return nullptr;
    constexpr int64_t kAlignment = 256;
    void* data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    if (poisoned_) std::memset(data, 0xff, bytes);
    blocks_[reinterpret_cast<uintptr_t>(data)] = bytes;
    used_ += bytes;
    return data;
  }

  // False where no block begins there.
  bool Free(void* data) {
    const auto block = blocks_.find(reinterpret_cast<uintptr_t>(data));
    if (block == blocks_.end()) return false;
    used_ -= block->second;
    blocks_.erase(block);
    std::free(data);
    return true;
  }

  // Whether [data, data + bytes) lies in one block; nothing lies everywhere.
  bool Holds(const void* data, int64_t bytes) const {
    if (bytes <= 0) return bytes == 0;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    auto block = blocks_.upper_bound(begin);
    if (block == blocks_.begin()) return false;
    --block;
    const auto offset = static_cast<int64_t>(begin - block->first);
    return offset <= block->second && bytes <= block->second - offset;
  }

  // Of `rows` rows of `columns` elements, `ld` elements apart.
  bool HoldsRows(const void* data, Dtype dtype, int64_t rows, int64_t columns, int64_t ld) const {
    return rows == 0 || Holds(data, ((rows - 1) * ld + columns) * ElementBytes(dtype));
  }

  int64_t capacity() const { return capacity_; }
  int64_t used() const { return used_; }
  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  int64_t capacity_, used_ = 0;
  bool poisoned_;
  std::map<uintptr_t, int64_t> blocks_;  // begin and bytes
};

inline float FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float magnitude = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                          : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                          : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Rounded to nearest, ties to even, as the next two.
inline uint16_t ToHalf(float value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);
  int exponent = 0;
  const float fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  if (magnitude < 0x1p-14f) return static_cast<uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24f)));
  // A fraction that rounds up to 2048 carries into the exponent.
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + static_cast<int>(std::nearbyint(fraction * 2048))));
}

inline uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Element i of an array of a floating type.
inline float Load(Dtype dtype, const void* data, int64_t i) {
  switch (dtype) {
    case Dtype::kF32:
      return static_cast<const float*>(data)[i];
    case Dtype::kF16:
      return FromHalf(static_cast<const uint16_t*>(data)[i]);
    case Dtype::kBf16:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[i]} << 16);
    default:
      std::abort();
  }
}

inline void Store(Dtype dtype, void* data, int64_t i, float value) {
  switch (dtype) {
    case Dtype::kF32:
      static_cast<float*>(data)[i] = value;
      return;
    case Dtype::kF16:
      static_cast<uint16_t*>(data)[i] = ToHalf(value);
      return;
    case Dtype::kBf16:
      static_cast<uint16_t*>(data)[i] = ToBf16(value);
      return;
    default:
      std::abort();
  }
}

inline float Rounded(Dtype dtype, float value) {
  alignas(4) char bits[4];
  Store(dtype, bits, 0, value);
  return Load(dtype, bits, 0);
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_MEMORY_H_
