// fuzz: damages valid texts and feeds them to the compiler until something breaks.
//
//   bazel run --config=asan //compiler/fuzz -- --target=parser --seconds=600
//   bazel run --config=ubsan //compiler/fuzz -- --target=importer --seconds=600 --seed=7
//
// Each case is a function of the seed and its number. The text under way is kept in --keep, so that it is there after a
// crash; a promise that is broken ends the run with the text shrunk by cutting pieces out as long as it breaks.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "compiler/fuzz/damage.h"
#include "compiler/fuzz/targets.h"

ABSL_FLAG(std::string, target, "parser", "parser, importer or passes");
ABSL_FLAG(int, seconds, 60, "how long to go on; 0: run --first alone");
ABSL_FLAG(uint64_t, seed, 1, "of the cases");
ABSL_FLAG(uint64_t, first, 0, "number of the first case");
ABSL_FLAG(std::string, keep, "",
          "file for the text under way; default: flashflow_fuzz_TARGET.txt in the temporary "
          "folder");

namespace flashflow::fuzz {
namespace {

// Cuts out pieces, large ones first, as long as the promise stays broken.
std::string Shorten(const Target& target, std::string text) {
  for (size_t size = text.size() / 2; size > 0; size /= 2) {
    for (size_t at = 0; at < text.size();) {
      std::string shorter = text;
      shorter.erase(at, size);
      if (target.run(shorter).ok()) {
        at += size;
      } else {
        text = std::move(shorter);
      }
    }
  }
  return text;
}

int Run() {
  const Target* target = nullptr;
  for (const Target& candidate : Targets()) {
    if (candidate.name == absl::GetFlag(FLAGS_target)) target = &candidate;
  }
  if (target == nullptr) {
    std::fprintf(stderr, "fuzz: no target is named \"%s\"; targets: parser, importer, passes\n",
                 absl::GetFlag(FLAGS_target).c_str());
    return 1;
  }
  std::string keep = absl::GetFlag(FLAGS_keep);
  if (keep.empty()) {
    std::error_code error;
    keep =
        (std::filesystem::temp_directory_path(error) / absl::StrCat("flashflow_fuzz_", target->name, ".txt")).string();
  }
  const std::vector<std::string> corpus = target->corpus();
  const absl::Time end = absl::Now() + absl::Seconds(absl::GetFlag(FLAGS_seconds));
  uint64_t number = absl::GetFlag(FLAGS_first);
  uint64_t accepted = 0;
  do {
    std::mt19937_64 random(absl::GetFlag(FLAGS_seed) * 0x9e3779b97f4a7c15 + number);
    const std::string text = Damage(corpus[random() % corpus.size()], random);
    std::ofstream(keep, std::ios::binary) << text;
    const auto outcome = target->run(text);
    if (!outcome.ok()) {
      const std::string shorter = Shorten(*target, text);
      std::ofstream(keep, std::ios::binary) << shorter;
      std::fprintf(stderr, "fuzz: case %llu: %s\nthe text, shortened, is in %s:\n%s\n",
                   static_cast<unsigned long long>(number), std::string(outcome.status().message()).c_str(),
                   keep.c_str(), shorter.c_str());
      return 1;
    }
    accepted += *outcome == Outcome::kAccepted;
    ++number;
  } while (absl::Now() < end);
  std::error_code ignored;
  std::filesystem::remove(keep, ignored);
  std::printf("%s: %llu cases, %llu accepted, none broken\n", std::string(target->name).c_str(),
              static_cast<unsigned long long>(number - absl::GetFlag(FLAGS_first)),
              static_cast<unsigned long long>(accepted));
  return 0;
}

}  // namespace
}  // namespace flashflow::fuzz

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("feeds damaged texts to the compiler: fuzz --target=parser --seconds=600 [--seed=1]");
  absl::ParseCommandLine(argc, argv);
  return flashflow::fuzz::Run();
}
