#include "compiler/passes/unknown_name.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow::passes {
namespace {

// Letters to insert, delete or replace, to make one of the other (Levenshtein).
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

absl::Status UnknownName(std::string_view kind, std::string_view name, absl::Span<const std::string> known) {
  constexpr size_t kLongest = 200;  // no name is as long, and the distance takes the product of the lengths
  const std::string* nearest = nullptr;
  size_t least = 0;
  for (const std::string& candidate : known) {
    if (name.size() > kLongest) break;
    const size_t distance = Distance(name, candidate);
    if (distance > std::max<size_t>(candidate.size() / 3, 1) || (nearest != nullptr && distance >= least)) continue;
    nearest = &candidate;
    least = distance;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no ", kind, " is named \"", name, "\"",
                   nearest == nullptr ? "; " : absl::StrCat("; did you mean \"", *nearest, "\"? "), kind,
                   kind.ends_with("s") ? "es: " : "s: ", absl::StrJoin(known, ", ")));
}

}  // namespace flashflow::passes
