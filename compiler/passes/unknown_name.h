// What to say of a name that nothing has.
#ifndef COMPILER_PASSES_UNKNOWN_NAME_H_
#define COMPILER_PASSES_UNKNOWN_NAME_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace flashflow::passes {

// InvalidArgument `no pass is named "fuze-mlp"; did you mean "fuse-mlp"? passes: dce, ...`: the nearest name if one is
// near, at most a third of its letters away, and all of them. `kind` is "pass", "option".
absl::Status UnknownName(std::string_view kind, std::string_view name, absl::Span<const std::string> known);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_UNKNOWN_NAME_H_
