#include "kernels/cpu/kv_append.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "hwy/base.h"

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements of k and v

void Store(const float* src, int64_t count, float* dst) {
  std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(float));
}

void Store(const float* src, int64_t count, hwy::bfloat16_t* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = hwy::BF16FromF32(src[i]);
}

template <typename T>
void Append(TokenHeads k, TokenHeads v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool) {
  const int64_t width = cache.kv_heads * cache.head_dim;
  const int64_t tokens = rows.row_start[rows.rows()];
  T* data = static_cast<T*>(cache.data);
  pool->ParallelFor(tokens, kGrain / std::max<int64_t>(2 * width, 1) + 1, [&](int64_t begin, int64_t end) {
    int64_t row = 0;
    for (int64_t t = begin; t < end; ++t) {
      while (t >= rows.row_start[row + 1]) ++row;
      const int64_t slot = rows.first_slot(row) + t - rows.row_start[row];
      const int64_t page = rows.pages(row)[slot / cache.page_size];
      for (int64_t h = 0; h < cache.kv_heads; ++h) {
        const int64_t at = h * cache.head_dim;
        Store(k.data + t * k.stride + at, cache.head_dim, data + cache.Offset(page, false, h, slot % cache.page_size));
        Store(v.data + t * v.stride + at, cache.head_dim, data + cache.Offset(page, true, h, slot % cache.page_size));
      }
    }
  });
}

}  // namespace

void KvAppend(TokenHeads k, TokenHeads v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool) {
  if (cache.bf16) {
    Append<hwy::bfloat16_t>(k, v, rows, cache, pool);
  } else {
    Append<float>(k, v, rows, cache, pool);
  }
}

}  // namespace flashflow::cpu
