// The problems that a model's plan poses to kernels with parameters.
#ifndef TOOLS_TUNE_MODEL_PROBLEMS_H_
#define TOOLS_TUNE_MODEL_PROBLEMS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/problem.h"

namespace flashflow::tools {

// Of steps of so many tokens each, every problem once, in the order of the plan. A step of at most 16 tokens stands for
// as many sequences that decode, each with its logits; a longer one for a prompt, with the last token's.
// InvalidArgument for numbers of tokens that the plan does not take.
absl::StatusOr<std::vector<kernels::Problem>> ProblemsOfPlan(const plan::Plan& plan, absl::Span<const int64_t> tokens);

}  // namespace flashflow::tools

#endif  // TOOLS_TUNE_MODEL_PROBLEMS_H_
