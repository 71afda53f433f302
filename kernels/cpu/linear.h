// Linear layers over packed weights, with what may follow them in one pass: matrix-vector for decode, matrix-matrix for
// prefill, one arithmetic for both.
//
// Every z[m, n] is the sum over k in ascending order in one fp32 accumulator, then plus the bias. So a row's bits do
// not depend on the other rows, on how many there are, or on the number of threads.
#ifndef KERNELS_CPU_LINEAR_H_
#define KERNELS_CPU_LINEAR_H_

#include <cstdint>

#include "kernels/cpu/linear_epilogue.h"
#include "kernels/cpu/quantize_groups.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// How the weights are stored.
enum class LinearWeight : uint8_t {
  kF32,   // panel16
  kBF16,  // panel16_vnni2: widened exactly
  kInt4,  // panel16_int4 and panel16_groups, for rows of codes, by the arithmetic of kernels/cpu/linear_int4.h
};

// z[m, n] = x[m, k] weight[n, k]^T + bias; y = f(z), or with `gated` f(z[:, :n/2]) * z[:, n/2:]; then y += residual.
// f is as accurate as kernels/cpu/unary.h says.
struct LinearProblem {
  const float* x = nullptr;        // row-major, as y and residual
  const uint8_t* codes = nullptr;  // in its place, of kInt4: as QuantizeInt4Rows makes them
  // In a layout of kernels/registry/catalog.h, aligned to 64 bytes; x is not rounded to the weights' type.
  const void* weight = nullptr;
  LinearWeight weight_type = LinearWeight::kF32;
  const void* groups = nullptr;     // of kInt4; k is a multiple of kInt4Group then
  const float* bias = nullptr;      // [n], or nullptr
  const float* residual = nullptr;  // of y's shape, or nullptr
  float* y = nullptr;               // [m, n], or gated [m, n / 2]; overlaps none of the others
  int64_t m = 0, n = 0, k = 0;      // >= 0
  Activation activation = Activation::kNone;
  bool gated = false;   // n is even
  ReadAhead next = {};  // what is read after this layer
};

// How the work is cut up. It decides the speed alone: every result has the same bits under every config.
struct LinearConfig {
  int64_t tile_rows = 0;          // of a register tile at most; 0, or more than there are: as many as registers hold
  int64_t tile_panels = 0;        // the same of its panels of 16 columns
  int64_t block_rows = 128;       // rows and depth of x that meet all panels before the next: they are to stay in the
  int64_t block_k = 768;          // L2 cache. A gated layer has at most 128 rows in a block
  int64_t prefetch_bytes = 2048;  // of one panel: how far ahead a stream of weights is fetched
  // At most, so that one thread which is held up does not hold up all; more of few rows and many weights.
  int64_t tasks_per_thread = 4;
  int64_t task_columns = 48;  // that a task of many rows has at least; a multiple of 16
};
// All of the config's values but the first two are at least 1.
void Linear(const LinearProblem& problem, ThreadPool* pool, const LinearConfig& config = {});

// The register tiles of the SIMD target that runs: rows of x times panels of 16 columns; and those for few rows.
struct LinearTiles {
  int64_t rows = 0, panels = 0;
  int64_t stream_rows = 0, stream_panels = 0;
};
LinearTiles LinearTilesOfTarget();

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_H_
