#include "kernels/cpu/copy.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "hwy/base.h"
#include "kernels/cpu/loop_nest.h"

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrainBytes = 128 << 10;  // about ten microseconds

template <typename T>
void CopyRun(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t count) {
  if (src_stride == 1 && dst_stride == 1) {
    std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(T));
  } else if (src_stride == 0 && dst_stride == 1) {
    std::fill_n(dst, count, *src);
  } else {
    for (int64_t i = 0; i < count; ++i) dst[i * dst_stride] = src[i * src_stride];
  }
}

template <typename T>
void Copy(const T* src, T* dst, const LoopNest<2>& nest, ThreadPool* pool) {
  const int64_t count = nest.inner_count();
  const int64_t src_stride = nest.inner_stride(0);
  const int64_t dst_stride = nest.inner_stride(1);
  constexpr int64_t kGrain = kGrainBytes / sizeof(T);
  if (nest.outer_count() == 1) {
    pool->ParallelFor(count, kGrain, [&](int64_t begin, int64_t end) {
      CopyRun(src + begin * src_stride, src_stride, dst + begin * dst_stride, dst_stride, end - begin);
    });
    return;
  }
  pool->ParallelFor(nest.outer_count(), kGrain / count + 1, [&](int64_t begin, int64_t end) {
    nest.ForEachRun(begin, end, [&](const std::array<int64_t, 2>& at) {
      CopyRun(src + at[0], src_stride, dst + at[1], dst_stride, count);
    });
  });
}

}  // namespace

void StridedCopy(const void* src, std::span<const int64_t> src_strides, void* dst, std::span<const int64_t> dst_strides,
                 std::span<const int64_t> dims, int element_bytes, ThreadPool* pool) {
  if (std::ranges::find(dims, 0) != dims.end()) return;
  const LoopNest<2> nest(dims, {src_strides, dst_strides});
  const auto copy = [&]<typename T>(T*) { Copy(static_cast<const T*>(src), static_cast<T*>(dst), nest, pool); };
  switch (element_bytes) {
    case 1:
      return copy(static_cast<uint8_t*>(nullptr));
    case 2:
      return copy(static_cast<uint16_t*>(nullptr));
    case 4:
      return copy(static_cast<uint32_t*>(nullptr));
    case 8:
      return copy(static_cast<uint64_t*>(nullptr));
    default:
      HWY_ABORT("StridedCopy: elements of %d bytes", element_bytes);
  }
}

}  // namespace flashflow::cpu
