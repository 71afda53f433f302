#include "compiler/plan/plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::plan {
namespace {

constexpr size_t kMaxRank = 6;                        // as launches take
constexpr int64_t kMaxArenaBytes = int64_t{1} << 44;  // beyond any machine's memory: an error, not an allocation
constexpr int64_t kMaxLimit = std::numeric_limits<int32_t>::max();  // positions and lengths are i32

absl::Status Error(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("plan: ", where, ": ", what));
}

class Validator {
 public:
  explicit Validator(const Plan& plan) : plan_(plan) {}

  absl::Status Run() {
    FF_RETURN_IF_ERROR(CheckHeader());
    FF_RETURN_IF_ERROR(CheckCache());
    FF_RETURN_IF_ERROR(CheckWeights());
    FF_RETURN_IF_ERROR(CheckTensors());
    FF_RETURN_IF_ERROR(CheckPublicLists());
    FF_RETURN_IF_ERROR(CheckSteps());
    return IsStepPlan(plan_) ? CheckBuckets() : CheckNoBuckets();
  }

  // Precondition: the plan is valid.
  absl::Status RunOnLayout(const ArenaLayout& layout) {
    FF_RETURN_IF_ERROR(CheckSteps());
    return CheckArena(layout.most, layout.arena_bytes, layout.offsets, "arena");
  }

 private:
  absl::Status CheckHeader() const {
    if (plan_.version != kPlanVersion) {
      return Error("version", absl::StrCat("expected ", kPlanVersion, ", got ", plan_.version));
    }
    absl::flat_hash_set<std::string_view> names;
    for (const auto& [name, range] : plan_.symbols) {
      if (!IsIdentifier(name) || !names.insert(name).second || range.min < 0 || range.min > range.max) {
        return Error("symbols", absl::StrCat("expected distinct identifiers with 0 <= min <= max, got ", name, " [",
                                             range.min, ", ", range.max, "]"));
      }
    }
    const Limits& limits = plan_.limits;
    for (const auto& [name, value] :
         {std::pair("context_length", limits.context_length), std::pair("max_tokens", limits.max_tokens),
          std::pair("max_rows", limits.max_rows), std::pair("max_logit_rows", limits.max_logit_rows)}) {
      if (IsStepPlan(plan_) ? value < 1 || value > kMaxLimit : value != 0) {
        return Error("limits", OutOfRange(name, value));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckCache() const {
    const CacheSpec& cache = plan_.cache;
    const bool used =
        std::any_of(plan_.steps.begin(), plan_.steps.end(), [](const Step& step) { return step.uses_cache; });
    if (used && !IsStepPlan(plan_)) return Error("cache", "a step uses it, and only a step graph has one");
    int64_t bytes = 2;
    for (const auto& [name, value] : {std::pair("layers", cache.layers), std::pair("kv_heads", cache.kv_heads),
                                      std::pair("head_dim", cache.head_dim), std::pair("page_size", cache.page_size)}) {
      if (value < (used ? 1 : 0) || value > kMaxLimit) return Error("cache", OutOfRange(name, value));
      if (__builtin_mul_overflow(bytes, std::max<int64_t>(value, 1), &bytes)) {
        return Error("cache", "a page does not fit 64 bits");
      }
    }
    if (cache.page_size < 1) return Error("cache", OutOfRange("page_size", cache.page_size));
    if (cache.dtype == DType::kI8) {  // the scales behind a page's codes lie at whole floats
      return cache.page_size % 4 == 0 ? absl::OkStatus() : Error("cache", "of i8, expected a page_size of whole fours");
    }
    return IsFloat(cache.dtype) ? absl::OkStatus() : Error("cache", "expected a float dtype, or i8");
  }

  absl::Status CheckWeights() const {
    for (size_t i = 0; i < plan_.weights.size(); ++i) {
      const Weight& weight = plan_.weights[i];
      const std::string where = absl::StrCat("weight ", i, " (", absl::StrJoin(weight.sources, " + "), ")");
      if (weight.sources.empty() || absl::c_linear_search(weight.sources, "")) return Error(where, "has no source");
      if (weight.layout.empty()) return Error(where, "has no layout");
      if (weight.shape.size() > kMaxRank) return Error(where, "has too many dimensions");
      if (weight.transposed && (weight.shape.size() != 2 || weight.sources.size() != 1)) {
        return Error(where, "is transposed, but no matrix of one source");
      }
      int64_t bytes = DTypeBytes(weight.dtype);
      for (int64_t dim : weight.shape) {
        if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) return Error(where, "its shape has no size");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckTensors() const {
    for (int32_t i = 0; i < NumTensors(); ++i) {
      const Tensor& tensor = plan_.tensors[i];
      if (tensor.shape.size() > kMaxRank) return TensorError(i, "has too many dimensions");
      if (NumElements(tensor.shape).overflowed()) return TensorError(i, "its shape has no size");
      FF_RETURN_IF_ERROR(CheckIndex(i));
      FF_RETURN_IF_ERROR(CheckAlias(i));
      FF_RETURN_IF_ERROR(CheckInPlace(i));
    }
    return absl::OkStatus();
  }

  absl::Status CheckIndex(int32_t i) const {
    const Tensor& tensor = plan_.tensors[i];
    if (tensor.storage == Storage::kArena) {
      if (tensor.index != -1) return TensorError(i, absl::StrCat("is in the arena and has index ", tensor.index));
      return absl::OkStatus();
    }
    const size_t entries = tensor.storage == Storage::kInput    ? plan_.inputs.size()
                           : tensor.storage == Storage::kOutput ? plan_.outputs.size()
                                                                : plan_.weights.size();
    if (tensor.index < 0 || static_cast<size_t>(tensor.index) >= entries) {
      return TensorError(i, absl::StrCat("index ", tensor.index, " is outside a list of ", entries));
    }
    if (tensor.storage != Storage::kWeight || tensor.alias_of >= 0) return absl::OkStatus();
    const Weight& weight = plan_.weights[tensor.index];
    if (tensor.dtype != weight.dtype || tensor.shape != Dims(weight.shape.begin(), weight.shape.end())) {
      return TensorError(i, absl::StrCat("differs in dtype or shape from weight ", tensor.index));
    }
    return absl::OkStatus();
  }

  absl::Status CheckAlias(int32_t i) const {
    const Tensor& tensor = plan_.tensors[i];
    if (tensor.alias_of == -1) return absl::OkStatus();
    if (!InRange(tensor.alias_of)) return TensorError(i, absl::StrCat("aliases ", tensor.alias_of));
    const Tensor& target = plan_.tensors[tensor.alias_of];
    if (target.alias_of != -1) return TensorError(i, "aliases an alias");
    if (tensor.dtype != target.dtype || tensor.storage != target.storage || tensor.index != target.index ||
        NumElements(tensor.shape) != NumElements(target.shape)) {
      return TensorError(i, absl::StrCat("differs in dtype, storage, index or size from tensor ", tensor.alias_of,
                                         ", which it aliases"));
    }
    return absl::OkStatus();
  }

  // What can be said without the steps.
  absl::Status CheckInPlace(int32_t i) const {
    const Tensor& tensor = plan_.tensors[i];
    if (tensor.in_place_of == -1) return absl::OkStatus();
    if (tensor.in_place_of < 0 || tensor.in_place_of >= i) {
      return TensorError(i, absl::StrCat("is in place of ", tensor.in_place_of, ", expected a tensor before it"));
    }
    const Tensor& taken = plan_.tensors[tensor.in_place_of];
    if (tensor.storage != Storage::kArena || taken.storage != Storage::kArena || tensor.alias_of != -1 ||
        taken.alias_of != -1 || tensor.dtype != taken.dtype || NumElements(tensor.shape) != NumElements(taken.shape)) {
      return TensorError(i, absl::StrCat("differs in dtype or size from tensor ", tensor.in_place_of,
                                         ", in whose place it is, or one of them has no memory in the arena"));
    }
    return absl::OkStatus();
  }

  // inputs and outputs: each entry is a tensor (or an alias of one) that points back, with a name of its own.
  absl::Status CheckPublicLists() const {
    for (const auto& [label, list, storage] : {std::tuple("input", &plan_.inputs, Storage::kInput),
                                               std::tuple("output", &plan_.outputs, Storage::kOutput)}) {
      absl::flat_hash_set<std::string_view> names;
      for (size_t k = 0; k < list->size(); ++k) {
        const int32_t i = (*list)[k];
        const std::string where = absl::StrCat(label, " ", k);
        if (!InRange(i)) return Error(where, absl::StrCat("tensor ", i, " does not exist"));
        const Tensor& tensor = plan_.tensors[i];
        if (tensor.storage != storage || tensor.index != static_cast<int32_t>(k)) {
          return Error(where, absl::StrCat("tensor ", i, " does not say so"));
        }
        if (tensor.name.empty() || !names.insert(tensor.name).second) {
          return Error(where, absl::StrCat("needs a name of its own, got '", tensor.name, "'"));
        }
      }
    }
    for (int32_t i = 0; i < NumTensors(); ++i) {
      const Tensor& tensor = plan_.tensors[i];
      if (tensor.storage != Storage::kInput && tensor.storage != Storage::kOutput) continue;
      const auto& list = tensor.storage == Storage::kInput ? plan_.inputs : plan_.outputs;
      if (Root(list[tensor.index]) != Root(i)) {
        return TensorError(i, absl::StrCat("claims the place of tensor ", list[tensor.index]));
      }
    }
    return absl::OkStatus();
  }

  // Single writers before readers. Leaves in first_ and last_ the steps between which each tensor's bytes matter.
  absl::Status CheckSteps() {
    first_.assign(NumTensors(), -1);
    last_.assign(NumTensors(), -1);
    taken_by_.assign(NumTensors(), -1);
    for (size_t s = 0; s < plan_.steps.size(); ++s) {
      FF_RETURN_IF_ERROR(CheckStep(static_cast<int32_t>(s)));
    }
    for (size_t k = 0; k < plan_.outputs.size(); ++k) {
      if (first_[Root(plan_.outputs[k])] == -1) return Error(absl::StrCat("output ", k), "no step writes it");
    }
    for (int32_t i = 0; i < NumTensors(); ++i) {
      if (taken_by_[i] != -1 && last_[i] > first_[taken_by_[i]]) {
        return TensorError(
            taken_by_[i], absl::StrCat("is written in place of tensor ", i, ", which step ", last_[i], " still reads"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckStep(int32_t s) {
    const Step& step = plan_.steps[s];
    const std::string where = absl::StrCat("step ", s, " (", step.op, ")");
    if (step.op.empty()) return Error(where, "has no op");
    if (step.tactics.empty()) return Error(where, "has no tactic");
    for (const KernelRef& tactic : step.tactics) {
      if (tactic.id.empty() || tactic.version < 1) return Error(where, "has a tactic without id or version");
    }
    for (int32_t i : step.inputs) {
      if (i == -1) continue;
      if (!InRange(i)) return Error(where, absl::StrCat("input tensor ", i, " does not exist"));
      const int32_t root = Root(i);
      if (IsWritten(root) && first_[root] == -1)
        return Error(where, absl::StrCat("reads tensor ", i, ", not yet written"));
      last_[root] = s;
    }
    for (int32_t i : step.outputs) {
      if (!InRange(i)) return Error(where, absl::StrCat("output tensor ", i, " does not exist"));
      if (plan_.tensors[i].alias_of != -1 || !IsWritten(i)) {
        return Error(where, absl::StrCat("may not write tensor ", i, ", an input, weight or alias"));
      }
      if (first_[i] != -1) return Error(where, absl::StrCat("writes tensor ", i, ", which is already written"));
      first_[i] = last_[i] = s;
      FF_RETURN_IF_ERROR(TakePlace(i, step, where));
    }
    if (step.outputs.empty() && !step.uses_cache) return Error(where, "writes nothing");
    return CheckWorkspace(s, where);
  }

  // Output i of the step, where it is in place of another tensor: of an operand that no other result took.
  absl::Status TakePlace(int32_t i, const Step& step, std::string_view where) {
    const int32_t taken = plan_.tensors[i].in_place_of;
    if (taken == -1) return absl::OkStatus();
    if (!absl::c_any_of(step.inputs, [&](int32_t input) { return input != -1 && Root(input) == taken; })) {
      return Error(where, absl::StrCat("writes tensor ", i, " in place of tensor ", taken, ", which it does not read"));
    }
    if (taken_by_[taken] != -1) {
      return Error(where, absl::StrCat("writes tensor ", i, " in place of tensor ", taken, ", as another step does"));
    }
    taken_by_[taken] = i;
    return absl::OkStatus();
  }

  absl::Status CheckWorkspace(int32_t s, std::string_view where) {
    const int32_t i = plan_.steps[s].workspace;
    if (i == -1) return absl::OkStatus();
    if (!InRange(i) || plan_.tensors[i].storage != Storage::kArena || plan_.tensors[i].dtype != DType::kI8 ||
        plan_.tensors[i].alias_of != -1) {
      return Error(where, absl::StrCat("workspace ", i, " is no i8 tensor of the arena"));
    }
    if (first_[i] != -1) return Error(where, absl::StrCat("workspace ", i, " is in use elsewhere"));
    first_[i] = last_[i] = s;
    return absl::OkStatus();
  }

  absl::Status CheckNoBuckets() const {
    return plan_.buckets.empty() ? absl::OkStatus() : Error("buckets", "only a step graph's plan has them");
  }

  absl::Status CheckBuckets() const {
    if (plan_.buckets.empty()) return Error("buckets", "there is none");
    int64_t previous = 0;
    for (size_t b = 0; b < plan_.buckets.size(); ++b) {
      const Bucket& bucket = plan_.buckets[b];
      const std::string where = absl::StrCat("bucket ", b);
      if (bucket.max_tokens <= previous || bucket.max_tokens > kMaxLimit) {
        return Error(where, absl::StrCat("max_tokens ", bucket.max_tokens, " does not ascend within ", kMaxLimit));
      }
      previous = bucket.max_tokens;
      FF_RETURN_IF_ERROR(CheckArena(BucketSymbols(plan_, bucket), bucket.arena_bytes, bucket.offsets, where));
    }
    if (previous < plan_.limits.max_tokens) {
      return Error("buckets", absl::StrCat("the last holds ", previous, " tokens of ", plan_.limits.max_tokens));
    }
    return absl::OkStatus();
  }

  // One arena, for symbols of at most the values `most`.
  absl::Status CheckArena(const SymbolValues& most, int64_t arena_bytes, const std::vector<int64_t>& offsets,
                          std::string_view where) const {
    if (arena_bytes < 0 || arena_bytes > kMaxArenaBytes) {
      return Error(where, OutOfRange("arena_bytes", arena_bytes));
    }
    if (offsets.size() != plan_.tensors.size()) {
      return Error(where, absl::StrCat("has ", offsets.size(), " offsets for ", plan_.tensors.size(), " tensors"));
    }
    SymbolRanges ranges;
    for (const auto& [name, value] : most) ranges[name] = {0, value};
    std::vector<int64_t> bytes(NumTensors());
    for (int32_t i = 0; i < NumTensors(); ++i) {
      const Tensor& tensor = plan_.tensors[i];
      for (const DimExpr& dim : tensor.shape) {
        if (absl::StatusOr<SymbolRange> bounds = dim.Bounds(ranges); !bounds.ok() || bounds->max < 0) {
          return TensorError(i, absl::StrCat("dimension ", dim.ToString(), " has no size in ", where));
        }
      }
      const auto size = (NumElements(tensor.shape) * DTypeBytes(tensor.dtype)).Bounds(ranges);
      if (!size.ok()) return TensorError(i, "its shape has no size");
      bytes[i] = size->max;
      const int64_t offset = offsets[i];
      if (tensor.storage != Storage::kArena) {
        if (offset != -1) return TensorError(i, absl::StrCat("has an offset in ", where, " and is not in the arena"));
        continue;
      }
      if (offset < 0 || offset % kArenaAlignment != 0 || offset > arena_bytes || bytes[i] > arena_bytes - offset) {
        return TensorError(i, absl::StrCat("offset ", offset, " is not a multiple of ", kArenaAlignment, " with ",
                                           bytes[i], " bytes inside the ", arena_bytes, " of ", where));
      }
      if (offset != offsets[Root(i)]) return TensorError(i, "lies elsewhere than what it aliases");
      if (tensor.in_place_of != -1 && offset != offsets[tensor.in_place_of]) {
        return TensorError(i, "lies elsewhere than what it is in place of");
      }
    }
    return CheckOverlaps(offsets, bytes, where);
  }

  // Walks the steps with the set of live byte ranges: what a step writes must not touch what is live.
  absl::Status CheckOverlaps(const std::vector<int64_t>& offsets, const std::vector<int64_t>& bytes,
                             std::string_view where) const {
    std::vector<std::vector<int32_t>> starting(plan_.steps.size());
    std::vector<std::vector<int32_t>> ending(plan_.steps.size());
    for (int32_t i = 0; i < NumTensors(); ++i) {
      if (plan_.tensors[i].storage != Storage::kArena || first_[i] == -1 || bytes[i] <= 0) continue;
      starting[first_[i]].push_back(i);
      if (taken_by_[i] == -1) ending[last_[i]].push_back(i);
    }
    std::map<int64_t, int32_t> live;  // offset -> tensor, disjoint
    for (size_t s = 0; s < plan_.steps.size(); ++s) {
      for (int32_t i : starting[s]) {
        if (plan_.tensors[i].in_place_of != -1) {  // whose bytes are live already
          live.find(offsets[i])->second = i;
          continue;
        }
        const auto next = live.lower_bound(offsets[i]);
        std::optional<int32_t> other;
        if (next != live.end() && next->first < offsets[i] + bytes[i]) other = next->second;
        if (next != live.begin()) {
          const auto& [offset, tensor] = *std::prev(next);
          if (offset + bytes[tensor] > offsets[i]) other = tensor;
        }
        if (other.has_value()) {
          return TensorError(i, absl::StrCat("overlaps tensor ", *other, ", live in step ", s, ", in ", where));
        }
        live.emplace(offsets[i], i);
      }
      for (int32_t i : ending[s]) live.erase(offsets[i]);
    }
    return absl::OkStatus();
  }

  int32_t NumTensors() const { return static_cast<int32_t>(plan_.tensors.size()); }
  bool InRange(int32_t i) const { return i >= 0 && i < NumTensors(); }
  int32_t Root(int32_t i) const { return plan_.tensors[i].alias_of == -1 ? i : plan_.tensors[i].alias_of; }
  bool IsWritten(int32_t i) const {
    return plan_.tensors[i].storage == Storage::kArena || plan_.tensors[i].storage == Storage::kOutput;
  }

  absl::Status TensorError(int32_t i, std::string_view what) const {
    const std::string& name = plan_.tensors[i].name;
    return Error(absl::StrCat("tensor ", i, name.empty() ? "" : absl::StrCat(" (", name, ")")), what);
  }

  static std::string OutOfRange(std::string_view name, int64_t value) {
    return absl::StrCat(name, " ", value, " is out of range");
  }

  const Plan& plan_;
  std::vector<int32_t> first_;     // the step that writes a tensor, -1 if none does
  std::vector<int32_t> last_;      // the last step that uses it or an alias of it
  std::vector<int32_t> taken_by_;  // the tensor that is written in its place, -1 if none is
};

}  // namespace

SymbolValues BucketSymbols(const Plan& plan, const Bucket& bucket) {
  const Limits& limits = plan.limits;
  const int64_t page_size = std::max<int64_t>(plan.cache.page_size, 1);
  return {{"T", bucket.max_tokens},
          {"R", std::min(bucket.max_tokens, limits.max_rows)},
          {"L", std::min(bucket.max_tokens, limits.max_logit_rows)},
          {"P", (limits.context_length + page_size - 1) / page_size}};
}

absl::Status Validate(const Plan& plan) {
  if (plan.tensors.size() > static_cast<size_t>(kMaxLimit) || plan.steps.size() > static_cast<size_t>(kMaxLimit)) {
    return Error("tensors", "there are too many");
  }
  return Validator(plan).Run();
}

absl::Status ValidateLayout(const Plan& plan, const ArenaLayout& layout) { return Validator(plan).RunOnLayout(layout); }

}  // namespace flashflow::plan
