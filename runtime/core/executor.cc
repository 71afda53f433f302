#include "runtime/core/executor.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::runtime {
namespace {

using kernels::TensorView;

struct InputRow {
  std::string_view name;
  absl::Span<const int32_t> StepInputs::* field;
};
constexpr InputRow kInputs[] = {{"token_ids", &StepInputs::token_ids},     {"positions", &StepInputs::positions},
                                {"row_start", &StepInputs::row_start},     {"kv_len", &StepInputs::kv_len},
                                {"block_table", &StepInputs::block_table}, {"logit_rows", &StepInputs::logit_rows}};

const InputRow* FindInput(std::string_view name) {
  const auto* row = std::find_if(std::begin(kInputs), std::end(kInputs), [&](auto& r) { return r.name == name; });
  return row == std::end(kInputs) ? nullptr : row;
}

int64_t PagesPerRow(const plan::Plan& plan) {
  return (plan.limits.context_length + plan.cache.page_size - 1) / plan.cache.page_size;
}

// nullopt on overflow or a negative dim.
std::optional<int64_t> Bytes(const TensorView& view) {
  int64_t bytes = DTypeBytes(view.dtype);
  for (int i = 0; i < view.rank; ++i) {
    if (view.dims[i] < 0 || __builtin_mul_overflow(bytes, view.dims[i], &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::Status Invalid(auto&&... what) { return absl::InvalidArgumentError(absl::StrCat("plan: ", what...)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(plan::Plan plan, std::vector<LoadedWeight> weights,
                                                           int64_t cache_pages, Device* device) {
  auto executor = std::unique_ptr<Executor>(new Executor(std::move(plan), std::move(weights), device));
  FF_RETURN_IF_ERROR(executor->Prepare(cache_pages));
  return executor;
}

absl::Status Executor::Prepare(int64_t cache_pages) {
  places_.resize(plan_.tensors.size());
  FF_RETURN_IF_ERROR(PrepareInputs());
  FF_RETURN_IF_ERROR(PrepareOutputs());
  FF_RETURN_IF_ERROR(PrepareWeights());
  FF_RETURN_IF_ERROR(PrepareShapes());
  int64_t arena_bytes = 0;
  for (const plan::Bucket& bucket : plan_.buckets) arena_bytes = std::max(arena_bytes, bucket.arena_bytes);
  FF_ASSIGN_OR_RETURN(arena_, device_->Allocate(static_cast<size_t>(arena_bytes), "the arena of intermediate values"));
  FF_RETURN_IF_ERROR(PrepareCache(cache_pages));
  return BindSteps();
}

absl::Status Executor::PrepareInputs() {
  const plan::Limits& limits = plan_.limits;
  const absl::flat_hash_map<std::string_view, int64_t> most = {{"token_ids", limits.max_tokens},
                                                               {"positions", limits.max_tokens},
                                                               {"row_start", limits.max_rows + 1},
                                                               {"kv_len", limits.max_rows},
                                                               {"block_table", limits.max_rows * PagesPerRow(plan_)},
                                                               {"logit_rows", limits.max_logit_rows}};
  for (int32_t index : plan_.inputs) {
    const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(index)];
    const auto it = most.find(tensor.name);
    if (it == most.end() || tensor.dtype != DType::kI32) {
      return Invalid("input \"", tensor.name, "\" of dtype ", DTypeName(tensor.dtype),
                     " is none of a step graph's inputs");
    }
    FF_ASSIGN_OR_RETURN(auto buffer, device_->Allocate(static_cast<size_t>(it->second) * sizeof(int32_t), tensor.name));
    input_buffers_.push_back(std::move(buffer));
  }
  return absl::OkStatus();
}

absl::Status Executor::PrepareOutputs() {
  if (plan_.outputs.size() != 1) return Invalid("it has ", plan_.outputs.size(), " outputs; expected one, the logits");
  const plan::Tensor& logits = plan_.tensors[static_cast<size_t>(plan_.outputs[0])];
  const std::optional<int64_t> vocab = logits.shape.size() == 2 ? logits.shape[1].constant() : std::nullopt;
  if (logits.dtype != DType::kF32 || !vocab || *vocab <= 0 || logits.shape[0] != DimExpr::Symbol("L")) {
    return Invalid("output \"", logits.name, "\" is ", DTypeName(logits.dtype), DimsToString(logits.shape),
                   "; expected f32[L, vocabulary]");
  }
  vocab_size_ = *vocab;
  int64_t bytes = static_cast<int64_t>(sizeof(float)) * plan_.limits.max_logit_rows;
  if (__builtin_mul_overflow(bytes, vocab_size_, &bytes)) return Invalid("the logits are larger than any memory");
  FF_ASSIGN_OR_RETURN(logits_, device_->Allocate(static_cast<size_t>(bytes), "the logits"));
  return absl::OkStatus();
}

absl::Status Executor::PrepareWeights() {
  if (weights_.size() != plan_.weights.size()) return Invalid("weights are missing");
  for (const LoadedWeight& weight : weights_) weight_bytes_ += weight.bytes;
  return absl::OkStatus();
}

absl::Status Executor::PrepareShapes() {
  absl::flat_hash_map<DimExpr, int32_t> ids;
  for (size_t i = 0; i < plan_.tensors.size(); ++i) {
    const plan::Tensor& tensor = plan_.tensors[i];
    if (tensor.shape.size() > kernels::kMaxRank) return Invalid("tensor ", i, " has more than 6 dimensions");
    TensorView view;
    view.dtype = tensor.dtype;
    view.rank = static_cast<int>(tensor.shape.size());
    std::vector<int32_t> indices;
    for (const DimExpr& dim : tensor.shape) {
      const auto [it, inserted] = ids.emplace(dim, static_cast<int32_t>(dims_.size()));
      if (inserted) dims_.push_back(dim);
      indices.push_back(it->second);
    }
    const auto index = static_cast<size_t>(tensor.index);
    switch (tensor.storage) {
      case plan::Storage::kInput:
        places_[i] = {static_cast<char*>(input_buffers_[index]->data()),
                      static_cast<int64_t>(input_buffers_[index]->size())};
        break;
      case plan::Storage::kOutput:
        places_[i] = {static_cast<char*>(logits_->data()), static_cast<int64_t>(logits_->size())};
        break;
      case plan::Storage::kWeight: {
        const LoadedWeight& weight = weights_[index];
        const std::vector<int64_t>& shape = plan_.weights[index].shape;
        // A packed weight keeps its elements elsewhere than its shape says: only the kernel's own shape will do.
        const bool same = tensor.shape.size() == shape.size() &&
                          std::equal(shape.begin(), shape.end(), tensor.shape.begin(),
                                     [](int64_t a, const DimExpr& b) { return DimExpr(a) == b; });
        if (tensor.dtype != weight.view.dtype || !same) {
          return Invalid("tensor ", i, " is ", DTypeName(tensor.dtype), DimsToString(tensor.shape), ", which weight \"",
                         absl::StrJoin(plan_.weights[index].sources, " + "), "\" is not");
        }
        places_[i] = {static_cast<char*>(weight.view.data), weight.bytes};
        break;
      }
      case plan::Storage::kArena:
        break;
    }
    views_.push_back(view);
    tensor_dims_.push_back(std::move(indices));
  }
  dim_values_.resize(dims_.size());
  return absl::OkStatus();
}

absl::Status Executor::PrepareCache(int64_t pages) {
  const plan::CacheSpec& spec = plan_.cache;
  cache_ = {nullptr, spec.dtype, spec.layers, pages, spec.kv_heads, spec.page_size, spec.head_dim};
  int64_t bytes = DTypeBytes(spec.dtype) * 2;  // keys and values
  for (int64_t factor : {spec.layers, pages, spec.kv_heads, spec.page_size, spec.head_dim}) {
    if (factor < 0 || __builtin_mul_overflow(bytes, factor, &bytes)) {
      return absl::ResourceExhaustedError(absl::StrCat("a KV cache of ", pages, " pages is larger than any memory"));
    }
  }
  FF_ASSIGN_OR_RETURN(cache_buffer_, device_->Allocate(static_cast<size_t>(bytes), "the KV cache"));
  cache_.data = cache_buffer_->data();
  return absl::OkStatus();
}

absl::Status Executor::BindSteps() {
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const plan::Step& step = plan_.steps[i];
    std::vector<std::optional<DType>> input_dtypes;
    for (int32_t index : step.inputs) {
      input_dtypes.push_back(index < 0 ? std::nullopt : std::optional(plan_.tensors[static_cast<size_t>(index)].dtype));
      if (index < 0) continue;
      const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(index)];
      if ((step.op == "linear" || step.op == "fused_linear") && tensor.storage == plan::Storage::kWeight) {
        linear_weight_bytes_ += weights_[static_cast<size_t>(tensor.index)].bytes;
      }
    }
    std::vector<DType> output_dtypes;
    for (int32_t index : step.outputs) output_dtypes.push_back(plan_.tensors[static_cast<size_t>(index)].dtype);

    const auto tactic = std::find_if(step.tactics.begin(), step.tactics.end(), [&](const plan::KernelRef& kernel) {
      return device_->launchers().Has(kernel.id, kernel.version);
    });
    if (tactic == step.tactics.end()) {
      return absl::NotFoundError(absl::StrCat("plan: step ", i, " (", step.op, ") wants kernel \"",
                                              step.tactics.empty() ? "" : step.tactics[0].id,
                                              "\", which this build of FlashFlow lacks"));
    }
    absl::StatusOr<std::unique_ptr<kernels::BoundKernel>> kernel = device_->launchers().Bind(
        tactic->id, tactic->version,
        {.attrs = step.attrs, .input_dtypes = input_dtypes, .output_dtypes = output_dtypes, .op = step.op});
    if (!kernel.ok()) {
      return absl::Status(kernel.status().code(),
                          absl::StrCat("plan: step ", i, " (", step.op, "): ", kernel.status().message()));
    }
    steps_.push_back({*std::move(kernel), std::vector<TensorView>(step.inputs.size()),
                      std::vector<TensorView>(step.outputs.size())});
  }
  return absl::OkStatus();
}

absl::Status Executor::CheckInputs(const StepInputs& in) const {
  const auto tokens = static_cast<int64_t>(in.token_ids.size());
  const auto rows = static_cast<int64_t>(in.kv_len.size());
  const auto logit_rows = static_cast<int64_t>(in.logit_rows.size());
  const plan::Limits& limits = plan_.limits;
  if (tokens < 1 || tokens > limits.max_tokens || rows < 1 || rows > std::min(tokens, limits.max_rows) ||
      logit_rows > std::min(tokens, limits.max_logit_rows)) {
    return absl::InvalidArgumentError(absl::StrCat("a step of ", tokens, " tokens, ", rows, " rows and ", logit_rows,
                                                   " rows of logits; the plan allows 1 to ", limits.max_tokens, ", ",
                                                   limits.max_rows, " and ", limits.max_logit_rows));
  }
  if (in.positions.size() != in.token_ids.size() || in.row_start.size() != in.kv_len.size() + 1 ||
      in.pages_per_row < 1 || in.pages_per_row > PagesPerRow(plan_) ||
      static_cast<int64_t>(in.block_table.size()) != rows * in.pages_per_row) {
    return absl::InvalidArgumentError("the sizes of a step's inputs do not fit together");
  }
  bool valid = in.row_start[0] == 0 && in.row_start[static_cast<size_t>(rows)] == tokens;
  for (size_t r = 0; valid && r < static_cast<size_t>(rows); ++r) {
    const int64_t added = int64_t{in.row_start[r + 1]} - in.row_start[r];
    valid = added >= 1 && added <= in.kv_len[r] && in.kv_len[r] <= limits.context_length &&
            in.kv_len[r] <= in.pages_per_row * plan_.cache.page_size;
  }
  const auto within = [](absl::Span<const int32_t> values, int64_t limit) {
    return std::all_of(values.begin(), values.end(), [limit](int32_t v) { return v >= 0 && v < limit; });
  };
  valid = valid && within(in.logit_rows, tokens) && within(in.block_table, cache_.num_pages) &&
          within(in.positions, limits.context_length) && within(in.token_ids, vocab_size_);
  if (!valid) return absl::InvalidArgumentError("a step's inputs hold an index that is out of range");
  return absl::OkStatus();
}

absl::Status Executor::CopyInputs(const StepInputs& inputs) {
  for (size_t i = 0; i < plan_.inputs.size(); ++i) {
    const InputRow* row = FindInput(plan_.tensors[static_cast<size_t>(plan_.inputs[i])].name);
    const absl::Span<const int32_t> values = inputs.*(row->field);
    FF_RETURN_IF_ERROR(
        device_->CopyToDevice(input_buffers_[i]->data(), values.data(), values.size() * sizeof(int32_t)));
  }
  return absl::OkStatus();
}

absl::Status Executor::Specialize(int64_t tokens, int64_t rows, int64_t logit_rows, int64_t pages) {
  const std::array<int64_t, 4> wanted = {tokens, rows, logit_rows, pages};
  if (wanted == specialized_) return absl::OkStatus();
  specialized_ = {-1, -1, -1, -1};  // until all is done

  const auto bucket = std::find_if(plan_.buckets.begin(), plan_.buckets.end(),
                                   [tokens](const plan::Bucket& b) { return tokens <= b.max_tokens; });
  if (bucket == plan_.buckets.end()) return Invalid("no bucket holds ", tokens, " tokens");
  const SymbolValues symbols = {{"T", tokens}, {"R", rows}, {"L", logit_rows}, {"P", pages}};
  for (size_t i = 0; i < dims_.size(); ++i) {
    FF_ASSIGN_OR_RETURN(dim_values_[i], dims_[i].Evaluate(symbols));
  }
  for (size_t i = 0; i < views_.size(); ++i) {
    TensorView& view = views_[i];
    for (size_t d = 0; d < tensor_dims_[i].size(); ++d)
      view.dims[d] = dim_values_[static_cast<size_t>(tensor_dims_[i][d])];
    Place place = places_[i];
    if (plan_.tensors[i].storage == plan::Storage::kArena) {
      const int64_t offset = bucket->offsets[i];
      place = {static_cast<char*>(arena_->data()) + offset, bucket->arena_bytes - offset};
    }
    // Validate proved this at the bucket's upper end; a hostile plan's shapes need not grow with the symbols. Of a
    // packed weight the layout has at least the shape's bytes.
    const std::optional<int64_t> bytes = Bytes(view);
    if (!bytes || *bytes > place.bytes) {
      return Invalid("tensor ", i, " of shape ", DimsToString(plan_.tensors[i].shape), " does not fit its memory for ",
                     tokens, " tokens");
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
  }
  specialized_ = wanted;
  return absl::OkStatus();
}

absl::Status Executor::Launch() {
  device_->BeginStep();
  const absl::Cleanup end = [this] { device_->EndStep(); };
  for (size_t s = 0; s < steps_.size(); ++s) {
    const plan::Step& step = plan_.steps[s];
    kernels::LaunchContext context;
    context.inputs = steps_[s].inputs;
    context.outputs = steps_[s].outputs;
    context.device = device_->launch_handle();
    if (step.uses_cache) context.cache = &cache_;
    if (step.workspace >= 0) {
      const TensorView& workspace = views_[static_cast<size_t>(step.workspace)];
      context.workspace = workspace.data;
      context.workspace_bytes = static_cast<size_t>(workspace.NumElements());
    }
    if (absl::Status status = steps_[s].kernel->Launch(context); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("step ", s, " (", step.op, step.loc.empty() ? "" : " of ",
                                                      step.loc, "): ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const float>> Executor::Run(const StepInputs& inputs) {
  FF_RETURN_IF_ERROR(CheckInputs(inputs));
  FF_RETURN_IF_ERROR(CopyInputs(inputs));
  const auto tokens = static_cast<int64_t>(inputs.token_ids.size());
  const auto logit_rows = static_cast<int64_t>(inputs.logit_rows.size());
  FF_RETURN_IF_ERROR(Specialize(tokens, static_cast<int64_t>(inputs.kv_len.size()), logit_rows, inputs.pages_per_row));
  FF_RETURN_IF_ERROR(Launch());
  const auto count = static_cast<size_t>(logit_rows * vocab_size_);
  if (device_->SharesHostMemory()) return absl::MakeConstSpan(static_cast<const float*>(logits_->data()), count);
  host_logits_.resize(count);
  FF_RETURN_IF_ERROR(device_->CopyToHost(host_logits_.data(), logits_->data(), count * sizeof(float)));
  return absl::MakeConstSpan(host_logits_);
}

}  // namespace flashflow::runtime
