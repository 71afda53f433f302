// Runs the plan of a rectangular graph on a device: tensors in, tensors out, no KV cache.
#ifndef RUNTIME_CORE_GRAPH_EXECUTOR_H_
#define RUNTIME_CORE_GRAPH_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "runtime/core/bound_plan.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// Makes arenas (codegen's PlanArena: the runtime itself plans nothing).
using ArenaPlanner = std::function<absl::StatusOr<plan::ArenaLayout>(const plan::Plan& plan, const SymbolValues& most)>;

// Memory for intermediate values that executors which never run at once share; it grows to the largest arena asked for.
class SharedArena {
 public:
  explicit SharedArena(Device* device) : device_(device) {}  // the device must outlive it
  // At least this many bytes, valid until the next call; contents undefined. ResourceExhausted as Device::Allocate.
  absl::StatusOr<void*> AtLeast(int64_t bytes);
  int64_t bytes() const { return buffer_ == nullptr ? 0 : static_cast<int64_t>(buffer_->size()); }

 private:
  Device* device_;
  std::unique_ptr<Buffer> buffer_;
};

// What a run may be given of its caller's: memory for intermediate values, of ArenaBytes, and where to launch
// (LaunchContext::device). The caller's own order of work keeps the memory from others until the run is done.
struct CallersResources {
  void* arena = nullptr;
  int64_t arena_bytes = 0;
  void* launch_handle = nullptr;
};

// Arenas are laid out for symbol values rounded up, to a few sizes an octave, and kept: nearby shapes share one.
// Used by one thread at a time.
class GraphExecutor {
 public:
  // The plan must have passed plan::Validate; the device and the arena must outlive the executor. Without an arena
  // every run brings its own. InvalidArgument for a step graph's plan, and as BoundPlan::Create.
  static absl::StatusOr<std::unique_ptr<GraphExecutor>> Create(plan::Plan plan, ArenaPlanner planner,
                                                               SharedArena* arena, Device* device);

  // The dims of every output for these symbol values, in the order of plan().symbols. InvalidArgument for another
  // number of values, or one out of its symbol's range.
  absl::StatusOr<std::vector<std::vector<int64_t>>> OutputDims(absl::Span<const int64_t> symbols) const;

  // Of intermediate values, for these symbol values. The errors of OutputDims and of the planner.
  absl::StatusOr<int64_t> ArenaBytes(absl::Span<const int64_t> symbols);

  // Reads `inputs` and `weights` and writes `outputs`, each in the order of the plan's list; weights lie in the plan's
  // layouts. All memory is the device's, and outputs share none with anything else. InvalidArgument unless dtypes and
  // dims are the plan's for these symbols, and for an arena that is too small; the error of a kernel names its step and
  // leaves the outputs undefined. With the caller's resources it returns before the device is done.
  absl::Status Run(absl::Span<const int64_t> symbols, absl::Span<const kernels::TensorView> inputs,
                   absl::Span<const LoadedWeight* const> weights, absl::Span<const kernels::TensorView> outputs,
                   const CallersResources* callers = nullptr);

  const plan::Plan& plan() const { return plan_; }
  int64_t num_layouts() const { return static_cast<int64_t>(layouts_.size()); }

 private:
  GraphExecutor(plan::Plan plan, ArenaPlanner planner, SharedArena* arena, Device* device)
      : plan_(std::move(plan)), planner_(std::move(planner)), arena_(arena), device_(device) {}
  absl::StatusOr<SymbolValues> CheckSymbols(absl::Span<const int64_t> symbols) const;
  absl::Status CheckTensors(std::string_view kind, absl::Span<const int32_t> wanted,
                            absl::Span<const kernels::TensorView> given, const SymbolValues& symbols) const;
  absl::Status CheckWeights(absl::Span<const LoadedWeight* const> weights) const;
  absl::StatusOr<const plan::ArenaLayout*> LayoutFor(absl::Span<const int64_t> symbols);

  plan::Plan plan_;
  ArenaPlanner planner_;
  SharedArena* arena_;
  Device* device_;
  std::unique_ptr<BoundPlan> bound_;
  std::map<std::vector<int64_t>, plan::ArenaLayout> layouts_;  // by rounded symbol values
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_GRAPH_EXECUTOR_H_
