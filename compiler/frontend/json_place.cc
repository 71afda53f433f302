#include "compiler/frontend/json_place.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace flashflow::frontend {
namespace {

// An object or list that is open: how much of the path leads to it, if it is on it, and to its next value.
struct Level {
  bool is_list;
  std::optional<size_t> matched;
  std::optional<size_t> next;
  size_t index = 0;
};

// How much of the path leads to the child that `step`, ".key" or "[3]", names.
std::optional<size_t> Follow(std::string_view path, std::optional<size_t> matched, std::string_view step) {
  if (!matched.has_value()) return std::nullopt;
  if (*matched == 0 && absl::StartsWith(step, ".")) step.remove_prefix(1);
  if (!absl::StartsWith(path.substr(*matched), step)) return std::nullopt;
  const size_t end = *matched + step.size();
  return end == path.size() || path[end] == '.' || path[end] == '[' ? std::optional(end) : std::nullopt;
}

// The end of the string that begins at `start`.
size_t EndOfString(std::string_view text, size_t start) {
  size_t end = start + 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  return std::min(end + 1, text.size());
}

}  // namespace

std::string PlaceOf(std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return absl::StrCat(std::count(before.begin(), before.end(), '\n') + 1, ":", before.size() - line_start + 1);
}

size_t OffsetOf(std::string_view text, std::string_view path) {
  std::vector<Level> open;
  size_t found = 0, found_length = 0;
  // A value begins: how much of the path leads to it.
  const auto begin = [&](size_t at) -> std::optional<size_t> {
    std::optional<size_t> matched = 0;
    if (!open.empty()) {
      Level& level = open.back();
      matched = level.is_list ? Follow(path, level.matched, absl::StrCat("[", level.index, "]")) : level.next;
    }
    if (matched.has_value() && *matched >= found_length) {
      found = at;
      found_length = *matched;
    }
    return matched;
  };
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (absl::ascii_isspace(c) || c == ':') {
      ++at;
    } else if (c == ',') {
      if (!open.empty()) ++open.back().index;
      if (!open.empty()) open.back().next.reset();
      ++at;
    } else if (c == '}' || c == ']') {
      if (!open.empty()) open.pop_back();
      ++at;
    } else if (c == '{' || c == '[') {
      const std::optional<size_t> matched = begin(at);
      open.push_back({.is_list = c == '[', .matched = matched, .next = std::nullopt});
      ++at;
    } else if (c == '"') {
      const size_t end = EndOfString(text, at);
      const size_t colon = text.find_first_not_of(" \t\r\n", end);
      const bool is_key = !open.empty() && !open.back().is_list && colon < text.size() && text[colon] == ':';
      if (!is_key) {
        begin(at);
      } else if (open.back().matched.has_value()) {
        const auto key = nlohmann::json::parse(text.substr(at, end - at), nullptr, /*allow_exceptions=*/false);
        if (key.is_string()) {
          open.back().next = Follow(path, open.back().matched, absl::StrCat(".", key.get_ref<const std::string&>()));
        }
      }
      at = end;
    } else {
      begin(at);
      at = std::min(text.find_first_of(" \t\r\n,:]}", at), text.size());
    }
  }
  return found;
}

}  // namespace flashflow::frontend
