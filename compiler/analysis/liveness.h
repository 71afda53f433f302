// When each buffer of a plan holds a value that is still needed.
#ifndef COMPILER_ANALYSIS_LIVENESS_H_
#define COMPILER_ANALYSIS_LIVENESS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "compiler/plan/plan.h"

namespace flashflow::analysis {

// Steps first..last, inclusive: from the one that writes the buffer to the last that reads it, an alias of it, or what
// is written in its place.
struct LiveRange {
  int32_t first = -1;  // -1: never written
  int32_t last = -1;
  bool Overlaps(const LiveRange& other) const { return first <= other.last && other.first <= last; }
  friend bool operator==(const LiveRange&, const LiveRange&) = default;
};

// Per tensor of the plan: its range if it owns memory in the arena, an empty one (-1, -1) if it does not (inputs,
// outputs, weights, aliases, what is written in place of another tensor). Precondition: indices are in range, as
// codegen makes them.
std::vector<LiveRange> ArenaLiveRanges(const plan::Plan& plan);

// The most bytes that are live in one step: no arena can be smaller. Buffers with an empty range do not count.
int64_t PeakLiveBytes(absl::Span<const LiveRange> ranges, absl::Span<const int64_t> bytes);

}  // namespace flashflow::analysis

#endif  // COMPILER_ANALYSIS_LIVENESS_H_
