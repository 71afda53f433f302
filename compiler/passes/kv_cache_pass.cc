#include "compiler/passes/kv_cache_pass.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::passes {
namespace {

using ir::Graph;
using ir::Node;
using ir::Op;
using ir::Value;

// Refusals travel as this code and become remarks; any other code is an error.
absl::Status Refusal(std::string reason) { return absl::FailedPreconditionError(std::move(reason)); }

// The token axes of a value of the rectangular graph.
struct TokenAxes {
  int batch = -1;     // -1: the same for all sequences, as positions are that a model counts itself
  int sequence = -1;  // equal to batch: one axis of B*S elements, batch-major; -1: it holds no tokens at all
  bool any() const { return sequence >= 0; }
  bool merged() const { return batch == sequence; }
  bool Contains(int axis) const { return axis >= 0 && (axis == batch || axis == sequence); }
  // As seen from a value of `by` more leading axes.
  TokenAxes Shifted(int by) const { return {batch < 0 ? -1 : batch + by, sequence < 0 ? -1 : sequence + by}; }
  friend bool operator==(const TokenAxes&, const TokenAxes&) = default;
};

// A value of the rectangular graph and what stands for it in the step graph: the same shape if it holds no tokens, else
// [T, the other axes in order].
struct Packed {
  TokenAxes axes;
  Value* value = nullptr;
};

bool IsElementwise(Op op) { return op <= Op::kWhere; }

const Dims& Shape(const Value* value) { return value->tensor().shape; }
int Rank(const Value* value) { return static_cast<int>(Shape(value).size()); }

// The dims without the token axes.
Dims OtherDims(const Dims& dims, const TokenAxes& axes) {
  Dims others;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!axes.Contains(static_cast<int>(i))) others.push_back(dims[i]);
  }
  return others;
}

// The packed axis of a rectangular axis that is no token axis.
int64_t PackedAxis(int64_t axis, const TokenAxes& axes) {
  int64_t packed = 1 + axis;
  if (axes.batch >= 0 && axes.batch < axis) --packed;
  if (!axes.merged() && axes.sequence < axis) --packed;
  return packed;
}

class Packer {
 public:
  Packer(const Graph& graph, const CompileOptions& options)
      : graph_(graph), options_(options), step_(std::make_unique<Graph>(graph.name())) {}

  absl::Status Run() {
    FF_RETURN_IF_ERROR(DeclareInputs());
    for (const Value* weight : graph_.weights()) {
      packed_[weight] = {{}, step_->AddWeight(weight->name(), weight->tensor())};
    }
    for (const auto& node : graph_.nodes()) {
      current_ = node.get();
      FF_RETURN_IF_ERROR(PackNode(*node));
    }
    current_ = nullptr;
    return DeclareOutputs();
  }

  const Node* current() const { return current_; }  // where a refusal happened
  Graph* step() { return step_.get(); }

 private:
  // The step graph's interface.
  absl::Status DeclareInputs() {
    const Value* ids = graph_.FindInput("input_ids");
    const Value* positions = graph_.FindInput("position_ids");
    if (ids == nullptr || graph_.inputs().size() != (positions == nullptr ? 1 : 2)) {
      return Refusal(
          "expected exactly the input \"input_ids\", or \"input_ids\" and \"position_ids\", each [batch, sequence]");
    }
    for (const Value* input : {ids, positions}) {
      if (input == nullptr) continue;
      if (!input->type().is_tensor() || !IsInteger(input->tensor().dtype) || Rank(input) != 2 ||
          Shape(input) != Shape(ids)) {
        return Refusal(absl::StrCat("input \"", input->name(), "\" must be an integer tensor [batch, sequence], got ",
                                    input->type().ToString()));
      }
    }
    batch_ = Shape(ids)[0];
    sequence_ = Shape(ids)[1];
    const auto is_symbol = [](const DimExpr& dim) {
      return dim.symbols().size() == 1 && dim == DimExpr::Symbol(dim.symbols()[0]);
    };
    if (!is_symbol(batch_) || !is_symbol(sequence_) || batch_ == sequence_) {
      return Refusal(absl::StrCat("the batch and sequence dims must be two symbols, got ", DimsToString(Shape(ids))));
    }
    FF_ASSIGN_OR_RETURN(const int64_t context_length, ContextLength());
    FF_RETURN_IF_ERROR(ReadHeads());

    const int64_t pages = (context_length - 1) / options_.page_size + 1;
    FF_RETURN_IF_ERROR(step_->DeclareSymbol("T", {1, options_.max_tokens}));
    FF_RETURN_IF_ERROR(step_->DeclareSymbol("R", {1, options_.max_rows}));
    FF_RETURN_IF_ERROR(step_->DeclareSymbol("P", {1, pages}));
    FF_RETURN_IF_ERROR(step_->DeclareSymbol("L", {0, options_.max_logit_rows}));
    const DimExpr rows = DimExpr::Symbol("R");
    const auto index_input = [this](std::string name, Dims shape) {
      return step_->AddInput(std::move(name), ir::TensorType{DType::kI32, std::move(shape)});
    };
    packed_[ids] = {{0, 1}, index_input("token_ids", {tokens_})};
    positions_ = index_input("positions", {tokens_});
    if (positions != nullptr) packed_[positions] = {{0, 1}, positions_};
    row_start_ = index_input("row_start", {rows + 1});
    kv_len_ = index_input("kv_len", {rows});
    block_table_ = index_input("block_table", {rows, DimExpr::Symbol("P")});
    logit_rows_ = index_input("logit_rows", {DimExpr::Symbol("L")});
    cache_ = step_->AddInput("cache", cache_type_);
    step_->metadata() = graph_.metadata();
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> ContextLength() const {
    auto it = graph_.metadata().find("context_length");
    const auto* length = it == graph_.metadata().end() ? nullptr : std::get_if<int64_t>(&it->second);
    if (length == nullptr || *length < 1) {
      return Refusal("metadata \"context_length\" must be an int of 1 or more: it sizes the KV cache's block table");
    }
    return *length;
  }

  // One cache layer an attention node, all of one shape.
  absl::Status ReadHeads() {
    for (const auto& node : graph_.nodes()) {
      if (node->op() != Op::kAttention) continue;
      current_ = node.get();
      const std::optional<int64_t> kv_heads = Shape(node->operand(1))[1].constant();
      const std::optional<int64_t> head_dim = Shape(node->operand(1))[3].constant();
      const std::optional<int64_t> value_dim = Shape(node->operand(2))[3].constant();
      if (!kv_heads.has_value() || !head_dim.has_value() || value_dim != head_dim) {
        return Refusal(
            absl::StrCat("keys and values must be [batch, heads, sequence, head_dim] with a constant number of "
                         "heads of one constant head_dim, got ",
                         node->operand(1)->type().ToString(), " and ", node->operand(2)->type().ToString()));
      }
      if (cache_type_.layers > 0 && (cache_type_.kv_heads != *kv_heads || cache_type_.head_dim != *head_dim)) {
        return Refusal(absl::StrCat("it has ", *kv_heads, " KV heads of ", *head_dim, ", earlier attention has ",
                                    cache_type_.kv_heads, " of ", cache_type_.head_dim,
                                    ": one cache holds heads of one shape"));
      }
      cache_type_ = {cache_type_.layers + 1, *kv_heads, *head_dim, node->operand(1)->tensor().dtype};
    }
    current_ = nullptr;
    if (cache_type_.layers == 0) return Refusal("the graph has no attention, so it has nothing to cache");
    return absl::OkStatus();
  }

  absl::Status DeclareOutputs() {
    if (graph_.outputs().size() != 1) {
      return Refusal(absl::StrCat("expected one output, the logits, got ", graph_.outputs().size()));
    }
    const Value* logits = graph_.outputs()[0].value;
    const Packed& packed = packed_.at(logits);
    current_ = logits->def();
    if (packed.axes != TokenAxes{0, 1} || Rank(logits) != 3 || !IsFloat(logits->tensor().dtype)) {
      return Refusal(absl::StrCat("the output must be float logits [batch, sequence, vocabulary], got ",
                                  logits->type().ToString()));
    }
    Value* value = packed.value;
    if (value->tensor().dtype != DType::kF32) {
      FF_ASSIGN_OR_RETURN(value, Add(Op::kCast, {value}, {{"dtype", DType::kF32}}));
    }
    FF_ASSIGN_OR_RETURN(value, Add(Op::kGatherRows, {value, logit_rows_}));
    step_->AddOutput("logits", value);
    step_->AddOutput("cache", cache_);
    return absl::OkStatus();
  }

  absl::StatusOr<Value*> Add(Op op, std::vector<Value*> operands, AttrMap attrs = {}) {
    FF_ASSIGN_OR_RETURN(Node * node, step_->AddNode(op, std::move(operands), std::move(attrs),
                                                    current_ == nullptr ? "" : current_->loc()));
    return node->result();
  }

  absl::StatusOr<Value*> Reshape(Value* value, Dims shape) {
    if (Shape(value) == shape) return value;
    return Add(Op::kReshape, {value}, {{"shape", std::move(shape)}});
  }

  const Packed& Operand(const Node& node, int i) const { return packed_.at(node.operand(i)); }

  absl::Status PackNode(const Node& node) {
    for (const Value* operand : node.operands()) {
      if (operand != nullptr && !operand->type().is_tensor()) return Refusal("the graph is a step graph already");
    }
    const bool any = std::ranges::any_of(
        node.operands(), [this](const Value* operand) { return operand != nullptr && packed_.at(operand).axes.any(); });
    Packed result;
    if (any) {
      FF_ASSIGN_OR_RETURN(result, PackTokens(node));
    } else if (std::optional<TokenAxes> counted = CountsPositions(node)) {
      FF_ASSIGN_OR_RETURN(result, PackPositions(node, *counted));
    } else {
      FF_ASSIGN_OR_RETURN(result.value, CopyNode(node));
    }
    const Dims& shape = Shape(result.value);
    const auto constant = [](const DimExpr& dim) { return dim.IsConstant(); };
    if (!std::all_of(shape.begin() + (result.axes.any() ? 1 : 0), shape.end(), constant)) {
      return Refusal(
          absl::StrCat("its result ", node.result()->type().ToString(),
                       any ? " has more token axes than one batch and one sequence axis"
                           : " is made for all tokens at once from none of them; make it from position_ids, or from "
                             "arange over the sequence"));
    }
    packed_[node.result()] = result;
    return absl::OkStatus();
  }

  // A node that holds no tokens: as it is.
  absl::StatusOr<Value*> CopyNode(const Node& node) {
    std::vector<Value*> operands;
    for (const Value* operand : node.operands()) {
      operands.push_back(operand == nullptr ? nullptr : packed_.at(operand).value);
    }
    return Add(node.op(), std::move(operands), node.attrs());
  }

  // Whether the node makes what the positions are: 0, 1, ... along the sequence, or the rows of a table from 0 on.
  std::optional<TokenAxes> CountsPositions(const Node& node) const {
    if (node.op() == Op::kSlice) {
      const bool rows = Rank(node.operand(0)) == 2 && node.attr<int64_t>("axis") == 0 &&
                        node.attr<int64_t>("step") == 1 && node.attr<DimExpr>("start") == DimExpr(0) &&
                        node.attr<DimExpr>("stop") == sequence_;
      if (rows && IsFloat(node.result()->tensor().dtype)) return TokenAxes{-1, 0};
    }
    if (node.op() != Op::kIota) return std::nullopt;
    TokenAxes axes;
    const Dims& shape = Shape(node.result());
    for (int i = 0; i < static_cast<int>(shape.size()); ++i) {
      if (i == node.attr<int64_t>("axis")) {
        if (shape[i] != sequence_) return std::nullopt;
        axes.sequence = i;
      } else if (shape[i] == batch_ && axes.batch < 0) {
        axes.batch = i;
      } else if (shape[i] != DimExpr(1)) {
        return std::nullopt;
      }
    }
    return axes;
  }

  absl::StatusOr<Packed> PackPositions(const Node& node, const TokenAxes& axes) {
    Value* value = positions_;
    if (node.op() == Op::kSlice) {
      FF_ASSIGN_OR_RETURN(
          value, Add(Op::kEmbedding, {Operand(node, 0).value, positions_}, {{"dtype", node.result()->tensor().dtype}}));
      return Packed{axes, value};
    }
    if (IsFloat(node.result()->tensor().dtype)) {
      FF_ASSIGN_OR_RETURN(value, Add(Op::kCast, {value}, {{"dtype", node.result()->tensor().dtype}}));
    }
    Dims shape = {tokens_};
    shape.resize(OtherDims(Shape(node.result()), axes).size() + 1, DimExpr(1));
    FF_ASSIGN_OR_RETURN(value, Reshape(value, std::move(shape)));
    return Packed{axes, value};
  }

  absl::StatusOr<Packed> PackTokens(const Node& node) {
    if (IsElementwise(node.op())) return PackElementwise(node);
    switch (node.op()) {
      case Op::kReshape:
        return PackReshape(node);
      case Op::kTranspose:
        return PackTranspose(node);
      case Op::kExpand:
        return PackExpand(node);
      case Op::kSlice:
      case Op::kSoftmax:
        return PackAlongAxis(node);
      case Op::kConcat:
        return PackConcat(node);
      case Op::kEmbedding:
        return PackEmbedding(node);
      case Op::kReduceSum:
      case Op::kReduceMean:
      case Op::kReduceMax:
        return PackReduce(node);
      case Op::kMatmul:
      case Op::kLinear:
      case Op::kLayerNorm:
      case Op::kRmsNorm:
        return PackLastAxis(node);
      case Op::kAttention:
        return PackAttention(node);
      default:
        return Refusal(absl::StrCat(ir::OpName(node.op()), " of tokens is not known to keep them apart"));
    }
  }

  // Elementwise with broadcasting: the token axes of all operands must meet, counted from the right.
  absl::StatusOr<Packed> PackElementwise(const Node& node) {
    const int rank = Rank(node.result());
    TokenAxes axes;
    for (const Value* operand : node.operands()) {
      const Packed& packed = packed_.at(operand);
      if (!packed.axes.any()) continue;
      const TokenAxes shifted = packed.axes.Shifted(rank - Rank(operand));
      if (axes.any() && (axes.sequence != shifted.sequence ||
                         (axes.batch >= 0 && shifted.batch >= 0 && axes.batch != shifted.batch))) {
        return Refusal(
            absl::StrCat("its operands have their batch and sequence on different axes, so that it would "
                         "combine different tokens: ",
                         DescribeOperands(node)));
      }
      axes = {std::max(axes.batch, shifted.batch), shifted.sequence};
    }
    std::vector<Value*> operands;
    for (const Value* operand : node.operands()) {
      FF_ASSIGN_OR_RETURN(Value * aligned, Align(operand, rank, axes));
      // Index arithmetic beside tokens is i32: what comes from weights and constants follows.
      if (operand->tensor().dtype == DType::kI64 && aligned->tensor().dtype == DType::kI64) {
        FF_ASSIGN_OR_RETURN(aligned, NarrowIndex(aligned));
      }
      operands.push_back(aligned);
    }
    AttrMap attrs = node.attrs();
    if (node.result()->tensor().dtype == DType::kI64) {
      if (node.op() == Op::kCast) attrs["dtype"] = DType::kI32;
      if (node.op() == Op::kMul) {
        return Refusal("a product of 64-bit integers may not fit the step graph's 32-bit indices");
      }
    }
    FF_ASSIGN_OR_RETURN(Value * value, Add(node.op(), std::move(operands), std::move(attrs)));
    return Packed{axes, value};
  }

  // An operand as it broadcasts in a packed result whose rectangular form has this rank and these token axes.
  absl::StatusOr<Value*> Align(const Value* operand, int rank, const TokenAxes& axes) {
    const Packed& packed = packed_.at(operand);
    const int shift = rank - Rank(operand);
    const Dims others = OtherDims(Shape(operand), {axes.batch - shift, axes.sequence - shift});
    if (!packed.axes.any()) return Reshape(packed.value, others);  // what it lacks or drops there has size 1
    Dims shape = {tokens_};
    for (int i = 0; i < shift; ++i) {
      if (!axes.Contains(i)) shape.push_back(1);
    }
    shape.insert(shape.end(), others.begin(), others.end());
    return Reshape(packed.value, std::move(shape));
  }

  absl::StatusOr<Value*> NarrowIndex(Value* value) {
    constexpr double kLargest = 1 << 24;  // far from what a few sums with token ids or positions could overflow
    if (value->def() == nullptr || value->def()->op() != Op::kConstant) {
      return Add(Op::kCast, {value}, {{"dtype", DType::kI32}});
    }
    AttrMap attrs = value->def()->attrs();
    const double number = std::get<double>(attrs["value"]);
    if (std::abs(number) > kLargest) {
      return Refusal(absl::StrCat("the constant ", AttrToString(number), " is too large for 32-bit index arithmetic"));
    }
    attrs["dtype"] = DType::kI32;
    return Add(Op::kConstant, {}, std::move(attrs));
  }

  // A reshape may split and join axes as long as the tokens stay whole: [B, S, 12, 64] -> [B*S, 768] and back.
  absl::StatusOr<Packed> PackReshape(const Node& node) {
    const Packed& x = Operand(node, 0);
    const Dims& in = Shape(node.operand(0));
    const Dims& out = Shape(node.result());
    // Walks groups of axes with equal products; axes of size 1 belong nowhere.
    TokenAxes axes;
    size_t i = 0;
    size_t o = 0;
    const auto skip_ones = [](const Dims& dims, size_t* at) {
      while (*at < dims.size() && dims[*at] == DimExpr(1)) ++*at;
    };
    while (skip_ones(in, &i), skip_ones(out, &o), i < in.size() && o < out.size()) {
      std::vector<int> in_group = {static_cast<int>(i)};
      std::vector<int> out_group = {static_cast<int>(o)};
      DimExpr in_size = in[i++];
      DimExpr out_size = out[o++];
      while (in_size != out_size && (i < in.size() || o < out.size())) {
        const bool extend_in = i < in.size() && (o == out.size() || out_size.DividedBy(in_size).has_value() ||
                                                 !in_size.DividedBy(out_size).has_value());
        if (extend_in) {
          in_size = in_size * in[i];
          if (in[i] != DimExpr(1)) in_group.push_back(static_cast<int>(i));
          ++i;
        } else {
          out_size = out_size * out[o];
          if (out[o] != DimExpr(1)) out_group.push_back(static_cast<int>(o));
          ++o;
        }
      }
      FF_RETURN_IF_ERROR(MatchGroup(x.axes, in, in_group, out, out_group, &axes));
    }
    Dims shape = {tokens_};
    const Dims others = OtherDims(out, axes);
    shape.insert(shape.end(), others.begin(), others.end());
    FF_ASSIGN_OR_RETURN(Value * value, Reshape(x.value, std::move(shape)));
    return Packed{axes, value};
  }

  // One group of a reshape: records where its token axes go.
  absl::Status MatchGroup(const TokenAxes& from, const Dims& in, const std::vector<int>& in_group, const Dims& out,
                          const std::vector<int>& out_group, TokenAxes* to) const {
    const auto is_token = [&from](int axis) { return from.Contains(axis); };
    if (std::ranges::none_of(in_group, is_token)) return absl::OkStatus();
    Dims in_dims, out_dims;
    for (int axis : in_group) in_dims.push_back(in[axis]);
    for (int axis : out_group) out_dims.push_back(out[axis]);
    const Dims pair = {batch_, sequence_};
    const Dims product = {batch_ * sequence_};
    const bool whole = (in_group == std::vector<int>{from.batch, from.sequence} && !from.merged()) ||
                       (in_group == std::vector<int>{from.batch} && from.merged());
    if (whole && out_dims == pair) {
      *to = {out_group[0], out_group[1]};
    } else if (whole && out_dims == product) {
      *to = {out_group[0], out_group[0]};
    } else if (!from.merged() && in_group == std::vector<int>{from.batch} && out_dims == Dims{batch_}) {
      to->batch = out_group[0];
    } else if (!from.merged() && in_group == std::vector<int>{from.sequence} && out_dims == Dims{sequence_}) {
      to->sequence = out_group[0];
    } else {
      return Refusal(absl::StrCat("it folds the batch or sequence axis into others: ", DimsToString(in_dims), " to ",
                                  DimsToString(out_dims)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Packed> PackTranspose(const Node& node) {
    const Packed& x = Operand(node, 0);
    const auto& perm = node.attr<std::vector<int64_t>>("perm");
    TokenAxes axes;
    std::vector<int64_t> packed_perm = {0};
    for (size_t i = 0; i < perm.size(); ++i) {
      if (perm[i] == x.axes.batch) axes.batch = static_cast<int>(i);
      if (perm[i] == x.axes.sequence) axes.sequence = static_cast<int>(i);
      if (!x.axes.Contains(static_cast<int>(perm[i]))) packed_perm.push_back(PackedAxis(perm[i], x.axes));
    }
    if (std::ranges::is_sorted(packed_perm)) return Packed{axes, x.value};
    FF_ASSIGN_OR_RETURN(Value * value, Add(Op::kTranspose, {x.value}, {{"perm", std::move(packed_perm)}}));
    return Packed{axes, value};
  }

  absl::StatusOr<Packed> PackExpand(const Node& node) {
    const Packed& x = Operand(node, 0);
    const int shift = Rank(node.result()) - Rank(node.operand(0));
    TokenAxes axes = x.axes.Shifted(shift);
    for (int i = 0; i < Rank(node.result()) && axes.batch < 0; ++i) {
      if (Shape(node.result())[i] == batch_) axes.batch = i;  // the same for all sequences, for each of them
    }
    FF_ASSIGN_OR_RETURN(Value * value, Align(node.operand(0), Rank(node.result()), axes));
    Dims shape = {tokens_};
    const Dims others = OtherDims(Shape(node.result()), axes);
    shape.insert(shape.end(), others.begin(), others.end());
    if (Shape(value) != shape) {
      FF_ASSIGN_OR_RETURN(value, Add(Op::kExpand, {value}, {{"shape", std::move(shape)}}));
    }
    return Packed{axes, value};
  }

  // Slice and softmax: fine along any axis but the tokens'.
  absl::StatusOr<Packed> PackAlongAxis(const Node& node) {
    const Packed& x = Operand(node, 0);
    FF_ASSIGN_OR_RETURN(const int64_t axis, OtherAxis(node, x.axes, node.attr<int64_t>("axis")));
    AttrMap attrs = node.attrs();
    attrs["axis"] = axis;
    FF_ASSIGN_OR_RETURN(Value * value, Add(node.op(), {x.value}, std::move(attrs)));
    return Packed{x.axes, value};
  }

  absl::StatusOr<int64_t> OtherAxis(const Node& node, const TokenAxes& axes, int64_t axis) const {
    if (!axes.Contains(static_cast<int>(axis))) return PackedAxis(axis, axes);
    std::string hint;
    if (node.op() == Op::kSoftmax) hint = "; write attention as scaled_dot_product_attention";
    if (node.op() == Op::kSlice) hint = "; export logits for every position: the step graph picks the rows it needs";
    return Refusal(absl::StrCat(ir::OpName(node.op()), " along the ",
                                axes.merged()        ? "token"
                                : axis == axes.batch ? "batch"
                                                     : "sequence",
                                " axis mixes tokens", hint));
  }

  absl::StatusOr<Packed> PackConcat(const Node& node) {
    const TokenAxes axes = Operand(node, 0).axes;
    std::vector<Value*> operands;
    for (int i = 0; i < node.num_operands(); ++i) {
      if (Operand(node, i).axes != axes || !axes.any()) {
        return Refusal(absl::StrCat("its operands do not all hold the same tokens: ", DescribeOperands(node)));
      }
      operands.push_back(Operand(node, i).value);
    }
    FF_ASSIGN_OR_RETURN(const int64_t axis, OtherAxis(node, axes, node.attr<int64_t>("axis")));
    FF_ASSIGN_OR_RETURN(Value * value, Add(Op::kConcat, std::move(operands), {{"axis", axis}}));
    return Packed{axes, value};
  }

  absl::StatusOr<Packed> PackEmbedding(const Node& node) {
    const Packed& table = Operand(node, 0);
    const Packed& ids = Operand(node, 1);
    if (table.axes.any()) return Refusal("its table is made from tokens");
    FF_ASSIGN_OR_RETURN(Value * value, Add(Op::kEmbedding, {table.value, ids.value}, node.attrs()));
    return Packed{ids.axes, value};
  }

  absl::StatusOr<Packed> PackReduce(const Node& node) {
    const Packed& x = Operand(node, 0);
    const auto& reduced = node.attr<std::vector<int64_t>>("axes");
    std::vector<int64_t> packed_axes;
    TokenAxes axes = x.axes;
    for (int64_t axis : reduced) {
      FF_ASSIGN_OR_RETURN(const int64_t packed_axis, OtherAxis(node, x.axes, axis));
      packed_axes.push_back(packed_axis);
      if (node.attr<bool>("keepdims")) continue;
      if (axis < x.axes.batch) --axes.batch;
      if (axis < x.axes.sequence) --axes.sequence;
    }
    AttrMap attrs = node.attrs();
    attrs["axes"] = std::move(packed_axes);
    FF_ASSIGN_OR_RETURN(Value * value, Add(node.op(), {x.value}, std::move(attrs)));
    return Packed{axes, value};
  }

  // Products with weights and norms work on the last axis of x; their other operands are the same for all tokens.
  absl::StatusOr<Packed> PackLastAxis(const Node& node) {
    const Packed& x = Operand(node, 0);
    if (!x.axes.any()) return Refusal("its weight is made from tokens");
    FF_RETURN_IF_ERROR(OtherAxis(node, x.axes, Rank(node.operand(0)) - 1).status());
    std::vector<Value*> operands = {x.value};
    for (int i = 1; i < node.num_operands(); ++i) {
      if (node.operand(i) == nullptr) {
        operands.push_back(nullptr);
        continue;
      }
      if (Operand(node, i).axes.any()) {
        return Refusal(
            absl::StrCat("operand ", i, " is made from tokens",
                         node.op() == Op::kMatmul ? "; write attention as scaled_dot_product_attention" : ""));
      }
      operands.push_back(Operand(node, i).value);
    }
    if (node.op() == Op::kMatmul && Rank(node.operand(1)) != 2) {
      return Refusal(absl::StrCat("matmul of tokens with ", node.operand(1)->type().ToString(),
                                  ": only a matrix is the same for all tokens"));
    }
    FF_ASSIGN_OR_RETURN(Value * value, Add(node.op(), std::move(operands), node.attrs()));
    return Packed{x.axes, value};
  }

  absl::StatusOr<Packed> PackAttention(const Node& node) {
    if (node.num_operands() > 3) return Refusal("the attention has a mask that is not known to be causal");
    if (!node.attr<bool>("causal")) return Refusal("the attention is not causal");
    for (int i = 0; i < 3; ++i) {
      if (Operand(node, i).axes != TokenAxes{0, 2}) {
        return Refusal(absl::StrCat("operand ", i, " is not [batch, heads, sequence, head_dim] of the step's tokens: ",
                                    node.operand(i)->type().ToString()));
      }
    }
    const int64_t layer = layer_++;
    FF_ASSIGN_OR_RETURN(
        cache_,
        Add(Op::kKvAppend, {cache_, Operand(node, 1).value, Operand(node, 2).value, row_start_, kv_len_, block_table_},
            {{"layer", layer}}));
    FF_ASSIGN_OR_RETURN(
        Value * value,
        Add(Op::kPagedAttention, {cache_, Operand(node, 0).value, row_start_, kv_len_, block_table_},
            {{"layer", layer}, {"scale", node.attr<double>("scale")}, {"window", node.attr<int64_t>("window")}}));
    return Packed{{0, 2}, value};
  }

  static std::string DescribeOperands(const Node& node) {
    std::string text;
    for (const Value* operand : node.operands()) {
      absl::StrAppend(&text, text.empty() ? "" : ", ", operand == nullptr ? "_" : operand->type().ToString());
    }
    return text;
  }

  const Graph& graph_;
  const CompileOptions& options_;
  std::unique_ptr<Graph> step_;
  const Node* current_ = nullptr;
  absl::flat_hash_map<const Value*, Packed> packed_;
  const DimExpr tokens_ = DimExpr::Symbol("T");
  DimExpr batch_, sequence_;
  ir::CacheType cache_type_;
  Value* cache_ = nullptr;
  Value* positions_ = nullptr;
  Value* row_start_ = nullptr;
  Value* kv_len_ = nullptr;
  Value* block_table_ = nullptr;
  Value* logit_rows_ = nullptr;
  int64_t layer_ = 0;
};

}  // namespace

absl::StatusOr<bool> KvCachePass::Run(Graph* graph, PassContext* context) const {
  if (std::ranges::any_of(graph->inputs(), [](const Value* input) { return input->type().is_cache(); })) return false;
  Packer packer(*graph, context->options());
  if (absl::Status s = packer.Run(); !s.ok()) {
    if (s.code() != absl::StatusCode::kFailedPrecondition) return s;
    context->Refuse(*graph, packer.current(), std::string(s.message()));
    return false;
  }
  if (!context->BeginRewrite()) return false;
  graph->Swap(*packer.step());
  return true;
}

}  // namespace flashflow::passes
