// Reads the textual form of a graph (printer.h says how it looks).
#ifndef COMPILER_IR_PARSER_H_
#define COMPILER_IR_PARSER_H_

#include <cstddef>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"

namespace flashflow::ir {

inline constexpr size_t kMaxTextBytes = size_t{64} << 20;

// Any text gives a graph that the verifier passes, or InvalidArgument "line:column: expected ..., got ...", the place
// being the definition of what the verifier refuses. Values may have any name of letters, digits, '_' and '.' after the
// '%'; `//` starts a comment.
absl::StatusOr<std::unique_ptr<Graph>> Parse(std::string_view text);

}  // namespace flashflow::ir

#endif  // COMPILER_IR_PARSER_H_
