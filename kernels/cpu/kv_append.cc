#include "kernels/cpu/kv_append.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "hwy/base.h"
#include "kernels/cpu/quantize.h"

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements of k and v

// One head's vector to a slot of its page.
void Store(const float* src, const PagedLayer& cache, char* head, int64_t slot) {
  const int64_t count = cache.head_dim;
  switch (cache.type) {
    case CacheType::kF32:
      std::memcpy(reinterpret_cast<float*>(head) + slot * count, src, static_cast<size_t>(count) * sizeof(float));
      return;
    case CacheType::kBF16: {
      auto* dst = reinterpret_cast<hwy::bfloat16_t*>(head) + slot * count;
      for (int64_t i = 0; i < count; ++i) dst[i] = hwy::BF16FromF32(src[i]);
      return;
    }
    case CacheType::kInt8:
      cache.Scales(head)[slot] = QuantizeRow(src, count, std::numeric_limits<float>::infinity(),
                                             reinterpret_cast<int8_t*>(head) + slot * count);
      return;
  }
}

}  // namespace

void KvAppend(TokenHeads k, TokenHeads v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool) {
  const int64_t width = cache.kv_heads * cache.head_dim;
  const int64_t tokens = rows.row_start[rows.rows()];
  pool->ParallelFor(tokens, kGrain / std::max<int64_t>(2 * width, 1) + 1, [&](int64_t begin, int64_t end) {
    int64_t row = 0;
    for (int64_t t = begin; t < end; ++t) {
      while (t >= rows.row_start[row + 1]) ++row;
      const int64_t slot = rows.first_slot(row) + t - rows.row_start[row];
      const int64_t page = rows.pages(row)[slot / cache.page_size];
      for (int64_t h = 0; h < cache.kv_heads; ++h) {
        const int64_t at = h * cache.head_dim;
        Store(k.data + t * k.stride + at, cache, cache.Head(page, false, h), slot % cache.page_size);
        Store(v.data + t * v.stride + at, cache, cache.Head(page, true, h), slot % cache.page_size);
      }
    }
  });
}

}  // namespace flashflow::cpu
