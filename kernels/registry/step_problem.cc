#include "kernels/registry/step_problem.h"

#include <utility>

#include "absl/status/statusor.h"

namespace flashflow::kernels {

std::optional<Problem> ProblemOfStep(std::string_view op, const AttrMap& attrs, absl::Span<const TensorView> inputs) {
  if (op != "linear" && op != "fused_linear") return std::nullopt;
  if (inputs.size() < 2 || inputs[0].rank < 1 || inputs[1].rank != 2) return std::nullopt;
  if (inputs.size() > 6 && inputs[6].dtype == DType::kF16 && inputs[6].rank == 3)
    return std::nullopt;  // nothing to tune
  const int64_t n = inputs[1].dims[0], k = inputs[1].dims[1];
  if (k < 1) return std::nullopt;
  const absl::StatusOr<bool> gated = GetAttr<bool>(attrs, "gated");
  absl::StatusOr<Problem> problem =
      MakeProblem(op, inputs[1].dtype,
                  {{"m", inputs[0].NumElements() / k}, {"n", n}, {"k", k}, {"gated", gated.ok() && *gated ? 1 : 0}});
  if (!problem.ok()) return std::nullopt;
  return *std::move(problem);
}

}  // namespace flashflow::kernels
