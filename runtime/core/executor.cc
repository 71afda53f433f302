#include "runtime/core/executor.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "compiler/ir/status_macros.h"
#include "runtime/core/median.h"

namespace flashflow::runtime {
namespace {

// Three times at least, and at most a hundred.
absl::Status RepeatFor(absl::Duration budget, absl::FunctionRef<absl::Status()> run) {
  const absl::Time end = absl::Now() + budget;
  for (int done = 0; done < 3 || (done < 100 && absl::Now() < end); ++done) FF_RETURN_IF_ERROR(run());
  return absl::OkStatus();
}

// As InputLayout::offsets has them.
enum InputKind : size_t { kTokenIds, kPositions, kRowStart, kKvLen, kBlockTable, kLogitRows, kInputKinds };
constexpr std::string_view kInputNames[kInputKinds] = {"token_ids", "positions",   "row_start",
                                                       "kv_len",    "block_table", "logit_rows"};
constexpr int64_t kInputAlignment = 16;

// Of decoding, and of what else is recorded: each row has one token, and wants its logits.
bool OneTokenEach(int64_t tokens, int64_t rows, int64_t logit_rows) { return tokens == rows && logit_rows == rows; }

int64_t BitCeil(int64_t n) { return n == 0 ? 0 : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n))); }

// To 16, 32, ... 256, and from there on to eight sizes an octave.
int64_t RoundUpTokens(int64_t tokens) {
  const int64_t step = std::max<int64_t>(16, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens))) / 8);
  return (tokens + step - 1) / step * step;
}

int64_t AlignUp(int64_t bytes) { return (bytes + kInputAlignment - 1) / kInputAlignment * kInputAlignment; }

int64_t PagesPerRow(const plan::Plan& plan) {
  return (plan.limits.context_length + plan.cache.page_size - 1) / plan.cache.page_size;
}

absl::Status Invalid(auto&&... what) { return absl::InvalidArgumentError(absl::StrCat("plan: ", what...)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(plan::Plan plan, std::vector<LoadedWeight> weights,
                                                           int64_t cache_pages, Device* device,
                                                           const kernels::TunedConfigs* tuned, bool batch_invariant) {
  auto executor = std::unique_ptr<Executor>(new Executor(std::move(plan), std::move(weights), device, tuned));
  FF_RETURN_IF_ERROR(executor->Prepare(cache_pages, batch_invariant));
  return executor;
}

// Memory that steps in flight still use must not be freed under them.
Executor::~Executor() { device_->Wait().IgnoreError(); }

absl::Status Executor::Prepare(int64_t cache_pages, bool batch_invariant) {
  if (!plan::IsStepPlan(plan_)) return Invalid("it is of a rectangular graph; expected a step graph's");
  FF_RETURN_IF_ERROR(PrepareInputs());
  FF_RETURN_IF_ERROR(PrepareOutputs());
  FF_RETURN_IF_ERROR(PrepareWeights());
  FF_ASSIGN_OR_RETURN(bound_, BoundPlan::Create(plan_, device_, tuned_, batch_invariant));
  int64_t arena_bytes = 0;
  for (const plan::Bucket& bucket : plan_.buckets) arena_bytes = std::max(arena_bytes, bucket.arena_bytes);
  FF_ASSIGN_OR_RETURN(arena_, device_->Allocate(static_cast<size_t>(arena_bytes), "the arena of intermediate values"));
  return PrepareCache(cache_pages);
}

absl::Status Executor::PrepareInputs() {
  for (int32_t index : plan_.inputs) {
    const plan::Tensor& tensor = plan_.tensors[static_cast<size_t>(index)];
    const auto kind = std::ranges::find(kInputNames, tensor.name);
    if (kind == std::end(kInputNames) || tensor.dtype != DType::kI32) {
      return Invalid("input \"", tensor.name, "\" of dtype ", DTypeName(tensor.dtype),
                     " is none of a step graph's inputs");
    }
    input_kinds_.push_back(static_cast<size_t>(kind - std::begin(kInputNames)));
  }
  const plan::Limits& limits = plan_.limits;
  const int64_t bytes = LayoutOf({limits.max_tokens, limits.max_rows, limits.max_logit_rows, PagesPerRow(plan_)}).bytes;
  FF_ASSIGN_OR_RETURN(input_block_, device_->Allocate(static_cast<size_t>(bytes), "a step's inputs"));
  for (Slot& slot : slots_) {
    if (!device_->SharesHostMemory()) {
      FF_ASSIGN_OR_RETURN(slot.inputs, device_->AllocateHost(static_cast<size_t>(bytes), "a step's inputs"));
    }
    FF_ASSIGN_OR_RETURN(slot.tokens,
                        device_->AllocateHost(static_cast<size_t>(limits.max_logit_rows) * sizeof(int32_t), "tokens"));
    FF_ASSIGN_OR_RETURN(slot.done, device_->CreateMarker());
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
  if (const DeviceSampler* sampler = device_->sampler(); sampler != nullptr) {
    FF_ASSIGN_OR_RETURN(
        draw_workspace_,
        device_->Allocate(sampler->workspace_bytes(plan_.limits.max_logit_rows, vocab_size_), "drawing tokens"));
  }
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
  usable_pages_ = pages;
  if (device_->CanRecord()) ++pages;
  cache_ = {nullptr, spec.dtype, spec.layers, pages, spec.kv_heads, spec.page_size, spec.head_dim};
  int64_t bytes = KvHeadBytes(spec.dtype, spec.head_dim) * 2;  // keys and values
  for (int64_t factor : {spec.layers, pages, spec.kv_heads, spec.page_size}) {
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
  valid = valid && within(in.logit_rows, tokens) && within(in.block_table, usable_pages_) &&
          within(in.positions, limits.context_length) && in.tokens_from_previous >= 0 &&
          in.tokens_from_previous <= tokens &&
          within(in.token_ids.subspan(static_cast<size_t>(in.tokens_from_previous)), vocab_size_);
  if (!valid) return absl::InvalidArgumentError("a step's inputs hold an index that is out of range");
  return absl::OkStatus();
}

Executor::InputLayout Executor::LayoutOf(const StepSize& size) const {
  InputLayout layout;
  int64_t counts[kInputKinds] = {};
  counts[kTokenIds] = counts[kPositions] = size.tokens;
  counts[kRowStart] = size.rows + 1;
  counts[kKvLen] = size.rows;
  counts[kBlockTable] = size.rows * size.pages;
  counts[kLogitRows] = size.logit_rows;
  for (size_t i = 0; i < kInputKinds; ++i) {
    layout.offsets[i] = layout.bytes;
    layout.bytes += AlignUp(counts[i] * static_cast<int64_t>(sizeof(int32_t)));
  }
  layout.draws = layout.bytes;
  if (const DeviceSampler* sampler = device_->sampler(); sampler != nullptr) {
    layout.bytes += AlignUp(size.logit_rows * static_cast<int64_t>(sampler->row_bytes()));
  }
  return layout;
}

// The size that the step runs at: larger than its inputs where steps are recorded.
Executor::StepSize Executor::Pad(const StepInputs& inputs) const {
  const auto tokens = static_cast<int64_t>(inputs.token_ids.size());
  const auto rows = static_cast<int64_t>(inputs.kv_len.size());
  const auto logit_rows = static_cast<int64_t>(inputs.logit_rows.size());
  StepSize size = {.tokens = tokens, .rows = rows, .logit_rows = logit_rows, .pages = inputs.pages_per_row};
  size.draws = !inputs.draws.empty();
  for (size_t r = 0; r < inputs.kv_len.size(); ++r) {
    const int32_t added = inputs.row_start[r + 1] - inputs.row_start[r];
    size.max_row_tokens = std::max<int64_t>(size.max_row_tokens, added);
  }
  if (!device_->CanRecord()) return size;

  size.pages = PagesPerRow(plan_);
  const plan::Limits& limits = plan_.limits;
  if (OneTokenEach(tokens, rows, logit_rows)) {
    const int64_t most = std::min(limits.max_rows, limits.max_logit_rows);
    size.tokens = size.rows = size.logit_rows = std::min(most, BitCeil(rows));
    return size;
  }
  size.logit_rows = std::min(limits.max_logit_rows, BitCeil(logit_rows));
  size.max_row_tokens = BitCeil(size.max_row_tokens);
  // An eighth more tokens at most, in rows that hold at least one and at most a context of them.
  const int64_t padded = RoundUpTokens(tokens);
  const int64_t more_rows = std::min(BitCeil(rows + 1) - rows, padded - tokens);
  const int64_t longest = padded - tokens - more_rows + 1;
  if (more_rows == 0 || padded > limits.max_tokens || rows + more_rows > limits.max_rows ||
      longest > limits.context_length || longest > size.max_row_tokens) {
    return size;
  }
  size.tokens = padded;
  size.rows = rows + more_rows;
  return size;
}

void Executor::Pack(const StepInputs& inputs, const StepSize& size, const InputLayout& layout, char* block) const {
  const auto at = [&](InputKind kind) { return reinterpret_cast<int32_t*>(block + layout.offsets[kind]); };
  const auto copy = [&](absl::Span<const int32_t> values, InputKind kind) {
    return std::copy(values.begin(), values.end(), at(kind));
  };
  const auto tokens = static_cast<int64_t>(inputs.token_ids.size());
  const auto rows = static_cast<int64_t>(inputs.kv_len.size());
  const auto logit_rows = static_cast<int64_t>(inputs.logit_rows.size());
  std::fill_n(copy(inputs.token_ids, kTokenIds), size.tokens - tokens, 0);
  std::fill_n(copy(inputs.positions, kPositions), size.tokens - tokens, 0);
  // What rounds the step up: rows of one token, of which the last has what is left, in a page of their own.
  int32_t* kv_len = copy(inputs.kv_len, kKvLen);
  int32_t* row_start = copy(inputs.row_start, kRowStart);
  auto end = static_cast<int32_t>(tokens);
  for (int64_t r = rows; r < size.rows; ++r) {
    const int32_t length = r + 1 < size.rows ? 1 : static_cast<int32_t>(size.tokens) - end;
    end += length;
    *kv_len++ = length;
    *row_start++ = end;
  }
  int32_t* logit_row = copy(inputs.logit_rows, kLogitRows);
  if (OneTokenEach(size.tokens, size.rows, size.logit_rows)) {
    std::iota(logit_row, logit_row + (size.logit_rows - logit_rows), static_cast<int32_t>(logit_rows));
  } else {
    std::fill_n(logit_row, size.logit_rows - logit_rows, 0);
  }
  int32_t* table = at(kBlockTable);
  for (int64_t r = 0; r < size.rows; ++r, table += size.pages) {
    const bool real = r < rows;
    const auto* pages = real ? inputs.block_table.data() + r * inputs.pages_per_row : nullptr;
    int32_t* filled = real ? std::copy_n(pages, inputs.pages_per_row, table) : table;
    std::fill(filled, table + size.pages, real ? 0 : static_cast<int32_t>(usable_pages_));
  }
  if (inputs.draws.empty()) return;
  SamplingParams greedy;
  greedy.temperature = 0;
  const DeviceSampler& sampler = *device_->sampler();
  for (int64_t i = 0; i < size.logit_rows; ++i) {
    const bool real = i < static_cast<int64_t>(inputs.draws.size());
    const Draw draw = real ? inputs.draws[static_cast<size_t>(i)] : Draw{&greedy, 0};
    sampler.WriteRow(*draw.params, draw.index, block + layout.draws + i * static_cast<int64_t>(sampler.row_bytes()));
  }
}

absl::Status Executor::Specialize(const StepSize& size, const InputLayout& layout) {
  if (size == specialized_) return absl::OkStatus();
  specialized_ = {};  // until all is done

  const auto bucket = std::find_if(plan_.buckets.begin(), plan_.buckets.end(),
                                   [&](const plan::Bucket& b) { return size.tokens <= b.max_tokens; });
  if (bucket == plan_.buckets.end()) return Invalid("no bucket holds ", size.tokens, " tokens");
  const SymbolValues symbols = {{"T", size.tokens}, {"R", size.rows}, {"L", size.logit_rows}, {"P", size.pages}};
  const auto place_of = [&](size_t i) -> Place {
    const plan::Tensor& tensor = plan_.tensors[i];
    const auto index = static_cast<size_t>(tensor.index);
    switch (tensor.storage) {
      case plan::Storage::kInput: {
        const size_t kind = input_kinds_[index];
        const int64_t end = kind + 1 < kInputKinds ? layout.offsets[kind + 1] : layout.draws;
        return {static_cast<char*>(input_block_->data()) + layout.offsets[kind], end - layout.offsets[kind]};
      }
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
  specialized_ = size;
  return absl::OkStatus();
}

// Of many sizes of prompts, so that recordings do not fill the memory.
void Executor::ForgetOldest() {
  constexpr size_t kMostRecorded = 128;
  if (recorded_.size() < kMostRecorded) return;
  const auto oldest = std::ranges::min_element(
      recorded_, [](const auto& a, const auto& b) { return a.second.last_used < b.second.last_used; });
  device_->Wait().IgnoreError();  // it may run
  recorded_.erase(oldest);
}

absl::Status Executor::LaunchAll(const StepSize& size, const InputLayout& layout) {
  const auto launch = [&]() -> absl::Status {
    const kernels::StepRows rows = {.max_row_tokens = size.max_row_tokens};
    FF_RETURN_IF_ERROR(bound_->Launch(&cache_, rows, {}));
    if (!size.draws) return absl::OkStatus();
    return device_->sampler()->Launch(static_cast<const float*>(logits_->data()), size.logit_rows, vocab_size_,
                                      static_cast<char*>(input_block_->data()) + layout.draws, draw_workspace_->data(),
                                      static_cast<int32_t*>(input_block_->data()));
  };
  if (!device_->CanRecord()) {
    FF_RETURN_IF_ERROR(Specialize(size, layout));
    return launch();
  }
  auto found = recorded_.find(size);
  const bool first = found == recorded_.end();
  if (first) {
    ForgetOldest();
    found = recorded_.emplace(size, Recorded()).first;
  }
  Recorded& recorded = found->second;
  recorded.last_used = steps_;
  if (recorded.recording == nullptr) {
    FF_RETURN_IF_ERROR(Specialize(size, layout));
    if (first && !OneTokenEach(size.tokens, size.rows, size.logit_rows)) return launch();
    FF_ASSIGN_OR_RETURN(recorded.recording, device_->Record(launch));
  }
  return recorded.recording->Launch();
}

absl::Status Executor::StartStep(const StepInputs& inputs) {
  FF_RETURN_IF_ERROR(CheckInputs(inputs));
  const StepSize size = Pad(inputs);
  const InputLayout layout = LayoutOf(size);
  Slot& slot = slots_[static_cast<size_t>(steps_) % kInFlight];
  FF_RETURN_IF_ERROR(slot.done->Await());
  slot.step = -1;
  logit_rows_ = 0;
  char* block = static_cast<char*>(input_block_->data());
  // Of a step that fails half-way, the device may have work that reads the slot still: the next step is to find it
  // done.
  absl::Cleanup await_rest = [this] { device_->Wait().IgnoreError(); };
  if (slot.inputs == nullptr) {
    Pack(inputs, size, layout, block);
  } else {
    char* staged = static_cast<char*>(slot.inputs->data());
    Pack(inputs, size, layout, staged);
    // What the step before drew lies where this one reads its tokens.
    const int64_t begin = layout.offsets[kTokenIds] + inputs.tokens_from_previous * int64_t{sizeof(int32_t)};
    const int64_t end = inputs.draws.empty() ? layout.draws : layout.bytes;
    FF_RETURN_IF_ERROR(device_->CopyToDevice(block + begin, staged + begin, static_cast<size_t>(end - begin)));
  }
  FF_RETURN_IF_ERROR(LaunchAll(size, layout));
  slot.drawn = static_cast<int64_t>(inputs.draws.size());
  if (slot.drawn > 0) {
    FF_RETURN_IF_ERROR(
        device_->CopyToHost(slot.tokens->data(), block, static_cast<size_t>(slot.drawn) * sizeof(int32_t)));
  }
  FF_RETURN_IF_ERROR(slot.done->Set());
  std::move(await_rest).Cancel();
  slot.step = steps_++;
  logit_rows_ = static_cast<int64_t>(inputs.logit_rows.size());
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const float>> Executor::Run(const StepInputs& inputs) {
  if (!inputs.draws.empty()) return absl::InvalidArgumentError("Run gives logits; Start draws tokens");
  FF_RETURN_IF_ERROR(StartStep(inputs));
  return Logits();
}

absl::StatusOr<std::vector<double>> Executor::TimeSteps(const StepInputs& inputs) {
  FF_RETURN_IF_ERROR(Run(inputs).status());  // wakes threads, brings weights into memory, leaves the inputs in place
  const StepSize size = Pad(inputs);
  FF_RETURN_IF_ERROR(Specialize(size, LayoutOf(size)));
  const kernels::StepRows rows = {.max_row_tokens = size.max_row_tokens};
  return device_->CanRecord() ? TimeFirstSteps(rows) : TimeOneByOne(rows);
}

absl::StatusOr<std::vector<double>> Executor::TimeOneByOne(const kernels::StepRows& rows) {
  std::vector<double> times(plan_.steps.size());
  std::vector<std::vector<double>> runs(plan_.steps.size());  // by step
  FF_RETURN_IF_ERROR(RepeatFor(absl::Milliseconds(500), [&]() -> absl::Status {
    FF_RETURN_IF_ERROR(bound_->Launch(&cache_, rows, {.step_us = absl::MakeSpan(times)}));
    for (size_t s = 0; s < times.size(); ++s) runs[s].push_back(times[s]);
    return absl::OkStatus();
  }));
  std::ranges::transform(runs, times.begin(), Median);
  return times;
}

absl::StatusOr<std::vector<double>> Executor::TimeFirstSteps(const kernels::StepRows& rows) {
  constexpr int kLaunches = 2;  // waited for together: a wait is longer than many steps, but always the same
  std::vector<std::unique_ptr<Recording>> recordings;  // of no step, of the first, of the first two, ... of all
  const absl::Cleanup await_rest = [this] { device_->Wait().IgnoreError(); };  // after an error one may run still
  for (size_t steps = 0; steps <= plan_.steps.size(); ++steps) {
    FF_ASSIGN_OR_RETURN(recordings.emplace_back(),
                        device_->Record([&] { return bound_->Launch(&cache_, rows, {.steps = steps}); }));
  }
  std::vector<std::vector<double>> runs(recordings.size());
  FF_RETURN_IF_ERROR(RepeatFor(absl::Seconds(2), [&]() -> absl::Status {
    for (size_t r = 0; r < recordings.size(); ++r) {
      FF_RETURN_IF_ERROR(device_->Wait());
      const absl::Time start = absl::Now();
      for (int i = 0; i < kLaunches; ++i) {
        FF_RETURN_IF_ERROR(recordings.back()->Launch());  // so that caches hold what they hold after a step
        FF_RETURN_IF_ERROR(recordings[r]->Launch());
      }
      FF_RETURN_IF_ERROR(device_->Wait());
      runs[r].push_back(absl::ToDoubleMicroseconds(absl::Now() - start) / kLaunches);
    }
    return absl::OkStatus();
  }));
  constexpr double kLeastUs = 1e-3;  // of a step that runs beside others alone
  std::vector<double> times;
  for (size_t s = 0; s < plan_.steps.size(); ++s) {
    times.push_back(std::max(kLeastUs, Median(runs[s + 1]) - Median(runs[s])));
  }
  return times;
}

absl::StatusOr<absl::Span<const float>> Executor::Logits() {
  const auto count = static_cast<size_t>(logit_rows_ * vocab_size_);
  if (device_->SharesHostMemory()) return absl::MakeConstSpan(static_cast<const float*>(logits_->data()), count);
  if (host_logits_ == nullptr || host_logits_->size() < count * sizeof(float)) {
    FF_ASSIGN_OR_RETURN(host_logits_, device_->AllocateHost(count * sizeof(float), "the logits"));
  }
  FF_RETURN_IF_ERROR(device_->CopyToHost(host_logits_->data(), logits_->data(), count * sizeof(float)));
  FF_RETURN_IF_ERROR(device_->Wait());
  return absl::MakeConstSpan(static_cast<const float*>(host_logits_->data()), count);
}

absl::StatusOr<int64_t> Executor::Start(const StepInputs& inputs) {
  if (device_->sampler() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("device ", device_->kind(), " draws no tokens"));
  }
  if (inputs.draws.empty() || inputs.draws.size() != inputs.logit_rows.size()) {
    return absl::InvalidArgumentError("a step wants one draw for each of its rows of logits, and at least one");
  }
  if (inputs.tokens_from_previous > 0) {
    const Slot& previous = slots_[static_cast<size_t>(steps_ + kInFlight - 1) % kInFlight];
    if (steps_ == 0 || previous.step != steps_ - 1 || previous.drawn != inputs.tokens_from_previous) {
      return absl::InvalidArgumentError("the step before drew another number of tokens than this one takes");
    }
  }
  FF_RETURN_IF_ERROR(StartStep(inputs));
  return steps_ - 1;
}

absl::StatusOr<absl::Span<const int32_t>> Executor::Tokens(int64_t step) {
  Slot& slot = slots_[static_cast<size_t>(std::max<int64_t>(step, 0)) % kInFlight];
  if (step < 0 || slot.step != step) {
    return absl::InvalidArgumentError(absl::StrCat("step ", step, " was not started, or too many after it were"));
  }
  FF_RETURN_IF_ERROR(slot.done->Await());
  return absl::MakeConstSpan(static_cast<const int32_t*>(slot.tokens->data()), static_cast<size_t>(slot.drawn));
}

}  // namespace flashflow::runtime
