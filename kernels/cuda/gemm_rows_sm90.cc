#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_checks.h"

namespace flashflow::cuda {
namespace gemm_rows_sm90 {

// Defined a type a file, gemm_rows_sm90_*.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream);
#define FF_DECLARE(DTYPE) \
  template <>             \
  cudaError_t LaunchElement<DTYPE>(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream);
FF_DECLARE(Dtype::kBf16)
FF_DECLARE(Dtype::kF16)
FF_DECLARE(Dtype::kS8)
#undef FF_DECLARE

}  // namespace gemm_rows_sm90

namespace {

// Those of an H200, whatever the GPU: the order of a sum must not depend on it.
constexpr int kMultiprocessors = 132;

int64_t TilesOf(const GemmArgs& args, int64_t rows) {
  return ((args.gated ? 2 : 1) * int64_t{args.n} + rows - 1) / rows;
}

// Whether the CTAs of one shape of a product are resident at once.
bool FitAtOnce(int64_t ctas) { return ctas <= 2 * kMultiprocessors; }

// By n and k alone, so that a row's bits do not depend on m.
GemmRowsSm90Config Choose(const GemmArgs& args, GemmRowsSm90Config config) {
  const bool makes_codes = args.quantize && args.norm.gamma == nullptr;
  if (makes_codes && args.m == 1) {
    // Sums of codes are exact, however they are shared out.
    constexpr int kShortSlice = 384;
    if (config.tile_rows == 0) config.tile_rows = 64;
    if (config.split_k == 0) {
      config.split_k = 2;
      while (config.split_k < 8 && (args.k + config.split_k - 1) / config.split_k > kShortSlice) config.split_k *= 2;
    }
    return config;
  }
  if (config.tile_rows == 0) {
    config.tile_rows = config.split_k <= 1 && TilesOf(args, 64) > 4 * kMultiprocessors ? 128 : 64;
  }
  if (config.split_k == 0) {
    const int64_t tiles = TilesOf(args, config.tile_rows);
    config.split_k = 1;
    // Up to two CTAs a multiprocessor, each with at least 384 columns.
    while (config.tile_rows == 64 && config.split_k < 8 && tiles * config.split_k * 2 <= 2 * kMultiprocessors &&
           args.k >= config.split_k * 768) {
      config.split_k *= 2;
    }
    if (makes_codes) config.split_k = std::max(config.split_k, 2);
  }
  return config;
}

}  // namespace

cudaError_t GemmRowsSm90(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream) {
  if (cudaError_t error = CheckOperands(args, /*takes_floats=*/true)) return error;
  const GemmRowsSm90Config chosen = Choose(args, config);
  if ((chosen.tile_rows != 64 && chosen.tile_rows != 128) ||
      (chosen.split_k != 1 && chosen.split_k != 2 && chosen.split_k != 4 && chosen.split_k != 8)) {
    return cudaErrorInvalidValue;
  }
  if (!FitsTensorCores(args)) return cudaErrorNotSupported;
  if (args.norm.gamma != nullptr) {
    if (args.norm.rms && args.norm.beta != nullptr) return cudaErrorInvalidValue;
    if (args.m > kMostNormedRows || args.k > kMostNormedColumns || (args.dtype == Dtype::kS8 && !args.quantize) ||
        !Aligned16(args.norm.gamma) || !Aligned16(args.norm.beta) || chosen.tile_rows != 64 ||
        !FitAtOnce(TilesOf(args, 64) * chosen.split_k)) {
      return cudaErrorNotSupported;
    }
  } else if (args.quantize &&
             (args.m > kMostNormedRows || (args.m > 1 && args.k > kMostCodedColumns) || args.gated ||
              chosen.tile_rows != 64 || chosen.split_k == 1 || !FitAtOnce(TilesOf(args, 64) * chosen.split_k))) {
    return cudaErrorNotSupported;
  }
  int device = 0, major = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (major != 9) return cudaErrorNotSupported;
  switch (args.dtype) {
    case Dtype::kBf16:
      return gemm_rows_sm90::LaunchElement<Dtype::kBf16>(args, chosen, stream);
    case Dtype::kF16:
      return gemm_rows_sm90::LaunchElement<Dtype::kF16>(args, chosen, stream);
    default:
      return gemm_rows_sm90::LaunchElement<Dtype::kS8>(args, chosen, stream);
  }
}

}  // namespace flashflow::cuda
