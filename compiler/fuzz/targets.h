// What the compiler promises for any text, one target each: an error or a right result, never a crash.
#ifndef COMPILER_FUZZ_TARGETS_H_
#define COMPILER_FUZZ_TARGETS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace flashflow::fuzz {

enum class Outcome { kRefused, kAccepted };

// A promise that is broken is an Internal error; a crash is one too.
using TargetFn = absl::StatusOr<Outcome> (*)(std::string_view text);

struct Target {
  std::string_view name;
  std::string_view doc;
  TargetFn run;
  std::vector<std::string> (*corpus)();  // valid texts to damage
};

// parser: .ffir; a refused text has an InvalidArgument with line and column, an accepted one prints to a text that
//   parses to the same graph.
// importer: graph.json; the same for the graph that comes of it.
// passes: .ffir; what the parser accepts goes through the step pipeline, which leaves a graph that the verifier passes
//   or says why not.
absl::Span<const Target> Targets();

}  // namespace flashflow::fuzz

#endif  // COMPILER_FUZZ_TARGETS_H_
