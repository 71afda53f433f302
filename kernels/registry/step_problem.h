// The problem that a step of a plan poses to its kernel.
#ifndef KERNELS_REGISTRY_STEP_PROBLEM_H_
#define KERNELS_REGISTRY_STEP_PROBLEM_H_

#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "kernels/registry/launcher.h"
#include "kernels/registry/problem.h"

namespace flashflow::kernels {

// Of a CPU step, whose kernels cut a layer up by the product alone: of the flags only `gated` is set. nullopt for an op
// without tactics, and for shapes that are no such problem (empty ones, ranks and attributes that the op does not
// have: whoever launches it says what is wrong).
std::optional<Problem> ProblemOfStep(std::string_view op, const AttrMap& attrs, absl::Span<const TensorView> inputs);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_STEP_PROBLEM_H_
