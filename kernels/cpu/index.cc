#include "kernels/cpu/index.h"

#include <cstddef>
#include <cstring>

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrainBytes = 128 << 10;  // about ten microseconds

}  // namespace

std::optional<int64_t> FirstOutOfRange(const AxisIndex& index) {
  for (int64_t i = 0; i < index.elements; ++i) {
    if (const int64_t value = index.At(i); value < -index.size || value >= index.size) return i;
  }
  return std::nullopt;
}

void Index(const void* x, std::span<const AxisIndex> indices, std::span<const int64_t> dims, int64_t run_bytes, void* y,
           ThreadPool* pool) {
  int64_t count = 1;
  for (int64_t dim : dims) count *= dim;
  if (count == 0 || run_bytes == 0) return;
  pool->ParallelFor(count, kGrainBytes / run_bytes + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t run = 0;
      for (const AxisIndex& index : indices) {
        int64_t at = 0, rest = i;
        for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) at += rest % dims[d] * index.strides[d];
        const int64_t value = index.At(at);
        run = run * index.size + (value < 0 ? value + index.size : value);
      }
      std::memcpy(static_cast<char*>(y) + i * run_bytes, static_cast<const char*>(x) + run * run_bytes,
                  static_cast<size_t>(run_bytes));
    }
  });
}

}  // namespace flashflow::cpu
