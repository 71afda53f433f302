#include "runtime/cpu/cpu_spec.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/log/log.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/status_macros.h"
#include "compiler/plan/sha256.h"
#include "kernels/cpu/linear_rate.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/cpu/host_resources.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using analysis::DeviceSpec;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Of a job with a task for each thread that does nothing.
double DispatchSeconds(cpu::ThreadPool* pool) {
  constexpr int kJobs = 1000;
  double best = 1;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto start = Clock::now();
    for (int i = 0; i < kJobs; ++i) pool->Run(pool->num_threads(), [](int64_t, int) {});
    best = std::min(best, SecondsSince(start) / kJobs);
  }
  return std::max(best, 1e-9);
}

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (const size_t colon = line.find(':'); absl::StartsWith(line, "model name") && colon != std::string::npos) {
      return std::string(absl::StripAsciiWhitespace(std::string_view(line).substr(colon + 1)));
    }
  }
  return "CPU";
}

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(absl::StrCat("cannot read ", path.string()));
  return std::move(text).str();
}

// By a rename, so that no reader sees half of it.
absl::Status Keep(const fs::path& path, const std::string& text) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  const fs::path part = absl::StrCat(path.string(), ".", getpid(), ".part");
  if (std::ofstream file(part, std::ios::binary); !file || !(file << text) || !file.flush()) {
    return absl::UnavailableError(absl::StrCat("cannot write ", part.string()));
  }
  fs::rename(part, path, error);
  return error ? absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", error.message()))
               : absl::OkStatus();
}

}  // namespace

std::string CpuName(int threads) {
  if (threads <= 0) threads = DefaultThreads();
  return absl::StrCat(CpuModel(), ", ", threads, threads == 1 ? " thread" : " threads");
}

absl::StatusOr<DeviceSpec> MeasureCpuSpec(int threads) {
  FF_ASSIGN_OR_RETURN(const double bandwidth, MeasureCpuReadBandwidth(threads));
  cpu::ThreadPool pool(threads > 0 ? threads : DefaultThreads());
  DeviceSpec spec;
  spec.name = CpuName(pool.num_threads());
#if defined(__x86_64__)
  spec.arch = "x86-64";
#elif defined(__aarch64__)
  spec.arch = "aarch64";
#else
  spec.arch = "cpu";
#endif
  spec.source =
      "measured on this machine: a sweep over memory, our linear kernel on operands in the caches, an empty job";
  spec.read_gb_per_s = bandwidth / 1e9;
  constexpr double kBudgetS = 0.3;
  FF_ASSIGN_OR_RETURN(const double f32, cpu::MeasureLinearFlopPerS(cpu::LinearWeight::kF32, kBudgetS, &pool));
  FF_ASSIGN_OR_RETURN(const double bf16, cpu::MeasureLinearFlopPerS(cpu::LinearWeight::kBF16, kBudgetS, &pool));
  spec.tflop_per_s = {{DType::kF32, f32 / 1e12}, {DType::kBF16, bf16 / 1e12}};
  spec.launch_us = DispatchSeconds(&pool) * 1e6;
  return spec;
}

std::string UserCacheFolder() {
  // The XDG base directory specification: a relative path is invalid and ignored.
  const char* base = std::getenv("XDG_CACHE_HOME");
  if (base != nullptr && fs::path(base).is_absolute()) return (fs::path(base) / "flashflow").string();
  const char* home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : (fs::path(home) / ".cache" / "flashflow").string();
}

absl::StatusOr<DeviceSpec> CpuSpec(const CpuSpecOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) return MeasureCpuSpec(options.threads).status();
  const std::string folder = options.cache_folder.empty() ? UserCacheFolder() : options.cache_folder;
  const std::string name = CpuName(options.threads);
  const fs::path path = fs::path(folder) / "devices" / absl::StrCat("cpu-", Sha256Hex(name).substr(0, 16), ".json");
  if (!folder.empty() && !options.measure_again) {
    if (const absl::StatusOr<std::string> text = ReadFile(path); text.ok()) {
      absl::StatusOr<DeviceSpec> kept = analysis::ParseDeviceSpec(*text);
      if (kept.ok() && kept->name == name) return kept;
      LOG(WARNING) << path << " is damaged and is measured anew: " << kept.status();
    }
  }
  FF_ASSIGN_OR_RETURN(DeviceSpec spec, MeasureCpuSpec(options.threads));
  const absl::Status kept =
      folder.empty() ? absl::UnavailableError("there is no home folder") : Keep(path, analysis::DeviceSpecToJson(spec));
  if (!kept.ok()) LOG(WARNING) << "what was measured of the CPU is not kept: " << kept;
  return spec;
}

absl::StatusOr<DeviceSpec> FindDeviceSpec(std::string_view name, const CpuSpecOptions& options) {
  if (name == "cpu") return CpuSpec(options);
  if (absl::EndsWith(name, ".json")) {
    FF_ASSIGN_OR_RETURN(const std::string text, ReadFile(fs::path(name)));
    return analysis::ParseDeviceSpec(text);
  }
  absl::StatusOr<DeviceSpec> spec = analysis::BuiltinDeviceSpec(name);
  if (!absl::IsNotFound(spec.status())) return spec;
  return absl::NotFoundError(absl::StrCat(spec.status().message(), ", cpu, or a .json file"));
}

}  // namespace flashflow::runtime
