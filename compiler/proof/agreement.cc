#include "compiler/proof/agreement.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::proof {
namespace {

using interpreter::Cache;
using interpreter::Shape;
using interpreter::Tensor;
using interpreter::Values;

constexpr double kDisturbance = 0x1p-30;

// What the codes of each head's row stand for.
std::vector<double> Coded(const Cache& cache) {
  std::vector<double> coded(cache.data.size());
  const auto dim = static_cast<size_t>(cache.type.head_dim);
  for (size_t row = 0; row + dim <= coded.size(); row += dim) {
    interpreter::CodeHead(cache.data.data() + row, cache.type.head_dim, coded.data() + row);
  }
  return coded;
}

std::string Index(const Shape& shape, size_t flat) {
  Shape index(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    index[i] = static_cast<int64_t>(flat) % shape[i];
    flat /= static_cast<size_t>(shape[i]);
  }
  return interpreter::ShapeToString(index);
}

bool Agrees(double want, double got, double allowed) {
  if (want == got) return true;
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got);
  return std::abs(want - got) <= allowed;  // false where one is an infinity
}

// What rounding to the narrower type may change: half a unit in the last place, where numbers are so small that this
// does not shrink with them too. One ulp of the wider type is allowed for: `want` was rounded once.
double RoundingOf(DType want, DType got, double value) {
  if (DTypeBytes(got) >= DTypeBytes(want)) return 0;
  const double half_least = got == DType::kBF16 ? 0x1p-134 : 0x1p-25;
  return std::max(std::abs(value) * UnitRoundoff(got), half_least) * (1 + 0x1p-10);
}

// The number of terms that an element of the node's result may be a sum of; an upper bound but for fused chains.
double Terms(const ir::Node& node, const SymbolValues& symbols) {
  const std::string_view group = node.def().group;
  if (node.op() <= ir::Op::kWhere || group == "Creation and shape" || group == "Lookups" || group == "Quantization") {
    return 1;
  }
  std::vector<int64_t> kept;
  for (const ir::Value* result : node.results()) {
    if (!result->type().is_tensor()) continue;
    for (const DimExpr& dim : result->tensor().shape) kept.push_back(dim.Evaluate(symbols).value_or(1));
  }
  int64_t longest = 1;         // of the axes that the result lacks
  int64_t longest_of_all = 1;  // of any
  for (const ir::Value* operand : node.operands()) {
    if (operand == nullptr || !operand->type().is_tensor()) continue;
    for (const DimExpr& dim : operand->tensor().shape) {
      const int64_t size = dim.Evaluate(symbols).value_or(1);
      longest_of_all = std::max(longest_of_all, size);
      if (std::find(kept.begin(), kept.end(), size) == kept.end()) longest = std::max(longest, size);
    }
  }
  return static_cast<double>(longest > 1 ? longest : longest_of_all);
}

}  // namespace

double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

std::optional<std::string> Difference(const interpreter::Value& want, const interpreter::Value& got, double allowed) {
  if (want.index() != got.index()) return "one is a cache, the other a tensor";
  const auto message = [allowed](const std::string& where, double w, double g, double rounding) {
    return absl::StrCat(where, " is ", g, ", expected ", w, ", allowed difference ", allowed + rounding);
  };
  if (const Cache* w = std::get_if<Cache>(&want); w != nullptr) {
    const Cache& g = std::get<Cache>(got);
    if (w->data.size() != g.data.size()) return "the caches have different sizes";
    // Slots that were written are coded, and in the wide mode none.
    const bool may_code = g.type.dtype == DType::kI8 && w->type.dtype != DType::kI8;
    const std::vector<double> coded = may_code ? Coded(*w) : w->data;
    for (size_t i = 0; i < w->data.size(); ++i) {
      if (Agrees(coded[i], g.data[i], allowed)) continue;
      const double rounding = RoundingOf(w->type.dtype, g.type.dtype, w->data[i]);
      if (!Agrees(w->data[i], g.data[i], allowed + rounding)) {
        return message(absl::StrCat("element ", i, " of the cache"), w->data[i], g.data[i], rounding);
      }
    }
    return std::nullopt;
  }
  const Tensor& w = std::get<Tensor>(want);
  const Tensor& g = std::get<Tensor>(got);
  if (w.shape != g.shape) {
    return absl::StrCat("its shape is ", interpreter::ShapeToString(g.shape), ", expected ",
                        interpreter::ShapeToString(w.shape));
  }
  if (IsFloat(w.dtype) != IsFloat(g.dtype)) {
    return absl::StrCat("its type is ", DTypeName(g.dtype), ", expected ", DTypeName(w.dtype));
  }
  for (size_t i = 0; i < w.floats.size(); ++i) {
    const double rounding = RoundingOf(w.dtype, g.dtype, w.floats[i]);
    if (!Agrees(w.floats[i], g.floats[i], allowed + rounding)) {
      return message("element " + Index(w.shape, i), w.floats[i], g.floats[i], rounding);
    }
  }
  for (size_t i = 0; i < w.ints.size(); ++i) {
    if (w.ints[i] != g.ints[i]) {
      return absl::StrCat("element ", Index(w.shape, i), " is ", g.ints[i], ", expected ", w.ints[i]);
    }
  }
  return std::nullopt;
}

absl::StatusOr<absl::flat_hash_map<std::string, double>> ErrorGrowth(const ir::Graph& graph, const Values& inputs,
                                                                     const interpreter::WeightSource& weights,
                                                                     const SymbolValues& symbols,
                                                                     const Values& outputs) {
  uint64_t state = 0x9e3779b97f4a7c15;
  const auto disturb = [&state, &symbols](const ir::Node& node, Tensor* result) {
    // A constant that its dtype holds is never rounded; a disturbed exponent 2 would give NaN for negative numbers.
    if (node.op() == ir::Op::kConstant && IsFloat(result->dtype)) {
      const auto value = node.attr<double>("value");
      if (RoundTo(result->dtype, value) == value) return;
    }
    const double size = kDisturbance * Terms(node, symbols);
    for (double& value : result->floats) {
      state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX: its upper bits are enough here
      value *= 1 + size * (static_cast<double>(state >> 11) * 0x1p-52 - 1);
    }
  };
  FF_ASSIGN_OR_RETURN(const Values disturbed, Interpret(graph, inputs, weights, interpreter::Mode::kWide, disturb));
  absl::flat_hash_map<std::string, double> growth;
  for (const auto& [name, value] : outputs) {
    const auto elements = [](const interpreter::Value& v) -> const std::vector<double>& {
      const Cache* cache = std::get_if<Cache>(&v);
      return cache != nullptr ? cache->data : std::get<Tensor>(v).floats;
    };
    const std::vector<double>& base = elements(value);
    const std::vector<double>& moved = elements(disturbed.at(name));
    double most = 0;
    for (size_t i = 0; i < base.size(); ++i) {
      const double distance = std::max(std::abs(moved[i] - base[i]), kDisturbance * std::abs(base[i]));
      if (std::isfinite(distance)) most = std::max(most, distance);
    }
    growth[name] = most / kDisturbance;
  }
  return growth;
}

}  // namespace flashflow::proof
