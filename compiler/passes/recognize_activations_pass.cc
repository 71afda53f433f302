#include "compiler/passes/recognize_activations_pass.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "compiler/ir/status_macros.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;
using Rewrite = absl::StatusOr<Value*>;

// Whether a constant, rounded to f32 perhaps, is this number.
bool Is(double constant, double number) { return std::abs(constant - number) <= 0x1p-23 * std::abs(number); }

// coefficient * the product of the factors.
struct Product {
  double coefficient = 1;
  std::vector<const Value*> factors;
};

constexpr size_t kMostFactors = 8;

// Takes a tree of products apart, down to `whole`, which stays one factor. False if it has too many factors.
bool Flatten(const Value* value, const Value* whole, Product* product) {
  if (product->factors.size() > kMostFactors) return false;
  const Node* def = value == whole ? nullptr : value->def();
  if (def == nullptr) {
    product->factors.push_back(value);
    return true;
  }
  switch (def->op()) {
    case Op::kConstant:
      product->coefficient *= def->attr<double>("value");
      return true;
    case Op::kNeg:
      product->coefficient *= -1;
      return Flatten(def->operand(0), whole, product);
    case Op::kMul:
      return Flatten(def->operand(0), whole, product) && Flatten(def->operand(1), whole, product);
    case Op::kDiv:
      if (const auto divisor = ConstantValue(def->operand(1)); divisor.has_value()) {
        product->coefficient /= *divisor;
        return Flatten(def->operand(0), whole, product);
      }
      break;
    case Op::kPow:
      if (const auto exponent = ConstantValue(def->operand(1)); exponent == 2 || exponent == 3) {
        for (int i = 0; i < static_cast<int>(*exponent); ++i) {
          if (!Flatten(def->operand(0), whole, product)) return false;
        }
        return true;
      }
      break;
    default:
      break;
  }
  product->factors.push_back(value);
  return true;
}

// Whether value = coefficient * x^power.
bool IsPower(const Value* value, double coefficient, const Value* x, size_t power) {
  Product product;
  if (!Flatten(value, x, &product) || product.factors.size() != power) return false;
  return Is(product.coefficient, coefficient) && std::ranges::all_of(product.factors, [x](auto* f) { return f == x; });
}

// The other operand of a sum with this number.
Value* PlusNumber(const Value* value, double number) {
  const Node* add = DefinedBy(value, Op::kAdd);
  if (add == nullptr) return nullptr;
  if (IsConstant(add->operand(0), number)) return add->operand(1);
  return IsConstant(add->operand(1), number) ? add->operand(0) : nullptr;
}

Rewrite Silu(Graph* graph, Node* node, PassContext*) {
  if (node->op() == Op::kMul) {
    for (int i : {0, 1}) {
      Value* x = node->operand(i);
      const Node* gate = DefinedBy(node->operand(1 - i), Op::kSigmoid);
      if (gate != nullptr && gate->operand(0) == x) return AddBefore(graph, node, Op::kSilu, {x});
    }
  }
  if (node->op() == Op::kDiv) {
    Value* x = node->operand(0);
    const Node* exp = DefinedBy(PlusNumber(node->operand(1), 1), Op::kExp);
    const Node* neg = exp == nullptr ? nullptr : DefinedBy(exp->operand(0), Op::kNeg);
    if (neg != nullptr && neg->operand(0) == x) return AddBefore(graph, node, Op::kSilu, {x});
  }
  return nullptr;
}

// What stands under erf or tanh.
struct Gate {
  Op op = Op::kErf;
  const Value* inner = nullptr;
  Value* x = nullptr;  // which the gate is of, if it is one of GELU's
};

// The x of erf(x / sqrt(2)): the factor that is no constant.
Value* UnderErf(const Value* inner) {
  const Node* def = inner->def();
  if (def == nullptr || (def->op() != Op::kMul && def->op() != Op::kDiv)) return nullptr;
  for (int i : {0, 1}) {
    if (ConstantValue(def->operand(1 - i)).has_value() && IsPower(inner, std::numbers::sqrt2 / 2, def->operand(i), 1)) {
      return def->operand(i);
    }
  }
  return nullptr;
}

// The x of tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)).
Value* UnderTanh(const Value* inner) {
  Product product;
  if (!Flatten(inner, nullptr, &product) || product.factors.size() != 1) return nullptr;
  if (!Is(product.coefficient, std::sqrt(2 * std::numbers::inv_pi))) return nullptr;
  const Node* add = DefinedBy(product.factors[0], Op::kAdd);
  if (add == nullptr) return nullptr;
  for (int i : {0, 1}) {
    if (IsPower(add->operand(1 - i), 0.044715, add->operand(i), 3)) return add->operand(i);
  }
  return nullptr;
}

// 1 + erf(...) or 1 + tanh(...) among the factors of a product.
const Value* FindGate(const Product& product, Gate* gate) {
  for (const Value* factor : product.factors) {
    const Value* curve = PlusNumber(factor, 1);
    const Node* def = curve == nullptr ? nullptr : curve->def();
    if (def == nullptr || (def->op() != Op::kErf && def->op() != Op::kTanh)) continue;
    gate->op = def->op();
    gate->inner = def->operand(0);
    gate->x = def->op() == Op::kErf ? UnderErf(gate->inner) : UnderTanh(gate->inner);
    return factor;
  }
  return nullptr;
}

Rewrite Gelu(Graph* graph, Node* node, PassContext* context) {
  if (node->op() != Op::kMul && node->op() != Op::kDiv) return nullptr;
  Product any;
  Gate gate;
  if (!Flatten(node->result(), nullptr, &any)) return nullptr;
  const Value* factor = FindGate(any, &gate);
  if (factor == nullptr) return nullptr;
  Product product;
  if (gate.x != nullptr && !Flatten(node->result(), gate.x, &product)) return nullptr;
  if (gate.x == nullptr) {
    if (any.factors.size() == 2 && Is(any.coefficient, 0.5)) {
      context->Refuse(*graph, node,
                      gate.op == Op::kErf ? "it is no GELU: under erf is not x / sqrt(2)"
                                          : "it is no GELU: under tanh is not sqrt(2 / pi) * (x + 0.044715 * x^3)");
    }
    return nullptr;
  }
  if (product.factors.size() != 2 || !Is(product.coefficient, 0.5)) return nullptr;
  const Value* other = product.factors[0] == factor ? product.factors[1] : product.factors[0];
  if (other != gate.x || gate.x->type() != node->result()->type()) return nullptr;
  return AddBefore(graph, node, Op::kGelu, {gate.x},
                   {{"approximate", std::string(gate.op == Op::kErf ? "none" : "tanh")}});
}

constexpr RewriteRule kRules[] = {Silu, Gelu};

}  // namespace

absl::StatusOr<bool> RecognizeActivationsPass::Run(Graph* graph, PassContext* context) const {
  return ApplyRules(graph, kRules, context);  // ends: every rule leaves one product or quotient less
}

}  // namespace flashflow::passes
