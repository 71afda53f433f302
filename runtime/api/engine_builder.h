// Makes an engine file (.ff) of an exported model.
#ifndef RUNTIME_API_ENGINE_BUILDER_H_
#define RUNTIME_API_ENGINE_BUILDER_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::runtime {

inline constexpr std::string_view kVersion = "0.1.0";

// What the model brings besides its graph and its weights.
struct ModelFiles {
  std::string config_json;     // an object; section ff.config
  std::string tokenizer_json;  // section ff.tokenizer; empty: none
};

// Compiles the rectangular graph for options.device, and writes graph, plan, files and weights to `path` (as
// engine::WriteEngine does). Weights are asked of `source` by the names that the graph gives them and are converted to
// the dtypes that it has after narrowing, or become codes and scales where plans read them so (options.quantize).
// FailedPrecondition if no layer of a model that is to be int8 can be. The errors of the compiler and of the writer;
// InvalidArgument if config_json is no JSON object.
absl::Status BuildEngine(const std::string& path, const ir::Graph& rectangular, const ModelFiles& files,
                         const passes::CompileOptions& options, const engine::WeightSource& source,
                         const engine::WriteProgress& progress = nullptr);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_ENGINE_BUILDER_H_
