#include "compiler/passes/fuse_attention_pass.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/index_form.h"
#include "compiler/passes/rewrite.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

constexpr int64_t kScoreRank = 4;  // [batch, heads, queries, keys]

const Dims& Shape(const Value* value) { return value->tensor().shape; }
const std::vector<int64_t>& Perm(const Node* node) { return node->attr<std::vector<int64_t>>("perm"); }

// What the op's attributes say of who sees whom.
struct Visibility {
  bool causal = false;
  int64_t window = 0;  // 0: none
};

// Attention as the pass found it. Reasons against it are texts; empty: none.
struct Attention {
  Value* q = nullptr;
  Value* keys = nullptr;  // [B, H, Skv, D], or [B, H, D, Skv] if transposed
  bool keys_transposed = false;
  Value* v = nullptr;
  double scale = 1;
  std::vector<Condition> masks;  // over the scores
  bool causal = false;           // as an attribute says
  int64_t window = 0;
};

// The narrowest visibility under the masks; a reason if they say something else. `ahead` = keys - queries: the key at
// query i's own position is i + ahead.
std::string ReadMasks(const Attention& attention, const DimExpr& ahead, Visibility* result) {
  *result = {.causal = attention.causal, .window = attention.window};
  // A query before all keys would see none, and softmax over penalties alone is not zeros.
  if (!attention.masks.empty() && ahead.constant().value_or(-1) < 0) return "there may be fewer keys than queries";
  for (const Condition& mask : attention.masks) {
    if (mask.never) return "its mask hides every key";
    for (const IndexForm& term : mask.terms) {
      const int64_t query_step = term.steps[2];
      const int64_t key_step = term.steps[3];
      if (term.bases != 0 || term.steps[0] != 0 || term.steps[1] != 0) {
        return "its mask is not causal: it is not the same for all sequences and heads";
      }
      if (query_step == 1 && key_step == -1) {  // key <= query + constant
        if (term.constant != ahead) {
          return absl::StrCat("its mask is not causal: query i sees keys up to i + ", term.constant.ToString(),
                              ", expected i + ", ahead.ToString());
        }
        result->causal = true;
      } else if (query_step == -1 && key_step == 1) {  // key >= query - constant
        const std::optional<int64_t> window = (term.constant + ahead + 1).constant();
        if (!window.has_value() || *window < 1) return "its window is no constant of 1 or more";
        result->window = result->window == 0 ? *window : std::min(result->window, *window);
      } else {
        return "its mask is not causal: it does not compare the keys' places with the queries'";
      }
    }
  }
  if (result->window > 0 && !result->causal) return "its mask is a window, but not causal";
  return "";
}

// Keys or values before their heads were repeated: x of reshape(expand(reshape(x))).
struct Repeated {
  Value* grouped = nullptr;  // [B, Hkv, 1, S, D]
  Dims shape;                // [B, Hkv, S, D]
};

std::optional<Repeated> FindRepeat(const Value* value) {
  const Node* join = DefinedBy(value, Op::kReshape);
  const Node* expand = join == nullptr ? nullptr : DefinedBy(join->operand(0), Op::kExpand);
  if (expand == nullptr) return std::nullopt;
  const Dims& from = Shape(expand->operand(0));
  const Dims& to = Shape(expand->result());
  if (from.size() != 5 || to.size() != 5 || from[2] != DimExpr(1)) return std::nullopt;
  if (Dims{to[0], to[1] * to[2], to[3], to[4]} != Shape(value)) return std::nullopt;
  Dims grouped = to;
  grouped[2] = 1;
  if (from != grouped) return std::nullopt;
  return Repeated{expand->operand(0), {from[0], from[1], from[3], from[4]}};
}

class Finder {
 public:
  Finder(const IndexForms& forms, Node* root) : forms_(forms), root_(root) {}

  // Fills `attention` if the root ends an attention. nullopt: it does not; else the reason against it, or "".
  std::optional<std::string> Find(Attention* attention) {
    found_ = attention;
    return root_->op() == Op::kAttention ? FromOp() : FromProduct();
  }

 private:
  std::optional<std::string> FromOp() {
    found_->q = root_->operand(0);
    found_->keys = root_->operand(1);
    found_->v = root_->operand(2);
    found_->scale = root_->attr<double>("scale");
    found_->causal = root_->attr<bool>("causal");
    found_->window = root_->attr<int64_t>("window");
    const bool masked = root_->num_operands() > 3;
    if (!masked && !FindRepeat(found_->keys).has_value()) return std::nullopt;  // nothing to gain
    if (!masked) return "";
    const Value* mask = root_->operand(3);
    const Condition* seen = mask->tensor().dtype == DType::kBool ? forms_.Predicate(mask) : forms_.Unmasked(mask);
    if (seen == nullptr) return NotUnderstood();
    found_->masks.push_back(Broadcast(*seen, kScoreRank));
    return "";
  }

  static std::string NotUnderstood() { return "its mask is not causal: it is no condition on places alone"; }

  // matmul(softmax(scores), v)
  std::optional<std::string> FromProduct() {
    if (root_->op() != Op::kMatmul) return std::nullopt;
    const Value* weights = root_->operand(0);
    const Node* softmax = SkipCasts(weights)->def();
    if (softmax == nullptr || softmax->op() != Op::kSoftmax) return std::nullopt;
    int budget = kDeepest;
    if (!LeadsToProduct(softmax->operand(0), &budget)) return std::nullopt;
    const int64_t rank = static_cast<int64_t>(Shape(weights).size());
    if (rank != kScoreRank)
      return absl::StrCat("its scores have rank ", rank, ", expected [batch, heads, queries, keys]");
    if (softmax->attr<int64_t>("axis") != rank - 1) return "its softmax is not over the keys";
    if (softmax->result()->uses().size() != 1 || weights->uses().size() != 1) {
      return "its weights are also used elsewhere";
    }
    found_->v = root_->operand(1);
    if (Shape(found_->v).size() != kScoreRank) return "its values are not [batch, heads, keys, head_dim]";
    return FromScores(softmax->operand(0));
  }

  static const Value* SkipCasts(const Value* value) {
    while (const Node* cast = DefinedBy(value, Op::kCast)) {
      if (!IsFloat(cast->operand(0)->tensor().dtype)) break;
      value = cast->operand(0);
    }
    return value;
  }

  // Whether masks and scales lead from the value to a product: which operand of a sum the scores are. Looks at no more
  // values than the budget.
  static bool LeadsToProduct(const Value* value, int* budget) {
    while ((*budget)-- > 0) {
      value = SkipCasts(value);
      const Node* def = value->def();
      if (def == nullptr) return false;
      if (def->op() == Op::kMatmul) return true;
      if (def->op() == Op::kAdd || def->op() == Op::kWhere) return ScoresOf(def, budget) >= 0;
      if (def->op() != Op::kMul && def->op() != Op::kDiv) return false;
      value = ConstantValue(def->operand(0)).has_value() ? def->operand(1) : def->operand(0);
    }
    return false;
  }

  // Of a sum or choice, the operand that leads to a product, if the other one does not; -1 otherwise.
  static int ScoresOf(const Node* def, int* budget) {
    const int first = def->op() == Op::kWhere ? 1 : 0;
    const bool left = LeadsToProduct(def->operand(first), budget);
    const bool right = LeadsToProduct(def->operand(first + 1), budget);
    if (left == right) return -1;
    return left ? first : first + 1;
  }

  // Takes masks and scales off the scores, down to matmul(q, keys).
  std::optional<std::string> FromScores(const Value* scores) {
    for (int depth = 0; depth < kDeepest; ++depth) {
      scores = SkipCasts(scores);
      const Node* def = scores->def();
      if (def == nullptr) return std::nullopt;
      switch (def->op()) {
        case Op::kMatmul:
          return FromKeys(def);
        case Op::kMul:
        case Op::kDiv: {
          Value* rest = TakeScale(def);
          if (rest == nullptr) return std::nullopt;
          scores = rest;
          break;
        }
        case Op::kAdd:
        case Op::kWhere: {
          int budget = kDeepest;
          const int at = ScoresOf(def, &budget);
          if (at < 0) return std::nullopt;
          const Condition* seen = def->op() == Op::kAdd ? forms_.Unmasked(def->operand(1 - at)) : SeenThrough(def, at);
          if (seen == nullptr) return NotUnderstood();
          // Scales already taken multiply the mask as well: they must leave a penalty one.
          if (!(found_->scale > 1e-3)) return "a scale that is not positive, or tiny, follows its mask";
          found_->masks.push_back(Broadcast(*seen, kScoreRank));
          scores = def->operand(at);
          break;
        }
        default:
          return std::nullopt;
      }
    }
    return std::nullopt;
  }

  // where(condition, scores, penalty) sees what the condition says; the other way round it does not.
  const Condition* SeenThrough(const Node* where, int at) {
    const Condition* penalty = forms_.Unmasked(where->operand(3 - at));
    const Condition* condition = forms_.Predicate(where->operand(0));
    if (penalty == nullptr || !penalty->never || condition == nullptr) return nullptr;
    if (at == 1) return condition;
    inverse_ = forms_.Not(*condition, Shape(where->operand(0)));
    return inverse_.has_value() ? &*inverse_ : nullptr;
  }

  // x * constant or x / constant: the scale is taken, x is returned; nullptr for any other product.
  Value* TakeScale(const Node* def) {
    for (int i : {0, 1}) {
      const std::optional<double> number = ConstantValue(def->operand(i));
      if (!number.has_value() || (def->op() == Op::kDiv && i == 0)) continue;
      found_->scale *= def->op() == Op::kDiv ? 1 / *number : *number;
      return def->operand(1 - i);
    }
    return nullptr;
  }

  Value* TakeScales(Value* value) {
    for (int depth = 0; depth < kDeepest; ++depth) {
      const Node* def = value->def();
      if (def == nullptr || (def->op() != Op::kMul && def->op() != Op::kDiv)) break;
      Value* rest = TakeScale(def);
      if (rest == nullptr || rest->type() != value->type()) break;
      value = rest;
    }
    return value;
  }

  std::optional<std::string> FromKeys(const Node* product) {
    found_->q = TakeScales(product->operand(0));
    found_->keys = TakeScales(product->operand(1));
    found_->keys_transposed = true;
    if (const Node* transpose = DefinedBy(found_->keys, Op::kTranspose);
        transpose != nullptr && Perm(transpose) == std::vector<int64_t>{0, 1, 3, 2}) {
      found_->keys = TakeScales(transpose->operand(0));
      found_->keys_transposed = false;
    }
    if (Shape(found_->q).size() != kScoreRank || Shape(found_->keys).size() != kScoreRank) {
      return "its queries and keys are not [batch, heads, sequence, head_dim]";
    }
    return "";
  }

  static constexpr int kDeepest = 32;
  const IndexForms& forms_;
  Node* root_;
  Attention* found_ = nullptr;
  std::optional<Condition> inverse_;
};

// The op that stands for the node; a reason against it is left in `reason`.
absl::StatusOr<Value*> Fuse(Graph* graph, Node* node, const Attention& found, std::string* reason) {
  if (found.q->tensor().dtype != node->result()->tensor().dtype) {
    *reason = "its queries have another dtype than its result";
    return nullptr;
  }
  if (!std::isfinite(found.scale)) {
    *reason = "its scale is not finite";
    return nullptr;
  }
  const DimExpr& keys = Shape(found.keys)[found.keys_transposed ? 3 : 2];
  Visibility visibility;
  *reason = ReadMasks(found, keys - Shape(found.q)[2], &visibility);
  if (!reason->empty()) return nullptr;
  std::vector<Node*> added;
  const auto add = [&](Op op, std::vector<Value*> operands, AttrMap attrs) -> absl::StatusOr<Value*> {
    FF_ASSIGN_OR_RETURN(Value * value, AddBefore(graph, node, op, std::move(operands), std::move(attrs)));
    added.push_back(value->def());
    return value;
  };
  Value* k = found.keys;
  if (found.keys_transposed) {
    FF_ASSIGN_OR_RETURN(k, add(Op::kTranspose, {k}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}}));
  }
  Value* v = found.v;
  const std::optional<Repeated> repeated_k = FindRepeat(k);
  const std::optional<Repeated> repeated_v = FindRepeat(v);
  if (repeated_k.has_value() && repeated_v.has_value()) {
    FF_ASSIGN_OR_RETURN(k, add(Op::kReshape, {repeated_k->grouped}, {{"shape", repeated_k->shape}}));
    FF_ASSIGN_OR_RETURN(v, add(Op::kReshape, {repeated_v->grouped}, {{"shape", repeated_v->shape}}));
  }
  const absl::StatusOr<Value*> fused =
      add(Op::kAttention, {found.q, k, v},
          {{"causal", visibility.causal}, {"scale", found.scale}, {"window", visibility.window}});
  if (fused.ok() && (*fused)->type() == node->result()->type()) return *fused;
  *reason = fused.ok() ? "its result is broadcast" : std::string(fused.status().message());
  for (; !added.empty(); added.pop_back()) graph->Erase(added.back());
  return nullptr;
}

}  // namespace

absl::StatusOr<bool> FuseAttentionPass::Run(Graph* graph, PassContext* context) const {
  const int64_t before = context->rewrites();
  const IndexForms forms(*graph, context->options().consecutive_positions != 0);
  std::vector<Node*> nodes;
  for (const auto& node : graph->nodes()) nodes.push_back(node.get());
  for (Node* node : nodes) {
    Attention found;
    std::optional<std::string> reason = Finder(forms, node).Find(&found);
    if (!reason.has_value()) continue;
    Value* fused = nullptr;
    if (reason->empty()) {
      FF_ASSIGN_OR_RETURN(fused, Fuse(graph, node, found, &*reason));
    }
    if (fused == nullptr) {
      context->Refuse(*graph, node, *reason);
      continue;
    }
    if (!context->BeginRewrite()) break;
    graph->ReplaceAllUsesWith(node->result(), fused);
  }
  return context->rewrites() != before;
}

}  // namespace flashflow::passes
