#include "compiler/interpreter/interpreter.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::interpreter {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 31;

absl::Status Annotate(std::string_view where, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

// Integers come in the declared dtype, floats in any; the values fit the dtype; the storage fits the shape.
absl::Status CheckTensor(const Tensor& tensor, DType declared) {
  const bool same_kind = IsFloat(declared) ? IsFloat(tensor.dtype) : tensor.dtype == declared;
  if (!same_kind) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected ", DTypeName(declared), ", got ", DTypeName(tensor.dtype)));
  }
  const int64_t stored = static_cast<int64_t>(IsFloat(declared) ? tensor.floats.size() : tensor.ints.size());
  if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t dim) { return dim < 0; }) ||
      stored != tensor.NumElements()) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", ShapeToString(tensor.shape), " does not hold ", stored, " elements"));
  }
  if (IsFloat(declared)) return absl::OkStatus();
  const int bits = declared == DType::kBool ? 1 : static_cast<int>(8 * DTypeBytes(declared));
  const int64_t max = declared == DType::kBool ? 1 : std::numeric_limits<int64_t>::max() >> (64 - bits);
  const int64_t min = declared == DType::kBool ? 0 : -max - 1;
  for (int64_t value : tensor.ints) {
    if (value < min || value > max) {
      return absl::InvalidArgumentError(absl::StrCat(value, " is no value of ", DTypeName(declared)));
    }
  }
  return absl::OkStatus();
}

class Interpreter {
 public:
  Interpreter(const ir::Graph& graph, const WeightSource& weights, Mode mode, const ResultHook& hook)
      : graph_(graph), weights_(weights), mode_(mode), hook_(hook) {}

  absl::StatusOr<Values> Run(Values inputs) {
    CountUses();
    FF_RETURN_IF_ERROR(TakeInputs(std::move(inputs)));
    for (const auto& node : graph_.nodes()) {
      if (absl::Status s = Execute(*node); !s.ok()) return Annotate(ir::Describe(graph_, *node), s);
    }
    Values outputs;
    for (const ir::Output& output : graph_.outputs()) {
      if (output.value->type().is_cache()) {
        outputs.emplace(output.name, std::move(caches_.at(output.value)));
        continue;
      }
      absl::StatusOr<const Tensor*> tensor = Get(output.value);
      if (!tensor.ok()) return Annotate(absl::StrCat("output \"", output.name, "\""), tensor.status());
      outputs.emplace(output.name, **tensor);
    }
    return outputs;
  }

 private:
  void CountUses() {
    for (const auto& node : graph_.nodes()) {
      for (const ir::Value* operand : node->operands()) ++uses_left_[operand];
    }
    for (const ir::Output& output : graph_.outputs()) ++uses_left_[output.value];
  }

  absl::Status TakeInputs(Values inputs) {
    for (const ir::Value* input : graph_.inputs()) {
      auto it = inputs.find(input->name());
      if (it == inputs.end())
        return absl::InvalidArgumentError(absl::StrCat("input \"", input->name(), "\" is missing"));
      if (absl::Status s = TakeInput(input, std::move(it->second)); !s.ok()) {
        return Annotate(absl::StrCat("input \"", input->name(), "\""), s);
      }
      inputs.erase(it);
    }
    if (!inputs.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("the graph has no input \"", inputs.begin()->first, "\""));
    }
    return CheckInputShapes();
  }

  absl::Status TakeInput(const ir::Value* input, Value value) {
    if (input->type().is_cache()) {
      Cache* cache = std::get_if<Cache>(&value);
      if (cache == nullptr) return absl::InvalidArgumentError("expected a cache, got a tensor");
      if (cache->type != input->type().cache()) {
        return absl::InvalidArgumentError(
            absl::StrCat("expected ", input->type().ToString(), ", got ", ir::Type(cache->type).ToString()));
      }
      caches_.emplace(input, std::move(*cache));
      return absl::OkStatus();
    }
    Tensor* tensor = std::get_if<Tensor>(&value);
    if (tensor == nullptr) return absl::InvalidArgumentError("expected a tensor, got a cache");
    FF_RETURN_IF_ERROR(CheckTensor(*tensor, input->tensor().dtype));
    FF_RETURN_IF_ERROR(BindSymbols(input->tensor().shape, tensor->shape));
    tensor->dtype = input->tensor().dtype;
    if (mode_ == Mode::kTyped) RoundToDType(tensor);
    tensors_.emplace(input, std::make_shared<const Tensor>(std::move(*tensor)));
    return absl::OkStatus();
  }

  // A dimension that is a symbol alone gives it its value.
  absl::Status BindSymbols(const Dims& declared, const Shape& shape) {
    if (declared.size() != shape.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected shape ", DimsToString(declared), ", got ", ShapeToString(shape)));
    }
    const SymbolRanges ranges = graph_.symbol_ranges();
    for (size_t i = 0; i < shape.size(); ++i) {
      const std::vector<std::string> names = declared[i].symbols();
      if (names.size() != 1 || declared[i] != DimExpr::Symbol(names[0])) continue;
      const SymbolRange range = ranges.at(names[0]);
      if (shape[i] < range.min || shape[i] > range.max) {
        return absl::InvalidArgumentError(absl::StrCat(names[0], " = ", shape[i], " in shape ", ShapeToString(shape),
                                                       " is outside [", range.min, ", ", range.max, "]"));
      }
      symbols_.try_emplace(names[0], shape[i]);
    }
    return absl::OkStatus();
  }

  absl::Status CheckInputShapes() const {
    for (const ir::Value* input : graph_.inputs()) {
      if (input->type().is_cache()) continue;
      if (absl::Status s = CheckShape(input->tensor().shape, tensors_.at(input)->shape); !s.ok()) {
        return Annotate(absl::StrCat("input \"", input->name(), "\""), s);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckShape(const Dims& declared, const Shape& shape) const {
    FF_ASSIGN_OR_RETURN(const Shape wanted, Evaluate(declared));
    if (wanted == shape) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("expected shape ", DimsToString(declared), " = ",
                                                   ShapeToString(wanted), ", got ", ShapeToString(shape)));
  }

  absl::StatusOr<Shape> Evaluate(const Dims& dims) const {
    Shape shape;
    int64_t elements = 1;
    for (const DimExpr& dim : dims) {
      FF_ASSIGN_OR_RETURN(const int64_t value, dim.Evaluate(symbols_));
      if (value < 0) return absl::OutOfRangeError(absl::StrCat("dimension ", dim.ToString(), " is ", value));
      if (__builtin_mul_overflow(elements, value, &elements) || elements > kMaxElements) {
        return absl::ResourceExhaustedError(absl::StrCat("shape ", DimsToString(dims), " has too many elements"));
      }
      shape.push_back(value);
    }
    return shape;
  }

  absl::Status Execute(const ir::Node& node) {
    Evaluation evaluation{.op = node.op(),
                          .mode = mode_,
                          .attrs = node.attrs(),
                          .symbols = symbols_,
                          .inputs = {},
                          .cache = nullptr,
                          .results = {}};
    for (const ir::Value* operand : node.operands()) {
      const Tensor* tensor = nullptr;
      if (operand != nullptr && operand->type().is_cache()) {
        evaluation.cache = &caches_.at(operand);
      } else if (operand != nullptr) {
        FF_ASSIGN_OR_RETURN(tensor, Get(operand));
      }
      evaluation.inputs.push_back(tensor);
    }
    for (const ir::Value* result : node.results()) {
      if (!result->type().is_tensor()) continue;
      FF_ASSIGN_OR_RETURN(Shape shape, Evaluate(result->tensor().shape));
      evaluation.results.push_back(Tensor::Zeros(result->tensor().dtype, std::move(shape)));
    }
    FF_RETURN_IF_ERROR(GetEval(node.op())(evaluation));
    size_t next = 0;
    for (const ir::Value* result : node.results()) {
      if (result->type().is_cache()) {
        auto cache = caches_.extract(node.operand(0));
        caches_.emplace(result, std::move(cache.mapped()));
        continue;
      }
      Tensor& tensor = evaluation.result(next++);
      // Integers have a width in both modes; only floats may stay unrounded.
      if (mode_ == Mode::kTyped || !IsFloat(tensor.dtype)) RoundToDType(&tensor);
      if (hook_) hook_(node, &tensor);
      tensors_.emplace(result, std::make_shared<const Tensor>(std::move(tensor)));
    }
    for (const ir::Value* operand : node.operands()) Release(operand);
    for (const ir::Value* result : node.results()) {
      if (uses_left_[result] == 0) tensors_.erase(result);
    }
    return absl::OkStatus();
  }

  // The tensor of a value that is computed, given or a weight. Valid until the value's last use is released.
  absl::StatusOr<const Tensor*> Get(const ir::Value* value) {
    if (auto it = tensors_.find(value); it != tensors_.end()) return it->second.get();
    absl::StatusOr<std::shared_ptr<const Tensor>> weight = LoadWeight(*value);
    if (!weight.ok()) return Annotate(absl::StrCat("weight \"", value->name(), "\""), weight.status());
    return tensors_.emplace(value, *std::move(weight)).first->second.get();
  }

  absl::StatusOr<std::shared_ptr<const Tensor>> LoadWeight(const ir::Value& value) const {
    FF_ASSIGN_OR_RETURN(std::shared_ptr<const Tensor> weight, weights_(value.name()));
    const DType declared = value.tensor().dtype;
    FF_RETURN_IF_ERROR(CheckTensor(*weight, declared));
    FF_RETURN_IF_ERROR(CheckShape(value.tensor().shape, weight->shape));
    if (!IsFloat(declared) || mode_ == Mode::kWide) return weight;
    auto rounded = std::make_shared<Tensor>(*weight);
    rounded->dtype = declared;
    RoundToDType(rounded.get());
    return rounded;
  }

  void Release(const ir::Value* operand) {
    if (operand != nullptr && --uses_left_[operand] == 0) tensors_.erase(operand);
  }

  const ir::Graph& graph_;
  const WeightSource& weights_;
  const Mode mode_;
  const ResultHook& hook_;
  SymbolValues symbols_;
  absl::flat_hash_map<const ir::Value*, int64_t> uses_left_;
  absl::flat_hash_map<const ir::Value*, std::shared_ptr<const Tensor>> tensors_;
  absl::flat_hash_map<const ir::Value*, Cache> caches_;
};

}  // namespace

WeightSource WeightsFrom(absl::flat_hash_map<std::string, Tensor> weights) {
  auto shared = std::make_shared<absl::flat_hash_map<std::string, std::shared_ptr<const Tensor>>>();
  for (auto& [name, tensor] : weights) shared->emplace(name, std::make_shared<const Tensor>(std::move(tensor)));
  return [shared](const std::string& name) -> absl::StatusOr<std::shared_ptr<const Tensor>> {
    auto it = shared->find(name);
    if (it == shared->end()) return absl::NotFoundError("there is none of that name");
    return it->second;
  };
}

absl::StatusOr<Values> Interpret(const ir::Graph& graph, Values inputs, const WeightSource& weights, Mode mode,
                                 const ResultHook& hook) {
  return Interpreter(graph, weights, mode, hook).Run(std::move(inputs));
}

}  // namespace flashflow::interpreter
