#include "runtime/api/plan_options.h"

#include <string>
#include <variant>

namespace flashflow::runtime {

passes::CompileOptions PlanOptions(std::string_view device_kind, const ir::Graph& stored) {
  passes::CompileOptions options;
  options.device = device_kind;
  if (device_kind != "cuda") return options;
  const auto dtype = stored.metadata().find("dtype");
  if (dtype != stored.metadata().end()) {
    if (const auto* name = std::get_if<std::string>(&dtype->second)) options.activation_dtype = *name;
  }
  // A long prompt, or many, fill a GPU in one step; memory for intermediate values is a few MiB a thousand tokens.
  options.max_tokens = 8192;
  options.max_rows = 256;
  options.max_logit_rows = 256;
  return options;
}

}  // namespace flashflow::runtime
