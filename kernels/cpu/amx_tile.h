// Products of int8 codes by the tiles of x86's matrix unit (AMX).
#ifndef KERNELS_CPU_AMX_TILE_H_
#define KERNELS_CPU_AMX_TILE_H_

#include <cstddef>
#include <cstdint>

namespace flashflow::cpu {

// Whether this CPU has the unit and the operating system lets this process use it.
bool HasAmx();

inline constexpr size_t kAmxRows = 16;  // of a tile

// Tiles for the calling thread while it lives. Needs HasAmx().
class AmxScope {
 public:
  AmxScope();
  ~AmxScope();
  AmxScope(const AmxScope&) = delete;
  AmxScope& operator=(const AmxScope&) = delete;
};

// sums[32, 16 * panels] = start[16 * panels] + x[32, k] w for one or two panels: rows of x are ldx bytes apart, those
// of sums ld_sums elements; panel p's start is at panel + p * panel_bytes, and behind it are its codes, [k / 4][16][4].
// k is a multiple of 64.
void AmxTile32(const uint8_t* x, size_t ldx, const std::byte* panel, size_t panel_bytes, size_t panels, size_t k,
               int32_t* sums, size_t ld_sums);

// The same of 16 rows.
void AmxTile16(const uint8_t* x, size_t ldx, const std::byte* panel, size_t panel_bytes, size_t panels, size_t k,
               int32_t* sums, size_t ld_sums);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_AMX_TILE_H_
