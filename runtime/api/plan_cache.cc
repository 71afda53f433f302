#include "runtime/api/plan_cache.h"

#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/log/log.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/plan/sha256.h"
#include "runtime/cpu/cpu_spec.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;

// Changes whenever this code is built anew: size and time of the binary that it is part of.
std::string BuildIdentity() {
  Dl_info here;
  fs::path binary = "/proc/self/exe";
  if (dladdr(reinterpret_cast<const void*>(&BuildIdentity), &here) != 0 && here.dli_fname != nullptr) {
    std::error_code ignored;
    if (fs::exists(here.dli_fname, ignored)) binary = here.dli_fname;
  }
  std::error_code ignored;
  const auto size = fs::file_size(binary, ignored);
  const auto time = fs::last_write_time(binary, ignored).time_since_epoch().count();
  return absl::StrCat(size, "-", time);
}

}  // namespace

PlanCache PlanCache::OfUser() {
  const std::string folder = UserCacheFolder();
  return PlanCache(folder.empty() ? "" : folder + "/plans");
}

std::string PlanCache::PathOf(std::string_view graph_sha256, std::string_view device_key) const {
  const std::string key = absl::StrCat(graph_sha256, "|", device_key, "|", BuildIdentity());
  return absl::StrCat(folder_, "/", Sha256Hex(key).substr(0, 32), ".json");
}

std::optional<plan::Plan> PlanCache::Find(std::string_view graph_sha256, std::string_view device_key) const {
  if (folder_.empty()) return std::nullopt;
  const std::string path = PathOf(graph_sha256, device_key);
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  absl::StatusOr<plan::Plan> plan = plan::FromJson(text.str());
  if (plan.ok() && plan->graph_sha256 == graph_sha256 && plan->device_key == device_key) return *std::move(plan);
  LOG(WARNING) << path << " is damaged; the graph is compiled anew";
  return std::nullopt;
}

void PlanCache::Keep(const plan::Plan& plan) const {
  if (folder_.empty()) return;
  std::error_code error;
  fs::create_directories(folder_, error);
  const std::string path = PathOf(plan.graph_sha256, plan.device_key);
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  // Whoever reads it sees the whole file or none.
  std::ofstream file(part, std::ios::binary);
  file << plan::ToJson(plan);
  file.close();
  if (file) fs::rename(part, path, error);
  if (file && !error) return;
  VLOG(1) << "the plan is not kept in " << folder_;
  fs::remove(part, error);
}

}  // namespace flashflow::runtime
