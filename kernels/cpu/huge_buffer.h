// Memory for weights, caches and arenas: page-aligned, zeroed, on huge pages where the system has them, which a
// stream of hundreds of megabytes needs to reach the memory's bandwidth.
#ifndef KERNELS_CPU_HUGE_BUFFER_H_
#define KERNELS_CPU_HUGE_BUFFER_H_

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"

namespace flashflow::cpu {

class HugeBuffer {
 public:
  // ResourceExhausted names the size. Zero bytes give an empty buffer with data() == nullptr.
  static absl::StatusOr<HugeBuffer> Allocate(size_t bytes);

  HugeBuffer() = default;
  HugeBuffer(HugeBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  HugeBuffer& operator=(HugeBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HugeBuffer();

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  HugeBuffer(void* data, size_t size) : data_(data), size_(size) {}
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_HUGE_BUFFER_H_
