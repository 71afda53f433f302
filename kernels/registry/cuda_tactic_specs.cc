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

// Rows of `a` and `w` are read in pieces of 16 bytes, and s8 sums must fit 32 bits.
std::optional<std::string> RefuseK(const Problem& problem) {
  constexpr int64_t kMostOfS8 = 131072;
  const int64_t k = SizeOf(problem, "k");
  if (problem.dtype == DType::kI8 && k > kMostOfS8) {
    return absl::StrCat("k is ", k, "; it takes at most ", kMostOfS8, " of i8");
  }
  return NotMultiple("k", k, 16 / DTypeBytes(problem.dtype));
}

std::optional<std::string> RefuseSkinny(const Problem& problem) {
  const int64_t most = IsGated(problem) ? 32 : 64;
  if (const int64_t m = SizeOf(problem, "m"); m > most) {
    return absl::StrCat("m is ", m, "; it takes at most ", most, IsGated(problem) ? " where gated" : "");
  }
  return RefuseK(problem);
}

std::optional<std::string> RefuseRows(const Problem& problem) {
  if (const int64_t m = SizeOf(problem, "m"); m > 64) {
    return absl::StrCat("m is ", m, "; beyond 64 it is slow, if in the same order");
  }
  return RefuseK(problem);
}

// A sum is shared among multiprocessors where tiles of 64 rows are too few, which is part of its order: a tile that
// cannot share must not take its place, or bits would depend on tuning. As GemmRowsSm90 chooses by itself.
std::optional<std::string> RefuseRowsConfig(const TacticSpec& spec, const Config& config, const Problem& problem,
                                            const DeviceLimits&) {
  constexpr int64_t kMultiprocessors = 132;
  const int64_t tile_rows = ValueOf(spec, config, "tile_rows");
  const int64_t tiles = CeilDiv(SizeOf(problem, "n"), 64);
  const int64_t chosen = tiles > 4 * kMultiprocessors ? 128 : 64;
  if (tile_rows == 0) return std::nullopt;
  if (tile_rows == chosen) return absl::StrCat("it takes ", chosen, " by itself");
  if (tile_rows == 128 && tiles * 2 <= 2 * kMultiprocessors && SizeOf(problem, "k") >= 768) {
    return "a sum is shared here, which tiles of 128 rows cannot";
  }
  return std::nullopt;
}

std::optional<std::string> RefusePortable(const Problem& problem) {
  if (problem.dtype == DType::kF32) return std::nullopt;
  return RefuseK(problem);
}

std::optional<std::string> RefuseGemmSm90(const Problem& problem) {
  const bool f32 = SizeOf(problem, "f32_output") != 0, activated = SizeOf(problem, "activated") != 0;
  if (SizeOf(problem, "residual") != 0 && (IsGated(problem) || f32 || activated)) {
    return "it adds a residual to a plain result of 16 bits only";
  }
  if (f32 && activated) return "it writes f32 without an activation only";
  if (f32 && IsGated(problem)) return "it writes f32 of layers that are not gated only";
  if (auto reason = RefuseK(problem)) return reason;
  return NotMultiple(IsGated(problem) ? "half of n" : "n", Columns(problem), f32 ? 4 : 8);
}

std::optional<std::string> RefuseGemmSm90Config(const TacticSpec& spec, const Config& config, const Problem& problem,
                                                const DeviceLimits&) {
  constexpr int64_t kChunkColumns = 32;  // a step of the epilogue
  const int64_t tile_n = ValueOf(spec, config, "tile_n");
  if (tile_n == 160 && problem.dtype != DType::kBF16) return "tiles of 160 columns are for bf16 alone";
  if (!IsGated(problem)) return std::nullopt;
  return NotMultiple("half of tile_n", tile_n / 2, kChunkColumns);
}

// Three warpgroups of 128 threads; at least three stages of 128 bytes of a 128-row tile of `a` and a tile of `w`, 64
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

std::optional<std::string> RefuseHeads(const Problem& problem, int64_t most) {
  const int64_t head_dim = SizeOf(problem, "head_dim");
  if (head_dim > most) return absl::StrCat("head_dim is ", head_dim, "; it takes at most ", most);
  if (auto reason = NotMultiple("head_dim", head_dim, 8)) return reason;
  if (SizeOf(problem, "heads") % SizeOf(problem, "kv_heads") != 0) return "heads is no multiple of kv_heads";
  return std::nullopt;
}

std::optional<std::string> RefuseCausal(const Problem& problem) {
  if (SizeOf(problem, "causal") != 0 && SizeOf(problem, "kv_tokens") < SizeOf(problem, "q_tokens")) {
    return "causal with fewer keys than queries";
  }
  return std::nullopt;
}

std::optional<std::string> RefuseAttention(const Problem& problem) {
  if (auto reason = RefuseHeads(problem, 128)) return reason;
  return RefuseCausal(problem);
}

std::optional<std::string> RefusePlainAttention(const Problem& problem) {
  if (auto reason = RefuseHeads(problem, 256)) return reason;
  return RefuseCausal(problem);
}

std::optional<std::string> RefusePagedAttention(const Problem& problem) { return RefuseHeads(problem, 256); }

std::optional<std::string> RefusePagedConfig(const TacticSpec& spec, const Config& config, const Problem&,
                                             const DeviceLimits& device) {
  if (ValueOf(spec, config, "blocks_per_row") > 1 && device.compute_capability != 90) {
    return "blocks share a row on compute capability 9.0 alone";
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

std::optional<std::string> RefuseQuantize(const Problem& problem) {
  const int64_t columns = SizeOf(problem, "columns");
  if (columns > 32768) return absl::StrCat("rows of ", columns, " columns; it takes at most 32768");
  return NotMultiple("columns", columns, 8);
}

}  // namespace

std::vector<TacticSpec> CudaTacticSpecs() {
  constexpr DTypeSet kBF16Only = {DType::kBF16};
  constexpr DTypeSet k16Bits = {DType::kF16, DType::kBF16};
  constexpr DTypeSet kFloats = {DType::kF32, DType::kF16, DType::kBF16};
  constexpr DTypeSet kTensorCores = {DType::kF16, DType::kBF16, DType::kI8};
  constexpr DTypeSet kAll = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};
  const std::vector<std::string_view> linear = {"linear", "fused_linear"};
  return {
      {.kernel = "cuda.gemm_rows_sm90",
       .device = "cuda",
       .ops = linear,
       .dtypes = kTensorCores,
       .min_capability = 90,
       .this_arch = true,
       .parameters = {{"tile_rows", 0, {0, 64, 128}, "rows of the weight that a block computes with; 0: by n"}},
       .refuse_problem = RefuseRows,
       .refuse_config = RefuseRowsConfig},
      {.kernel = "cuda.gemm_skinny",
       .device = "cuda",
       .ops = linear,
       .dtypes = kTensorCores,
       .min_capability = 80,
       .refuse_problem = RefuseSkinny},
      {.kernel = "cuda.gemm_sm90",
       .device = "cuda",
       .ops = linear,
       .dtypes = kTensorCores,
       .min_capability = 90,
       .this_arch = true,
       .parameters = {{"tile_n", 128, {64, 128, 160, 192}, "columns of a tile; its rows are 128"}},
       .refuse_problem = RefuseGemmSm90,
       .refuse_config = RefuseGemmSm90Config,
       .footprint = GemmSm90Footprint,
       .cost = GemmSm90Cost},
      {.kernel = "cuda.gemm_portable",
       .device = "cuda",
       .ops = linear,
       .dtypes = kAll,
       .min_capability = 80,
       .refuse_problem = RefusePortable},
      {.kernel = "cublaslt.matmul",
       .provider = Provider::kCublasLt,
       .device = "cuda",
       .ops = linear,
       .dtypes = kAll,
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
      {.kernel = "cuda.fused_attention_sm80",
       .device = "cuda",
       .ops = {"attention"},
       .dtypes = k16Bits,
       .min_capability = 80,
       .refuse_problem = RefuseAttention},
      {.kernel = "cuda.fused_attention_plain",
       .device = "cuda",
       .ops = {"attention"},
       .dtypes = kFloats,
       .min_capability = 80,
       .refuse_problem = RefusePlainAttention},
      {.kernel = "triton.fused_attention",
       .provider = Provider::kTriton,
       .device = "cuda",
       .ops = {"attention"},
       .dtypes = k16Bits,
       .min_capability = 80,
       .refuse_problem = RefuseAttention},
      {.kernel = "cuda.paged_attention",
       .device = "cuda",
       .ops = {"paged_attention"},
       .dtypes = kFloats,
       .min_capability = 80,
       .parameters = {{"blocks_per_row", 0, {0, 1, 2, 8}, "thread blocks that share a context; 0: by the grid"}},
       .refuse_problem = RefusePagedAttention,
       .refuse_config = RefusePagedConfig},
      {.kernel = "cuda.norm",
       .device = "cuda",
       .ops = {"layer_norm", "rms_norm"},
       .dtypes = kFloats,
       .min_capability = 80},
      {.kernel = "cuda.softmax", .device = "cuda", .ops = {"softmax"}, .dtypes = kFloats, .min_capability = 80},
      {.kernel = "cuda.quantize",
       .device = "cuda",
       .ops = {"quantize"},
       .dtypes = kFloats,
       .min_capability = 80,
       .refuse_problem = RefuseQuantize},
  };
}

}  // namespace flashflow::kernels
