#include "absl/strings/str_cat.h"
#include "kernels/registry/tactic_specs.h"

namespace flashflow::kernels {
namespace {

// The whole x block of a task is to stay in a core's L2 cache, and what changes nothing at this size is not run twice.
std::optional<std::string> RefuseLinear(const TacticSpec& spec, const Config& config, const Problem& problem,
                                        const DeviceLimits& device) {
  const auto value = [&](std::string_view name) { return ValueOf(spec, config, name); };
  const auto differs = [&](std::string_view name) { return value(name) != ValueOf(spec, DefaultConfig(spec), name); };
  const int64_t m = SizeOf(problem, "m"), k = SizeOf(problem, "k");

  const int64_t tile_rows = value("tile_rows");
  if (differs("tile_rows")) {
    if (tile_rows >= device.tile_rows) {
      return absl::StrCat("a tile of ", tile_rows, " rows; this CPU's registers hold ", device.tile_rows,
                          ", which is the default");
    }
    if (tile_rows >= m) return absl::StrCat("no tile has more than the ", m, " rows of the problem");
  }
  const int64_t panels = value("tile_panels");
  const int64_t most_panels = m <= device.stream_rows ? device.stream_panels : device.tile_panels;
  if (differs("tile_panels") && panels >= most_panels) {
    return absl::StrCat("a tile of ", panels, " panels; this CPU's registers hold ", most_panels,
                        ", which is the default");
  }
  const int64_t rows_a_tile = tile_rows == 0 ? device.tile_rows : tile_rows;
  const bool one_tile = m <= rows_a_tile;
  if (one_tile) {
    if (differs("block_rows") || differs("block_k")) return "rows that fit one tile are not cut into blocks";
  } else if (differs("prefetch_bytes")) {
    return "the distance counts only where all rows fit one tile";
  }
  const Config defaults = DefaultConfig(spec);
  if (differs("block_rows") && m <= value("block_rows") && m <= ValueOf(spec, defaults, "block_rows")) {
    return absl::StrCat("the ", m, " rows of the problem are one block all the same");
  }
  if (differs("block_k") && k <= value("block_k") && k <= ValueOf(spec, defaults, "block_k")) {
    return absl::StrCat("a depth of ", k, " is one block all the same");
  }
  if (differs("task_columns") && m < 16) return "tasks of fewer than 16 rows are cut by the panel";
  const int64_t block_bytes = value("block_rows") * value("block_k") * 4;
  if ((differs("block_rows") || differs("block_k")) && device.l2_bytes > 0 && block_bytes > device.l2_bytes) {
    return absl::StrCat("a block of x of ", block_bytes, " bytes; the L2 cache of a core has ", device.l2_bytes);
  }
  return std::nullopt;
}

}  // namespace

std::vector<TacticSpec> CpuTacticSpecs() {
  // As cpu::LinearConfig, field by field.
  const std::vector<Parameter> parameters = {
      {"tile_rows", 0, {0, 4, 6}, "rows of a register tile at most; 0: as many as the registers hold"},
      {"tile_panels", 0, {0, 1, 2, 3}, "panels of 16 columns of a register tile at most; 0: as many as they hold"},
      {"block_rows", 128, {64, 128, 256}, "rows of x that meet all panels before the next"},
      {"block_k", 768, {384, 768, 1536}, "depth of x that meets all panels before the next"},
      {"prefetch_bytes", 2048, {512, 1024, 2048, 4096, 8192}, "how far ahead a stream of weights is fetched"},
      {"tasks_per_thread", 4, {1, 2, 4, 8}, "tasks a thread, so that one that is held up does not hold up all"},
      {"task_columns", 48, {48, 96, 192}, "columns of a task at least"},
  };
  const auto linear = [&](std::string_view kernel, std::string_view op) {
    return TacticSpec{.kernel = kernel,
                      .device = "cpu",
                      .ops = {op},
                      .dtypes = {DType::kF32, DType::kBF16},
                      .parameters = parameters,
                      .refuse_config = RefuseLinear};
  };
  return {linear("cpu.linear.panel16", "linear"), linear("cpu.fused_linear.panel16", "fused_linear")};
}

}  // namespace flashflow::kernels
