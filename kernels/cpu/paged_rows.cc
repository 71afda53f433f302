#include "kernels/cpu/paged_rows.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace flashflow::cpu {

std::string CheckPagedRows(const PagedRows& rows, int64_t tokens, int64_t page_size, int64_t pages) {
  const int64_t count = rows.rows();
  if (static_cast<int64_t>(rows.row_start.size()) != count + 1) {
    return absl::StrCat("row_start has ", rows.row_start.size(), " entries for ", count, " rows");
  }
  if (rows.pages_per_row < 0 || static_cast<int64_t>(rows.block_table.size()) != count * rows.pages_per_row) {
    return absl::StrCat("block_table has ", rows.block_table.size(), " entries for ", count, " rows");
  }
  if (rows.row_start[0] != 0) return absl::StrCat("row_start begins with ", rows.row_start[0], ", not 0");
  if (rows.row_start[count] != tokens) {
    return absl::StrCat("row_start ends with ", rows.row_start[count], " for ", tokens, " tokens");
  }
  for (int64_t r = 0; r < count; ++r) {
    if (rows.row_start[r] < 0 || rows.row_start[r + 1] < rows.row_start[r]) {
      return absl::StrCat("row_start descends after row ", r);
    }
    const int64_t slots = rows.kv_len[r];
    if (slots < rows.tokens(r)) {
      return absl::StrCat("kv_len[", r, "] is ", slots, ", less than the row's ", rows.tokens(r), " new tokens");
    }
    const int64_t used = (slots + page_size - 1) / page_size;
    if (used > rows.pages_per_row) {
      return absl::StrCat("kv_len[", r, "] is ", slots, ", more than ", rows.pages_per_row, " pages of ", page_size,
                          " hold");
    }
    for (int64_t i = 0; i < used; ++i) {
      const int64_t page = rows.pages(r)[i];
      if (page < 0 || page >= pages) {
        return absl::StrCat("block_table[", r, ", ", i, "] is ", page, ", but the cache has ", pages, " pages");
      }
    }
  }
  return "";
}

}  // namespace flashflow::cpu
