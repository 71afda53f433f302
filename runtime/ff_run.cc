// ff_run: continues a sequence of token ids with an engine file.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/types/span.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/api/byte_level_vocab.h"
#include "runtime/flashflow.h"

ABSL_FLAG(std::vector<std::string>, tokens, {}, "token ids of the prompt, separated by commas");
ABSL_FLAG(int, max_tokens, 16, "tokens to generate at most");
ABSL_FLAG(float, temperature, 0, "0 is greedy");
ABSL_FLAG(int, top_k, 0, "keep the k most probable tokens; 0 keeps all");
ABSL_FLAG(float, top_p, 1, "keep the fewest tokens whose probabilities reach this sum");
ABSL_FLAG(float, min_p, 0, "drop tokens less probable than this share of the most probable one");
ABSL_FLAG(float, repetition_penalty, 1, "above 1: tokens seen so far become less probable");
ABSL_FLAG(uint64_t, seed, 0, "of the sampler: same seed, same tokens");
ABSL_FLAG(bool, ignore_eos, false, "go on past the model's end-of-sequence tokens");
ABSL_FLAG(std::string, device, "auto", "cpu, cuda, cuda:N, or auto: the first GPU, if there is one, else the CPU");
ABSL_FLAG(bool, batch_invariant, false, "the same bits whatever else runs and however the prompt is cut into steps");
ABSL_FLAG(int, threads, 0, "threads that compute; 0: one a core");
ABSL_FLAG(std::string, tuning, "",
          "database of //tools:tune that kernels' configurations come from; none: their defaults; default: the one in "
          "the user's cache folder, if there is one");
ABSL_FLAG(bool, json, false, "print one JSON object");

namespace flashflow::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

absl::StatusOr<std::vector<int32_t>> ParseTokens(absl::Span<const std::string> words) {
  std::vector<int32_t> tokens;
  for (const std::string& word : words) {
    int32_t token;
    if (!absl::SimpleAtoi(word, &token)) {
      return absl::InvalidArgumentError(absl::StrCat("--tokens: \"", word, "\" is no token id"));
    }
    tokens.push_back(token);
  }
  if (tokens.empty()) return absl::InvalidArgumentError("give the prompt's token ids as --tokens=1,2,3");
  return tokens;
}

absl::Status Run(absl::Span<char* const> arguments) {
  if (arguments.size() != 2) {
    return absl::InvalidArgumentError("give one engine file: ff_run model.ff --tokens=1,2,3 (--help for more)");
  }
  FF_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, ParseTokens(absl::GetFlag(FLAGS_tokens)));
  const auto started = Clock::now();
  EngineOptions options;
  options.device = absl::GetFlag(FLAGS_device);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.max_batch = 1;
  options.batch_invariant = absl::GetFlag(FLAGS_batch_invariant);
  options.tuning = absl::GetFlag(FLAGS_tuning);
  FF_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Open(arguments[1], options));
  const auto opened = Clock::now();

  SamplingParams params;
  params.temperature = absl::GetFlag(FLAGS_temperature);
  params.top_k = absl::GetFlag(FLAGS_top_k);
  params.top_p = absl::GetFlag(FLAGS_top_p);
  params.min_p = absl::GetFlag(FLAGS_min_p);
  params.repetition_penalty = absl::GetFlag(FLAGS_repetition_penalty);
  params.seed = absl::GetFlag(FLAGS_seed);
  params.max_tokens = absl::GetFlag(FLAGS_max_tokens);
  params.ignore_eos = absl::GetFlag(FLAGS_ignore_eos);
  FF_RETURN_IF_ERROR(engine->Submit(prompt, params).status());

  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kNone;
  auto first = opened, last = opened;
  while (engine->HasWork()) {
    FF_ASSIGN_OR_RETURN(const std::vector<TokenEvent> events, engine->Step());
    for (const TokenEvent& event : events) {
      last = Clock::now();
      if (tokens.empty()) first = last;
      tokens.push_back(event.token);
      finish_reason = event.finish_reason;
    }
  }
  const double decode_s = Seconds(first, last);
  const double decode_tok_s = decode_s > 0 ? static_cast<double>(tokens.size() - 1) / decode_s : 0;

  const absl::StatusOr<ByteLevelVocab> vocab = ByteLevelVocab::Parse(engine->tokenizer_json());
  if (absl::GetFlag(FLAGS_json)) {
    nlohmann::json result = {{"prompt_token_ids", prompt},
                             {"token_ids", tokens},
                             {"text", nullptr},
                             {"finish_reason", FinishReasonName(finish_reason)},
                             {"timing",
                              {{"load_s", Seconds(started, opened)},
                               {"prefill_s", Seconds(opened, first)},
                               {"decode_tok_s", decode_tok_s}}}};
    if (vocab.ok()) result["text"] = vocab->Decode(tokens);
    std::puts(result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return absl::OkStatus();
  }
  std::puts(absl::StrJoin(tokens, ",").c_str());
  if (vocab.ok()) {
    std::puts(vocab->Decode(tokens).c_str());
  } else {
    std::fprintf(stderr, "ff_run: no text: %s\n", std::string(vocab.status().message()).c_str());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace flashflow::runtime

int main(int argc, char** argv) {
  // `bazel run` starts elsewhere: paths are relative to where the user stands.
  if (const char* folder = std::getenv("BUILD_WORKING_DIRECTORY"); folder != nullptr && chdir(folder) != 0) {
    std::fprintf(stderr, "ff_run: cannot go to the folder %s\n", folder);
    return 1;
  }
  absl::SetProgramUsageMessage(
      "continues a sequence of token ids.\n\n"
      "  ff_run model.ff --tokens=1,2,3 [--max-tokens=16] [--temperature=0] [--seed=0] [--json]\n\n"
      "Prints the new token ids, then their text where the engine holds a byte-level BPE tokenizer.");
  std::vector<std::string> spelled(argv, argv + argc);  // --max-tokens is --max_tokens
  std::vector<char*> arguments;
  for (std::string& argument : spelled) {
    if (argument.starts_with("--")) {
      const size_t end = std::min(argument.find('='), argument.size());
      argument =
          absl::StrCat("--", absl::StrReplaceAll(argument.substr(2, end - 2), {{"-", "_"}}), argument.substr(end));
    }
    arguments.push_back(argument.data());
  }
  const std::vector<char*> rest = absl::ParseCommandLine(argc, arguments.data());
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kWarning);
  const absl::Status status = flashflow::runtime::Run(rest);
  if (status.ok()) return 0;
  std::fprintf(stderr, "ff_run: %s\n", std::string(status.message()).c_str());
  return 1;
}
