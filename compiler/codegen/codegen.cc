#include "compiler/codegen/codegen.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/analysis/liveness.h"
#include "compiler/analysis/loaded_weight.h"
#include "compiler/codegen/kernel_selection.h"
#include "compiler/codegen/memory_plan.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/catalog.h"

namespace flashflow::codegen {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;
using ir::ValueKind;
using kernels::KernelSpec;
using plan::Plan;
using plan::Storage;

// The plan's arena for symbols of at most the values `most`; aliases lie where what they alias does, and so does what
// is written in place.
absl::StatusOr<MemoryPlan> PlaceTensors(const Plan& plan, absl::Span<const analysis::LiveRange> ranges,
                                        const SymbolValues& most) {
  SymbolRanges symbols;
  for (const auto& [name, value] : most) symbols[name] = {0, value};
  std::vector<int64_t> bytes;
  for (const plan::Tensor& tensor : plan.tensors) {
    const DimExpr size = NumElements(tensor.shape) * DTypeBytes(tensor.dtype);
    FF_ASSIGN_OR_RETURN(const SymbolRange bounds, size.Bounds(symbols));
    bytes.push_back(bounds.max);
  }
  MemoryPlan memory = PlanMemory(ranges, bytes, plan::kArenaAlignment);
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const int32_t in_place_of = plan.tensors[i].in_place_of;  // a smaller index
    if (in_place_of >= 0) memory.offsets[i] = memory.offsets[in_place_of];
  }
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const plan::Tensor& tensor = plan.tensors[i];
    if (tensor.storage == Storage::kArena && tensor.alias_of >= 0) memory.offsets[i] = memory.offsets[tensor.alias_of];
  }
  return memory;
}

class Generator {
 public:
  Generator(const Graph& graph, const passes::CompileOptions& options, bool is_step_graph)
      : graph_(graph), options_(options), is_step_graph_(is_step_graph) {}

  absl::StatusOr<Plan> Run() {
    FF_RETURN_IF_ERROR(EmitHeader());
    FF_RETURN_IF_ERROR(EmitInputs());
    FF_RETURN_IF_ERROR(ChooseOutputs());
    for (const auto& node : graph_.nodes()) {
      if (absl::Status status = EmitNode(*node); !status.ok()) {
        return absl::Status(status.code(), absl::StrCat(ir::Describe(graph_, *node), ": ", status.message()));
      }
    }
    FF_RETURN_IF_ERROR(EmitOutputs());
    WriteInPlace();
    if (is_step_graph_) FF_RETURN_IF_ERROR(EmitBuckets());
    if (absl::Status status = plan::Validate(plan_); !status.ok()) {
      return absl::InternalError(absl::StrCat("codegen made a plan that is not valid: ", status.message()));
    }
    return std::move(plan_);
  }

 private:
  absl::Status EmitHeader() {
    plan_.device_key = absl::StrCat(options_.device, "/", kernels::kCatalogVersion);
    plan_.symbols = graph_.symbols();
    if (!is_step_graph_) return absl::OkStatus();
    FF_ASSIGN_OR_RETURN(plan_.limits.context_length, GetAttr<int64_t>(graph_.metadata(), "context_length"));
    plan_.limits.max_tokens = options_.max_tokens;
    plan_.limits.max_rows = std::min(options_.max_rows, options_.max_tokens);
    plan_.limits.max_logit_rows = std::min(options_.max_logit_rows, options_.max_tokens);
    plan_.cache.page_size = options_.page_size;
    return absl::OkStatus();
  }

  absl::Status EmitInputs() {
    for (const Value* input : graph_.inputs()) {
      if (input->type().is_cache()) {
        const ir::CacheType& cache = input->type().cache();
        if (plan_.cache.layers > 0 || !is_step_graph_) {
          return absl::InvalidArgumentError(absl::StrCat("the graph has a KV cache, \"", input->name(), "\", expected ",
                                                         is_step_graph_ ? "one" : "none"));
        }
        plan_.cache.layers = cache.layers;
        plan_.cache.kv_heads = cache.kv_heads;
        plan_.cache.head_dim = cache.head_dim;
        plan_.cache.dtype = cache.dtype;
        continue;
      }
      const int32_t tensor = AddTensor(*input, Storage::kInput, static_cast<int32_t>(plan_.inputs.size()));
      plan_.tensors[tensor].name = input->name();
      plan_.inputs.push_back(tensor);
      tensors_[input] = tensor;
    }
    return absl::OkStatus();
  }

  // What a reshape, or a chain of them, shows.
  static const Value* Root(const Value* value) {
    while (value->kind() == ValueKind::kResult && value->def()->op() == Op::kReshape) value = value->def()->operand(0);
    return value;
  }

  // Of the codes or the scales of a loaded weight: that weight, and what is appended to the names of its sources.
  struct Coded {
    const Value* weight = nullptr;
    std::string_view suffix = {};
  };
  static std::optional<Coded> CodesOf(const Value& value) {
    const bool coded = value.kind() == ValueKind::kResult && value.def()->op() == Op::kQuantize;
    if (!coded || !analysis::IsMadeAtLoad(value)) return std::nullopt;
    return Coded{value.def()->operand(0), value.def()->result(0) == &value ? plan::kCodesSuffix : plan::kScalesSuffix};
  }

  // What the loader gives; of a rectangular graph's weights the caller, who widens vectors for CUDA's kernels too.
  std::optional<analysis::LoadedWeight> Loaded(const Value& value) const {
    if (const std::optional<Coded> coded = CodesOf(value)) return analysis::AsLoadedWeight(*coded->weight);
    const bool widened = !is_step_graph_ && options_.device == "cuda" && value.kind() == ValueKind::kResult &&
                         value.def()->op() == Op::kCast && value.tensor().dtype == DType::kF32 &&
                         value.tensor().shape.size() == 1 && IsFloat(value.def()->operand(0)->tensor().dtype);
    return analysis::AsLoadedWeight(widened ? *value.def()->operand(0) : value);
  }

  // Whether the loader gives the value, and no step writes it.
  bool IsWeight(const Value* value) const { return !outputs_.contains(value) && Loaded(*value).has_value(); }

  // The values that are written straight into an output's memory. Others (inputs, weights, what is an output already)
  // are copied there; a step graph has none.
  absl::Status ChooseOutputs() {
    for (const ir::Output& output : graph_.outputs()) {
      if (output.value->type().is_cache()) continue;
      const Value* root = Root(output.value);
      if (root->kind() == ValueKind::kResult && !outputs_.contains(root)) {
        outputs_[root] = static_cast<int32_t>(plan_.outputs.size());
      } else if (is_step_graph_) {
        return absl::InvalidArgumentError(absl::StrCat("output \"", output.name,
                                                       "\" is an input, a weight or another output; expected a value "
                                                       "of its own"));
      }
      plan_.outputs.push_back(-1);
    }
    return absl::OkStatus();
  }

  absl::Status EmitNode(const Node& node) {
    if (node.op() == Op::kReshape) return EmitAlias(node);
    if (IsWeight(node.result(0))) return absl::OkStatus();  // listed when a step wants it
    OpFacts facts = {.op = ir::OpName(node.op())};
    std::vector<const Value*> operands;
    for (const Value* operand : node.operands()) {
      if (operand != nullptr && operand->type().is_cache()) {
        facts.cache_dtype = operand->type().cache().dtype;
        continue;
      }
      operands.push_back(operand);
      facts.inputs.push_back({operand == nullptr ? std::nullopt : std::optional(operand->tensor().dtype),
                              operand != nullptr && IsWeight(operand)});
    }
    for (const Value* result : node.results()) {
      if (result->type().is_tensor()) facts.outputs.push_back(result->tensor().dtype);
    }
    FF_ASSIGN_OR_RETURN(const std::vector<const KernelSpec*> kernels, SelectKernels(facts, options_.device));

    plan::Step step;
    step.op = std::string(facts.op);
    for (const KernelSpec* kernel : kernels) step.tactics.push_back({std::string(kernel->id), kernel->version});
    for (size_t i = 0; i < operands.size(); ++i) {
      step.inputs.push_back(operands[i] == nullptr ? -1 : OperandTensor(*operands[i], *kernels[0], i));
    }
    for (const Value* result : node.results()) {
      if (!result->type().is_tensor()) continue;
      const auto output = outputs_.find(result);
      const int32_t tensor = output == outputs_.end() ? AddTensor(*result, Storage::kArena, -1)
                                                      : AddTensor(*result, Storage::kOutput, output->second);
      tensors_[result] = tensor;
      step.outputs.push_back(tensor);
    }
    FF_RETURN_IF_ERROR(EmitWorkspace(*kernels[0], node, operands, &step));
    step.attrs = node.attrs();
    if (node.op() == Op::kSlice) FF_RETURN_IF_ERROR(PlaceSlice(node, &step.attrs));
    step.uses_cache = facts.cache_dtype.has_value();
    step.loc = node.loc();
    plan_.steps.push_back(std::move(step));
    return absl::OkStatus();
  }

  // Gives the step the working memory that its kernel wants.
  absl::Status EmitWorkspace(const KernelSpec& kernel, const Node& node, const std::vector<const Value*>& operands,
                             plan::Step* step) {
    std::vector<Dims> shapes;
    for (const Value* operand : operands) shapes.push_back(operand == nullptr ? Dims() : operand->tensor().shape);
    FF_ASSIGN_OR_RETURN(const DimExpr bytes, kernels::WorkspaceBytes(kernel, node.attrs(), shapes));
    if (bytes == DimExpr(0)) return absl::OkStatus();
    step->workspace = static_cast<int32_t>(plan_.tensors.size());
    plan_.tensors.push_back({.dtype = DType::kI8, .shape = {bytes}, .storage = Storage::kArena, .index = -1});
    return absl::OkStatus();
  }

  // Kernels know sizes and no symbols: a slice that begins at a symbol is given by its distance from the axis's end.
  static absl::Status PlaceSlice(const Node& node, AttrMap* attrs) {
    const DimExpr& start = node.attr<DimExpr>("start");
    const DimExpr& stop = node.attr<DimExpr>("stop");
    if (start.IsConstant()) return absl::OkStatus();
    const DimExpr& length = node.operand(0)->tensor().shape[static_cast<size_t>(node.attr<int64_t>("axis"))];
    const std::optional<int64_t> from_end = (length - stop).constant();
    if (!from_end || node.attr<int64_t>("step") != 1) {
      return absl::UnimplementedError(absl::StrCat("no kernel takes a slice from ", start.ToString(), " to ",
                                                   stop.ToString(), " of ", length.ToString()));
    }
    (*attrs)["from_end"] = *from_end;
    return absl::OkStatus();
  }

  absl::Status EmitAlias(const Node& node) {
    const Value* root = Root(node.result());
    const int32_t target = IsWeight(root) ? WeightTensor(*root, kernels::kRowMajor) : tensors_.at(root);
    const plan::Tensor& shown = plan_.tensors[target];
    const int32_t tensor = AddTensor(*node.result(), shown.storage, shown.index);
    plan_.tensors[tensor].alias_of = target;
    tensors_[node.result()] = tensor;
    return absl::OkStatus();
  }

  int32_t OperandTensor(const Value& value, const KernelSpec& kernel, size_t operand) {
    if (!IsWeight(&value)) return tensors_.at(&value);
    return WeightTensor(value, kernels::WeightLayout(kernel, static_cast<int>(operand), value.tensor().dtype));
  }

  int32_t WeightTensor(const Value& weight, std::string_view layout) {
    const auto [it, inserted] = weights_.try_emplace({&weight, std::string(layout)}, -1);
    if (!inserted) return it->second;
    const std::optional<analysis::LoadedWeight> loaded = Loaded(weight);
    CHECK(loaded.has_value());
    plan::Weight entry = {.sources = {},
                          .dtype = weight.tensor().dtype,
                          .shape = {},
                          .layout = std::string(layout),
                          .transposed = loaded->transposed && weight.tensor().shape.size() == 2};
    const std::optional<Coded> coded = CodesOf(weight);
    const std::string_view suffix = coded.has_value() ? coded->suffix : "";
    for (const Value* source : loaded->sources) entry.sources.push_back(absl::StrCat(source->name(), suffix));
    for (const DimExpr& dim : weight.tensor().shape) entry.shape.push_back(dim.constant().value_or(-1));
    it->second = AddTensor(weight, Storage::kWeight, static_cast<int32_t>(plan_.weights.size()));
    plan_.tensors[it->second].name = absl::StrJoin(entry.sources, " + ");
    plan_.weights.push_back(std::move(entry));
    return it->second;
  }

  int32_t AddTensor(const Value& value, Storage storage, int32_t index) {
    plan_.tensors.push_back(
        {.dtype = value.tensor().dtype, .shape = value.tensor().shape, .storage = storage, .index = index});
    return static_cast<int32_t>(plan_.tensors.size()) - 1;
  }

  absl::Status EmitOutputs() {
    int32_t index = 0;
    for (const ir::Output& output : graph_.outputs()) {
      if (output.value->type().is_cache()) continue;
      const auto written = outputs_.find(Root(output.value));
      if (written != outputs_.end() && written->second == index) {
        plan_.outputs[index] = tensors_.at(output.value);
      } else {
        FF_ASSIGN_OR_RETURN(plan_.outputs[index], EmitCopy(*output.value, index));
      }
      plan_.tensors[plan_.outputs[index++]].name = output.name;
    }
    return absl::OkStatus();
  }

  // A step that copies a value into an output: a cast to its own dtype.
  absl::StatusOr<int32_t> EmitCopy(const Value& value, int32_t output) {
    const DType dtype = value.tensor().dtype;
    const OpFacts facts = {.op = ir::OpName(Op::kCast), .inputs = {{dtype, false}}, .outputs = {dtype}};
    FF_ASSIGN_OR_RETURN(const std::vector<const KernelSpec*> kernels, SelectKernels(facts, options_.device));
    plan::Step step;
    step.op = std::string(facts.op);
    for (const KernelSpec* kernel : kernels) step.tactics.push_back({std::string(kernel->id), kernel->version});
    step.inputs = {IsWeight(&value) ? WeightTensor(value, kernels::kRowMajor) : tensors_.at(&value)};
    const int32_t tensor = AddTensor(value, Storage::kOutput, output);
    step.outputs = {tensor};
    step.attrs = {{"dtype", dtype}};
    plan_.steps.push_back(std::move(step));
    return tensor;
  }

  // The tensor that owns what another one shows.
  int32_t OwnerOf(int32_t tensor) const {
    const int32_t alias_of = plan_.tensors[tensor].alias_of;
    return alias_of < 0 ? tensor : alias_of;
  }

  // Lets results take the place of operands that die.
  void WriteInPlace() {
    std::vector<size_t> last_read(plan_.tensors.size(), 0);
    for (size_t s = 0; s < plan_.steps.size(); ++s) {
      for (const int32_t input : plan_.steps[s].inputs) {
        if (input >= 0) last_read[OwnerOf(input)] = s;
      }
    }
    for (size_t s = 0; s < plan_.steps.size(); ++s) {
      const plan::Step& step = plan_.steps[s];
      std::vector<int32_t> taken;
      for (size_t output = 0; output < step.outputs.size(); ++output) {
        for (const int32_t input : step.inputs) {
          if (input < 0) continue;
          const int32_t place = OwnerOf(input);
          if (last_read[place] != s || absl::c_linear_search(taken, place) || !MayTake(step, output, place)) continue;
          plan_.tensors[step.outputs[output]].in_place_of = place;
          taken.push_back(place);
          break;
        }
      }
    }
  }

  // Whether the step's result may lie where its operand `place` does, which it may read several times.
  bool MayTake(const plan::Step& step, size_t output, int32_t place) const {
    const plan::Tensor& result = plan_.tensors[step.outputs[output]];
    const plan::Tensor& operand = plan_.tensors[place];
    if (result.storage != Storage::kArena || operand.storage != Storage::kArena || result.dtype != operand.dtype ||
        NumElements(result.shape) != NumElements(operand.shape)) {
      return false;
    }
    return absl::c_all_of(step.tactics, [&](const plan::KernelRef& tactic) {
      const KernelSpec& kernel = *kernels::FindKernel(tactic.id, tactic.version);
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        if (step.inputs[i] < 0 || OwnerOf(step.inputs[i]) != place) continue;
        if (!kernels::MayOverwrite(kernel, static_cast<int>(output), static_cast<int>(i))) return false;
      }
      return true;
    });
  }

  absl::Status EmitBuckets() {
    const std::vector<analysis::LiveRange> ranges = analysis::ArenaLiveRanges(plan_);
    for (int64_t tokens = 1;; tokens = std::min(2 * tokens, options_.max_tokens)) {
      plan::Bucket bucket = {.max_tokens = tokens, .arena_bytes = 0, .offsets = {}};
      FF_ASSIGN_OR_RETURN(MemoryPlan memory, PlaceTensors(plan_, ranges, plan::BucketSymbols(plan_, bucket)));
      bucket.arena_bytes = memory.arena_bytes;
      bucket.offsets = std::move(memory.offsets);
      plan_.buckets.push_back(std::move(bucket));
      if (tokens == options_.max_tokens) return absl::OkStatus();
    }
  }

  const Graph& graph_;
  const passes::CompileOptions& options_;
  const bool is_step_graph_;
  Plan plan_;
  absl::flat_hash_map<const Value*, int32_t> tensors_;                          // of inputs and results
  absl::flat_hash_map<std::pair<const Value*, std::string>, int32_t> weights_;  // by layout
  absl::flat_hash_map<const Value*, int32_t> outputs_;  // index of the output that the value is written into
};

}  // namespace

absl::StatusOr<Plan> GeneratePlan(const Graph& graph, const passes::CompileOptions& options) {
  FF_RETURN_IF_ERROR(passes::CheckOptions(options));
  return Generator(graph, options, /*is_step_graph=*/true).Run();
}

absl::StatusOr<Plan> GenerateGraphPlan(const Graph& graph, const passes::CompileOptions& options) {
  FF_RETURN_IF_ERROR(passes::CheckOptions(options));
  return Generator(graph, options, /*is_step_graph=*/false).Run();
}

absl::StatusOr<plan::ArenaLayout> PlanArena(const Plan& plan, const SymbolValues& most) {
  FF_ASSIGN_OR_RETURN(MemoryPlan memory, PlaceTensors(plan, analysis::ArenaLiveRanges(plan), most));
  return plan::ArenaLayout{most, memory.arena_bytes, std::move(memory.offsets)};
}

}  // namespace flashflow::codegen
