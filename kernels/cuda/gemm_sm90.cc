#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm.h"

namespace flashflow::cuda {
namespace gemm_sm90 {

// Defined a width a file, gemm_sm90_n*.cu.
template <int kTileN>
cudaError_t LaunchTile(const GemmArgs& args, int sms, cudaStream_t stream);
template <>
cudaError_t LaunchTile<128>(const GemmArgs& args, int sms, cudaStream_t stream);
template <>
cudaError_t LaunchTile<160>(const GemmArgs& args, int sms, cudaStream_t stream);
template <>
cudaError_t LaunchTile<192>(const GemmArgs& args, int sms, cudaStream_t stream);

}  // namespace gemm_sm90

namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The width whose busiest multiprocessor has the least to do: rounds of tiles times the width of a tile, plus what a
// narrow tile pays for reading `a` as often as a wide one.
int ChooseTileN(const GemmArgs& args, int sms) {
  int best = 0;
  int64_t best_cost = 0;
  for (int tile_n : {192, 160, 128}) {
    if (args.gated && tile_n == 160) continue;
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

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t GemmSm90(const GemmArgs& args, const GemmSm90Config& config, cudaStream_t stream) {
  if (args.m < 1 || args.n < 1 || args.k < 1) return cudaErrorInvalidValue;
  if (args.a == nullptr || args.w == nullptr || args.d == nullptr) return cudaErrorInvalidValue;
  const int64_t step_d = args.f32_output ? 4 : 8;
  if (!Aligned(args.a) || !Aligned(args.w) || !Aligned(args.d) || !Aligned(args.residual) || args.lda % 8 != 0 ||
      args.ldw % 8 != 0 || args.ldd % step_d != 0 || (args.residual != nullptr && args.ld_residual % 8 != 0) ||
      args.k % 8 != 0 || args.n % step_d != 0 || reinterpret_cast<uintptr_t>(args.bias) % 4 != 0) {
    return cudaErrorNotSupported;
  }

  int device = 0, sms = 0, major = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device)) return error;
  if (major != 9) return cudaErrorNotSupported;

  switch (config.tile_n != 0 ? config.tile_n : ChooseTileN(args, sms)) {
    case 128:
      return gemm_sm90::LaunchTile<128>(args, sms, stream);
    case 160:
      return gemm_sm90::LaunchTile<160>(args, sms, stream);
    case 192:
      return gemm_sm90::LaunchTile<192>(args, sms, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace flashflow::cuda
