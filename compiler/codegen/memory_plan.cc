#include "compiler/codegen/memory_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/log/check.h"

namespace flashflow::codegen {
namespace {

using analysis::LiveRange;

constexpr int64_t kSlack = 100;  // a hundredth above the bound is good enough

struct Buffer {
  size_t index;
  int64_t bytes;  // a multiple of the alignment
  LiveRange range;
};

// Puts each buffer, in this order, into the smallest gap that holds it among those placed so far that live with it.
MemoryPlan PlaceInOrder(absl::Span<const Buffer> order, size_t count) {
  MemoryPlan plan;
  plan.offsets.assign(count, -1);
  std::vector<std::pair<int64_t, const Buffer*>> placed;  // by offset
  for (const Buffer& buffer : order) {
    int64_t end = 0;  // of the live buffers seen so far
    int64_t best = -1, best_gap = 0;
    for (const auto& [offset, other] : placed) {
      if (!other->range.Overlaps(buffer.range)) continue;
      const int64_t gap = offset - end;
      if (gap >= buffer.bytes && (best < 0 || gap < best_gap)) std::tie(best, best_gap) = std::pair(end, gap);
      end = std::max(end, offset + other->bytes);
    }
    if (best < 0) best = end;
    plan.offsets[buffer.index] = best;
    plan.arena_bytes = std::max(plan.arena_bytes, best + buffer.bytes);
    const std::pair<int64_t, const Buffer*> entry(best, &buffer);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), entry,
                                   [](const auto& a, const auto& b) { return a.first < b.first; }),
                  entry);
  }
  return plan;
}

int64_t LowerBound(absl::Span<const Buffer> buffers) {
  std::vector<LiveRange> ranges;
  std::vector<int64_t> bytes;
  for (const Buffer& buffer : buffers) {
    ranges.push_back(buffer.range);
    bytes.push_back(buffer.bytes);
  }
  return analysis::PeakLiveBytes(ranges, bytes);
}

}  // namespace

MemoryPlan PlanMemory(absl::Span<const LiveRange> ranges, absl::Span<const int64_t> bytes, int64_t alignment) {
  CHECK_EQ(ranges.size(), bytes.size());
  std::vector<Buffer> buffers;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].first < 0) continue;
    buffers.push_back({i, (bytes[i] + alignment - 1) / alignment * alignment, ranges[i]});
  }
  const auto life = [](const Buffer& b) { return b.range.last - b.range.first; };
  using Order = std::function<bool(const Buffer&, const Buffer&)>;
  const Order orders[] = {
      [&](const Buffer& a, const Buffer& b) {  // largest first
        return std::tuple(-a.bytes, -life(a), a.index) < std::tuple(-b.bytes, -life(b), b.index);
      },
      [&](const Buffer& a, const Buffer& b) {  // longest-lived first
        return std::tuple(-life(a), -a.bytes, a.index) < std::tuple(-life(b), -b.bytes, b.index);
      },
      [](const Buffer& a, const Buffer& b) {  // in order of creation, larger first
        return std::tuple(a.range.first, -a.bytes, a.index) < std::tuple(b.range.first, -b.bytes, b.index);
      },
  };
  // Greedy placement is near the bound on most graphs. Where it is not, the next try places the buffers that stick out
  // on top first, and one other anywhere, so that it does not run in circles.
  const int64_t goal = LowerBound(buffers) + LowerBound(buffers) / kSlack;
  // A try costs the square of the buffers: fewer tries for larger graphs bound the time to a fraction of a second.
  const int64_t squared = std::max<int64_t>(1, static_cast<int64_t>(buffers.size() * buffers.size()));
  const int64_t attempts = std::clamp<int64_t>(40'000'000 / squared, 20, 500);
  std::minstd_rand random;  // the same sequence every time
  std::optional<MemoryPlan> best;
  for (const Order& order : orders) {
    std::sort(buffers.begin(), buffers.end(), order);
    for (int64_t attempt = 0; attempt < attempts; ++attempt) {
      MemoryPlan plan = PlaceInOrder(buffers, ranges.size());
      const int64_t top = plan.arena_bytes;
      std::stable_partition(buffers.begin(), buffers.end(),
                            [&](const Buffer& b) { return plan.offsets[b.index] + b.bytes == top; });
      if (buffers.size() > 1) std::swap(buffers[random() % buffers.size()], buffers[random() % buffers.size()]);
      if (!best || top < best->arena_bytes) best = std::move(plan);
      if (best->arena_bytes <= goal) return *std::move(best);
    }
  }
  return *std::move(best);
}

}  // namespace flashflow::codegen
