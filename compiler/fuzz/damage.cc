#include "compiler/fuzz/damage.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"

namespace flashflow::fuzz {
namespace {

constexpr std::string_view kNumbers[] = {"0",
                                         "1",
                                         "-1",
                                         "2",
                                         "3",
                                         "7",
                                         "64",
                                         "4294967296",
                                         "9223372036854775807",
                                         "-9223372036854775808",
                                         "99999999999999999999",
                                         "1e999",
                                         "0.5",
                                         "nan"};
constexpr std::string_view kMarks = "(){}[]%,=-*:\"0_9.\n\\";

struct Range {
  size_t first = 0;
  size_t size = 0;
};

// A run of letters, digits, '_' and '.' at or after `at`; empty at the end of the text.
Range WordFrom(std::string_view text, size_t at) {
  const auto in_word = [&text](size_t i) { return absl::ascii_isalnum(text[i]) || text[i] == '_' || text[i] == '.'; };
  while (at < text.size() && !in_word(at)) ++at;
  Range word{at, 0};
  while (word.first > 0 && in_word(word.first - 1)) --word.first;
  size_t end = at;
  while (end < text.size() && in_word(end)) ++end;
  word.size = end - word.first;
  return word;
}

}  // namespace

std::string Damage(std::string_view valid, std::mt19937_64& random) {
  std::string text(valid);
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  for (size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
    const size_t at = below(text.size());
    const Range word = WordFrom(text, at);
    switch (below(10)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text[at] = kMarks[below(kMarks.size())];
        break;
      case 2:
        text.erase(at, 1 + below(24));
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), 1 + below(48)));
        break;
      case 4: {  // a line, or what there is of one, moves
        const size_t end = std::min(text.find('\n', at), text.size() - 1);
        const std::string line = text.substr(at, end - at + 1);
        text.erase(at, line.size());
        text.insert(below(text.size() + 1), line);
        break;
      }
      case 5:
      case 6: {
        const Range other = WordFrom(text, below(text.size()));
        text.replace(word.first, word.size, text.substr(other.first, other.size));
        break;
      }
      case 7:
      case 8: {
        size_t number = at;
        while (number < text.size() && !absl::ascii_isdigit(text[number])) ++number;
        size_t end = number;
        while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
        text.replace(number, end - number, kNumbers[below(std::size(kNumbers))]);
        break;
      }
      default:
        if (below(4) == 0) text.resize(at);
        break;
    }
  }
  return text;
}

}  // namespace flashflow::fuzz
