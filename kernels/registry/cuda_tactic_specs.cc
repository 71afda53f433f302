#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/registry/tactic_specs.h"

namespace flashflow::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool IsGated(const Problem& problem) { return SizeOf(problem, "gated") != 0; }

// Columns of the result.
int64_t Columns(const Problem& problem) { return SizeOf(problem, "n") / (IsGated(problem) ? 2 : 1); }

std::optional<std::string> NotMultiple(std::string_view what, int64_t value, int64_t of) {
  if (value % of == 0) return std::nullopt;
  return absl::StrCat(what, " is ", value, ", no multiple of ", of);
}

// --- kernels/cuda/gemm.h ------------------------------------------------------

std::optional<std::string> RefuseSkinny(const Problem& problem) {
  const int64_t most = IsGated(problem) ? 32 : 64;
  if (const int64_t m = SizeOf(problem, "m"); m > most) {
    return absl::StrCat("m is ", m, "; it takes at most ", most, IsGated(problem) ? " where gated" : "");
  }
  return NotMultiple("k", SizeOf(problem, "k"), 8);
}

std::optional<std::string> RefuseGemmSm90(const Problem& problem) {
  const bool f32 = SizeOf(problem, "f32_output") != 0, activated = SizeOf(problem, "activated") != 0;
  if (SizeOf(problem, "residual") != 0 && (IsGated(problem) || f32 || activated)) {
    return "it adds a residual to a plain bf16 result only";
  }
  if (f32 && activated) return "it writes f32 without an activation only";
  if (f32 && IsGated(problem)) return "it writes f32 of layers that are not gated only";
  if (auto reason = NotMultiple("k", SizeOf(problem, "k"), 8)) return reason;
  return NotMultiple(IsGated(problem) ? "half of n" : "n", Columns(problem), f32 ? 4 : 8);
}

std::optional<std::string> RefuseGemmSm90Config(const TacticSpec& spec, const Config& config, const Problem& problem,
                                                const DeviceLimits&) {
  constexpr int64_t kChunkColumns = 32;  // a step of the epilogue
  if (!IsGated(problem)) return std::nullopt;
  return NotMultiple("half of tile_n", ValueOf(spec, config, "tile_n") / 2, kChunkColumns);
}

// Three warpgroups of 128 threads; at least three stages of 64 columns of a 128-row tile of `a` and a tile of `w`, 64
// KiB for the epilogue, the barriers and each consumer's bias.
Footprint GemmSm90Footprint(const TacticSpec& spec, const Config& config, const Problem&) {
  const int64_t tile_n = ValueOf(spec, config, "tile_n");
  const int64_t stage = (128 + tile_n) * 64 * 2;
  return {.threads = 384, .registers_per_thread = 168, .shared_bytes = 3 * stage + 64 * 1024 + 256 + 4 * tile_n};
}

// The busiest pair of multiprocessors: its rounds of tiles times the width of a tile, plus what a narrow tile pays for
// reading `a` as often as a wide one. As GemmSm90 chooses by itself.
double GemmSm90Cost(const TacticSpec& spec, const Config& config, const Problem& problem, const DeviceLimits& device) {
  const int64_t tile_n = ValueOf(spec, config, "tile_n");
  const int64_t tiles =
      CeilDiv(SizeOf(problem, "m"), 256) * CeilDiv(Columns(problem), IsGated(problem) ? tile_n / 2 : tile_n);
  return static_cast<double>(CeilDiv(tiles, std::max(1, device.sm_count / 2)) * (tile_n + 16));
}

std::optional<std::string> RefuseGated(const Problem& problem) {
  if (IsGated(problem)) return "it has no gated epilogue";
  return std::nullopt;
}

// --- attention, norms, softmax ------------------------------------------------

std::optional<std::string> RefuseAttention(const Problem& problem) {
  const int64_t head_dim = SizeOf(problem, "head_dim");
  if (head_dim > 128) return absl::StrCat("head_dim is ", head_dim, "; it takes at most 128");
  if (auto reason = NotMultiple("head_dim", head_dim, 8)) return reason;
  if (SizeOf(problem, "heads") % SizeOf(problem, "kv_heads") != 0) return "heads is no multiple of kv_heads";
  if (SizeOf(problem, "causal") != 0 && SizeOf(problem, "kv_tokens") < SizeOf(problem, "q_tokens")) {
    return "causal with fewer keys than queries";
  }
  return std::nullopt;
}

// Of its largest form: two rings of blocks of 128 keys and of values, two slots of 64 queries a warpgroup.
Footprint AttentionFootprint(const TacticSpec&, const Config&, const Problem& problem) {
  const bool wide = SizeOf(problem, "head_dim") > 64;
  const int64_t dim = wide ? 128 : 64, warpgroups = wide ? 2 : 3, stages = wide ? 2 : 4;
  return {
      .threads = static_cast<int>((1 + warpgroups) * 128),
      .registers_per_thread = wide ? 168 : 128,
      .shared_bytes = warpgroups * 2 * 64 * dim * 2 + 2 * stages * 128 * dim * 2 + 8 * (4 * stages + 4 * warpgroups)};
}

std::optional<std::string> RefuseNorm(const Problem& problem) {
  const int64_t columns = SizeOf(problem, "columns");
  if (columns > 32768) return absl::StrCat("rows of ", columns, " columns; it takes at most 32768");
  return NotMultiple("columns", columns, 8);
}

}  // namespace

std::vector<TacticSpec> CudaTacticSpecs() {
  constexpr DTypeSet kBF16Only = {DType::kBF16};
  const std::vector<std::string_view> linear = {"linear", "fused_linear"};
  return {
      {.kernel = "cuda.gemm_skinny",
       .device = "cuda",
       .ops = linear,
       .dtypes = kBF16Only,
       .min_capability = 80,
       .refuse_problem = RefuseSkinny},
      {.kernel = "cuda.gemm_sm90",
       .device = "cuda",
       .ops = linear,
       .dtypes = kBF16Only,
       .min_capability = 90,
       .this_arch = true,
       .parameters = {{"tile_n", 128, {128, 160, 192}, "columns of a tile; its rows are 128"}},
       .refuse_problem = RefuseGemmSm90,
       .refuse_config = RefuseGemmSm90Config,
       .footprint = GemmSm90Footprint,
       .cost = GemmSm90Cost},
      {.kernel = "cublaslt.matmul",
       .provider = Provider::kCublasLt,
       .device = "cuda",
       .ops = linear,
       .dtypes = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8},
       .min_capability = 70,
       .refuse_problem = RefuseGated},
      {.kernel = "cuda.fused_attention_sm90",
       .device = "cuda",
       .ops = {"attention"},
       .dtypes = kBF16Only,
       .min_capability = 90,
       .this_arch = true,
       .refuse_problem = RefuseAttention,
       .footprint = AttentionFootprint},
      {.kernel = "triton.fused_attention",
       .provider = Provider::kTriton,
       .device = "cuda",
       .ops = {"attention"},
       .dtypes = {DType::kF16, DType::kBF16},
       .min_capability = 80,
       .refuse_problem = RefuseAttention},
      {.kernel = "cuda.norm",
       .device = "cuda",
       .ops = {"layer_norm", "rms_norm"},
       .dtypes = kBF16Only,
       .min_capability = 80,
       .refuse_problem = RefuseNorm},
      {.kernel = "cuda.softmax", .device = "cuda", .ops = {"softmax"}, .dtypes = kBF16Only, .min_capability = 80},
  };
}

}  // namespace flashflow::kernels
