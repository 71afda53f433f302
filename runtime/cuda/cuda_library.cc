#include "runtime/cuda/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/base/no_destructor.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow::runtime {
namespace {

constexpr char kName[] = "libflashflow_cuda.so";
constexpr char kDriver[] = "libcuda.so.1";
constexpr char kNamed[] = "FLASHFLOW_CUDA_LIBRARY";

std::vector<std::string> Candidates() {
  if (const char* named = std::getenv(kNamed); named != nullptr && *named != '\0') return {named};
  Dl_info here;
  if (dladdr(reinterpret_cast<const void*>(&LoadCudaLibrary), &here) == 0 || here.dli_fname == nullptr) return {};
  std::error_code ignored;
  std::filesystem::path binary = std::filesystem::absolute(here.dli_fname, ignored);
  if (!std::filesystem::exists(binary, ignored)) {  // of a program, dli_fname is how it was called
    binary = std::filesystem::read_symlink("/proc/self/exe", ignored);
  }
  const std::filesystem::path folder = binary.parent_path();
  const std::string in_bazel = absl::StrCat("kernels/cuda/", kName);
  std::vector<std::string> paths = {folder / kName, folder / ".." / in_bazel, folder / ".." / ".." / in_bazel};
  if (const char* runfiles = std::getenv("RUNFILES_DIR"); runfiles != nullptr) {
    paths.push_back(absl::StrCat(runfiles, "/_main/", in_bazel));
  }
  paths.push_back(absl::StrCat(binary.string(), ".runfiles/_main/", in_bazel));
  return paths;
}

absl::StatusOr<const cuda::Api*> Load() {
  // A library that somebody names may do without a driver, as one that computes on the host does.
  if (std::getenv(kNamed) == nullptr && dlopen(kDriver, RTLD_LAZY | RTLD_GLOBAL) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no NVIDIA driver on this machine (", kDriver, " cannot be loaded)"));
  }
  const std::vector<std::string> candidates = Candidates();
  std::error_code ignored;
  for (const std::string& path : candidates) {
    if (!std::filesystem::exists(path, ignored)) continue;
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("the CUDA kernels cannot be loaded: ", dlerror()));
    }
    const auto get = reinterpret_cast<cuda::GetApi>(dlsym(library, cuda::kApiSymbol));
    const cuda::Api* api = get == nullptr ? nullptr : get(cuda::kApiVersion);
    if (api == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is of another version of FlashFlow: install or build both together"));
    }
    return api;
  }
  return absl::FailedPreconditionError(absl::StrCat("this build of FlashFlow has no CUDA kernels: ", kName,
                                                    " is not there; looked for ", absl::StrJoin(candidates, ", ")));
}

}  // namespace

absl::StatusOr<const cuda::Api*> LoadCudaLibrary() {
  static const absl::NoDestructor<absl::StatusOr<const cuda::Api*>> loaded(Load());
  return *loaded;
}

}  // namespace flashflow::runtime
