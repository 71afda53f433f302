#include "runtime/core/weights.h"

#include <algorithm>
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

// The file's tensors that make up the weight, of which each has a share of its rows.
absl::StatusOr<std::vector<const engine::EngineWeight*>> Parts(const engine::EngineFile& file,
                                                               const plan::Weight& wanted) {
  std::vector<const engine::EngineWeight*> parts;
  std::vector<int64_t> left = wanted.shape;  // once the parts so far are taken off
  for (size_t i = 0; i < wanted.sources.size(); ++i) {
    FF_ASSIGN_OR_RETURN(const engine::EngineWeight* part, file.weight(wanted.sources[i]));
    std::vector<int64_t> share = left;
    const bool last = i + 1 == wanted.sources.size();
    if (!last && !share.empty() && !part->shape.empty()) {
      share[0] = part->shape[0];
      left[0] -= share[0];
    }
    if (wanted.transposed) std::ranges::reverse(share);
    if (part->dtype != wanted.dtype || part->shape != share || (!left.empty() && left[0] < 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "engine file ", file.path(), ": weight \"", wanted.sources[i], "\" is ", TypeText(part->dtype, part->shape),
          " but the plan wants ", wanted.sources.size() > 1 ? "a part of " : "",
          TypeText(wanted.dtype, wanted.transposed ? share : wanted.shape), "; build the engine again"));
    }
    parts.push_back(part);
  }
  return parts;
}

}  // namespace

absl::StatusOr<std::vector<LoadedWeight>> LoadWeights(const engine::EngineFile& file,
                                                      absl::Span<const plan::Weight> weights, Device* device) {
  std::vector<LoadedWeight> loaded;
  loaded.reserve(weights.size());
  for (const plan::Weight& wanted : weights) {
    const std::string name = absl::StrJoin(wanted.sources, " + ");
    if (wanted.shape.size() > kernels::kMaxRank) {
      return absl::InvalidArgumentError(absl::StrCat("engine file ", file.path(), ": weight \"", name,
                                                     "\" has more than ", kernels::kMaxRank, " dimensions"));
    }
    FF_ASSIGN_OR_RETURN(const std::vector<const engine::EngineWeight*> parts, Parts(file, wanted));
    absl::StatusOr<LoadedWeight> weight = device->LoadWeight(file, parts, wanted);
    if (!weight.ok()) {
      return absl::Status(weight.status().code(),
                          absl::StrCat("loading weight \"", name, "\": ", weight.status().message()));
    }
    loaded.push_back(*std::move(weight));
  }
  return loaded;
}

}  // namespace flashflow::runtime
