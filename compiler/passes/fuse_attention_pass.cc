#include "compiler/passes/fuse_attention_pass.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
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

constexpr size_t kScoreRank = 4;   // [batch, heads, queries, keys]
constexpr size_t kMergedRank = 3;  // [batch * heads, queries, keys], as for bmm

const Dims& Shape(const Value* value) { return value->tensor().shape; }
const std::vector<int64_t>& Perm(const Node* node) { return node->attr<std::vector<int64_t>>("perm"); }

// The permutation that exchanges the last two axes.
std::vector<int64_t> ExchangeLast(size_t rank) {
  std::vector<int64_t> perm(rank);
  std::iota(perm.begin(), perm.end(), 0);
  std::swap(perm[rank - 2], perm[rank - 1]);
  return perm;
}

// What the op's attributes say of who sees whom.
struct Visibility {
  bool causal = false;
  int64_t window = 0;  // 0: none
};

// Attention as the pass found it, of rank 4 or with batch and heads merged. Reasons against it are texts; empty: none.
struct Attention {
  Value* q = nullptr;
  Value* keys = nullptr;  // [B, H, Skv, D], or [B, H, D, Skv] if transposed
  bool keys_transposed = false;
  Value* v = nullptr;
  double scale = 1;
  std::vector<Condition> masks;  // over the scores, of rank 4
  std::string unknown_mask;      // why a mask is none of these conditions; empty: none is
  // The sums and choices that mask the scores, the last one first, and which operand the scores are.
  std::vector<std::pair<Node*, int>> masking;
  bool scaled_after_mask = false;
  bool causal = false;  // as an attribute says
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
    found_->masks.push_back(OverScores(*seen));
    return "";
  }

  // The condition over [batch, heads, queries, keys].
  Condition OverScores(const Condition& seen) const {
    Condition over = Broadcast(seen, rank_);
    if (rank_ == kScoreRank) return over;
    for (IndexForm& term : over.terms) {
      term.steps.insert(term.steps.begin() + 1, 0);  // heads, merged with the batch
      if (term.row > 0) ++term.row;
    }
    return over;
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
    rank_ = Shape(weights).size();
    if (rank_ != kScoreRank && rank_ != kMergedRank) {
      return absl::StrCat("its scores have rank ", rank_,
                          ", expected [batch, heads, queries, keys] or [batch * heads, queries, keys]");
    }
    if (softmax->attr<int64_t>("axis") + 1 != static_cast<int64_t>(rank_)) return "its softmax is not over the keys";
    if (softmax->result()->uses().size() != 1 || weights->uses().size() != 1) {
      return "its weights are also used elsewhere";
    }
    found_->v = root_->operand(1);
    if (Shape(found_->v).size() != rank_) return "its values are not [batch, heads, keys, head_dim]";
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
  std::optional<std::string> FromScores(Value* scores) {
    for (int depth = 0; depth < kDeepest; ++depth) {
      while (DefinedBy(scores, Op::kCast) != nullptr && SkipCasts(scores) != scores) scores = scores->def()->operand(0);
      Node* def = scores->def();
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
          // Scales already taken multiply the mask as well: they must leave a penalty one.
          if (!(found_->scale > 1e-3)) return "a scale that is not positive, or tiny, follows its mask";
          found_->scaled_after_mask |= found_->scale != 1;
          found_->masking.emplace_back(def, at);
          if (seen == nullptr) {
            found_->unknown_mask = NotUnderstood();
          } else {
            found_->masks.push_back(OverScores(*seen));
          }
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

  // x * constant or x / constant: the scale is taken, x is returned; nullptr for any other product, also for one that
  // broadcasting made larger than x.
  Value* TakeScale(const Node* def) {
    for (int i : {0, 1}) {
      const std::optional<double> number = ConstantValue(def->operand(i));
      if (!number.has_value() || (def->op() == Op::kDiv && i == 0)) continue;
      if (def->operand(1 - i)->type() != def->result()->type()) continue;
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
      if (rest == nullptr) break;
      value = rest;
    }
    return value;
  }

  std::optional<std::string> FromKeys(const Node* product) {
    found_->q = TakeScales(product->operand(0));
    found_->keys = TakeScales(product->operand(1));
    found_->keys_transposed = true;
    if (const Node* transpose = DefinedBy(found_->keys, Op::kTranspose);
        transpose != nullptr && Perm(transpose) == ExchangeLast(rank_)) {
      found_->keys = TakeScales(transpose->operand(0));
      found_->keys_transposed = false;
    }
    if (Shape(found_->q).size() != rank_ || Shape(found_->keys).size() != rank_) {
      return "its queries and keys are not [batch, heads, sequence, head_dim]";
    }
    return "";
  }

  static constexpr int kDeepest = 32;
  const IndexForms& forms_;
  Node* root_;
  size_t rank_ = kScoreRank;  // of the scores
  Attention* found_ = nullptr;
  std::optional<Condition> inverse_;
};

// Makes the op that stands for a node, and what it needs, before that node.
class Fuser {
 public:
  Fuser(Graph* graph, Node* node, PassContext* context, const Attention& found)
      : graph_(graph), node_(node), context_(context), found_(found) {}

  // Its value; nullptr for a reason against it, which is left in `reason`.
  absl::StatusOr<Value*> Run(std::string* reason) {
    if (found_.q->tensor().dtype != node_->result()->tensor().dtype) {
      *reason = "its queries have another dtype than its result";
      return nullptr;
    }
    if (!std::isfinite(found_.scale)) {
      *reason = "its scale is not finite";
      return nullptr;
    }
    const absl::StatusOr<Value*> fused = Build(reason);
    if (fused.ok() && *fused != nullptr && (*fused)->type() == node_->result()->type()) return *fused;
    if (reason->empty()) *reason = fused.ok() ? "its result is broadcast" : std::string(fused.status().message());
    for (; !added_.empty(); added_.pop_back()) graph_->Erase(added_.back());
    return nullptr;
  }

 private:
  absl::StatusOr<Value*> Add(Op op, std::vector<Value*> operands, AttrMap attrs) {
    FF_ASSIGN_OR_RETURN(Value * value, AddBefore(graph_, node_, op, std::move(operands), std::move(attrs)));
    added_.push_back(value->def());
    return value;
  }

  absl::StatusOr<Value*> Build(std::string* reason) {
    Value* k = found_.keys;
    if (found_.keys_transposed) {
      FF_ASSIGN_OR_RETURN(k, Add(Op::kTranspose, {k}, {{"perm", ExchangeLast(Shape(k).size())}}));
    }
    const DimExpr& queries = Shape(found_.q)[Shape(found_.q).size() - 2];
    const DimExpr& keys = Shape(k)[Shape(k).size() - 2];
    Visibility visibility = {.causal = found_.causal, .window = found_.window};
    *reason = found_.unknown_mask;
    if (reason->empty()) *reason = ReadMasks(found_, keys - queries, &visibility);
    Value* mask = nullptr;
    if (!reason->empty()) {
      FF_ASSIGN_OR_RETURN(mask, MaskAsOperand());
      if (mask == nullptr) return nullptr;
      context_->Refuse(*graph_, node_, absl::StrCat("its mask stays an operand: ", *reason));
      reason->clear();
      visibility = {.causal = found_.causal, .window = found_.window};
    }
    Value* q = found_.q;
    Value* v = found_.v;
    const Dims apart = BatchAndHeads(q, k, v);
    for (Value** value : {&q, &k, &v}) {
      FF_ASSIGN_OR_RETURN(*value, Split(*value, apart));
    }
    if (mask != nullptr) {
      FF_ASSIGN_OR_RETURN(mask, Split(mask, apart));
    }
    const std::optional<Repeated> repeated_k = FindRepeat(k);
    const std::optional<Repeated> repeated_v = FindRepeat(v);
    if (repeated_k.has_value() && repeated_v.has_value()) {
      FF_ASSIGN_OR_RETURN(k, Add(Op::kReshape, {repeated_k->grouped}, {{"shape", repeated_k->shape}}));
      FF_ASSIGN_OR_RETURN(v, Add(Op::kReshape, {repeated_v->grouped}, {{"shape", repeated_v->shape}}));
    }
    std::vector<Value*> operands = {q, k, v};
    if (mask != nullptr) operands.push_back(mask);
    FF_ASSIGN_OR_RETURN(Value * fused,
                        Add(Op::kAttention, std::move(operands),
                            {{"causal", visibility.causal}, {"scale", found_.scale}, {"window", visibility.window}}));
    if (Shape(found_.q).size() == kScoreRank) return fused;
    const Dims& shape = Shape(fused);
    return Add(Op::kReshape, {fused}, {{"shape", Dims{shape[0] * shape[1], shape[2], shape[3]}}});
  }

  // The one mask as the op adds it to the scores, of their rank or less; nullptr if it is something else.
  absl::StatusOr<Value*> MaskAsOperand() {
    if (found_.masking.size() != 1 || found_.scaled_after_mask) return nullptr;
    const auto& [masking, at] = found_.masking[0];
    const DType dtype = found_.q->tensor().dtype;
    if (masking->result()->tensor().dtype != dtype) return nullptr;
    if (masking->op() == Op::kAdd) return masking->operand(1 - at);
    const std::optional<double> penalty = ConstantValue(masking->operand(3 - at));
    if (!penalty.has_value() || *penalty > kPenalty) return nullptr;  // it takes the place of a score
    FF_ASSIGN_OR_RETURN(Value * zero, Add(Op::kConstant, {}, {{"value", 0.0}, {"dtype", dtype}}));
    std::vector<Value*> operands(masking->operands().begin(), masking->operands().end());
    operands[at] = zero;
    return Add(Op::kWhere, std::move(operands), {});
  }

  // Batch and heads where they are merged: as queries, keys and values have them before they are; else each pair is a
  // batch of one head. Empty where they are not merged.
  static Dims BatchAndHeads(const Value* q, const Value* k, const Value* v) {
    if (Shape(q).size() == kScoreRank) return {};
    std::optional<Dims> common;
    for (const Value* value : {q, k, v}) {
      const Node* merge = DefinedBy(value, Op::kReshape);
      const Dims& merged = Shape(value);
      const Dims from = merge == nullptr ? Dims() : Shape(merge->operand(0));
      const bool whole =
          from.size() == kScoreRank && from[0] * from[1] == merged[0] && from[2] == merged[1] && from[3] == merged[2];
      const Dims apart = whole ? Dims{from[0], from[1]} : Dims{merged[0], 1};
      if (common.has_value() && *common != apart) return {Shape(q)[0], 1};
      common = apart;
    }
    return *common;
  }

  // The value with `apart` for its first axis of their product, where batch and heads were merged.
  absl::StatusOr<Value*> Split(Value* value, const Dims& apart) {
    Dims shape = Shape(value);
    if (apart.empty() || shape.size() < kMergedRank) return value;
    if (shape[0] == DimExpr(1)) {
      shape.insert(shape.begin(), 1);
    } else {
      shape.erase(shape.begin());
      shape.insert(shape.begin(), apart.begin(), apart.end());
    }
    return Add(Op::kReshape, {value}, {{"shape", std::move(shape)}});
  }

  Graph* graph_;
  Node* node_;
  PassContext* context_;
  const Attention& found_;
  std::vector<Node*> added_;
};

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
      FF_ASSIGN_OR_RETURN(fused, Fuser(graph, node, context, found).Run(&*reason));
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
