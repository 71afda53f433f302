// The pages of a paged KV cache: which are free. The memory itself is the device's.
#ifndef RUNTIME_CORE_PAGE_POOL_H_
#define RUNTIME_CORE_PAGE_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace flashflow::runtime {

class PagePool {
 public:
  explicit PagePool(int64_t num_pages);  // 0 <= num_pages <= 2^31 - 1

  // `count` distinct pages, or nullopt (and no change) if fewer are free.
  std::optional<std::vector<int32_t>> Allocate(int64_t count);
  // Gives pages back. CHECKs that each was allocated.
  void Free(absl::Span<const int32_t> pages);

  int64_t num_pages() const { return static_cast<int64_t>(in_use_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

 private:
  std::vector<int32_t> free_;  // a stack: the page used last is the one still in the processor's caches
  std::vector<bool> in_use_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_PAGE_POOL_H_
