#include "kernels/cpu/select.h"

#include "hwy/base.h"
#include "kernels/cpu/broadcast_loop.h"

namespace flashflow::cpu {

void Select(const bool* condition, std::span<const int64_t> condition_strides, const void* a,
            std::span<const int64_t> a_strides, const void* b, std::span<const int64_t> b_strides, void* y,
            std::span<const int64_t> dims, int element_bytes, ThreadPool* pool) {
  const auto run = [&]<typename T>(T* to) {
    BroadcastLoop(
        to, dims, pool, [](bool which, T p, T q) { return which ? p : q; }, {condition_strides, a_strides, b_strides},
        condition, static_cast<const T*>(a), static_cast<const T*>(b));
  };
  switch (element_bytes) {
    case 1:
      return run(static_cast<uint8_t*>(y));
    case 2:
      return run(static_cast<uint16_t*>(y));
    case 4:
      return run(static_cast<uint32_t*>(y));
    case 8:
      return run(static_cast<uint64_t*>(y));
    default:
      HWY_ABORT("Select: elements of %d bytes", element_bytes);
  }
}

}  // namespace flashflow::cpu
