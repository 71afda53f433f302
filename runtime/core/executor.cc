#include "runtime/core/executor.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::runtime {
namespace {

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

absl::Status Invalid(auto&&... what) { return absl::InvalidArgumentError(absl::StrCat("plan: ", what...)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(plan::Plan plan, std::vector<LoadedWeight> weights,
                                                           int64_t cache_pages, Device* device,
                                                           const kernels::TunedConfigs* tuned) {
  auto executor = std::unique_ptr<Executor>(new Executor(std::move(plan), std::move(weights), device, tuned));
  FF_RETURN_IF_ERROR(executor->Prepare(cache_pages));
  return executor;
}

absl::Status Executor::Prepare(int64_t cache_pages) {
  if (!plan::IsStepPlan(plan_)) return Invalid("it is of a rectangular graph; expected a step graph's");
  FF_RETURN_IF_ERROR(PrepareInputs());
  FF_RETURN_IF_ERROR(PrepareOutputs());
  FF_RETURN_IF_ERROR(PrepareWeights());
  FF_ASSIGN_OR_RETURN(bound_, BoundPlan::Create(plan_, device_, tuned_));
  int64_t arena_bytes = 0;
  for (const plan::Bucket& bucket : plan_.buckets) arena_bytes = std::max(arena_bytes, bucket.arena_bytes);
  FF_ASSIGN_OR_RETURN(arena_, device_->Allocate(static_cast<size_t>(arena_bytes), "the arena of intermediate values"));
  return PrepareCache(cache_pages);
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
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i].view.dtype != plan_.weights[i].dtype) {
      return Invalid("weight \"", absl::StrJoin(plan_.weights[i].sources, " + "), "\" was loaded as ",
                     DTypeName(weights_[i].view.dtype));
    }
    weight_bytes_ += weights_[i].bytes;
  }
  for (const plan::Step& step : plan_.steps) {
    if (step.op != "linear" && step.op != "fused_linear") continue;
    for (int32_t index : step.inputs) {
      if (index < 0) continue;
      const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(index)];
      if (tensor.storage != plan::Storage::kWeight) continue;
      linear_weight_bytes_ += weights_[static_cast<size_t>(tensor.index)].bytes;
    }
  }
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
  const auto place_of = [&](size_t i) -> Place {
    const plan::Tensor& tensor = plan_.tensors[i];
    const auto index = static_cast<size_t>(tensor.index);
    switch (tensor.storage) {
      case plan::Storage::kInput:
        return {input_buffers_[index]->data(), static_cast<int64_t>(input_buffers_[index]->size())};
      case plan::Storage::kOutput:
        return {logits_->data(), static_cast<int64_t>(logits_->size())};
      case plan::Storage::kWeight:
        return {weights_[index].view.data, weights_[index].bytes};
      case plan::Storage::kArena:
        break;
    }
    return {static_cast<char*>(arena_->data()) + bucket->offsets[i], bucket->arena_bytes - bucket->offsets[i]};
  };
  FF_RETURN_IF_ERROR(bound_->Specialize(symbols, place_of));
  specialized_ = wanted;
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const float>> Executor::Run(const StepInputs& inputs, absl::Span<double> step_us) {
  if (!step_us.empty() && step_us.size() != plan_.steps.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is room for ", step_us.size(), " times; the plan has ", plan_.steps.size(), " steps"));
  }
  FF_RETURN_IF_ERROR(CheckInputs(inputs));
  FF_RETURN_IF_ERROR(CopyInputs(inputs));
  const auto tokens = static_cast<int64_t>(inputs.token_ids.size());
  const auto logit_rows = static_cast<int64_t>(inputs.logit_rows.size());
  FF_RETURN_IF_ERROR(Specialize(tokens, static_cast<int64_t>(inputs.kv_len.size()), logit_rows, inputs.pages_per_row));
  FF_RETURN_IF_ERROR(bound_->Launch(&cache_, step_us));
  const auto count = static_cast<size_t>(logit_rows * vocab_size_);
  if (device_->SharesHostMemory()) return absl::MakeConstSpan(static_cast<const float*>(logits_->data()), count);
  host_logits_.resize(count);
  FF_RETURN_IF_ERROR(device_->CopyToHost(host_logits_.data(), logits_->data(), count * sizeof(float)));
  return absl::MakeConstSpan(host_logits_);
}

}  // namespace flashflow::runtime
