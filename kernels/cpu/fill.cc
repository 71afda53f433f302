#include "kernels/cpu/fill.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "hwy/base.h"
#include "kernels/cpu/copy.h"

namespace flashflow::cpu {
namespace {

template <typename T>
void IotaOf(T* y, int64_t outer, int64_t axis, int64_t inner) {
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t a = 0; a < axis; ++a, y += inner) std::fill_n(y, inner, static_cast<T>(a));
  }
}

}  // namespace

void Fill(const void* value, int element_bytes, void* y, int64_t count, ThreadPool* pool) {
  const std::array<int64_t, 1> dims = {count};
  const std::array<int64_t, 1> repeat = {0};
  const std::array<int64_t, 1> next = {1};
  StridedCopy(value, repeat, y, next, dims, element_bytes, pool);
}

void Iota(DType dtype, void* y, int64_t outer, int64_t axis, int64_t inner) {
  switch (dtype) {
    case DType::kF32:
      return IotaOf(static_cast<float*>(y), outer, axis, inner);
    case DType::kI32:
      return IotaOf(static_cast<int32_t*>(y), outer, axis, inner);
    case DType::kI64:
      return IotaOf(static_cast<int64_t*>(y), outer, axis, inner);
    default:
      HWY_ABORT("Iota: dtype %d", static_cast<int>(dtype));
  }
}

}  // namespace flashflow::cpu
