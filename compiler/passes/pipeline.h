// The passes of FlashFlow: the one list.
#ifndef COMPILER_PASSES_PIPELINE_H_
#define COMPILER_PASSES_PIPELINE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/passes/pass.h"

namespace flashflow::passes {

// From an imported rectangular graph to a step graph that codegen takes.
std::vector<std::unique_ptr<Pass>> StepPipeline();

// From an imported graph to the rectangular graph that codegen takes as it is, without a KV cache.
std::vector<std::unique_ptr<Pass>> GraphPipeline();

// From an imported graph to the rectangular graph that an engine file stores: cleaned, in the chosen dtype.
std::vector<std::unique_ptr<Pass>> StoragePipeline();

// The passes of these names in this order. InvalidArgument for an unknown name, with the nearest one.
absl::StatusOr<std::vector<std::unique_ptr<Pass>>> MakePasses(absl::Span<const std::string> names);

// Every pass there is, once.
std::vector<std::unique_ptr<Pass>> AllPasses();

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_PIPELINE_H_
