#include "compiler/proof/random_graph.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/op_table.h"
#include "compiler/ir/verifier.h"
#include "compiler/proof/random_case.h"

namespace flashflow::proof {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

constexpr int64_t kRows = 16;  // of tables: indices that are drawn below it fit
constexpr int64_t kMostElements = 4096;
constexpr int kAttempts = 60;  // for each node

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed), graph_(std::make_unique<Graph>(absl::StrCat("random_", seed))) {
    CHECK_OK(graph_->DeclareSymbol("B", {1, 4}));
    CHECK_OK(graph_->DeclareSymbol("S", {1, 6}));
    const DimExpr b = DimExpr::Symbol("B");
    const DimExpr s = DimExpr::Symbol("S");
    Input(DType::kF32, {b, s, 8});
    Input(DType::kF32, {b, 2, s, 4});
    Input(DType::kI64, {b, s});
    Input(DType::kI32, {s});
    Input(DType::kBool, {s, s});
    if (Below(2) == 0) Input(DType::kBF16, {b, s, 8});
    if (Below(2) == 0) Input(DType::kF32, {b * s, 8});
    if (Below(2) == 0) Input(DType::kF16, {8});
  }

  std::unique_ptr<Graph> Run(int nodes) {
    for (int i = 0; i < nodes; ++i) {
      if (Below(4) == 0) {
        Nothing();
      } else {
        for (int attempt = 0; attempt < kAttempts && !Guess(); ++attempt) {
        }
      }
    }
    const int outputs = 1 + static_cast<int>(Below(3));
    for (int i = 0; i < outputs; ++i) {
      // The last ones rest on most of the others.
      const size_t back = i == 0 ? 0 : Below(values_.size());
      graph_->AddOutput(absl::StrCat("y", i), values_[values_.size() - 1 - back]);
    }
    CHECK_OK(ir::Verify(*graph_));
    return std::move(graph_);
  }

 private:
  size_t Below(size_t n) { return static_cast<size_t>(random_() % n); }
  template <typename T>
  const T& OneOf(const std::vector<T>& list) {
    return list[Below(list.size())];
  }

  void Input(DType dtype, Dims shape) {
    values_.push_back(graph_->AddInput(absl::StrCat("x", values_.size()), ir::TensorType{dtype, std::move(shape)}));
  }

  // Values made late are likelier: graphs grow deep as well as wide.
  Value* Pick() { return values_[std::max(Below(values_.size()), Below(values_.size()))]; }

  // A weight that may go with x: a vector of its channels, a matrix from or to them, or a table.
  Value* Weight(const Value* x) {
    const Dims& shape = x->tensor().shape;
    const DimExpr channels = shape.empty() || !shape.back().IsConstant() ? DimExpr(8) : shape.back();
    const DimExpr other = OneOf<DimExpr>({4, 8, 12, 16});
    const Dims chosen = OneOf<Dims>({{channels}, {other, channels}, {channels, other}, {kRows, channels}, {other}});
    const DType dtype = Below(4) == 0 ? OneOf<DType>({DType::kBF16, DType::kF16}) : DType::kF32;
    Value* weight = graph_->AddWeight(absl::StrCat("w", weights_++), {dtype, chosen});
    return weight;
  }

  // Keeps the node if both cases can be evaluated, else takes it back.
  Value* Keep(absl::StatusOr<Node*> node) {
    if (!node.ok()) return nullptr;
    bool fits = true;
    for (const Value* result : (*node)->results()) fits &= result->type().is_tensor() && Evaluates(result);
    if (!fits) {
      graph_->Erase(*node);
      return nullptr;
    }
    values_.insert(values_.end(), (*node)->results().begin(), (*node)->results().end());
    return (*node)->result();
  }

  // Whether the interpreter takes the graph so far, and the value is small.
  bool Evaluates(const Value* value) {
    const DimExpr elements = NumElements(value->tensor().shape);
    const auto bounds = elements.Bounds(graph_->symbol_ranges());
    if (!bounds.ok() || bounds->max > kMostElements) return false;
    for (const Case& setting : MakeCases(*graph_, 3, /*seed=*/1)) {
      const Graph* const graphs[] = {graph_.get()};
      const auto inputs = RandomInputs(graphs, setting, kRows, /*round_to_narrowest=*/false);
      if (!inputs.ok()) return false;
      const auto weights = RandomWeightSource({graph_.get()}, setting, kRows, /*round_to_narrowest=*/false);
      if (!Interpret(*graph_, *inputs, weights, interpreter::Mode::kTyped).ok()) return false;
    }
    return true;
  }

  Value* Add(Op op, std::vector<Value*> operands, AttrMap attrs = {}) {
    return Keep(graph_->AddNode(op, std::move(operands), std::move(attrs), absl::StrCat("line ", ++lines_)));
  }

  bool Guess() {
    const ir::OpDef& def = ir::OpTable()[Below(ir::OpTable().size())];
    if (def.effect != ir::Effect::kPure) return false;
    std::vector<Value*> operands;
    const size_t weights = graph_->weights().size();
    for (const ir::OperandDef& operand : def.operands) {
      if (operand.kind == ir::OperandKind::kOptional && Below(2) == 0) {
        operands.push_back(nullptr);
        continue;
      }
      const size_t count = operand.kind == ir::OperandKind::kVariadic ? 1 + Below(3) : 1;
      for (size_t i = 0; i < count; ++i) operands.push_back(Operand(operands));
    }
    const Value* first = operands.empty() ? values_[0] : operands[0];
    AttrMap attrs;
    for (const ir::AttrDef& attr : def.attrs) {
      if (attr.default_value.has_value() && Below(2) == 0) continue;
      attrs[std::string(attr.name)] = Guess(attr, first);
    }
    const bool kept = Add(def.op, std::move(operands), std::move(attrs)) != nullptr;
    while (!kept && graph_->weights().size() > weights) graph_->EraseWeight(graph_->weights().back());
    return kept;
  }

  // After the first: often the same again, one of its shape, or a weight for it.
  Value* Operand(const std::vector<Value*>& before) {
    if (before.empty() || before[0] == nullptr) return Pick();
    switch (Below(4)) {
      case 0:
        return Pick();
      case 1:
        return Weight(before[0]);
      default: {
        std::vector<Value*> alike;
        for (Value* value : values_) {
          if (value->type() == before[0]->type()) alike.push_back(value);
        }
        return alike.empty() ? before[0] : OneOf(alike);
      }
    }
  }

  Attr Guess(const ir::AttrDef& attr, const Value* x) {
    const Dims& shape = x->tensor().shape;
    const size_t rank = std::max<size_t>(shape.size(), 1);
    switch (attr.kind) {
      case AttrKind::kInt:
        return static_cast<int64_t>(Below(rank + 1));
      case AttrKind::kFloat:
        return OneOf<double>({0, 1, -1, 0.5, 2, 3, 1e-5, 1e-2});
      case AttrKind::kBool:
        return Below(2) == 0;
      case AttrKind::kString:
        return OneOf<std::string>({"none", "tanh", "gelu", "gelu_tanh", "silu", "relu", "layer_norm", "rms_norm"});
      case AttrKind::kInts: {
        std::vector<int64_t> axes(shape.size());
        std::iota(axes.begin(), axes.end(), 0);
        std::shuffle(axes.begin(), axes.end(), random_);
        if (Below(2) == 0) axes.resize(Below(axes.size() + 1));
        return axes;
      }
      case AttrKind::kDType:
        return OneOf<DType>({std::begin(kAllDTypes), std::end(kAllDTypes)});
      case AttrKind::kDim:
        return shape.empty() || Below(2) == 0 ? OneOf<DimExpr>({0, 1, 2, 4}) : OneOf(shape);
      case AttrKind::kDims:
        return Reshaped(shape);
    }
    return false;
  }

  // The shape, or one of as many elements, or one that it broadcasts to.
  Dims Reshaped(Dims shape) {
    const size_t axis = Below(shape.size() + 1);
    switch (Below(6)) {
      case 0:
        shape.insert(shape.begin() + static_cast<int64_t>(axis), 1);
        break;
      case 1:
        shape.insert(shape.begin(), OneOf<DimExpr>({2, DimExpr::Symbol("B")}));
        break;
      case 2:
        if (axis + 1 < shape.size()) {
          shape[axis] = shape[axis] * shape[axis + 1];
          shape.erase(shape.begin() + static_cast<int64_t>(axis) + 1);
        }
        break;
      case 3:
        if (axis < shape.size()) {
          if (const auto half = shape[axis].DividedBy(2); half.has_value()) {
            shape[axis] = *half;
            shape.insert(shape.begin() + static_cast<int64_t>(axis), 2);
          }
        }
        break;
      case 4:
        for (DimExpr& dim : shape) {
          if (dim == DimExpr(1)) dim = 3;
        }
        break;
      default:
        break;
    }
    return shape;
  }

  // Something that leaves a value as it is.
  void Nothing() {
    Value* x = Pick();
    const ir::TensorType type = x->tensor();
    switch (Below(7)) {
      case 0:
        if (Value* y = Add(Op::kNeg, {x}); y != nullptr) Add(Op::kNeg, {y});
        break;
      case 1:
        Add(Op::kReshape, {x}, {{"shape", type.shape}});
        break;
      case 2:
        Add(Op::kCast, {x}, {{"dtype", type.dtype}});
        break;
      case 3:
      case 4: {
        const bool sum = Below(2) == 0;
        Value* neutral = Add(Op::kConstant, {}, {{"value", sum ? 0.0 : 1.0}, {"dtype", type.dtype}});
        if (neutral != nullptr) Add(sum ? Op::kAdd : Op::kMul, {x, neutral});
        break;
      }
      case 5: {
        std::vector<int64_t> perm(type.shape.size());
        std::iota(perm.rbegin(), perm.rend(), 0);
        if (Value* y = Add(Op::kTranspose, {x}, {{"perm", perm}}); y != nullptr) {
          Add(Op::kTranspose, {y}, {{"perm", perm}});
        }
        break;
      }
      default:
        if (Value* flat = Add(Op::kReshape, {x}, {{"shape", Dims{NumElements(type.shape)}}}); flat != nullptr) {
          Add(Op::kReshape, {flat}, {{"shape", type.shape}});
        }
        break;
    }
  }

  std::mt19937_64 random_;
  std::unique_ptr<Graph> graph_;
  std::vector<Value*> values_;
  int weights_ = 0;
  int lines_ = 0;
};

}  // namespace

std::unique_ptr<Graph> RandomGraph(uint64_t seed, int nodes) { return Generator(seed).Run(nodes); }

}  // namespace flashflow::proof
