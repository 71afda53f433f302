#include "runtime/core/weights.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::runtime {
namespace {

std::string TypeText(DType dtype, absl::Span<const int64_t> shape) {
  return absl::StrCat(DTypeName(dtype), "[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::StatusOr<std::vector<LoadedWeight>> LoadWeights(const engine::EngineFile& file,
                                                      absl::Span<const plan::Weight> weights, Device* device) {
  std::vector<LoadedWeight> loaded;
  loaded.reserve(weights.size());
  for (const plan::Weight& wanted : weights) {
    FF_ASSIGN_OR_RETURN(const engine::EngineWeight* stored, file.weight(wanted.source));
    if (stored->dtype != wanted.dtype || stored->shape != wanted.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "engine file ", file.path(), ": weight \"", wanted.source, "\" is ", TypeText(stored->dtype, stored->shape),
          " but the plan wants ", TypeText(wanted.dtype, wanted.shape), "; build the engine again"));
    }
    if (wanted.shape.size() > kernels::kMaxRank) {
      return absl::InvalidArgumentError(absl::StrCat("engine file ", file.path(), ": weight \"", wanted.source,
                                                     "\" has more than ", kernels::kMaxRank, " dimensions"));
    }
    absl::StatusOr<LoadedWeight> weight = device->LoadWeight(file, *stored, wanted);
    if (!weight.ok()) {
      return absl::Status(weight.status().code(),
                          absl::StrCat("loading weight \"", wanted.source, "\": ", weight.status().message()));
    }
    loaded.push_back(*std::move(weight));
  }
  return loaded;
}

}  // namespace flashflow::runtime
