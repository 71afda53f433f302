#include "runtime/core/graph_executor.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/catalog.h"

namespace flashflow::runtime {
namespace {

using kernels::TensorView;

constexpr size_t kMaxLayouts = 128;  // a few kilobytes each; beyond, the oldest shapes are laid out anew

absl::Status Invalid(auto&&... what) { return absl::InvalidArgumentError(absl::StrCat(what...)); }

absl::StatusOr<std::vector<int64_t>> Evaluate(const Dims& shape, const SymbolValues& symbols) {
  std::vector<int64_t> dims;
  for (const DimExpr& dim : shape) {
    FF_ASSIGN_OR_RETURN(const int64_t value, dim.Evaluate(symbols));
    if (value < 0) return Invalid("dimension ", dim.ToString(), " is ", value, " for these sizes");
    dims.push_back(value);
  }
  return dims;
}

// `value` rounded up to 1, 1.25, 1.5 or 1.75 times a power of two.
int64_t RoundUp(int64_t value) {
  if (value <= 4) return value;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(value - 1))) / 4;
  return (value + step - 1) / step * step;
}

std::string TypeText(DType dtype, absl::Span<const int64_t> dims) {
  return absl::StrCat(DTypeName(dtype), "[", absl::StrJoin(dims, ", "), "]");
}

}  // namespace

absl::StatusOr<void*> SharedArena::AtLeast(int64_t bytes) {
  if (buffer_ == nullptr || bytes > static_cast<int64_t>(buffer_->size())) {
    buffer_.reset();  // first, so that both need not fit
    FF_ASSIGN_OR_RETURN(buffer_, device_->Allocate(static_cast<size_t>(bytes), "the arena of intermediate values"));
  }
  return buffer_->data();
}

absl::StatusOr<std::unique_ptr<GraphExecutor>> GraphExecutor::Create(plan::Plan plan, ArenaPlanner planner,
                                                                     SharedArena* arena, Device* device) {
  if (plan::IsStepPlan(plan)) return Invalid("plan: it is of a step graph; expected a rectangular graph's");
  auto executor = std::unique_ptr<GraphExecutor>(new GraphExecutor(std::move(plan), std::move(planner), arena, device));
  FF_ASSIGN_OR_RETURN(executor->bound_, BoundPlan::Create(executor->plan_, device));
  return executor;
}

absl::StatusOr<SymbolValues> GraphExecutor::CheckSymbols(absl::Span<const int64_t> symbols) const {
  if (symbols.size() != plan_.symbols.size()) {
    return Invalid("expected ", plan_.symbols.size(), " sizes, got ", symbols.size());
  }
  SymbolValues values;
  for (size_t i = 0; i < symbols.size(); ++i) {
    const auto& [name, range] = plan_.symbols[i];
    if (symbols[i] < range.min || symbols[i] > range.max) {
      return Invalid("size ", name, " is ", symbols[i], ", expected ", range.min, " to ", range.max);
    }
    values[name] = symbols[i];
  }
  return values;
}

absl::StatusOr<std::vector<std::vector<int64_t>>> GraphExecutor::OutputDims(absl::Span<const int64_t> symbols) const {
  FF_ASSIGN_OR_RETURN(const SymbolValues values, CheckSymbols(symbols));
  std::vector<std::vector<int64_t>> dims;
  for (int32_t output : plan_.outputs) {
    FF_ASSIGN_OR_RETURN(dims.emplace_back(), Evaluate(plan_.tensors[static_cast<size_t>(output)].shape, values));
  }
  return dims;
}

absl::Status GraphExecutor::CheckTensors(std::string_view kind, absl::Span<const int32_t> wanted,
                                         absl::Span<const TensorView> given, const SymbolValues& symbols) const {
  if (given.size() != wanted.size()) {
    return Invalid("expected ", wanted.size(), " ", kind, "s, got ", given.size());
  }
  for (size_t i = 0; i < given.size(); ++i) {
    const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(wanted[i])];
    FF_ASSIGN_OR_RETURN(const std::vector<int64_t> dims, Evaluate(tensor.shape, symbols));
    const TensorView& view = given[i];
    const bool ranked = view.rank >= 0 && view.rank <= kernels::kMaxRank;
    const auto got = absl::MakeConstSpan(view.dims.data(), ranked ? static_cast<size_t>(view.rank) : 0);
    if (!ranked || view.dtype != tensor.dtype || got != absl::MakeConstSpan(dims)) {
      return Invalid(kind, " \"", tensor.name, "\" is ", TypeText(view.dtype, got), ", expected ",
                     TypeText(tensor.dtype, dims));
    }
    if (view.data == nullptr && view.NumElements() > 0) return Invalid(kind, " \"", tensor.name, "\" has no data");
  }
  return absl::OkStatus();
}

absl::Status GraphExecutor::CheckWeights(absl::Span<const LoadedWeight* const> weights) const {
  if (weights.size() != plan_.weights.size()) {
    return Invalid("expected ", plan_.weights.size(), " weights, got ", weights.size());
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const plan::Weight& wanted = plan_.weights[i];
    const TensorView& view = weights[i]->view;
    const auto got = absl::MakeConstSpan(view.dims.data(), static_cast<size_t>(view.rank));
    if (view.dtype != wanted.dtype || got != absl::MakeConstSpan(wanted.shape)) {
      return Invalid("weight \"", absl::StrJoin(wanted.sources, " + "), "\" is ", TypeText(view.dtype, got),
                     ", expected ", TypeText(wanted.dtype, wanted.shape));
    }
    FF_ASSIGN_OR_RETURN(const int64_t bytes, kernels::PackedBytes(wanted.layout, wanted.shape, wanted.dtype));
    if (weights[i]->bytes != bytes) {
      return Invalid("weight \"", absl::StrJoin(wanted.sources, " + "), "\" has ", weights[i]->bytes,
                     " bytes, expected ", bytes, " in the layout ", wanted.layout);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const plan::ArenaLayout*> GraphExecutor::LayoutFor(absl::Span<const int64_t> symbols) {
  std::vector<int64_t> rounded;
  SymbolValues most;
  for (size_t i = 0; i < symbols.size(); ++i) {
    const auto& [name, range] = plan_.symbols[i];
    rounded.push_back(std::min(RoundUp(symbols[i]), range.max));
    most[name] = rounded.back();
  }
  auto it = layouts_.find(rounded);
  if (it == layouts_.end()) {
    FF_ASSIGN_OR_RETURN(plan::ArenaLayout layout, planner_(plan_, most));
    FF_RETURN_IF_ERROR(plan::ValidateLayout(plan_, layout));
    if (layouts_.size() >= kMaxLayouts) layouts_.clear();
    it = layouts_.emplace(std::move(rounded), std::move(layout)).first;
  }
  return &it->second;
}

absl::StatusOr<int64_t> GraphExecutor::ArenaBytes(absl::Span<const int64_t> symbols) {
  FF_RETURN_IF_ERROR(CheckSymbols(symbols).status());
  FF_ASSIGN_OR_RETURN(const plan::ArenaLayout* layout, LayoutFor(symbols));
  return layout->arena_bytes;
}

absl::Status GraphExecutor::Run(absl::Span<const int64_t> symbols, absl::Span<const TensorView> inputs,
                                absl::Span<const LoadedWeight* const> weights, absl::Span<const TensorView> outputs,
                                const CallersResources* callers) {
  FF_ASSIGN_OR_RETURN(const SymbolValues values, CheckSymbols(symbols));
  FF_RETURN_IF_ERROR(CheckTensors("input", plan_.inputs, inputs, values));
  FF_RETURN_IF_ERROR(CheckTensors("output", plan_.outputs, outputs, values));
  FF_RETURN_IF_ERROR(CheckWeights(weights));
  FF_ASSIGN_OR_RETURN(const plan::ArenaLayout* layout, LayoutFor(symbols));
  void* arena = nullptr;
  if (callers != nullptr) {
    if (callers->arena_bytes < layout->arena_bytes || (callers->arena == nullptr && layout->arena_bytes > 0)) {
      return Invalid("the arena has ", callers->arena_bytes, " bytes, expected ", layout->arena_bytes);
    }
    arena = callers->arena;
  } else {
    if (arena_ == nullptr) return Invalid("a run without an arena");
    FF_ASSIGN_OR_RETURN(arena, arena_->AtLeast(layout->arena_bytes));
  }
  const auto bytes = [](const TensorView& view) { return view.NumElements() * DTypeBytes(view.dtype); };
  const auto place_of = [&](size_t i) -> Place {
    const plan::Tensor& tensor = plan_.tensors[i];
    const auto index = static_cast<size_t>(tensor.index);
    switch (tensor.storage) {
      case plan::Storage::kInput:
        return {inputs[index].data, bytes(inputs[index])};
      case plan::Storage::kOutput:
        return {outputs[index].data, bytes(outputs[index])};
      case plan::Storage::kWeight:
        return {weights[index]->view.data, weights[index]->bytes};
      case plan::Storage::kArena:
        break;
    }
    return {static_cast<char*>(arena) + layout->offsets[i], layout->arena_bytes - layout->offsets[i]};
  };
  FF_RETURN_IF_ERROR(bound_->Specialize(values, place_of));
  if (callers != nullptr)
    return bound_->Launch(/*cache=*/nullptr, /*rows=*/{}, {.launch_handle = callers->launch_handle});
  FF_RETURN_IF_ERROR(bound_->Launch(/*cache=*/nullptr, /*rows=*/{}, {}));
  return device_->Wait();
}

}  // namespace flashflow::runtime
