// time_engine: how long an engine takes to open, to read prompts, and for each step of decoding. One JSON object, or,
// with --interactive, one for the opening and one for each line of stdin.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/api/engine.h"
#include "runtime/api/open_device.h"
#include "runtime/core/device.h"
#include "runtime/cuda/open_cuda.h"

ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");
ABSL_FLAG(int, batch, 1, "requests at a time");
ABSL_FLAG(int, prompt, 128, "tokens of each prompt");
ABSL_FLAG(int, tokens, 64, "tokens to generate for each");
ABSL_FLAG(int, repeats, 5, "times that this is done; the first warms up");
ABSL_FLAG(bool, batch_invariant, false, "as EngineOptions");
ABSL_FLAG(bool, interactive, false,
          "instead read lines of two numbers from stdin, --prompt and --tokens, and time one");

namespace flashflow::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double Ms(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct Times {
  double prefill_ms = 0;  // from the first request to the last of the first tokens
  // Of a step after that, up to the first that finishes a request: in these steps, and in no other, every request gets
  // a token and no prompt is read. (Long prompts take several steps, in which those before them are decoded already.)
  double decode_us = 0;  // 0 if there is no such step
};

// Answers one request for each place of the batch.
absl::StatusOr<Times> Generate(Engine& engine, int64_t prompt_tokens, int tokens) {
  if (prompt_tokens < 1 || tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", prompt_tokens, " and ", tokens, " tokens: each must be at least 1"));
  }
  SamplingParams params;
  params.temperature = 0;
  params.ignore_eos = true;
  params.max_tokens = tokens;
  const int batch = engine.info().max_batch;
  const auto vocabulary = static_cast<size_t>(engine.info().vocab_size);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(batch));
  for (size_t request = 0; request < prompts.size(); ++request) {
    for (size_t i = 0; i < static_cast<size_t>(prompt_tokens); ++i) {
      prompts[request].push_back(static_cast<int32_t>((i * 7919 + request * 104729 + 17) % vocabulary));
    }
  }
  const auto begin = Clock::now();
  for (const std::vector<int32_t>& prompt : prompts) FF_RETURN_IF_ERROR(engine.Submit(prompt, params).status());
  std::set<int64_t> read_requests;
  bool finished = false;
  int steps = 0;
  Clock::time_point read, last;
  while (engine.HasWork()) {
    FF_ASSIGN_OR_RETURN(const std::vector<TokenEvent> events, engine.Step());
    const auto now = Clock::now();
    const bool all_read = read_requests.size() == static_cast<size_t>(batch);
    if (all_read && !finished) {
      last = now;
      ++steps;
    }
    for (const TokenEvent& event : events) {
      finished = finished || event.finish_reason != FinishReason::kNone;
      if (!all_read) read_requests.insert(event.request);
    }
    if (!all_read) read = now;
  }
  return Times{.prefill_ms = Ms(begin, read), .decode_us = steps == 0 ? 0 : 1e3 * Ms(read, last) / steps};
}

void Print(const nlohmann::json& json) {
  std::puts(json.dump().c_str());
  std::fflush(stdout);
}

absl::Status Answer(Engine& engine) {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    int64_t prompt = 0;
    int tokens = 0;
    words >> prompt >> tokens;
    FF_ASSIGN_OR_RETURN(const Times times, Generate(engine, prompt, tokens));
    Print({{"prefill_ms", times.prefill_ms}, {"decode_us", times.decode_us}});
  }
  return absl::OkStatus();
}

absl::Status Run(const std::string& path) {
  EngineOptions options;
  options.device = absl::GetFlag(FLAGS_device);
  options.max_batch = absl::GetFlag(FLAGS_batch);
  options.batch_invariant = absl::GetFlag(FLAGS_batch_invariant);
  const auto started = Clock::now();
  // What a GPU's library costs by itself, and opening the device (its context), is then not in open_ms.
  if (options.device != "cpu") LoadCuda().IgnoreError();  // without it the next line says why, or takes the CPU
  const auto has_library = Clock::now();
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, OpenDevice(options.device, options.threads));
  const auto has_device = Clock::now();
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Open(path, options));
  const EngineInfo& info = engine->info();
  nlohmann::json found = {{"device", info.device_description},
                          {"dtype", info.dtype},
                          {"batch", options.max_batch},
                          {"weight_bytes", info.weight_bytes_per_token},
                          {"library_ms", Ms(started, has_library)},
                          {"device_ms", Ms(has_library, has_device)},
                          {"open_ms", Ms(has_device, Clock::now())}};
  if (absl::GetFlag(FLAGS_interactive)) {
    Print(found);
    return Answer(*engine);
  }
  std::vector<double> prefill_ms, decode_us;
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    FF_ASSIGN_OR_RETURN(const Times times, Generate(*engine, absl::GetFlag(FLAGS_prompt), absl::GetFlag(FLAGS_tokens)));
    if (repeat == 0) {
      found["first_prefill_ms"] = times.prefill_ms;
      continue;
    }
    prefill_ms.push_back(times.prefill_ms);
    decode_us.push_back(times.decode_us);
  }
  found["prompt"] = absl::GetFlag(FLAGS_prompt);
  found["prefill_ms"] = Median(prefill_ms);
  found["decode_us"] = Median(decode_us);
  Print(found);
  return absl::OkStatus();
}

}  // namespace
}  // namespace flashflow::runtime

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("times an engine.\n\n  time_engine model.ff [--batch=8] [--prompt=512] [--tokens=64]");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kWarning);
  if (arguments.size() != 2) {
    std::fprintf(stderr, "time_engine: give one engine file (--help for more)\n");
    return 1;
  }
  const absl::Status status = flashflow::runtime::Run(arguments[1]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "time_engine: %s\n", std::string(status.message()).c_str());
  return 1;
}
