// The engine: an opened .ff file that turns prompts into tokens.
#ifndef RUNTIME_API_ENGINE_H_
#define RUNTIME_API_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/api/step_roofline.h"
#include "runtime/core/sampling_params.h"

namespace flashflow::runtime {

struct EngineOptions {
  // "cpu", "cuda" (the first GPU), "cuda:1", or "auto": the first GPU where there is one that can be used, else the
  // CPU.
  std::string device = "auto";
  int threads = 0;     // that compute, the caller of Step included; 0: one a core
  int max_batch = 16;  // requests that run at the same time; more wait
  // A request's tokens have the same bits whatever runs beside it and however its prompt is cut into steps; otherwise
  // they may depend on the size of the batch, never on what else is in it.
  bool batch_invariant = false;
  int64_t kv_cache_bytes = 0;  // 0: for max_batch requests of the whole context, at most a quarter of the free memory
  // The tuning database that kernels' configs come from, before those that FlashFlow ships with: a file; empty for
  // tuning.json in the user's cache folder, if there is one; "none" for the kernels' own defaults. Nothing is ever
  // tuned here: `//tools:tune` does that.
  std::string tuning = {};
};

enum class FinishReason : uint8_t {
  kNone,    // the request goes on
  kEos,     // the token is one of the model's end-of-sequence tokens
  kStop,    // the token is one of SamplingParams::stop_token_ids
  kLength,  // max_tokens, or the model's context, is reached
};
std::string_view FinishReasonName(FinishReason reason);  // "", "eos", "stop", "length"

struct TokenEvent {
  int64_t request = 0;
  int32_t token = 0;
  float logprob = 0;                                    // filled if SamplingParams::logprobs > 0
  std::vector<std::pair<int32_t, float>> top_logprobs;  // most probable first, SamplingParams::logprobs of them
  FinishReason finish_reason = FinishReason::kNone;     // otherwise this is the request's last event
};

struct EngineInfo {
  std::string path;
  std::string name;          // the model's
  std::string architecture;  // "llama"
  std::string producer;      // what wrote the file: "flashflow 0.1.0"
  std::string dtype;         // of weights: "float32", "bfloat16"; "int8": those of layers are codes
  std::string kv_dtype;      // of the KV cache: "float32", "bfloat16", or "int8" codes
  std::string device;        // "cpu", "cuda"
  std::string device_description;
  bool plan_was_stored = false;  // otherwise it was compiled when the file was opened
  std::string tuning;            // where tuned configs come from: "none", or a file; "" if only from FlashFlow itself
  int64_t tuned_configs = 0;     // that there are for this device, of all models
  int threads = 0;
  int max_batch = 0;
  int64_t context_length = 0;
  int64_t max_tokens = 0;  // of one step
  int64_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;
  int64_t page_size = 0;  // tokens
  int64_t kv_cache_pages = 0;
  int64_t kv_cache_bytes = 0;
  int64_t arena_bytes = 0;
  int64_t weight_bytes = 0;            // in memory, as the kernels want them
  int64_t weight_bytes_per_token = 0;  // of these, what one decode step streams through, whatever the batch
};

struct RooflineOptions {
  std::string device = {};        // whose floors: "cpu" (this machine's, measured at first use), "h200", "h100", "a100"
                                  // or a .json file like those in compiler/analysis/data; empty: the engine's own
  StepSize size = {};             // of one step
  bool measure = true;            // also what each step takes here; where the floors are the engine's device's
  bool measure_again = false;     // what is known of this machine's CPU
  std::string cache_folder = {};  // where that is kept; empty: the user's
};

// Safe to use from several threads: calls take turns.
class Engine {
 public:
  // Opens the file, verifies all of it, loads the weights and takes the memory. The plan stored for the device is used
  // where it fits this build; otherwise the stored graph is compiled, and the plan kept in the user's cache folder. The
  // statuses: those of engine::EngineFile::Open; InvalidArgument naming an option out of range; NotFound for a tuning
  // database that is named and not there; FailedPrecondition for a device that this build or machine lacks;
  // ResourceExhausted naming what was asked, what there is and what to lower.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const std::string& path, const EngineOptions& options = {});
  // The kind of device, "cpu" or "cuda", that Open would take for the options' device and threads, or what it would say
  // of them: ask before building an engine to open.
  static absl::StatusOr<std::string> CheckDevice(const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const EngineInfo& info() const;
  std::string_view config_json() const;     // the section ff.config; "{}" if there is none
  std::string_view tokenizer_json() const;  // the section ff.tokenizer; empty if there is none

  // Queues a request; its tokens come from Step. InvalidArgument names the parameter that is wrong, or says that the
  // prompt is empty, holds an unknown token, or leaves no room in the context; ResourceExhausted if the KV cache could
  // never hold it.
  absl::StatusOr<int64_t> Submit(absl::Span<const int32_t> prompt, const SamplingParams& params);

  // Runs one batch and returns the tokens it brought: at most one a request, possibly none while prompts are read.
  // Internal if the model gives logits that are no numbers: the request named ends, the others go on with the next
  // Step. An error of the device ends the requests whose tokens it lost; a step that could not be started is tried anew
  // by the next Step.
  absl::StatusOr<std::vector<TokenEvent>> Step();

  // Ends a request: no event of it comes any more. False if it is unknown or over.
  bool Cancel(int64_t request);

  // Whether Step would do something.
  bool HasWork() const;

  // The logits after each token of a sequence, for evaluation: logits[T, vocab_size]. Independent of requests, apart
  // from the pages of the KV cache that it borrows: ResourceExhausted if too few are free. InvalidArgument for no
  // token, an unknown one, more than context_length, or `logits` of another size.
  absl::Status Forward(absl::Span<const int32_t> tokens, absl::Span<float> logits);

  // What each of the plan's steps costs at least, and what it takes. Borrows pages as Forward does. InvalidArgument for
  // a size that a step does not take, NotFound for an unknown device, FailedPrecondition where this version's compiler
  // makes another plan than the file's.
  absl::StatusOr<StepRoofline> Roofline(const RooflineOptions& options = {});

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_ENGINE_H_
