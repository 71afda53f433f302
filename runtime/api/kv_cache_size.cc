#include "runtime/api/kv_cache_size.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace flashflow::runtime {
namespace {

std::string MiB(int64_t bytes) { return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20)); }

}  // namespace

int64_t PageBytes(const plan::CacheSpec& spec) {
  return 2 * spec.layers * spec.kv_heads * spec.page_size * KvHeadBytes(spec.dtype, spec.head_dim);
}

absl::StatusOr<int64_t> KvCachePages(const plan::Plan& plan, int max_batch, int64_t requested_bytes,
                                     int64_t available_bytes) {
  const int64_t page_bytes = PageBytes(plan.cache);
  const int64_t pages_per_row = (plan.limits.context_length + plan.cache.page_size - 1) / plan.cache.page_size;
  const int64_t usable = max_batch * pages_per_row;
  if (requested_bytes != 0) {
    if (requested_bytes < page_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("kv_cache_bytes is ", requested_bytes, "; a page of ",
                                                     plan.cache.page_size, " tokens takes ", page_bytes,
                                                     ", and the whole context ", pages_per_row * page_bytes));
    }
    const int64_t pages = std::min(requested_bytes / page_bytes, usable);
    if (pages > available_bytes / page_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat("kv_cache_bytes asks for ", MiB(requested_bytes), " but only ",
                                                       MiB(available_bytes),
                                                       " of memory are available: lower kv_cache_bytes"));
    }
    return pages;
  }
  const int64_t pages = std::clamp(available_bytes / 4 / page_bytes, pages_per_row, usable);
  if (pages > available_bytes / page_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV cache for one sequence of ", plan.limits.context_length, " tokens takes ",
                     MiB(pages * page_bytes), " but only ", MiB(available_bytes),
                     " of memory are available: free some, or set kv_cache_bytes for shorter sequences"));
  }
  return pages;
}

}  // namespace flashflow::runtime
