#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_checks.h"

namespace flashflow::cuda {
namespace gemm_sm90 {

// Defined a pair a file, gemm_sm90_*.cu.
template <Dtype kDtype, int kTileN>
cudaError_t LaunchTile(const GemmArgs& args, int sms, cudaStream_t stream);
#define FF_DECLARE(DTYPE, TILE_N) \
  template <>                     \
  cudaError_t LaunchTile<DTYPE, TILE_N>(const GemmArgs& args, int sms, cudaStream_t stream);
FF_DECLARE(Dtype::kBf16, 64)
FF_DECLARE(Dtype::kBf16, 128)
FF_DECLARE(Dtype::kBf16, 160)
FF_DECLARE(Dtype::kBf16, 192)
FF_DECLARE(Dtype::kF16, 64)
FF_DECLARE(Dtype::kF16, 128)
FF_DECLARE(Dtype::kF16, 192)
FF_DECLARE(Dtype::kS8, 64)
FF_DECLARE(Dtype::kS8, 128)
FF_DECLARE(Dtype::kS8, 192)
#undef FF_DECLARE

}  // namespace gemm_sm90

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The width whose busiest multiprocessor has the least to do: rounds of tiles times the width of a tile, plus what a
// narrow tile pays for reading `a` as often as a wide one.
int ChooseTileN(const GemmArgs& args, int sms) {
  int best = 0;
  int64_t best_cost = 0;
  for (int tile_n : {192, 160, 128, 64}) {
    if (tile_n == 160 && (args.gated || args.dtype != Dtype::kBf16)) continue;
    const int64_t columns = args.gated ? tile_n / 2 : tile_n;
    const int64_t tiles = CeilDiv(args.m, 256) * CeilDiv(args.n, columns);
    const int64_t cost = CeilDiv(tiles, std::max(1, sms / 2)) * (tile_n + 16);
    if (best == 0 || cost < best_cost) {
      best = tile_n;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace

cudaError_t GemmSm90(const GemmArgs& args, const GemmSm90Config& config, cudaStream_t stream) {
  if (cudaError_t error = CheckOperands(args)) return error;
  const int64_t step_d = args.f32_output ? 4 : 8;
  if (!FitsTensorCores(args) || !Aligned16(args.d) || !Aligned16(args.residual) || args.ldd % step_d != 0 ||
      (args.residual != nullptr && args.ld_residual % 8 != 0) || args.n % step_d != 0) {
    return cudaErrorNotSupported;
  }

  int device = 0, sms = 0, major = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device)) return error;
  if (major != 9) return cudaErrorNotSupported;

  const int tile_n = config.tile_n != 0 ? config.tile_n : ChooseTileN(args, sms);
  const auto launch = [&]<Dtype kDtype>() {
    switch (tile_n) {
      case 64:
        return gemm_sm90::LaunchTile<kDtype, 64>(args, sms, stream);
      case 128:
        return gemm_sm90::LaunchTile<kDtype, 128>(args, sms, stream);
      case 192:
        return gemm_sm90::LaunchTile<kDtype, 192>(args, sms, stream);
      default:
        return tile_n == 160 ? cudaErrorNotSupported : cudaErrorInvalidValue;
    }
  };
  switch (args.dtype) {
    case Dtype::kBf16:
      if (tile_n == 160) return gemm_sm90::LaunchTile<Dtype::kBf16, 160>(args, sms, stream);
      return launch.operator()<Dtype::kBf16>();
    case Dtype::kF16:
      return launch.operator()<Dtype::kF16>();
    default:
      return launch.operator()<Dtype::kS8>();
  }
}

}  // namespace flashflow::cuda
