// A plan's steps bound to a device's kernels: what all executors share.
#ifndef RUNTIME_CORE_BOUND_PLAN_H_
#define RUNTIME_CORE_BOUND_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "kernels/registry/tactic.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// Where a tensor's memory is and how far it reaches.
struct Place {
  void* base = nullptr;
  int64_t bytes = 0;
};

// Kernels are bound once; a specialization gives every tensor its shape and memory, and a launch allocates nothing.
// Used by one thread at a time.
class BoundPlan {
 public:
  // The plan must have passed plan::Validate; plan, device and, unless it is null, `tuned` must outlive this. Kernels
  // run with their tuned configs where there are any; batch_invariant takes those alone that give a row the same bits
  // beside any others. NotFound names a kernel that this build lacks; Unimplemented an operation without a
  // batch-invariant one; InvalidArgument a tensor that its weight is not, a kernel that may not write in place, and
  // what one refuses.
  static absl::StatusOr<std::unique_ptr<BoundPlan>> Create(const plan::Plan& plan, Device* device,
                                                           const kernels::TunedConfigs* tuned = nullptr,
                                                           bool batch_invariant = false);

  // Shapes for these symbols, memory as place_of(tensor's index) says; weights as in view_of_weight's layout.
  // InvalidArgument if a tensor does not fit its memory, and then nothing may be launched until a call succeeds.
  absl::Status Specialize(const SymbolValues& symbols, const std::function<Place(size_t)>& place_of);

  struct LaunchOptions {
    absl::Span<double> step_us = {};                    // gets the time of each step, waited for; or empty
    size_t steps = std::numeric_limits<size_t>::max();  // so many run, the first ones
    std::optional<void*> launch_handle = std::nullopt;  // stands in for the device's own
  };
  // Runs the steps, and waits for none. The error of a kernel names its step. Precondition: Specialize was OK.
  absl::Status Launch(const kernels::CacheView* cache, const kernels::StepRows& rows, const LaunchOptions& options);

  // The kernel of a step, and its config as of the last specialization: "cpu.linear.panel16[tile_rows=4]".
  std::string TacticOf(size_t step) const;

  // A tensor as the last specialization made it.
  const kernels::TensorView& view(int32_t tensor) const { return views_[static_cast<size_t>(tensor)]; }

 private:
  struct BoundStep {
    std::unique_ptr<kernels::BoundKernel> kernel;
    std::vector<kernels::TensorView> inputs, outputs;
    const plan::KernelRef* ref = nullptr;
    const kernels::TacticSpec* tactic = nullptr;  // null: the kernel has no parameters
    const kernels::Config* config = nullptr;      // null: its defaults
    int64_t configured_for = -1;                  // elements of the first input
    const BoundStep* next = nullptr;              // the step that LaunchContext::next_inputs are of
    bool gated = false;
  };

  BoundPlan(const plan::Plan& plan, Device* device, const kernels::TunedConfigs* tuned)
      : plan_(plan), device_(device), tuned_(tuned) {}
  absl::Status PrepareShapes();
  absl::Status BindSteps(bool batch_invariant);
  void LinkWeights();
  absl::Status CheckInPlace(size_t step, const plan::KernelRef& tactic) const;
  void Configure(size_t step);

  const plan::Plan& plan_;
  Device* device_;
  const kernels::TunedConfigs* tuned_;
  // Every distinct dim of the plan's tensors is evaluated once.
  std::vector<DimExpr> dims_;
  std::vector<int64_t> dim_values_;
  std::vector<std::vector<int32_t>> tensor_dims_;  // by tensor: indices into dims_
  std::vector<kernels::TensorView> views_;         // by tensor
  std::vector<BoundStep> steps_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_BOUND_PLAN_H_
