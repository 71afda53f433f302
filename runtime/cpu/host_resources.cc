#include "runtime/cpu/host_resources.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "hwy/contrib/thread_pool/topology.h"

namespace flashflow::runtime {
namespace {

// The numbers on the file's first line; "max" is no number and ends the list.
std::vector<int64_t> FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  std::vector<int64_t> numbers;
  for (std::string_view word : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    int64_t number;
    if (!absl::SimpleAtoi(word, &number)) break;
    numbers.push_back(number);
  }
  return numbers;
}

std::optional<int64_t> OneNumber(const std::string& path) {
  const std::vector<int64_t> numbers = FirstLine(path);
  if (numbers.empty()) return std::nullopt;
  return numbers[0];
}

int CoresInAffinityMask() {
  hwy::LogicalProcessorSet mask;
  if (!hwy::GetThreadAffinity(mask)) return static_cast<int>(std::thread::hardware_concurrency());
  const hwy::Topology topology;
  if (topology.packages.empty()) return static_cast<int>(mask.Count());
  std::set<std::pair<size_t, size_t>> cores;
  mask.Foreach([&](size_t lp) {
    if (lp < topology.lps.size()) cores.emplace(topology.lps[lp].package, topology.lps[lp].core);
  });
  return static_cast<int>(cores.size());
}

}  // namespace

int DefaultThreads() {
  const int cores = std::max(CoresInAffinityMask(), 1);
  return std::min(cores, CpuQuota().value_or(cores));
}

int64_t AvailableMemoryBytes() {
  const int64_t physical = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t available = MemAvailable().value_or(physical);
  return std::min(available, MemoryLeftInGroup().value_or(available));
}

std::optional<int> CpuQuota(const std::string& root) {
  std::vector<int64_t> quota = FirstLine(absl::StrCat(root, "/cpu.max"));  // "200000 100000" or "max 100000"
  if (quota.empty()) {
    const std::optional<int64_t> v1_quota = OneNumber(absl::StrCat(root, "/cpu/cpu.cfs_quota_us"));  // -1: none
    const std::optional<int64_t> v1_period = OneNumber(absl::StrCat(root, "/cpu/cpu.cfs_period_us"));
    if (v1_quota && v1_period) quota = {*v1_quota, *v1_period};
  }
  if (quota.size() != 2 || quota[0] <= 0 || quota[1] <= 0) return std::nullopt;
  return static_cast<int>(std::clamp<int64_t>((quota[0] + quota[1] - 1) / quota[1], 1, 1 << 16));
}

std::optional<int64_t> MemoryLeftInGroup(const std::string& root) {
  std::optional<int64_t> limit = OneNumber(absl::StrCat(root, "/memory.max"));
  std::optional<int64_t> used = OneNumber(absl::StrCat(root, "/memory.current"));
  if (!limit || !used) {
    limit = OneNumber(absl::StrCat(root, "/memory/memory.limit_in_bytes"));  // no limit: close to 2^63
    used = OneNumber(absl::StrCat(root, "/memory/memory.usage_in_bytes"));
  }
  if (!limit || !used || *limit > std::numeric_limits<int64_t>::max() / 2) return std::nullopt;
  return std::max<int64_t>(*limit - *used, 0);
}

std::optional<int64_t> MemAvailable(const std::string& meminfo) {
  std::ifstream file(meminfo);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, unit;
    int64_t value = 0;
    if (words >> key >> value >> unit && key == "MemAvailable:" && unit == "kB") return value * 1024;
  }
  return std::nullopt;
}

}  // namespace flashflow::runtime
