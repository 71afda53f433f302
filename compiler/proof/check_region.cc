#include "compiler/proof/check_region.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/status_macros.h"
#include "compiler/proof/agreement.h"

namespace flashflow::proof {
namespace {

using interpreter::Mode;
using interpreter::Values;
using passes::Relation;

// Integers without a role index tables of unknown length: from this on they are tried smaller, down to zeros.
constexpr int64_t kIndexLimits[] = {16, 4, 2, 1};

constexpr int64_t kKeptElements = int64_t{1} << 25;  // of weights that are made once for all runs

std::string Describe(const Case& setting) {
  std::vector<std::string> symbols;
  for (const auto& [name, value] : setting.symbols) symbols.push_back(absl::StrCat(name, " = ", value));
  std::sort(symbols.begin(), symbols.end());
  return symbols.empty() ? "" : absl::StrCat(" (with ", absl::StrJoin(symbols, ", "), ")");
}

// Keeps what it gives, as long as it is not too much.
interpreter::WeightSource Keeping(interpreter::WeightSource source) {
  struct Kept {
    absl::flat_hash_map<std::string, std::shared_ptr<const interpreter::Tensor>> tensors;
    int64_t elements = 0;
  };
  return [source = std::move(source), kept = std::make_shared<Kept>()](
             const std::string& name) -> absl::StatusOr<std::shared_ptr<const interpreter::Tensor>> {
    if (auto it = kept->tensors.find(name); it != kept->tensors.end()) return it->second;
    FF_ASSIGN_OR_RETURN(auto tensor, source(name));
    kept->elements += tensor->NumElements();
    if (kept->elements <= kKeptElements) kept->tensors.emplace(name, tensor);
    return tensor;
  };
}

// The largest rounding of the float types that nodes of the graph give; f32's if none gives a float.
double LargestRoundoff(const ir::Graph& graph) {
  double largest = UnitRoundoff(DType::kF32);
  for (const auto& node : graph.nodes()) {
    for (const ir::Value* result : node->results()) {
      const DType dtype = result->type().is_cache() ? result->type().cache().dtype : result->tensor().dtype;
      if (IsFloat(dtype)) largest = std::max(largest, UnitRoundoff(dtype));
    }
  }
  return largest;
}

class Comparison {
 public:
  Comparison(const ir::Graph& before, const ir::Graph& after, const Case& setting)
      : before_(before), after_(after), setting_(setting) {}

  // Values that `before` takes. The status is of its last attempt.
  absl::Status Prepare(Mode mode, bool round) {
    const ir::Graph* const graphs[] = {&before_, &after_};
    absl::Status status;
    for (int64_t limit : kIndexLimits) {
      FF_ASSIGN_OR_RETURN(values_, RandomInputs(graphs, setting_, limit, round));
      weights_ = Keeping(RandomWeightSource({&before_, &after_}, setting_, limit, round));
      absl::StatusOr<Values> want = Interpret(before_, InputsOf(before_, values_), weights_, mode);
      if (want.ok()) {
        want_ = *std::move(want);
        return absl::OkStatus();
      }
      status = want.status();
    }
    return status;
  }

  // Against the outputs that Prepare got in this mode.
  std::optional<std::string> Compare(Mode mode, const absl::flat_hash_map<std::string, double>& allowed) const {
    const absl::StatusOr<Values> got = Interpret(after_, InputsOf(after_, values_), weights_, mode);
    if (!got.ok()) return absl::StrCat("it fails where the graph before does not: ", got.status().message(), Where());
    for (const ir::Output& output : before_.outputs()) {
      auto it = got->find(output.name);
      if (it == got->end()) return absl::StrCat("output \"", output.name, "\" is gone");
      auto limit = allowed.find(output.name);
      const auto difference = Difference(want_.at(output.name), it->second, limit == allowed.end() ? 0 : limit->second);
      if (!difference.has_value()) continue;
      return absl::StrCat(before_.outputs().size() > 1 ? absl::StrCat("output \"", output.name, "\": ") : "",
                          *difference, Where());
    }
    return std::nullopt;
  }

  // Prepare must have succeeded in the wide mode.
  absl::StatusOr<absl::flat_hash_map<std::string, double>> Growth() const {
    return ErrorGrowth(before_, InputsOf(before_, values_), weights_, setting_.symbols, want_);
  }

 private:
  std::string Where() const { return Describe(setting_); }

  const ir::Graph& before_;
  const ir::Graph& after_;
  const Case& setting_;
  Values values_;
  interpreter::WeightSource weights_;
  Values want_;
};

absl::flat_hash_map<std::string, double> Scaled(absl::flat_hash_map<std::string, double> growth, double roundoff) {
  for (auto& [name, value] : growth) value = AllowedDifference(value, roundoff);
  return growth;
}

enum class Strictness { kEqual, kEqualWhenRounded, kRounding, kWideRounding };

absl::StatusOr<std::optional<std::string>> Find(const ir::Graph& before, const ir::Graph& after, Strictness strictness,
                                                absl::Span<const Case> cases) {
  absl::Status status = absl::InvalidArgumentError("there are no cases");
  bool evaluated = false;
  for (const Case& setting : cases) {
    Comparison comparison(before, after, setting);
    if (strictness == Strictness::kEqual || strictness == Strictness::kEqualWhenRounded) {
      if (status = comparison.Prepare(Mode::kTyped, strictness == Strictness::kEqualWhenRounded); !status.ok())
        continue;
      evaluated = true;
      if (auto difference = comparison.Compare(Mode::kTyped, {}); difference.has_value()) return difference;
      continue;
    }
    if (status = comparison.Prepare(Mode::kWide, strictness == Strictness::kWideRounding); !status.ok()) continue;
    evaluated = true;
    FF_ASSIGN_OR_RETURN(const auto growth, comparison.Growth());
    if (auto difference = comparison.Compare(Mode::kWide, Scaled(growth, kWideRoundoff)); difference.has_value()) {
      return absl::StrCat("in the wide mode, ", *difference);
    }
    if (strictness == Strictness::kWideRounding) continue;
    FF_RETURN_IF_ERROR(comparison.Prepare(Mode::kTyped, /*round=*/false));
    const double roundoff = std::min(LargestRoundoff(before), LargestRoundoff(after));
    if (auto difference = comparison.Compare(Mode::kTyped, Scaled(growth, roundoff)); difference.has_value()) {
      return difference;
    }
  }
  if (evaluated) return std::nullopt;
  return absl::Status(status.code(), absl::StrCat("no case can be evaluated: ", status.message()));
}

}  // namespace

absl::StatusOr<std::optional<std::string>> FindDifference(const ir::Graph& before, const ir::Graph& after,
                                                          Relation relation, absl::Span<const Case> cases) {
  switch (relation) {
    case Relation::kIdentical:
      return Find(before, after, Strictness::kEqual, cases);
    case Relation::kNarrowed:
      return Find(before, after, Strictness::kEqualWhenRounded, cases);
    case Relation::kReassociated:
    case Relation::kRestructured:
      return Find(before, after, Strictness::kRounding, cases);
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<std::string>> FindWideDifference(const ir::Graph& before, const ir::Graph& after,
                                                              absl::Span<const Case> cases) {
  return Find(before, after, Strictness::kWideRounding, cases);
}

}  // namespace flashflow::proof
