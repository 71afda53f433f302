// time_engine: how long an engine takes to open, to read prompts, and for each step of decoding. One JSON object.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/api/engine.h"

ABSL_FLAG(std::string, device, "auto", "auto, cpu, cuda or cuda:N");
ABSL_FLAG(int, batch, 1, "requests at a time");
ABSL_FLAG(int, prompt, 128, "tokens of each prompt");
ABSL_FLAG(int, tokens, 64, "tokens to generate for each");
ABSL_FLAG(int, repeats, 5, "times that this is done; the first warms up");
ABSL_FLAG(bool, batch_invariant, false, "as EngineOptions");

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

absl::Status Run(const std::string& path) {
  EngineOptions options;
  options.device = absl::GetFlag(FLAGS_device);
  options.max_batch = absl::GetFlag(FLAGS_batch);
  options.batch_invariant = absl::GetFlag(FLAGS_batch_invariant);
  const auto started = Clock::now();
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Open(path, options));
  const auto opened = Clock::now();

  SamplingParams params;
  params.temperature = 0;
  params.ignore_eos = true;
  params.max_tokens = absl::GetFlag(FLAGS_tokens);
  std::vector<int32_t> prompt(static_cast<size_t>(absl::GetFlag(FLAGS_prompt)));
  double first_token_ms = 0;
  std::vector<double> prefill_ms, decode_us;
  for (int repeat = 0; repeat < absl::GetFlag(FLAGS_repeats); ++repeat) {
    const auto begin = Clock::now();
    for (int request = 0; request < options.max_batch; ++request) {
      for (size_t i = 0; i < prompt.size(); ++i) {
        prompt[i] = static_cast<int32_t>((i * 7919 + static_cast<size_t>(request) * 104729 + 17) %
                                         static_cast<size_t>(engine->info().vocab_size));
      }
      FF_RETURN_IF_ERROR(engine->Submit(prompt, params).status());
    }
    size_t tokens = 0;
    Clock::time_point read;
    while (engine->HasWork()) {
      FF_ASSIGN_OR_RETURN(const std::vector<TokenEvent> events, engine->Step());
      if (tokens < static_cast<size_t>(options.max_batch)) read = Clock::now();
      tokens += events.size();
    }
    const auto end = Clock::now();
    if (repeat == 0) {
      first_token_ms = Ms(opened, read);
    } else {
      prefill_ms.push_back(Ms(begin, read));
      decode_us.push_back(1e3 * Ms(read, end) / std::max(1, params.max_tokens - 1));
    }
  }
  const EngineInfo& info = engine->info();
  std::puts(nlohmann::json{{"device", info.device_description},
                           {"dtype", info.dtype},
                           {"batch", options.max_batch},
                           {"prompt", prompt.size()},
                           {"open_ms", Ms(started, opened)},
                           {"first_prefill_ms", first_token_ms},
                           {"prefill_ms", Median(prefill_ms)},
                           {"decode_us", Median(decode_us)}}
                .dump()
                .c_str());
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
