#include "runtime/core/bound_plan.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/problem.h"
#include "kernels/registry/step_problem.h"

namespace flashflow::runtime {
namespace {

using kernels::TensorView;

// nullopt on overflow or a negative dim.
std::optional<int64_t> Bytes(const TensorView& view) {
  int64_t bytes = DTypeBytes(view.dtype);
  for (int i = 0; i < view.rank; ++i) {
    if (view.dims[i] < 0 || __builtin_mul_overflow(bytes, view.dims[i], &bytes)) return std::nullopt;
  }
  return bytes;
}

bool IsBatchInvariant(const plan::KernelRef& kernel) {
  const kernels::KernelSpec* spec = kernels::FindKernel(kernel.id, kernel.version);
  return spec != nullptr && spec->batch_invariant;
}

absl::Status Invalid(auto&&... what) { return absl::InvalidArgumentError(absl::StrCat("plan: ", what...)); }

// A packed weight keeps its elements elsewhere than its shape says: it has no aliases of another shape.
bool ShowsWeight(const plan::Tensor& tensor, const plan::Weight& weight) {
  if (tensor.dtype != weight.dtype) return false;
  const Dims shape(weight.shape.begin(), weight.shape.end());
  if (tensor.shape == shape) return true;
  return tensor.alias_of >= 0 && weight.layout == kernels::kRowMajor && NumElements(tensor.shape) == NumElements(shape);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BoundPlan>> BoundPlan::Create(const plan::Plan& plan, Device* device,
                                                             const kernels::TunedConfigs* tuned, bool batch_invariant) {
  auto bound = std::unique_ptr<BoundPlan>(new BoundPlan(plan, device, tuned));
  FF_RETURN_IF_ERROR(bound->PrepareShapes());
  FF_RETURN_IF_ERROR(bound->BindSteps(batch_invariant));
  bound->LinkWeights();
  return bound;
}

absl::Status BoundPlan::PrepareShapes() {
  absl::flat_hash_map<DimExpr, int32_t> ids;
  for (size_t i = 0; i < plan_.tensors.size(); ++i) {
    const plan::Tensor& tensor = plan_.tensors[i];
    if (tensor.shape.size() > kernels::kMaxRank) return Invalid("tensor ", i, " has more than 6 dimensions");
    if (tensor.storage == plan::Storage::kWeight) {
      const plan::Weight& weight = plan_.weights[static_cast<size_t>(tensor.index)];
      if (!ShowsWeight(tensor, weight)) {
        return Invalid("tensor ", i, " is ", DTypeName(tensor.dtype), DimsToString(tensor.shape), ", which weight \"",
                       absl::StrJoin(weight.sources, " + "), "\" is not");
      }
    }
    TensorView view;
    view.dtype = tensor.dtype;
    view.rank = static_cast<int>(tensor.shape.size());
    std::vector<int32_t> indices;
    for (const DimExpr& dim : tensor.shape) {
      const auto [it, inserted] = ids.emplace(dim, static_cast<int32_t>(dims_.size()));
      if (inserted) dims_.push_back(dim);
      indices.push_back(it->second);
    }
    views_.push_back(view);
    tensor_dims_.push_back(std::move(indices));
  }
  dim_values_.resize(dims_.size());
  return absl::OkStatus();
}

absl::Status BoundPlan::BindSteps(bool batch_invariant) {
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const plan::Step& step = plan_.steps[i];
    std::vector<std::optional<DType>> input_dtypes;
    for (int32_t index : step.inputs) {
      input_dtypes.push_back(index < 0 ? std::nullopt : std::optional(plan_.tensors[static_cast<size_t>(index)].dtype));
    }
    std::vector<DType> output_dtypes;
    for (int32_t index : step.outputs) output_dtypes.push_back(plan_.tensors[static_cast<size_t>(index)].dtype);

    std::vector<int> computed_inputs;
    for (size_t o = 0; o < step.inputs.size(); ++o) {
      const int32_t index = step.inputs[o];
      if (index >= 0 && plan_.tensors[static_cast<size_t>(index)].storage != plan::Storage::kWeight) {
        computed_inputs.push_back(static_cast<int>(o));
      }
    }

    const auto is_there = [&](const plan::KernelRef& kernel) {
      return device_->launchers().Has(kernel.id, kernel.version);
    };
    const auto tactic = std::ranges::find_if(step.tactics, [&](const plan::KernelRef& kernel) {
      return is_there(kernel) && (!batch_invariant || IsBatchInvariant(kernel));
    });
    if (tactic == step.tactics.end()) {
      if (std::ranges::any_of(step.tactics, is_there)) {
        return absl::UnimplementedError(absl::StrCat("plan: step ", i, " (", step.op, ") has no kernel on ",
                                                     device_->kind(), " that is batch-invariant"));
      }
      return absl::NotFoundError(absl::StrCat("plan: step ", i, " (", step.op, ") wants kernel \"",
                                              step.tactics.empty() ? "" : step.tactics[0].id,
                                              "\", which this build of FlashFlow lacks"));
    }
    FF_RETURN_IF_ERROR(CheckInPlace(i, *tactic));
    absl::StatusOr<std::unique_ptr<kernels::BoundKernel>> kernel =
        device_->launchers().Bind(tactic->id, tactic->version,
                                  {.attrs = step.attrs,
                                   .input_dtypes = input_dtypes,
                                   .output_dtypes = output_dtypes,
                                   .op = step.op,
                                   .computed_inputs = computed_inputs});
    if (!kernel.ok()) {
      return absl::Status(kernel.status().code(),
                          absl::StrCat("plan: step ", i, " (", step.op, "): ", kernel.status().message()));
    }
    steps_.push_back({.kernel = *std::move(kernel),
                      .inputs = std::vector<TensorView>(step.inputs.size()),
                      .outputs = std::vector<TensorView>(step.outputs.size()),
                      .ref = &*tactic,
                      .tactic = kernels::FindTacticSpec(tactic->id, tactic->version)});
  }
  return absl::OkStatus();
}

// Each step to the next one that multiplies by a packed weight.
void BoundPlan::LinkWeights() {
  const auto multiplies = [&](size_t s) {
    const plan::Step& step = plan_.steps[s];
    if ((step.op != "linear" && step.op != "fused_linear") || step.inputs.size() < 2 || step.inputs[1] < 0)
      return false;
    const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(step.inputs[1])];
    return tensor.storage == plan::Storage::kWeight && tensor.shape.size() == 2 &&
           plan_.weights[static_cast<size_t>(tensor.index)].layout != kernels::kRowMajor;
  };
  const BoundStep* next = nullptr;
  for (size_t i = 2 * steps_.size(); i-- > 0;) {  // twice round: the last step's next one is the first
    const size_t s = i % steps_.size();
    steps_[s].next = next;
    if (!multiplies(s)) continue;
    next = &steps_[s];
    steps_[s].gated = GetAttr<bool>(plan_.steps[s].attrs, "gated").value_or(false);
  }
}

absl::Status BoundPlan::CheckInPlace(size_t s, const plan::KernelRef& tactic) const {
  const plan::Step& step = plan_.steps[s];
  const kernels::KernelSpec* kernel = kernels::FindKernel(tactic.id, tactic.version);
  for (size_t output = 0; output < step.outputs.size(); ++output) {
    const int32_t place = plan_.tensors[static_cast<size_t>(step.outputs[output])].in_place_of;
    if (place < 0) continue;
    for (size_t input = 0; input < step.inputs.size(); ++input) {
      if (step.inputs[input] < 0) continue;
      const plan::Tensor& operand = plan_.tensors[static_cast<size_t>(step.inputs[input])];
      if ((operand.alias_of < 0 ? step.inputs[input] : operand.alias_of) != place) continue;
      if (kernel == nullptr || !kernels::MayOverwrite(*kernel, static_cast<int>(output), static_cast<int>(input))) {
        return Invalid("step ", s, " (", step.op, ") has result ", output, " in place of input ", input,
                       ", which kernel \"", tactic.id, "\" does not allow");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status BoundPlan::Specialize(const SymbolValues& symbols, const std::function<Place(size_t)>& place_of) {
  for (size_t i = 0; i < dims_.size(); ++i) {
    FF_ASSIGN_OR_RETURN(dim_values_[i], dims_[i].Evaluate(symbols));
  }
  for (size_t i = 0; i < views_.size(); ++i) {
    TensorView& view = views_[i];
    for (size_t d = 0; d < tensor_dims_[i].size(); ++d) {
      view.dims[d] = dim_values_[static_cast<size_t>(tensor_dims_[i][d])];
    }
    const Place place = place_of(i);
    // Validation proved this at the arena's upper end; a hostile plan's shapes need not grow with the symbols. Of a
    // packed weight the layout has at least the shape's bytes.
    const std::optional<int64_t> bytes = Bytes(view);
    if (!bytes || *bytes > place.bytes) {
      return Invalid("tensor ", i, " of shape ", DimsToString(plan_.tensors[i].shape),
                     " does not fit its memory: ", place.bytes, " bytes");
    }
    view.data = place.base;
  }
  for (size_t s = 0; s < steps_.size(); ++s) {
    const plan::Step& step = plan_.steps[s];
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      steps_[s].inputs[i] = step.inputs[i] < 0 ? TensorView() : views_[static_cast<size_t>(step.inputs[i])];
    }
    for (size_t i = 0; i < step.outputs.size(); ++i) {
      steps_[s].outputs[i] = views_[static_cast<size_t>(step.outputs[i])];
    }
    Configure(s);
  }
  return absl::OkStatus();
}

// Most specializations change the length of the cache alone: configs are looked up where a step's size changed.
void BoundPlan::Configure(size_t s) {
  BoundStep& bound = steps_[s];
  if (tuned_ == nullptr || bound.tactic == nullptr || bound.inputs.empty()) return;
  const int64_t elements = bound.inputs[0].NumElements();
  if (elements == bound.configured_for) return;
  bound.configured_for = elements;
  const plan::Step& step = plan_.steps[s];
  const std::optional<kernels::Problem> problem = kernels::ProblemOfStep(step.op, step.attrs, bound.inputs);
  bound.config = problem ? tuned_->Find(*bound.tactic, *problem) : nullptr;
}

std::string BoundPlan::TacticOf(size_t step) const {
  const BoundStep& bound = steps_[step];
  if (bound.config == nullptr) return bound.ref->id;
  return kernels::TacticToText({bound.tactic, *bound.config});
}

absl::Status BoundPlan::Launch(const kernels::CacheView* cache, const kernels::StepRows& rows,
                               const LaunchOptions& options) {
  using Clock = std::chrono::steady_clock;
  device_->BeginStep();
  const absl::Cleanup end = [this] { device_->EndStep(); };
  for (size_t s = 0; s < std::min(steps_.size(), options.steps); ++s) {
    const plan::Step& step = plan_.steps[s];
    kernels::LaunchContext context;
    context.inputs = steps_[s].inputs;
    context.outputs = steps_[s].outputs;
    context.device = options.launch_handle.value_or(device_->launch_handle());
    if (steps_[s].config != nullptr) context.config = *steps_[s].config;
    if (const BoundStep* next = steps_[s].next; next != nullptr) {
      context.next_inputs = next->inputs;
      context.next_gated = next->gated;
    }
    if (step.uses_cache) {
      context.cache = cache;
      context.rows = rows;
    }
    if (step.workspace >= 0) {
      const TensorView& workspace = views_[static_cast<size_t>(step.workspace)];
      context.workspace = workspace.data;
      context.workspace_bytes = static_cast<size_t>(workspace.NumElements());
    }
    const Clock::time_point start = options.step_us.empty() ? Clock::time_point() : Clock::now();
    if (absl::Status status = steps_[s].kernel->Launch(context); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("step ", s, " (", step.op, step.loc.empty() ? "" : " of ",
                                                      step.loc, "): ", status.message()));
    }
    if (options.step_us.empty()) continue;
    FF_RETURN_IF_ERROR(device_->Wait());
    options.step_us[s] = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  return absl::OkStatus();
}

}  // namespace flashflow::runtime
