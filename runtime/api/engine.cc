#include "runtime/api/engine.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/graph.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/status_macros.h"
#include "compiler/plan/plan.h"
#include "compiler/plan/sha256.h"
#include "kernels/registry/catalog.h"
#include "runtime/api/kv_cache_size.h"
#include "runtime/api/model_config.h"
#include "runtime/api/open_device.h"
#include "runtime/api/plan_cache.h"
#include "runtime/api/plan_options.h"
#include "runtime/core/device.h"
#include "runtime/core/executor.h"
#include "runtime/core/page_pool.h"
#include "runtime/core/sampler.h"
#include "runtime/core/scheduler.h"
#include "runtime/core/tuned_tactics.h"
#include "runtime/core/tuning_database.h"
#include "runtime/core/weights.h"
#include "runtime/cpu/cpu_spec.h"
#include "runtime/engine/engine_file.h"
#include "runtime/engine/engine_format.h"

namespace flashflow::runtime {
namespace {

// A request's side of sampling; the scheduler has its tokens and pages.
struct Generation {
  SamplingParams params;
  Sampler sampler;
  uint64_t drawn = 0;  // tokens so far, those included that a step in flight draws
};

// A step that was started and whose tokens have not been looked at.
struct Flight {
  StepBatch batch;
  int64_t step = 0;
  std::optional<std::vector<int32_t>> tokens;  // once they had to be fetched early
};

// The stored plan if this build can use it as it is. Anything else is no error: the graph says what is to be computed.
std::optional<plan::Plan> StoredPlan(const engine::EngineFile& file, const Device& device, std::string_view graph) {
  const std::optional<std::string_view> text = file.section(absl::StrCat(engine::kPlanSectionPrefix, device.kind()));
  if (!text) return std::nullopt;
  absl::StatusOr<plan::Plan> plan = plan::FromJson(*text);
  std::string reason;
  if (!plan.ok()) {
    reason = plan.status().message();
  } else if (plan->device_key != device.key()) {
    reason = absl::StrCat("it was made for ", plan->device_key, " and this is ", device.key());
  } else if (plan->graph_sha256 != Sha256Hex(graph)) {
    reason = "it was made from another graph";
  } else {
    return *std::move(plan);
  }
  LOG(INFO) << file.path() << ": the stored plan is not used: " << reason;
  return std::nullopt;
}

absl::StatusOr<driver::CompiledModel> CompileGraph(const Device& device, std::string_view text) {
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<ir::Graph> graph, ir::Parse(text));
  return driver::Compile(*graph, PlanOptions(device.kind(), *graph));
}

absl::StatusOr<plan::Plan> CompilePlan(const engine::EngineFile& file, const Device& device, std::string_view text) {
  FF_ASSIGN_OR_RETURN(driver::CompiledModel compiled, CompileGraph(device, text));
  LOG(INFO) << file.path() << ": compiled the stored graph for " << device.key();
  return std::move(compiled.plan);
}

absl::StatusOr<plan::Plan> FindPlan(const engine::EngineFile& file, const Device& device, bool* was_stored) {
  const std::optional<std::string_view> graph = file.section(engine::kGraphSection);
  if (!graph) return absl::DataLossError(absl::StrCat("engine file ", file.path(), " has no section ff.graph"));
  std::optional<plan::Plan> stored = StoredPlan(file, device, *graph);
  *was_stored = stored.has_value();
  if (stored) return *std::move(stored);
  const PlanCache cache = PlanCache::OfUser();
  std::optional<plan::Plan> kept = cache.Find(Sha256Hex(*graph), device.key());
  if (kept) return *std::move(kept);
  FF_ASSIGN_OR_RETURN(plan::Plan plan, CompilePlan(file, device, *graph));
  cache.Keep(plan);
  return plan;
}

// Sets info->tuning and tuned_configs. nullptr: kernels run with their defaults.
absl::StatusOr<std::unique_ptr<TunedTactics>> LoadTuning(const std::string& option, const Device& device,
                                                         EngineInfo* info) {
  if (option == "none") {
    info->tuning = option;
    return nullptr;
  }
  if (device.kind() != "cpu") return nullptr;  // its kernels choose by themselves
  std::string path = option;
  std::error_code ignored;
  if (path.empty()) {
    const std::string folder = UserCacheFolder();
    if (!folder.empty()) path = absl::StrCat(folder, "/tuning.json");
    if (!std::filesystem::exists(path, ignored)) path.clear();
  } else if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat("tuning is \"", path, "\": there is no such file"));
  }
  auto tuned = std::make_unique<TunedTactics>(CpuName(device.num_threads()));
  if (!path.empty()) tuned->Add(TuningDatabase::Load(path), path);
  tuned->Add(ShippedTuning(), "FlashFlow's own tuning");
  info->tuning = path;
  info->tuned_configs = static_cast<int64_t>(tuned->size());
  return tuned;
}

std::string_view LongDTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    default:
      return DTypeName(dtype);
  }
}

// Of a device that no figures are known of: nothing takes it any time at least.
analysis::DeviceSpec WithoutFloors(const std::string& name) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {.name = name,
          .arch = "",
          .source = "none: all floors are 0",
          .read_gb_per_s = kInfinity,
          .tflop_per_s = {{DType::kF32, kInfinity}}};
}

std::string_view LongKvDTypeName(DType dtype) { return dtype == DType::kI8 ? "int8" : LongDTypeName(dtype); }

// "int8" or "int4" where products are of codes, whatever the rest is made of.
std::string_view ModelDType(const plan::Plan& plan) {
  DType narrowest = DType::kF32;
  bool codes = false;
  for (const plan::Weight& weight : plan.weights) {
    if (weight.layout == kernels::kPanel16Int4) return "int4";
    codes |= weight.dtype == DType::kI8;
    if (IsFloat(weight.dtype) && DTypeBytes(weight.dtype) < DTypeBytes(narrowest)) narrowest = weight.dtype;
  }
  return codes ? "int8" : LongDTypeName(narrowest);
}

}  // namespace

struct Engine::Impl {
  // Before what uses them: members die in reverse order.
  std::unique_ptr<const engine::EngineFile> file;
  std::unique_ptr<Device> device;
  std::unique_ptr<TunedTactics> tuned;  // or null
  EngineInfo info;

  std::mutex mutex;  // guards all that follows; the private functions below want it held
  std::unique_ptr<Executor> executor;
  std::unique_ptr<PagePool> pages;
  std::unique_ptr<Scheduler> scheduler;
  absl::flat_hash_map<int64_t, Generation> generations;
  std::vector<TokenEvent> pending;        // of a step that had an error to report first
  std::unique_ptr<ir::Graph> step_graph;  // of the plan, made when a roofline is first asked for

  // At most two: the second was started before the first's tokens were known. Those of requests that are over since
  // are dropped: whatever a later request puts into their pages comes later on the device too.
  std::deque<Flight> flights;

  absl::StatusOr<absl::Span<const float>> Run(const StepBatch& batch);
  absl::Status Start(StepBatch batch);
  absl::Status FetchTokens(Flight* flight);
  absl::StatusOr<std::vector<TokenEvent>> StepOnHost(const StepBatch& batch);
  absl::StatusOr<std::vector<TokenEvent>> StepOnDevice();
  absl::StatusOr<std::vector<TokenEvent>> Conclude(absl::Status error, std::vector<TokenEvent> events);
  bool DeviceDraws(int64_t request) const;
  absl::StatusOr<TokenEvent> SampleOnHost(int64_t request, absl::Span<const float> logits, uint64_t draw);
  TokenEvent Accept(int64_t request, SampledToken sampled);
  bool Remove(int64_t request);
};

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
  }
  return "";
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

absl::StatusOr<std::string> Engine::CheckDevice(const EngineOptions& options) {
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, OpenDevice(options.device, options.threads));
  return std::string(device->kind());
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const std::string& path, const EngineOptions& options) {
  auto impl = std::make_unique<Impl>();
  FF_ASSIGN_OR_RETURN(impl->device, OpenDevice(options.device, options.threads));
  FF_ASSIGN_OR_RETURN(impl->file, engine::EngineFile::Open(path));
  Device* device = impl->device.get();

  EngineInfo& info = impl->info;
  FF_ASSIGN_OR_RETURN(impl->tuned, LoadTuning(options.tuning, *device, &info));
  FF_ASSIGN_OR_RETURN(plan::Plan plan, FindPlan(*impl->file, *device, &info.plan_was_stored));
  const int64_t most_rows = std::min({plan.limits.max_rows, plan.limits.max_logit_rows, plan.limits.max_tokens});
  if (options.max_batch < 1 || options.max_batch > most_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch is ", options.max_batch, "; this engine takes 1 to ", most_rows));
  }
  FF_ASSIGN_OR_RETURN(std::vector<LoadedWeight> weights, LoadWeights(*impl->file, plan.weights, device));
  FF_ASSIGN_OR_RETURN(const int64_t pages,
                      KvCachePages(plan, options.max_batch, options.kv_cache_bytes, device->AvailableBytes()));
  FF_ASSIGN_OR_RETURN(auto executor, Executor::Create(std::move(plan), std::move(weights), pages, device,
                                                      impl->tuned.get(), options.batch_invariant));
  absl::StatusOr<ModelConfig> config = ParseModelConfig(impl->file->section(engine::kConfigSection).value_or("{}"));
  if (!config.ok()) {
    return absl::Status(config.status().code(), absl::StrCat("engine file ", path, ": ", config.status().message()));
  }

  const plan::Plan& bound = executor->plan();
  info.path = path;
  info.name = config->name;
  info.architecture = config->architecture;
  info.producer = impl->file->producer();
  info.dtype = ModelDType(bound);
  info.kv_dtype = LongKvDTypeName(bound.cache.dtype);
  info.device = device->kind();
  info.device_description = device->description();
  info.threads = device->num_threads();
  info.max_batch = options.max_batch;
  info.context_length = bound.limits.context_length;
  info.max_tokens = bound.limits.max_tokens;
  info.vocab_size = executor->vocab_size();
  info.eos_token_ids = config->eos_token_ids;
  info.page_size = bound.cache.page_size;
  info.kv_cache_pages = executor->cache_pages();
  info.kv_cache_bytes = executor->cache_bytes();
  info.arena_bytes = executor->arena_bytes();
  info.weight_bytes = executor->weight_bytes();
  info.weight_bytes_per_token = executor->linear_weight_bytes();

  {
    const std::lock_guard lock(impl->mutex);
    impl->pages = std::make_unique<PagePool>(pages);
    impl->scheduler = std::make_unique<Scheduler>(Scheduler::Limits{.vocab_size = info.vocab_size,
                                                                    .context_length = info.context_length,
                                                                    .max_tokens = bound.limits.max_tokens,
                                                                    .max_rows = options.max_batch,
                                                                    .page_size = info.page_size},
                                                  impl->pages.get());
    impl->executor = std::move(executor);
  }
  LOG(INFO) << path << ": " << info.device_description << ", " << info.dtype << ", KV cache of "
            << info.kv_cache_pages * info.page_size << " tokens in " << info.kv_dtype;
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

const EngineInfo& Engine::info() const { return impl_->info; }

std::string_view Engine::config_json() const { return impl_->file->section(engine::kConfigSection).value_or("{}"); }

std::string_view Engine::tokenizer_json() const { return impl_->file->section(engine::kTokenizerSection).value_or(""); }

absl::StatusOr<int64_t> Engine::Submit(absl::Span<const int32_t> prompt, const SamplingParams& params) {
  FF_RETURN_IF_ERROR(params.Validate());
  Sampler sampler(params);
  const std::lock_guard lock(impl_->mutex);
  FF_ASSIGN_OR_RETURN(const int64_t id, impl_->scheduler->Add(prompt, params.max_tokens));
  sampler.Observe(prompt);
  impl_->generations.emplace(id, Generation{params, std::move(sampler)});
  return id;
}

namespace {

StepInputs InputsOf(const StepBatch& batch) {
  return {.token_ids = batch.token_ids,
          .positions = batch.positions,
          .row_start = batch.row_start,
          .kv_len = batch.kv_len,
          .block_table = batch.block_table,
          .logit_rows = batch.logit_rows,
          .pages_per_row = batch.pages_per_row};
}

}  // namespace

absl::StatusOr<absl::Span<const float>> Engine::Impl::Run(const StepBatch& batch) {
  for (Flight& flight : flights) FF_RETURN_IF_ERROR(FetchTokens(&flight));
  return executor->Run(InputsOf(batch));
}

bool Engine::Impl::Remove(int64_t request) {
  generations.erase(request);
  return scheduler->Remove(request);
}

TokenEvent Engine::Impl::Accept(int64_t request, SampledToken sampled) {
  Generation& generation = generations.find(request)->second;
  const int32_t token = sampled.token;
  generation.sampler.Observe({token});
  const bool room = scheduler->Append(request, token);
  const auto holds = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  TokenEvent event{request, token, sampled.logprob, std::move(sampled.top_logprobs), FinishReason::kNone};
  if (!generation.params.ignore_eos && holds(info.eos_token_ids)) {
    event.finish_reason = FinishReason::kEos;
  } else if (holds(generation.params.stop_token_ids)) {
    event.finish_reason = FinishReason::kStop;
  } else if (!room) {
    event.finish_reason = FinishReason::kLength;
  }
  if (event.finish_reason != FinishReason::kNone) Remove(request);
  return event;
}

// Ends the request if its logits are no numbers.
absl::StatusOr<TokenEvent> Engine::Impl::SampleOnHost(int64_t request, absl::Span<const float> logits, uint64_t draw) {
  absl::StatusOr<SampledToken> sampled = generations.find(request)->second.sampler.Sample(logits, draw);
  if (sampled.ok()) return Accept(request, *std::move(sampled));
  Remove(request);
  return absl::Status(sampled.status().code(), absl::StrCat("request ", request, ": ", sampled.status().message()));
}

// An error comes first, and the events with the next step.
absl::StatusOr<std::vector<TokenEvent>> Engine::Impl::Conclude(absl::Status error, std::vector<TokenEvent> events) {
  if (error.ok()) return events;
  pending = std::move(events);
  return error;
}

absl::StatusOr<std::vector<TokenEvent>> Engine::Impl::StepOnHost(const StepBatch& batch) {
  FF_ASSIGN_OR_RETURN(const absl::Span<const float> logits, Run(batch));
  scheduler->Commit(batch);
  const auto vocab_size = static_cast<size_t>(info.vocab_size);
  std::vector<TokenEvent> events;
  absl::Status error;
  for (size_t row = 0; row < batch.logit_requests.size(); ++row) {
    const int64_t request = batch.logit_requests[row];
    const uint64_t draw = generations.find(request)->second.drawn++;
    absl::StatusOr<TokenEvent> event = SampleOnHost(request, logits.subspan(row * vocab_size, vocab_size), draw);
    if (event.ok()) {
      events.push_back(*std::move(event));
    } else {
      error.Update(event.status());
    }
  }
  return Conclude(std::move(error), std::move(events));
}

bool Engine::Impl::DeviceDraws(int64_t request) const {
  return device->sampler()->Supports(generations.find(request)->second.params);
}

// Starts a step that draws a token from every row of logits. Of a request whose tokens the host draws, that is of no
// use and does no harm.
absl::Status Engine::Impl::Start(StepBatch batch) {
  std::vector<Draw> draws;
  for (const int64_t request : batch.logit_requests) {
    const Generation& generation = generations.find(request)->second;
    draws.push_back({&generation.params, generation.drawn});
  }
  StepInputs inputs = InputsOf(batch);
  inputs.draws = draws;
  inputs.tokens_from_previous = batch.tokens_from_previous;
  Flight flight;
  if (draws.empty()) {  // prompts alone, that go on: nothing comes of it but keys and values
    FF_RETURN_IF_ERROR(executor->Run(inputs).status());
    flight.tokens.emplace();
  } else {
    FF_ASSIGN_OR_RETURN(flight.step, executor->Start(inputs));
  }
  for (const int64_t request : batch.logit_requests) ++generations.find(request)->second.drawn;
  scheduler->Commit(batch);
  flight.batch = std::move(batch);
  flights.push_back(std::move(flight));
  return absl::OkStatus();
}

absl::Status Engine::Impl::FetchTokens(Flight* flight) {
  if (flight->tokens.has_value()) return absl::OkStatus();
  FF_ASSIGN_OR_RETURN(const absl::Span<const int32_t> tokens, executor->Tokens(flight->step));
  flight->tokens.emplace(tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenEvent>> Engine::Impl::StepOnDevice() {
  if (flights.empty()) {
    std::optional<StepBatch> batch = scheduler->Next();
    if (!batch) return std::vector<TokenEvent>();
    FF_RETURN_IF_ERROR(Start(*std::move(batch)));
  }
  const auto alive = [this](int64_t request) { return generations.contains(request); };
  const std::vector<int64_t>& requests = flights.front().batch.logit_requests;
  const bool all_on_device =
      std::ranges::all_of(requests, [&](int64_t request) { return alive(request) && DeviceDraws(request); });
  // The next step goes to the device before this one's tokens are looked at, so that it never waits for the host.
  if (flights.size() == 1 && all_on_device && !flights.front().tokens.has_value()) {
    std::optional<StepBatch> next = scheduler->NextAfter(flights.front().batch);
    if (next) FF_RETURN_IF_ERROR(Start(*std::move(next)));
  }
  const absl::Status fetched = FetchTokens(&flights.front());
  const Flight flight = std::move(flights.front());
  flights.pop_front();
  // What a request has no token of cannot go on.
  absl::Cleanup end_requests = [&] {
    for (const int64_t request : flight.batch.logit_requests) Remove(request);
  };
  FF_RETURN_IF_ERROR(fetched);

  absl::Span<const float> logits;
  if (!all_on_device && std::ranges::any_of(flight.batch.logit_requests,
                                            [&](int64_t request) { return alive(request) && !DeviceDraws(request); })) {
    FF_ASSIGN_OR_RETURN(logits, executor->Logits());
  }
  std::move(end_requests).Cancel();
  const auto vocab_size = static_cast<size_t>(info.vocab_size);
  std::vector<TokenEvent> events;
  absl::Status error;
  for (size_t row = 0; row < flight.batch.logit_requests.size(); ++row) {
    const int64_t request = flight.batch.logit_requests[row];
    if (!alive(request)) continue;
    const int32_t token = (*flight.tokens)[row];
    if (!DeviceDraws(request)) {
      const uint64_t draw = generations.find(request)->second.drawn - 1;
      absl::StatusOr<TokenEvent> event = SampleOnHost(request, logits.subspan(row * vocab_size, vocab_size), draw);
      if (event.ok()) events.push_back(*std::move(event));
      error.Update(event.status());
    } else if (token < 0) {
      Remove(request);
      error.Update(absl::InternalError(absl::StrCat(
          "request ", request,
          ": the model gave a logit that is no number: its weights or its inputs overflow in this dtype; try --dtype "
          "float32")));
    } else {
      SampledToken drawn;
      drawn.token = token;
      events.push_back(Accept(request, std::move(drawn)));
    }
  }
  return Conclude(std::move(error), std::move(events));
}

absl::StatusOr<std::vector<TokenEvent>> Engine::Step() {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->pending.empty()) return std::exchange(impl_->pending, {});
  if (impl_->device->sampler() != nullptr) return impl_->StepOnDevice();
  const std::optional<StepBatch> batch = impl_->scheduler->Next();
  if (!batch) return std::vector<TokenEvent>();
  return impl_->StepOnHost(*batch);
}

bool Engine::Cancel(int64_t request) {
  const std::lock_guard lock(impl_->mutex);
  std::erase_if(impl_->pending, [request](const TokenEvent& event) { return event.request == request; });
  return impl_->Remove(request);
}

bool Engine::HasWork() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->scheduler->HasWork() || !impl_->pending.empty();
}

absl::Status Engine::Forward(absl::Span<const int32_t> tokens, absl::Span<float> logits) {
  const std::lock_guard lock(impl_->mutex);
  const plan::Plan& plan = impl_->executor->plan();
  const int64_t vocab_size = impl_->info.vocab_size, page_size = impl_->info.page_size;
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < 1 || count > plan.limits.context_length) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence has ", count, " tokens; the model's context takes 1 to ", plan.limits.context_length));
  }
  for (int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", token, " is not in the vocabulary, which has ", vocab_size));
    }
  }
  if (static_cast<int64_t>(logits.size()) != count * vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the logits have room for ", logits.size(), " values; ", count,
                                                   " tokens give ", count * vocab_size));
  }
  const std::optional<std::vector<int32_t>> pages = impl_->pages->Allocate((count + page_size - 1) / page_size);
  if (!pages) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a sequence of ", count, " tokens needs more of the KV cache than is free (",
        impl_->pages->num_free() * page_size, " tokens): wait for requests to finish, or raise kv_cache_bytes"));
  }
  const absl::Cleanup free = [&] { impl_->pages->Free(*pages); };

  const int64_t chunk = std::min(plan.limits.max_tokens, plan.limits.max_logit_rows);
  for (int64_t start = 0; start < count; start += chunk) {
    const int64_t n = std::min(chunk, count - start);
    StepBatch batch;
    batch.pages_per_row = static_cast<int64_t>(pages->size());
    batch.AddRow(/*request=*/0, tokens.subspan(static_cast<size_t>(start), static_cast<size_t>(n)), start, *pages);
    for (int64_t i = 0; i < n; ++i) batch.logit_rows.push_back(static_cast<int32_t>(i));
    FF_ASSIGN_OR_RETURN(const absl::Span<const float> chunk_logits, impl_->Run(batch));
    std::copy(chunk_logits.begin(), chunk_logits.end(), logits.begin() + start * vocab_size);
  }
  return absl::OkStatus();
}

absl::StatusOr<StepRoofline> Engine::Roofline(const RooflineOptions& options) {
  const std::lock_guard lock(impl_->mutex);
  const std::string own = impl_->device->spec_name();
  const std::string name = options.device.empty() ? own : options.device;
  absl::StatusOr<analysis::DeviceSpec> found = FindDeviceSpec(
      name,
      {.threads = impl_->info.threads, .cache_folder = options.cache_folder, .measure_again = options.measure_again});
  // Times are worth having of a GPU, too, of which nothing is known.
  if (absl::IsNotFound(found.status()) && options.device.empty()) found = WithoutFloors(own);
  FF_ASSIGN_OR_RETURN(const analysis::DeviceSpec device, std::move(found));
  if (impl_->step_graph == nullptr) {
    const std::string_view text = impl_->file->section(engine::kGraphSection).value_or("");
    FF_ASSIGN_OR_RETURN(driver::CompiledModel compiled, CompileGraph(*impl_->device, text));
    impl_->step_graph = std::move(compiled.step_graph);
  }
  const plan::Plan& plan = impl_->executor->plan();
  // Sizes are checked before anything runs.
  FF_ASSIGN_OR_RETURN(StepRoofline roofline,
                      ComputeStepRoofline(plan, *impl_->step_graph, device, options.size, /*times_us=*/{}));
  if (!options.measure || name != own) return roofline;
  const int64_t page_size = impl_->info.page_size;
  const std::optional<std::vector<int32_t>> pages =
      impl_->pages->Allocate((options.size.context + page_size - 1) / page_size);
  if (!pages) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a context of ", options.size.context, " tokens needs more of the KV cache than is free (",
                     impl_->pages->num_free() * page_size, " tokens): wait for requests to finish, or lower it"));
  }
  const absl::Cleanup free = [&] { impl_->pages->Free(*pages); };
  for (Flight& flight : impl_->flights) FF_RETURN_IF_ERROR(impl_->FetchTokens(&flight));
  FF_ASSIGN_OR_RETURN(const std::vector<double> times, TimeSteps(options.size, *pages, impl_->executor.get()));
  FF_ASSIGN_OR_RETURN(roofline, ComputeStepRoofline(plan, *impl_->step_graph, device, options.size, times));
  for (StepRooflineRow& row : roofline.rows) row.tactic = impl_->executor->TacticOf(row.step);
  return roofline;
}

}  // namespace flashflow::runtime
