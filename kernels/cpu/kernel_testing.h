// What the tests of the CPU kernels share: each vector target, and memory that notices stray accesses.
#ifndef KERNELS_CPU_KERNEL_TESTING_H_
#define KERNELS_CPU_KERNEL_TESTING_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace flashflow::cpu {

// Sizes around the vectors of every target, and a few that models use.
inline constexpr int64_t kOddSizes[] = {1, 7, 15, 16, 17, 63, 65, 127, 576, 1023};

// Numbers of threads to run a kernel with, the first alone.
inline constexpr int kThreadCounts[] = {1, 2, 3, 7};

// An array of T between two guard bands; everything is poison at first (floats: NaN), the bands are checked at the end.
// It starts one element past a vector's alignment.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count) : count_(count), bytes_((2 * kBand + count + 1) * sizeof(T) + kAlign, kPoison) {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    const uintptr_t aligned = (address + kAlign - 1) / kAlign * kAlign;
    data_ = reinterpret_cast<T*>(aligned) + kBand + 1;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    const auto* begin = reinterpret_cast<const uint8_t*>(data_);
    const auto* end = begin + count_ * sizeof(T);
    size_t damaged = 0;
    for (const uint8_t& byte : bytes_) damaged += (&byte < begin || &byte >= end) && byte != kPoison;
    EXPECT_EQ(damaged, 0u) << "bytes written outside an array of " << count_;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }
  void Poison() { std::memset(static_cast<void*>(data_), kPoison, count_ * sizeof(T)); }

 private:
  static constexpr size_t kBand = 64;  // elements: a multiple of every vector's
  static constexpr size_t kAlign = 64;
  static constexpr uint8_t kPoison = 0xFF;
  size_t count_;
  std::vector<uint8_t> bytes_;
  T* data_;
};

// An array of T, zeros at first, right before a page that nobody may touch: reads beyond its end crash too.
template <typename T>
class Fenced {
 public:
  explicit Fenced(size_t count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = (count * sizeof(T) + page - 1) / page * page;
    bytes_ = bytes + page;
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, /*offset=*/0);
    EXPECT_NE(memory_, MAP_FAILED);
    EXPECT_EQ(mprotect(static_cast<char*>(memory_) + bytes, page, PROT_NONE), 0);
    data_ = reinterpret_cast<T*>(static_cast<char*>(memory_) + bytes) - count;
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { munmap(memory_, bytes_); }

  T* data() { return data_; }

 private:
  void* memory_;
  size_t bytes_;
  T* data_;
};

// Runs `test` with each vector target that this build has and this CPU can run.
template <typename Test>
void ForEachTarget(const Test& test) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    test();
    hwy::SetSupportedTargetsForTest(0);
  }
}

// Whether a and b have the same bits.
template <typename A, typename B>
bool SameBits(const A& a, const B& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(*a.data())) == 0;
}

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_KERNEL_TESTING_H_
