#include "kernels/cpu/amx_tile.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLASHFLOW_AMX __attribute__((target("amx-tile,amx-int8")))

namespace flashflow::cpu {
namespace {

bool AskForAmx() {
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID leaf 7, EDX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & (kTile | kInt8)) != (kTile | kInt8)) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Not _tile_loadconfig: gcc's tells the compiler that it reads 8 bytes.
void Configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
FLASHFLOW_AMX void Release() { _tile_release(); }

constexpr size_t kPanelRow = 64;  // bytes: four k of 16 columns, and 16 i32

}  // namespace

bool HasAmx() {
  static const bool has = AskForAmx();
  return has;
}

AmxScope::AmxScope() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = kPanelRow;
    config.rows[i] = kAmxRows;
  }
  Configure(config);
}

AmxScope::~AmxScope() { Release(); }

// Tiles 0 to 3 are sums by row and panel, 4 and 5 rows of x, 6 and 7 panels. A panel's start is one row, read 16 times.
FLASHFLOW_AMX void AmxTile32(const uint8_t* x, size_t ldx, const std::byte* panel, size_t panel_bytes, size_t panels,
                             size_t k, int32_t* sums, size_t ld_sums) {
  const std::byte* w0 = panel + kPanelRow;
  const std::byte* w1 = w0 + panel_bytes;
  const uint8_t* x1 = x + kAmxRows * ldx;
  const size_t sum_bytes = ld_sums * sizeof(int32_t);
  _tile_loadd(0, panel, 0);
  _tile_loadd(1, panel, 0);
  if (panels == 1) {
    for (size_t i = 0; i < k; i += 64) {
      _tile_loadd(4, x + i, ldx);
      _tile_loadd(5, x1 + i, ldx);
      _tile_loadd(6, w0 + i * 16, kPanelRow);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 5, 6);
    }
  } else {
    _tile_loadd(2, panel + panel_bytes, 0);
    _tile_loadd(3, panel + panel_bytes, 0);
    for (size_t i = 0; i < k; i += 64) {
      _tile_loadd(4, x + i, ldx);
      _tile_loadd(6, w0 + i * 16, kPanelRow);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(5, x1 + i, ldx);
      _tile_dpbusd(1, 5, 6);
      _tile_loadd(7, w1 + i * 16, kPanelRow);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(2, sums + 16, sum_bytes);
    _tile_stored(3, sums + 16 + kAmxRows * ld_sums, sum_bytes);
  }
  _tile_stored(0, sums, sum_bytes);
  _tile_stored(1, sums + kAmxRows * ld_sums, sum_bytes);
}

FLASHFLOW_AMX void AmxTile16(const uint8_t* x, size_t ldx, const std::byte* panel, size_t panel_bytes, size_t panels,
                             size_t k, int32_t* sums, size_t ld_sums) {
  const std::byte* w0 = panel + kPanelRow;
  const std::byte* w1 = w0 + panel_bytes;
  const size_t sum_bytes = ld_sums * sizeof(int32_t);
  _tile_loadd(0, panel, 0);
  if (panels == 1) {
    for (size_t i = 0; i < k; i += 64) {
      _tile_loadd(4, x + i, ldx);
      _tile_loadd(6, w0 + i * 16, kPanelRow);
      _tile_dpbusd(0, 4, 6);
    }
  } else {
    _tile_loadd(2, panel + panel_bytes, 0);
    for (size_t i = 0; i < k; i += 64) {
      _tile_loadd(4, x + i, ldx);
      _tile_loadd(6, w0 + i * 16, kPanelRow);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(7, w1 + i * 16, kPanelRow);
      _tile_dpbusd(2, 4, 7);
    }
    _tile_stored(2, sums + 16, sum_bytes);
  }
  _tile_stored(0, sums, sum_bytes);
}

}  // namespace flashflow::cpu

#else  // no such unit

#include <cstdlib>

namespace flashflow::cpu {

bool HasAmx() { return false; }
AmxScope::AmxScope() { std::abort(); }
AmxScope::~AmxScope() = default;
void AmxTile32(const uint8_t*, size_t, const std::byte*, size_t, size_t, size_t, int32_t*, size_t) { std::abort(); }
void AmxTile16(const uint8_t*, size_t, const std::byte*, size_t, size_t, size_t, int32_t*, size_t) { std::abort(); }

}  // namespace flashflow::cpu

#endif
