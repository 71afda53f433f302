#include "compiler/analysis/liveness.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flashflow::analysis {

std::vector<LiveRange> ArenaLiveRanges(const plan::Plan& plan) {
  std::vector<LiveRange> ranges(plan.tensors.size());
  std::vector<int32_t> owner(plan.tensors.size());  // of what is no alias: the tensor whose memory it is in
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const int32_t in_place_of = plan.tensors[i].in_place_of;  // a smaller index
    owner[i] = in_place_of < 0 ? static_cast<int32_t>(i) : owner[in_place_of];
  }
  const auto touch = [&](int32_t tensor, int32_t step) {
    if (tensor < 0) return;
    const int32_t alias_of = plan.tensors[tensor].alias_of;
    const int32_t root = owner[alias_of < 0 ? tensor : alias_of];
    if (plan.tensors[root].storage != plan::Storage::kArena) return;
    LiveRange& range = ranges[root];
    if (range.first < 0) range.first = step;
    range.last = step;
  };
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const plan::Step& step = plan.steps[s];
    for (const int32_t tensor : step.inputs) touch(tensor, static_cast<int32_t>(s));
    for (const int32_t tensor : step.outputs) touch(tensor, static_cast<int32_t>(s));
    touch(step.workspace, static_cast<int32_t>(s));
  }
  return ranges;
}

int64_t PeakLiveBytes(absl::Span<const LiveRange> ranges, absl::Span<const int64_t> bytes) {
  int32_t steps = 0;
  for (const LiveRange& range : ranges) steps = std::max(steps, range.last + 1);
  std::vector<int64_t> change(steps + 1, 0);
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].first < 0) continue;
    change[ranges[i].first] += bytes[i];
    change[ranges[i].last + 1] -= bytes[i];
  }
  int64_t live = 0, peak = 0;
  for (const int64_t delta : change) peak = std::max(peak, live += delta);
  return peak;
}

}  // namespace flashflow::analysis
