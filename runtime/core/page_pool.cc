#include "runtime/core/page_pool.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/log/check.h"
#include "absl/types/span.h"

namespace flashflow::runtime {

PagePool::PagePool(int64_t num_pages) {
  CHECK_GE(num_pages, 0);
  CHECK_LE(num_pages, std::numeric_limits<int32_t>::max());
  in_use_.assign(num_pages, false);
  free_.reserve(num_pages);
  for (int64_t page = num_pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

std::optional<std::vector<int32_t>> PagePool::Allocate(int64_t count) {
  CHECK_GE(count, 0);
  if (count > num_free()) return std::nullopt;
  std::vector<int32_t> pages(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (const int32_t page : pages) in_use_[page] = true;
  return pages;
}

void PagePool::Free(absl::Span<const int32_t> pages) {
  for (const int32_t page : pages) {
    CHECK(page >= 0 && page < num_pages() && in_use_[page]) << "page " << page << " was not allocated";
    in_use_[page] = false;
    free_.push_back(page);
  }
}

}  // namespace flashflow::runtime
