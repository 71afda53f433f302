#include "compiler/proof/random_case.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::proof {
namespace {

using interpreter::Cache;
using interpreter::Shape;
using interpreter::Tensor;
using interpreter::Values;

// SplitMix64 (Steele, Lea, Flood 2014): element i of a stream is a function of i alone.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t StreamOf(std::string_view name, uint64_t seed) {
  for (char c : name) seed = Mix(seed ^ static_cast<unsigned char>(c));
  return Mix(seed);
}

// Uniform in [-sqrt(3), sqrt(3)): of variance one.
double Uniform(uint64_t stream, uint64_t i) {
  constexpr double kWidth = 1.7320508075688772;
  return kWidth * (static_cast<double>(Mix(stream ^ i) >> 11) * 0x1p-52 - 1);
}

bool Narrower(DType a, DType b) { return DTypeBytes(a) < DTypeBytes(b); }

// What codes are made of a value's rows, or of what they are joined with.
struct Coding {
  double clip = std::numeric_limits<double>::infinity();  // the least of all
  bool groups = false;                                    // of 4 bits, for one at least
};

void Join(const std::optional<Coding>& other, std::optional<Coding>* all) {
  if (!other.has_value()) return;
  if (!all->has_value()) *all = Coding{};
  (*all)->clip = std::min((*all)->clip, other->clip);
  (*all)->groups |= other->groups;
}

std::optional<Coding> CodingOfRows(const ir::Value* value) {
  std::optional<Coding> all;
  for (const ir::Use& use : value->uses()) {
    const ir::Node& node = *use.node;
    if (node.op() == ir::Op::kConcat && node.attr<int64_t>("axis") == 0) {
      Join(CodingOfRows(node.result()), &all);
    } else if (node.op() == ir::Op::kQuantize) {
      Join(Coding{node.attr<double>("clip"), node.attr<int64_t>("group") != 0}, &all);
    } else if (node.op() == ir::Op::kFusedLinear && use.operand_index == 0 &&
               node.operand(1)->tensor().dtype == DType::kI8 && node.attr<std::string>("norm") == "none") {
      Join(Coding{node.attr<double>("clip")}, &all);
    }
  }
  return all;
}

std::optional<Coding> CodingInAny(absl::Span<const ir::Graph* const> graphs, std::string_view name) {
  std::optional<Coding> all;
  for (const ir::Graph* graph : graphs) {
    for (const ir::Value* value : {graph->FindInput(name), graph->FindWeight(name)}) {
      if (value != nullptr) Join(CodingOfRows(value), &all);
    }
  }
  return all;
}

// Brings each group of 32 to a least value plus 0 to 15 times a power of two of its own, both ends among them: codes of
// 4 bits lose nothing of it. Where rows are not whole groups, which nothing codes, the last is shorter.
void MakeGroupsCodable(double scale, uint64_t stream, const Case& setting, Tensor* tensor) {
  for (size_t group = 0; group * kCodeGroup < tensor->floats.size(); ++group) {
    const uint64_t random = Mix(stream + group);
    const double step = std::ldexp(std::exp2(std::floor(std::log2(scale / 8))), -static_cast<int>(random % 4));
    const double least = setting.positive ? step : -step * static_cast<double>(random / 4 % 16);
    for (size_t i = group * kCodeGroup; i < std::min((group + 1) * kCodeGroup, tensor->floats.size()); ++i) {
      const size_t place = i % kCodeGroup;
      const uint64_t code = place == random % 16 ? 0 : place == 16 + random % 16 ? 15 : Mix(stream ^ i) % 16;
      tensor->floats[i] = least + step * static_cast<double>(code);
    }
  }
}

// Brings each row to integers times a power of two of its own, one of each 32 of them 127 and the others small: codes
// lose nothing of it, be they the row's or its groups', and 32 bits hold its products.
void MakeCodable(const Coding& coding, double scale, uint64_t stream, const Case& setting, Tensor* tensor) {
  if (coding.groups) return MakeGroupsCodable(scale, stream, setting, tensor);
  const double clip = coding.clip;
  constexpr double kMostOther = 31;
  const auto k = static_cast<size_t>(tensor->shape.empty() ? 0 : tensor->shape.back());
  double largest_step = std::exp2(std::floor(std::log2(scale / kMostOther)));
  if (127 * largest_step > clip) largest_step = std::exp2(std::floor(std::log2(clip / 127)));
  for (size_t i = 0; i < tensor->floats.size(); ++i) {
    const uint64_t random = Mix(stream + i / k);
    const double step = std::ldexp(largest_step, -static_cast<int>(random % 4));
    double& value = tensor->floats[i];
    value = step * std::clamp(std::nearbyint(value / step), -kMostOther, kMostOther);
    if (i % k % kCodeGroup == (random >> 8) % std::min<size_t>(k, kCodeGroup))
      value = (setting.positive || random % 8 < 4 ? 127 : -127) * step;
  }
}

absl::StatusOr<Tensor> RandomTensor(const ir::TensorType& type, DType round_to, uint64_t stream, const Case& setting,
                                    double scale, int64_t index_limit) {
  Shape shape;
  for (const DimExpr& dim : type.shape) {
    FF_ASSIGN_OR_RETURN(const int64_t size, dim.Evaluate(setting.symbols));
    if (size < 0) return absl::OutOfRangeError(absl::StrCat("dimension ", dim.ToString(), " is ", size));
    shape.push_back(size);
  }
  Tensor tensor = Tensor::Zeros(type.dtype, std::move(shape));
  const bool single = round_to == DType::kF32;
  for (size_t i = 0; i < tensor.floats.size(); ++i) {
    double value = scale * Uniform(stream, i);
    if (setting.positive) value = std::abs(value);
    tensor.floats[i] = single ? static_cast<float>(value) : RoundTo(round_to, value);
  }
  const int64_t limit = type.dtype == DType::kBool ? 2 : index_limit;
  for (size_t i = 0; i < tensor.ints.size(); ++i) {
    tensor.ints[i] = static_cast<int64_t>(Mix(stream ^ i) % static_cast<uint64_t>(limit));
  }
  return tensor;
}

// Gives a symbol the value if the range allows it, else the nearest that it allows.
int64_t Clamp(int64_t value, const SymbolRange& range) { return std::clamp(value, range.min, range.max); }

const ir::TensorType* IndexInput(const ir::Graph& graph, std::string_view name, size_t rank) {
  const ir::Value* input = graph.FindInput(name);
  if (input == nullptr || !input->type().is_tensor()) return nullptr;
  const ir::TensorType& type = input->tensor();
  return type.dtype == DType::kI32 && type.shape.size() == rank ? &type : nullptr;
}

// The range of a dim that is a symbol alone; everything from 1 on for any other.
SymbolRange RangeOf(const ir::Graph& graph, const DimExpr& dim) {
  const std::vector<std::string> symbols = dim.symbols();
  if (symbols.size() != 1 || dim != DimExpr::Symbol(symbols[0])) return {1, std::numeric_limits<int64_t>::max()};
  return graph.symbol_ranges().at(symbols[0]);
}

void Bind(const DimExpr& dim, int64_t value, SymbolValues* symbols) {
  const std::vector<std::string> names = dim.symbols();
  if (names.size() == 1 && dim == DimExpr::Symbol(names[0])) (*symbols)[names[0]] = value;
}

// A ragged batch for a step graph. The graph must have the inputs.
void MakeRagged(const ir::Graph& graph, int index, std::mt19937_64& random, Case* setting) {
  const auto below = [&random](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint64_t>(std::max<int64_t>(n, 1)));
  };
  const Dims& tokens_dims = IndexInput(graph, "positions", 1)->shape;
  const Dims& row_dims = IndexInput(graph, "kv_len", 1)->shape;
  const Dims& table_dims = IndexInput(graph, "block_table", 2)->shape;
  const int64_t max_rows = RangeOf(graph, row_dims[0]).max;
  const int64_t max_tokens = RangeOf(graph, tokens_dims[0]).max;
  const int64_t max_length = std::min<int64_t>(RangeOf(graph, table_dims[1]).max, kCasePages / 4) * kCasePageSize;
  const int64_t rows = std::min({int64_t{1} + (index % 3 == 2 ? 0 : 1 + below(3)), max_rows, max_tokens});
  std::vector<int64_t> row_start = {0}, kv_len, positions;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t spare = max_tokens - row_start.back() - (rows - r - 1);  // leave a token for each row to come
    const bool decode = index % 3 == 1 || r % 2 == 1;
    const int64_t chunk = std::min({decode ? int64_t{1} : 1 + below(5), spare, max_length});
    const int64_t past = r == 0 && !decode ? 0 : std::min(below(10), max_length - chunk);
    for (int64_t i = 0; i < chunk; ++i) positions.push_back(past + i);
    row_start.push_back(row_start.back() + chunk);
    kv_len.push_back(past + chunk);
  }
  const int64_t tokens = row_start.back();
  // Pages in random order; entries that no row reaches name none.
  std::vector<int64_t> pool(kCasePages);
  std::iota(pool.begin(), pool.end(), 0);
  std::shuffle(pool.begin(), pool.end(), random);
  int64_t width = 1;
  for (int64_t length : kv_len) width = std::max(width, (length + kCasePageSize - 1) / kCasePageSize);
  std::vector<int64_t> table;
  for (int64_t length : kv_len) {
    for (int64_t p = 0; p < width; ++p) {
      if (p * kCasePageSize < length) {
        table.push_back(pool.back());
        pool.pop_back();
      } else {
        table.push_back(-1);
      }
    }
  }
  Bind(tokens_dims[0], tokens, &setting->symbols);
  Bind(row_dims[0], rows, &setting->symbols);
  Bind(table_dims[1], width, &setting->symbols);
  const auto add = [setting](std::string name, std::vector<int64_t> values, Shape shape) {
    setting->roles.emplace(std::move(name), Tensor::Ints(std::move(shape), std::move(values)));
  };
  if (const ir::TensorType* logit_rows = IndexInput(graph, "logit_rows", 1); logit_rows != nullptr) {
    const SymbolRange range = RangeOf(graph, logit_rows->shape[0]);
    const int64_t count = Clamp(index % 3 == 2 ? 1 : 1 + below(tokens), range);
    std::vector<int64_t> wanted;
    for (int64_t i = 0; i < count; ++i) wanted.push_back(below(tokens));
    Bind(logit_rows->shape[0], count, &setting->symbols);
    add("logit_rows", std::move(wanted), {count});
  }
  add("positions", std::move(positions), {tokens});
  add("row_start", std::move(row_start), {rows + 1});
  add("kv_len", std::move(kv_len), {rows});
  add("block_table", std::move(table), {rows, width});
}

Cache RandomCache(const ir::CacheType& type, DType round_to, uint64_t stream, const Case& setting) {
  Cache cache = Cache::Empty(type, kCasePages, kCasePageSize);
  const auto lengths = setting.roles.find("kv_len");
  const auto table = setting.roles.find("block_table");
  if (lengths == setting.roles.end() || table == setting.roles.end()) {
    for (size_t i = 0; i < cache.data.size(); ++i) cache.data[i] = RoundTo(round_to, Uniform(stream, i));
    return cache;
  }
  const Tensor& kv_len = std::get<Tensor>(lengths->second);
  const Tensor& pages = std::get<Tensor>(table->second);
  uint64_t i = 0;
  for (int64_t layer = 0; layer < type.layers; ++layer) {
    for (int64_t r = 0; r < kv_len.shape[0]; ++r) {
      for (int64_t slot = 0; slot < kv_len.ints[r]; ++slot) {
        const int64_t page = pages.ints[r * pages.shape[1] + slot / kCasePageSize];
        for (int64_t head = 0; head < type.kv_heads; ++head) {
          for (int64_t k_or_v = 0; k_or_v < 2; ++k_or_v) {
            double* at = cache.Slot(layer, page, k_or_v, head, slot % kCasePageSize);
            for (int64_t d = 0; d < type.head_dim; ++d) at[d] = RoundTo(round_to, Uniform(stream, i++));
          }
        }
      }
    }
  }
  return cache;
}

}  // namespace

bool IsStepGraph(const ir::Graph& graph) {
  return IndexInput(graph, "positions", 1) != nullptr && IndexInput(graph, "row_start", 1) != nullptr &&
         IndexInput(graph, "kv_len", 1) != nullptr && IndexInput(graph, "block_table", 2) != nullptr;
}

std::vector<Case> MakeCases(const ir::Graph& graph, int count, uint64_t seed) {
  std::vector<Case> cases;
  for (int i = 0; i < count; ++i) {
    std::mt19937_64 random(Mix(seed + static_cast<uint64_t>(i)));
    Case setting;
    setting.seed = random();
    setting.positive = i % 3 == 1;
    for (const auto& [name, range] : graph.symbols()) {
      const auto above = static_cast<int64_t>(random() % 5);
      setting.symbols[name] = i % 3 == 2 ? range.min : Clamp(std::max<int64_t>(range.min, 1) + above, range);
    }
    if (IsStepGraph(graph)) MakeRagged(graph, i, random, &setting);
    cases.push_back(std::move(setting));
  }
  return cases;
}

absl::StatusOr<Values> RandomInputs(absl::Span<const ir::Graph* const> graphs, const Case& setting, int64_t index_limit,
                                    bool round_to_narrowest) {
  absl::flat_hash_map<std::string, DType> narrowest;
  for (const ir::Graph* graph : graphs) {
    for (const ir::Value* input : graph->inputs()) {
      const DType dtype = input->type().is_cache() ? input->type().cache().dtype : input->tensor().dtype;
      auto [it, inserted] = narrowest.emplace(input->name(), dtype);
      if (!inserted && Narrower(dtype, it->second)) it->second = dtype;
    }
  }
  Values values;
  for (const ir::Graph* graph : graphs) {
    for (const ir::Value* input : graph->inputs()) {
      const std::string& name = input->name();
      if (values.contains(name)) continue;
      if (auto role = setting.roles.find(name); role != setting.roles.end()) {
        values.emplace(name, role->second);
        continue;
      }
      const DType round_to = round_to_narrowest ? narrowest.at(name) : DType::kF32;
      const uint64_t stream = StreamOf(name, setting.seed);
      if (input->type().is_cache()) {
        values.emplace(name, RandomCache(input->type().cache(), round_to, stream, setting));
        continue;
      }
      FF_ASSIGN_OR_RETURN(Tensor tensor,
                          RandomTensor(input->tensor(), round_to, stream, setting, /*scale=*/1, index_limit));
      if (const auto coding = CodingInAny(graphs, name); round_to_narrowest && coding.has_value()) {
        MakeCodable(*coding, /*scale=*/1, stream, setting, &tensor);
      }
      // Positions rise by one along a sequence: fuse-attention may know that.
      if (name == "position_ids" && tensor.shape.size() == 2 && tensor.shape[1] <= index_limit) {
        for (size_t i = 0; i < tensor.ints.size(); ++i) tensor.ints[i] = static_cast<int64_t>(i) % tensor.shape[1];
      }
      values.emplace(name, std::move(tensor));
    }
  }
  return values;
}

Values InputsOf(const ir::Graph& graph, const Values& values) {
  Values inputs;
  for (const ir::Value* input : graph.inputs()) {
    auto it = values.find(input->name());
    if (it == values.end()) continue;
    interpreter::Value value = it->second;
    // Both graphs are given the same elements: each sees them as its own type.
    if (auto* cache = std::get_if<Cache>(&value); cache != nullptr && input->type().is_cache()) {
      cache->type = input->type().cache();
    }
    if (auto* tensor = std::get_if<Tensor>(&value); tensor != nullptr && input->type().is_tensor()) {
      if (IsFloat(tensor->dtype) == IsFloat(input->tensor().dtype)) tensor->dtype = input->tensor().dtype;
    }
    inputs.emplace(input->name(), std::move(value));
  }
  return inputs;
}

interpreter::WeightSource RandomWeightSource(std::vector<const ir::Graph*> graphs, const Case& setting,
                                             int64_t index_limit, bool round_to_narrowest) {
  return [graphs = std::move(graphs), setting, index_limit,
          round_to_narrowest](const std::string& name) -> absl::StatusOr<std::shared_ptr<const Tensor>> {
    const ir::TensorType* type = nullptr;
    DType round_to = DType::kF32;
    for (const ir::Graph* graph : graphs) {
      const ir::Value* weight = graph->FindWeight(name);
      if (weight == nullptr) continue;
      if (type == nullptr) type = &weight->tensor();
      if (round_to_narrowest && Narrower(weight->tensor().dtype, round_to)) round_to = weight->tensor().dtype;
    }
    if (type == nullptr) return absl::NotFoundError(absl::StrCat("no graph has weight ", name));
    double scale = 1;
    if (type->shape.size() >= 2) {
      FF_ASSIGN_OR_RETURN(const int64_t fan_in, type->shape.back().Evaluate(setting.symbols));
      scale = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(fan_in, 1)));
    }
    const uint64_t stream = StreamOf(name, setting.seed);
    FF_ASSIGN_OR_RETURN(Tensor tensor, RandomTensor(*type, round_to, stream, setting, scale, index_limit));
    if (const auto coding = CodingInAny(graphs, name); round_to_narrowest && coding.has_value()) {
      MakeCodable(*coding, scale, stream, setting, &tensor);
    }
    return std::make_shared<const Tensor>(std::move(tensor));
  };
}

}  // namespace flashflow::proof
