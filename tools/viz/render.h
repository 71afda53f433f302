// Pictures by Graphviz's own program.
#ifndef TOOLS_VIZ_RENDER_H_
#define TOOLS_VIZ_RENDER_H_

#include <string>

#include "absl/status/status.h"

namespace flashflow::tools {

// Lays out DOT text and writes it as `format`, "svg" or "png", to the file. FailedPrecondition, with how to install it,
// where there is no program `dot` on the PATH; Internal with what it said where it fails.
absl::Status RenderDot(const std::string& dot, const std::string& format, const std::string& path);

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_RENDER_H_
