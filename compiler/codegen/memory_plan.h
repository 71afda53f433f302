// Places buffers with known lifetimes into one arena.
#ifndef COMPILER_CODEGEN_MEMORY_PLAN_H_
#define COMPILER_CODEGEN_MEMORY_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "compiler/analysis/liveness.h"

namespace flashflow::codegen {

struct MemoryPlan {
  std::vector<int64_t> offsets;  // per buffer; -1 where its range is empty
  int64_t arena_bytes = 0;
};

// Offsets are multiples of `alignment` (a power of two), and buffers whose ranges overlap share no byte. Buffers of
// zero bytes get an offset too. Finding the smallest arena is NP-hard; this places greedily in several orders (largest
// first, longest-lived first, in order of creation) and keeps the best, which is within max(5%, alignment x buffers)
// of the liveness bound on all graphs that we know (the test says on which). Deterministic.
MemoryPlan PlanMemory(absl::Span<const analysis::LiveRange> ranges, absl::Span<const int64_t> bytes, int64_t alignment);

}  // namespace flashflow::codegen

#endif  // COMPILER_CODEGEN_MEMORY_PLAN_H_
