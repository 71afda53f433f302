#include "kernels/registry/cpu_tactics.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow::kernels {
namespace {

using cpu::LinearConfig;

// In the order of CpuTacticSpecs().
struct Field {
  int64_t LinearConfig::* field;
  int64_t least;
};
constexpr Field kFields[] = {
    {&LinearConfig::tile_rows, 0},     {&LinearConfig::tile_panels, 0},    {&LinearConfig::block_rows, 1},
    {&LinearConfig::block_k, 1},       {&LinearConfig::prefetch_bytes, 1}, {&LinearConfig::tasks_per_thread, 1},
    {&LinearConfig::task_columns, 16},
};
constexpr int64_t kMost = int64_t{1} << 20;

int64_t L2Bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  return std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 0);
#else
  return 0;
#endif
}

}  // namespace

DeviceLimits CpuLimits(std::string name) {
  const cpu::LinearTiles tiles = cpu::LinearTilesOfTarget();
  DeviceLimits limits;
  limits.name = std::move(name);
  limits.kind = "cpu";
  limits.tile_rows = static_cast<int>(tiles.rows);
  limits.tile_panels = static_cast<int>(tiles.panels);
  limits.stream_rows = static_cast<int>(tiles.stream_rows);
  limits.stream_panels = static_cast<int>(tiles.stream_panels);
  limits.l2_bytes = L2Bytes();
  return limits;
}

absl::StatusOr<LinearConfig> LinearConfigOf(absl::Span<const int64_t> values) {
  LinearConfig config;
  bool valid = values.size() == std::size(kFields);
  for (size_t i = 0; valid && i < values.size(); ++i) {
    valid = values[i] >= kFields[i].least && values[i] <= kMost;
    config.*kFields[i].field = values[i];
  }
  if (!valid || config.task_columns % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a linear layer cannot be cut up by [", absl::StrJoin(values, ", "), "]"));
  }
  return config;
}

}  // namespace flashflow::kernels
