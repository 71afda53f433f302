#include "compiler/passes/ir_check.h"

#include <optional>
#include <regex>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

struct Check {
  enum Kind { kLater, kNext, kNot } kind;
  std::string pattern;
};

std::vector<Check> ReadChecks(std::string_view text) {
  std::vector<Check> checks;
  for (std::string_view line : absl::StrSplit(text, '\n')) {
    const size_t at = line.find("// CHECK");
    if (at == std::string_view::npos) continue;
    line.remove_prefix(at + 8);
    for (const auto& [prefix, kind] :
         {std::pair(":", Check::kLater), std::pair("-NEXT:", Check::kNext), std::pair("-NOT:", Check::kNot)}) {
      if (!absl::StartsWith(line, prefix)) continue;
      checks.push_back({kind, std::string(absl::StripAsciiWhitespace(line.substr(std::string_view(prefix).size())))});
    }
  }
  return checks;
}

std::regex ToRegex(std::string_view pattern) {
  std::string regex;
  while (!pattern.empty()) {
    if (absl::StartsWith(pattern, "{{")) {
      const size_t end = pattern.find("}}");
      absl::StrAppend(&regex, "(", pattern.substr(2, end - 2), ")");
      pattern.remove_prefix(end + 2);
    } else {
      if (!absl::ascii_isalnum(pattern[0]) && pattern[0] != ' ') regex += '\\';
      regex += pattern[0];
      pattern.remove_prefix(1);
    }
  }
  return std::regex(regex);
}

// Whether the passes ran, left the graph as it was, and say so.
AssertionResult Unchanged(const PassRun& run) {
  if (!run.error.empty()) return AssertionFailure() << run.error;
  if (run.before != run.after) return AssertionFailure() << "the graph changed:\n" << run.after;
  for (const PassRecord& record : run.records) {
    if (record.changed) return AssertionFailure() << record.pass << " says that it changed the graph";
  }
  return AssertionSuccess();
}

}  // namespace

AssertionResult MatchChecks(std::string_view output, std::string_view expectations) {
  const std::vector<Check> checks = ReadChecks(expectations);
  if (checks.empty()) return AssertionFailure() << "there are no CHECK lines";
  const std::vector<std::string> lines = absl::StrSplit(output, '\n');
  const auto matches = [&lines](size_t line, const Check& check) {
    return std::regex_search(lines[line], ToRegex(check.pattern));
  };
  size_t next = 0;  // the first line after the last match
  std::vector<Check> forbidden;
  const auto check_forbidden = [&](size_t end) -> std::optional<std::string> {
    for (const Check& check : forbidden) {
      for (size_t i = next; i < end; ++i) {
        if (matches(i, check)) return absl::StrCat("CHECK-NOT: ", check.pattern, " matches line ", i + 1);
      }
    }
    forbidden.clear();
    return std::nullopt;
  };
  for (const Check& check : checks) {
    if (check.kind == Check::kNot) {
      forbidden.push_back(check);
      continue;
    }
    size_t line = next;
    const size_t end = check.kind == Check::kNext ? std::min(next + 1, lines.size()) : lines.size();
    while (line < end && !matches(line, check)) ++line;
    if (line == end) {
      return AssertionFailure() << (check.kind == Check::kNext ? "CHECK-NEXT: " : "CHECK: ") << check.pattern
                                << " does not match after line " << next << " of:\n"
                                << output;
    }
    if (const auto error = check_forbidden(line)) return AssertionFailure() << *error << " of:\n" << output;
    next = line + 1;
  }
  if (const auto error = check_forbidden(lines.size())) return AssertionFailure() << *error << " of:\n" << output;
  return AssertionSuccess();
}

PassRun RunPasses(Passes passes, std::string_view text, const CompileOptions& options) {
  PassRun run;
  const auto graph = ir::Parse(text);
  if (!graph.ok()) {
    run.error = absl::StrCat("parsing: ", graph.status().message());
    return run;
  }
  run.before = ir::Print(**graph);
  absl::StatusOr<std::vector<PassRecord>> records = PassManager(std::move(passes)).Run(graph->get(), options);
  if (records.ok()) {
    run.records = *std::move(records);
  } else {
    run.error = std::string(records.status().message());
  }
  run.after = ir::Print(**graph);
  return run;
}

AssertionResult CheckPasses(Passes passes, std::string_view text, const CompileOptions& options) {
  const PassRun run = RunPasses(std::move(passes), text, options);
  if (!run.error.empty()) return AssertionFailure() << run.error;
  bool changed = false;
  for (const PassRecord& record : run.records) changed |= record.changed;
  if (changed != (run.before != run.after)) {
    return AssertionFailure() << "the passes say changed = " << changed << ", the graph:\n" << run.after;
  }
  return MatchChecks(run.after, text);
}

AssertionResult CheckUnchanged(Passes passes, std::string_view text, const CompileOptions& options) {
  return Unchanged(RunPasses(std::move(passes), text, options));
}

AssertionResult CheckRefusal(Passes passes, std::string_view text, std::string_view reason,
                             const CompileOptions& options) {
  const PassRun run = RunPasses(std::move(passes), text, options);
  if (AssertionResult unchanged = Unchanged(run); !unchanged) return unchanged;
  std::string remarks;
  for (const PassRecord& record : run.records) {
    for (const Remark& remark : record.remarks) absl::StrAppend(&remarks, remark.ToString(), "\n");
  }
  if (absl::StrContains(remarks, reason)) return AssertionSuccess();
  return AssertionFailure() << "expected a remark with \"" << reason << "\", got: " << remarks;
}

}  // namespace flashflow::passes
