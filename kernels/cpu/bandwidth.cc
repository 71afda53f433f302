#include "kernels/cpu/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bandwidth.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                        // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads all of `bytes`, a multiple of 256. What it returns keeps the reads from being left out.
uint32_t ReadAll(const uint8_t* data, size_t bytes) {
  const hn::CappedTag<uint32_t, 16> d;
  const size_t step = hn::Lanes(d) * sizeof(uint32_t);
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  constexpr size_t kAhead = 2048;
  for (size_t line = 0; line < bytes; line += 128) {
    PrefetchStream(data + line + kAhead);
    PrefetchStream(data + line + kAhead + 64);
    for (size_t i = 0; i < 64; i += step) {
      a = hn::Xor(a, hn::Load(d, reinterpret_cast<const uint32_t*>(data + line + i)));
      b = hn::Xor(b, hn::Load(d, reinterpret_cast<const uint32_t*>(data + line + 64 + i)));
    }
  }
  return hn::GetLane(hn::Xor(a, b));
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(ReadAll);

}  // namespace

absl::StatusOr<double> MeasureReadBandwidth(size_t buffer_bytes, int repeats, ThreadPool* pool) {
  constexpr size_t kPart = size_t{1} << 20;  // a thread's unit of work
  const size_t parts = std::max<size_t>(buffer_bytes / kPart, 1);
  auto buffer = HugeBuffer::Allocate(parts * kPart);
  if (!buffer.ok()) return std::move(buffer).status();
  uint8_t* data = static_cast<uint8_t*>(buffer->data());
  std::fill_n(data, parts * kPart, uint8_t{1});  // untouched pages would all be one

  const int64_t threads = pool->num_threads();
  double best = 0;
  for (int i = 0; i < std::max(repeats, 1); ++i) {
    const auto start = std::chrono::steady_clock::now();
    // A consecutive share each, in several tasks so that a thread which is held up gives some away.
    const int64_t tasks = std::min<int64_t>(8 * threads, static_cast<int64_t>(parts));
    pool->Run(tasks, [&](int64_t task, int thread) {
      const size_t begin = parts * task / tasks * kPart;
      const size_t end = parts * (task + 1) / tasks * kPart;
      *static_cast<uint32_t*>(pool->scratch(thread)) = HWY_DYNAMIC_DISPATCH(ReadAll)(data + begin, end - begin);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(parts * kPart) / elapsed.count());
  }
  return best;
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
