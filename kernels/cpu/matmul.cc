#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                     // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

constexpr size_t kBlockK = 512;
constexpr size_t kBlockColumns = 3 * kPanel;
static_assert(kBlockK * kBlockColumns * sizeof(float) <= ThreadPool::kScratchBytes);

// Rows [0, m) and columns [column, column + columns) of one product; columns <= kBlockColumns.
void MatMulBlock(const float* a, const float* b, const float* bias, float* y, const MatMulShape& shape, size_t m,
                 size_t column, size_t columns, float* scratch) {
  const size_t k = static_cast<size_t>(shape.k);
  const size_t n = static_cast<size_t>(shape.n);
  // Few rows of whole panels are read in place, many are worth a copy that lies together.
  const bool in_place = shape.b_n_stride == 1 && columns % kPanel == 0 && m <= 2 * kTileRows;
  b += static_cast<int64_t>(column) * shape.b_n_stride;
  size_t begin = 0;
  do {
    const size_t count = std::min(kBlockK, k - begin);
    const float* block = b + static_cast<int64_t>(begin) * shape.b_k_stride;
    const Panels panels = in_place ? Panels{block, static_cast<size_t>(shape.b_k_stride), kPanel}
                                   : PackPanels(block, shape.b_k_stride, shape.b_n_stride, count, columns, scratch);
    const bool last = begin + count == k;
    TileProduct(a + begin, k, panels, last && bias != nullptr ? bias + column : nullptr, y + column, n, m, columns,
                count, /*accumulate=*/begin > 0);
    begin += count;
  } while (begin < k);
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(MatMulBlock);

constexpr int64_t kColumns = 48;              // of a task: three panels
constexpr int64_t kRows = 96;                 // of a task where there are many
constexpr int64_t kGrain = int64_t{1} << 15;  // multiply-adds that are worth a task

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void MatMul(const float* a, std::span<const int64_t> a_strides, const float* b, std::span<const int64_t> b_strides,
            const float* bias, float* y, std::span<const int64_t> batch, const MatMulShape& shape, ThreadPool* pool) {
  HWY_ASSERT(a_strides.size() == batch.size() && b_strides.size() == batch.size());
  int64_t count = 1;
  for (int64_t dim : batch) count *= dim;
  if (count == 0 || shape.m == 0 || shape.n == 0) return;
  const auto run_block = HWY_DYNAMIC_POINTER(MatMulBlock);
  const int64_t column_blocks = CeilDiv(shape.n, kColumns);
  const int64_t row_blocks = CeilDiv(shape.m, kRows);
  const int64_t blocks = count * row_blocks * column_blocks;
  const auto run = [&](int64_t block, int thread) {
    const int64_t column = block % column_blocks * kColumns;
    const int64_t row = block / column_blocks % row_blocks * kRows;
    const int64_t i = block / column_blocks / row_blocks;
    int64_t a_offset = 0, b_offset = 0, rest = i;
    for (size_t d = batch.size(); d-- > 0;) {
      a_offset += rest % batch[d] * a_strides[d];
      b_offset += rest % batch[d] * b_strides[d];
      rest /= batch[d];
    }
    run_block(a + a_offset + row * shape.k, b + b_offset, bias, y + (i * shape.m + row) * shape.n, shape,
              static_cast<size_t>(std::min(kRows, shape.m - row)), static_cast<size_t>(column),
              static_cast<size_t>(std::min(kColumns, shape.n - column)), static_cast<float*>(pool->scratch(thread)));
  };
  if (count * shape.m * shape.n * std::max<int64_t>(shape.k, 1) < 2 * kGrain) {
    for (int64_t block = 0; block < blocks; ++block) run(block, 0);
  } else {
    pool->Run(blocks, run);
  }
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
