#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"
#include "compiler/plan/plan.h"
#include "nlohmann/json.hpp"

namespace flashflow::plan {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxJsonBytes = size_t{16} << 20;
constexpr int kMaxDepth = 8;  // a plan's own nesting is 6
constexpr std::string_view kStorageNames[] = {"input", "weight", "arena", "output"};

// --- writing ---

ordered_json DimJson(const DimExpr& dim) {
  if (const std::optional<int64_t> constant = dim.constant(); constant.has_value()) return *constant;
  return dim.ToString();
}

ordered_json DimsJson(const Dims& dims) {
  ordered_json list = ordered_json::array();
  for (const DimExpr& dim : dims) list.push_back(DimJson(dim));
  return list;
}

struct AttrWriter {
  ordered_json operator()(int64_t value) const { return value; }
  ordered_json operator()(double value) const {
    if (std::isfinite(value)) return value;
    return {{"float", AttrToString(value)}};
  }
  ordered_json operator()(bool value) const { return value; }
  ordered_json operator()(const std::string& value) const { return value; }
  ordered_json operator()(const std::vector<int64_t>& value) const { return value; }
  ordered_json operator()(DType value) const { return {{"dtype", DTypeName(value)}}; }
  ordered_json operator()(const DimExpr& value) const { return {{"dim", DimJson(value)}}; }
  ordered_json operator()(const Dims& value) const { return {{"dims", DimsJson(value)}}; }
};

ordered_json AttrsJson(const AttrMap& attrs) {
  ordered_json object = ordered_json::object();
  for (const auto& [name, attr] : attrs) object[name] = std::visit(AttrWriter{}, attr);
  return object;
}

ordered_json PlanJson(const Plan& plan) {
  ordered_json symbols = ordered_json::array();
  for (const auto& [name, range] : plan.symbols) {
    symbols.push_back({{"name", name}, {"min", range.min}, {"max", range.max}});
  }
  ordered_json tensors = ordered_json::array();
  for (const Tensor& t : plan.tensors) {
    tensors.push_back({{"name", t.name},
                       {"dtype", DTypeName(t.dtype)},
                       {"shape", DimsJson(t.shape)},
                       {"storage", kStorageNames[static_cast<size_t>(t.storage)]},
                       {"index", t.index},
                       {"alias_of", t.alias_of},
                       {"in_place_of", t.in_place_of}});
  }
  ordered_json weights = ordered_json::array();
  for (const Weight& w : plan.weights) {
    weights.push_back({{"sources", w.sources},
                       {"dtype", DTypeName(w.dtype)},
                       {"shape", w.shape},
                       {"layout", w.layout},
                       {"transposed", w.transposed}});
  }
  ordered_json steps = ordered_json::array();
  for (const Step& s : plan.steps) {
    ordered_json tactics = ordered_json::array();
    for (const KernelRef& tactic : s.tactics) tactics.push_back({{"id", tactic.id}, {"version", tactic.version}});
    steps.push_back({{"op", s.op},
                     {"tactics", tactics},
                     {"inputs", s.inputs},
                     {"outputs", s.outputs},
                     {"attrs", AttrsJson(s.attrs)},
                     {"uses_cache", s.uses_cache},
                     {"workspace", s.workspace},
                     {"loc", s.loc}});
  }
  ordered_json buckets = ordered_json::array();
  for (const Bucket& b : plan.buckets) {
    buckets.push_back({{"max_tokens", b.max_tokens}, {"arena_bytes", b.arena_bytes}, {"offsets", b.offsets}});
  }
  return {{"version", plan.version},
          {"device_key", plan.device_key},
          {"graph_sha256", plan.graph_sha256},
          {"symbols", symbols},
          {"limits",
           {{"context_length", plan.limits.context_length},
            {"max_tokens", plan.limits.max_tokens},
            {"max_rows", plan.limits.max_rows},
            {"max_logit_rows", plan.limits.max_logit_rows}}},
          {"cache",
           {{"layers", plan.cache.layers},
            {"kv_heads", plan.cache.kv_heads},
            {"head_dim", plan.cache.head_dim},
            {"page_size", plan.cache.page_size},
            {"dtype", DTypeName(plan.cache.dtype)}}},
          {"tensors", tensors},
          {"inputs", plan.inputs},
          {"outputs", plan.outputs},
          {"weights", weights},
          {"steps", steps},
          {"buckets", buckets}};
}

// --- reading ---

// Fills C++ values from JSON. The first error is kept, with the path of keys and indices that led to it; after that
// every read is a no-op.
class Reader {
 public:
  const absl::Status& status() const { return status_; }

  void Read(const json& value, Plan* plan) {
    // The version comes first: another version's keys are none of our business.
    if (!value.is_object()) return Fail("an object", value);
    Member(value, "version", &plan->version);
    if (status_.ok() && plan->version != kPlanVersion) {
      return FailWith(absl::StrCat("version ", kPlanVersion, ", as this build reads; compile the model again"),
                      absl::StrCat(plan->version));
    }
    if (!Object(value, {"version", "device_key", "graph_sha256", "symbols", "limits", "cache", "tensors", "inputs",
                        "outputs", "weights", "steps", "buckets"})) {
      return;
    }
    Member(value, "device_key", &plan->device_key);
    Member(value, "graph_sha256", &plan->graph_sha256);
    Member(value, "symbols", &plan->symbols);
    Member(value, "limits", &plan->limits);
    Member(value, "cache", &plan->cache);
    Member(value, "tensors", &plan->tensors);
    Member(value, "inputs", &plan->inputs);
    Member(value, "outputs", &plan->outputs);
    Member(value, "weights", &plan->weights);
    Member(value, "steps", &plan->steps);
    Member(value, "buckets", &plan->buckets);
  }

 private:
  void Read(const json& value, std::pair<std::string, SymbolRange>* symbol) {
    if (!Object(value, {"name", "min", "max"})) return;
    Member(value, "name", &symbol->first);
    Member(value, "min", &symbol->second.min);
    Member(value, "max", &symbol->second.max);
  }

  void Read(const json& value, Limits* limits) {
    if (!Object(value, {"context_length", "max_tokens", "max_rows", "max_logit_rows"})) return;
    Member(value, "context_length", &limits->context_length);
    Member(value, "max_tokens", &limits->max_tokens);
    Member(value, "max_rows", &limits->max_rows);
    Member(value, "max_logit_rows", &limits->max_logit_rows);
  }

  void Read(const json& value, CacheSpec* cache) {
    if (!Object(value, {"layers", "kv_heads", "head_dim", "page_size", "dtype"})) return;
    Member(value, "layers", &cache->layers);
    Member(value, "kv_heads", &cache->kv_heads);
    Member(value, "head_dim", &cache->head_dim);
    Member(value, "page_size", &cache->page_size);
    Member(value, "dtype", &cache->dtype);
  }

  void Read(const json& value, Tensor* tensor) {
    if (!Object(value, {"name", "dtype", "shape", "storage", "index", "alias_of", "in_place_of"})) return;
    Member(value, "name", &tensor->name);
    Member(value, "dtype", &tensor->dtype);
    Member(value, "shape", &tensor->shape);
    Member(value, "storage", &tensor->storage);
    Member(value, "index", &tensor->index);
    Member(value, "alias_of", &tensor->alias_of);
    Member(value, "in_place_of", &tensor->in_place_of);
  }

  void Read(const json& value, Weight* weight) {
    if (!Object(value, {"sources", "dtype", "shape", "layout", "transposed"})) return;
    Member(value, "sources", &weight->sources);
    Member(value, "dtype", &weight->dtype);
    Member(value, "shape", &weight->shape);
    Member(value, "layout", &weight->layout);
    Member(value, "transposed", &weight->transposed);
  }

  void Read(const json& value, KernelRef* kernel) {
    if (!Object(value, {"id", "version"})) return;
    Member(value, "id", &kernel->id);
    Member(value, "version", &kernel->version);
  }

  void Read(const json& value, Step* step) {
    if (!Object(value, {"op", "tactics", "inputs", "outputs", "attrs", "uses_cache", "workspace", "loc"})) return;
    Member(value, "op", &step->op);
    Member(value, "tactics", &step->tactics);
    Member(value, "inputs", &step->inputs);
    Member(value, "outputs", &step->outputs);
    Member(value, "attrs", &step->attrs);
    Member(value, "uses_cache", &step->uses_cache);
    Member(value, "workspace", &step->workspace);
    Member(value, "loc", &step->loc);
  }

  void Read(const json& value, Bucket* bucket) {
    if (!Object(value, {"max_tokens", "arena_bytes", "offsets"})) return;
    Member(value, "max_tokens", &bucket->max_tokens);
    Member(value, "arena_bytes", &bucket->arena_bytes);
    Member(value, "offsets", &bucket->offsets);
  }

  void Read(const json& value, AttrMap* attrs) {
    if (!value.is_object()) return Fail("an object", value);
    for (auto it = value.begin(); it != value.end() && status_.ok(); ++it) {
      path_.push_back({it.key().c_str(), 0});
      Read(it.value(), &(*attrs)[it.key()]);
      path_.pop_back();
    }
  }

  void Read(const json& value, Attr* attr) {
    if (value.is_boolean()) return ReadAs<bool>(value, attr);
    if (value.is_number_integer()) return ReadAs<int64_t>(value, attr);
    if (value.is_number_float()) return ReadAs<double>(value, attr);
    if (value.is_string()) return ReadAs<std::string>(value, attr);
    if (value.is_array()) return ReadAs<std::vector<int64_t>>(value, attr);
    if (value.is_object() && value.size() == 1) {
      const std::string& kind = value.begin().key();
      const json& inner = value.begin().value();
      if (kind == "dtype") return ReadAs<DType>(inner, attr);
      if (kind == "dim") return ReadAs<DimExpr>(inner, attr);
      if (kind == "dims") return ReadAs<Dims>(inner, attr);
      if (kind == "float") return ReadNonFinite(inner, attr);
    }
    Fail("an attribute: a number, bool, string, list of integers or {\"dtype\" | \"dim\" | \"dims\" | \"float\": ...}",
         value);
  }

  template <typename T>
  void ReadAs(const json& value, Attr* attr) {
    T result{};
    Read(value, &result);
    *attr = std::move(result);
  }

  void ReadNonFinite(const json& value, Attr* attr) {
    for (double number : {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                          std::numeric_limits<double>::quiet_NaN()}) {
      if (value == AttrToString(number)) {
        *attr = number;
        return;
      }
    }
    Fail("\"inf\", \"-inf\" or \"nan\"", value);
  }

  void Read(const json& value, int64_t* out) {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || *value.get_ptr<const json::number_unsigned_t*>() <=
                                                          static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    if (!fits) return Fail("an integer that fits 64 bits", value);
    *out = value.get<int64_t>();
  }

  void Read(const json& value, int32_t* out) {
    int64_t wide = 0;
    Read(value, &wide);
    if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
      return Fail("an integer that fits 32 bits", value);
    }
    *out = static_cast<int32_t>(wide);
  }

  void Read(const json& value, double* out) {
    if (!value.is_number_float()) return Fail("a float", value);
    *out = value.get<double>();
  }

  void Read(const json& value, bool* out) {
    if (!value.is_boolean()) return Fail("true or false", value);
    *out = value.get<bool>();
  }

  void Read(const json& value, std::string* out) {
    if (!value.is_string()) return Fail("a string", value);
    *out = *value.get_ptr<const std::string*>();
  }

  void Read(const json& value, DType* out) {
    std::string name;
    Read(value, &name);
    const std::optional<DType> dtype = ParseDType(name);
    if (!dtype.has_value()) return Fail("a dtype", value);
    *out = *dtype;
  }

  void Read(const json& value, Storage* out) {
    std::string name;
    Read(value, &name);
    const auto it = std::find(std::begin(kStorageNames), std::end(kStorageNames), name);
    if (it == std::end(kStorageNames)) return Fail("input, weight, arena or output", value);
    *out = static_cast<Storage>(it - std::begin(kStorageNames));
  }

  void Read(const json& value, DimExpr* out) {
    if (value.is_number_integer()) {
      int64_t constant = 0;
      Read(value, &constant);
      *out = constant;
      return;
    }
    std::string text;
    Read(value, &text);
    if (!status_.ok()) return;
    absl::StatusOr<DimExpr> dim = DimExpr::Parse(text);
    if (!dim.ok()) return Fail(dim.status().message(), value);
    *out = *std::move(dim);
  }

  template <typename T>
  void Read(const json& value, std::vector<T>* out) {
    if (!value.is_array()) return Fail("a list", value);
    for (size_t i = 0; i < value.size() && status_.ok(); ++i) {
      path_.push_back({nullptr, i});
      Read(value[i], &out->emplace_back());
      path_.pop_back();
    }
  }

  // Whether the value is an object with no other keys than these.
  bool Object(const json& value, std::initializer_list<std::string_view> keys) {
    if (!value.is_object()) Fail("an object", value);
    for (auto it = value.begin(); status_.ok() && it != value.end(); ++it) {
      if (std::find(keys.begin(), keys.end(), it.key()) == keys.end()) {
        Fail(absl::StrCat("no keys but ", absl::StrJoin(keys, ", ")), json(it.key()));
      }
    }
    return status_.ok();
  }

  template <typename T>
  void Member(const json& object, const char* key, T* out) {
    if (!status_.ok()) return;
    path_.push_back({key, 0});
    if (auto it = object.find(key); it != object.end()) {
      Read(*it, out);
    } else {
      FailWith("this key", "nothing");
    }
    path_.pop_back();
  }

  void Fail(std::string_view wanted, const json& got) {
    std::string text = got.is_structured() ? got.type_name() : got.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > 80) text = absl::StrCat(text.substr(0, 80), "...");
    FailWith(wanted, text);
  }

  void FailWith(std::string_view wanted, std::string_view got) {
    if (!status_.ok()) return;
    std::string where;
    for (const PathStep& step : path_) {
      if (step.key == nullptr) {
        absl::StrAppend(&where, "[", step.index, "]");
      } else {
        absl::StrAppend(&where, where.empty() ? "" : ".", step.key);
      }
    }
    status_ = absl::InvalidArgumentError(
        absl::StrCat("plan: ", where.empty() ? "" : absl::StrCat(where, ": "), "expected ", wanted, ", got ", got));
  }

  struct PathStep {
    const char* key;  // nullptr: an index
    size_t index;
  };

  absl::Status status_;
  std::vector<PathStep> path_;
};

}  // namespace

std::string ToJson(const Plan& plan) {
  // Names that are no UTF-8 cannot be JSON: their odd bytes become U+FFFD.
  return PlanJson(plan).dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Plan> FromJson(std::string_view text) {
  if (text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: expected at most ", kMaxJsonBytes, " bytes, got ", text.size()));
  }
  bool too_deep = false;
  auto bound_depth = [&too_deep](int depth, json::parse_event_t, json&) {
    too_deep |= depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  const json value = json::parse(text, bound_depth, /*allow_exceptions=*/false);
  if (too_deep) return absl::InvalidArgumentError("plan: the JSON is nested too deeply");
  if (value.is_discarded()) return absl::InvalidArgumentError("plan: the text is not JSON");
  Plan plan;
  Reader reader;
  reader.Read(value, &plan);
  if (!reader.status().ok()) return reader.status();
  FF_RETURN_IF_ERROR(Validate(plan));
  return plan;
}

}  // namespace flashflow::plan
