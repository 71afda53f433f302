// How large the KV cache is to be.
#ifndef RUNTIME_API_KV_CACHE_SIZE_H_
#define RUNTIME_API_KV_CACHE_SIZE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "compiler/plan/plan.h"

namespace flashflow::runtime {

// Bytes of one page in all layers. Precondition: the spec has passed plan::Validate.
int64_t PageBytes(const plan::CacheSpec& spec);

// Pages for the cache: what `requested_bytes` hold, or by default (0) what max_batch rows of the whole context need,
// at most a quarter of `available_bytes` but room for one row. Never more than max_batch rows can use.
// InvalidArgument if requested_bytes is negative or does not hold a page; ResourceExhausted if the memory there is does
// not hold what was requested or, by default, one row of the context.
absl::StatusOr<int64_t> KvCachePages(const plan::Plan& plan, int max_batch, int64_t requested_bytes,
                                     int64_t available_bytes);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_KV_CACHE_SIZE_H_
