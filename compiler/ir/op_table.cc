#include "compiler/ir/op_table.h"

#include <limits>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

constexpr OperandKind kOptional = OperandKind::kOptional;
constexpr OperandKind kVariadic = OperandKind::kVariadic;

OpDef Unary(Op op, std::string_view name, InferFn infer, std::string_view doc) {
  return {.op = op, .name = name, .group = "Elementwise, one operand", .operands = {{"x"}}, .infer = infer, .doc = doc};
}

OpDef Binary(Op op, std::string_view name, InferFn infer, std::string_view doc) {
  return {.op = op,
          .name = name,
          .group = "Elementwise, two or three operands",
          .operands = {{"a"}, {"b"}},
          .infer = infer,
          .doc = doc};
}

OpDef Reduction(Op op, std::string_view name, InferFn infer, std::string_view doc) {
  return {.op = op,
          .name = name,
          .group = "Reductions and contractions",
          .operands = {{"x"}},
          .attrs = {{"axes", AttrKind::kInts}, {"keepdims", AttrKind::kBool, false}},
          .infer = infer,
          .doc = doc};
}

std::vector<OpDef> MakeTable() {
  std::vector<OpDef> table = {
      Unary(Op::kNeg, "neg", InferNumericUnary, "-x."),
      Unary(Op::kAbs, "abs", InferNumericUnary, "|x|."),
      Unary(Op::kExp, "exp", InferFloatUnary, "e^x."),
      Unary(Op::kSqrt, "sqrt", InferFloatUnary, "The square root of x; NaN where x < 0."),
      Unary(Op::kRsqrt, "rsqrt", InferFloatUnary, "1 / sqrt(x)."),
      Unary(Op::kReciprocal, "reciprocal", InferFloatUnary, "1 / x."),
      Unary(Op::kTanh, "tanh", InferFloatUnary, "tanh(x)."),
      Unary(Op::kErf, "erf", InferFloatUnary, "The error function of x."),
      Unary(Op::kSigmoid, "sigmoid", InferFloatUnary, "1 / (1 + e^-x)."),
      Unary(Op::kSin, "sin", InferFloatUnary, "sin(x), x in radians."),
      Unary(Op::kCos, "cos", InferFloatUnary, "cos(x), x in radians."),
      Unary(Op::kRelu, "relu", InferNumericUnary, "max(x, 0)."),
      Unary(Op::kGelu, "gelu", InferGelu,
            "approximate = \"none\": x * (1 + erf(x / sqrt(2))) / 2. approximate = \"tanh\": "
            "x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2."),
      Unary(Op::kSilu, "silu", InferFloatUnary, "x * sigmoid(x)."),
      Unary(Op::kCast, "cast", InferCast,
            "x in another dtype. To a float: rounded to nearest, ties to even. Float to integer: truncated towards "
            "zero, clamped to the dtype's range, NaN to 0. Integer to integer: the low bits (two's complement). "
            "To bool: x != 0. From bool: 0 or 1."),
      Unary(Op::kLogicalNot, "logical_not", InferLogical, "Not x; bool."),

      Binary(Op::kAdd, "add", InferNumericBinary, "a + b."),
      Binary(Op::kSub, "sub", InferNumericBinary, "a - b."),
      Binary(Op::kMul, "mul", InferNumericBinary, "a * b."),
      Binary(Op::kDiv, "div", InferFloatBinary, "a / b, IEEE division; floats only."),
      Binary(Op::kPow, "pow", InferFloatBinary, "a^b, as C's pow; floats only."),
      Binary(Op::kMaximum, "maximum", InferNumericBinary, "The greater of a and b; NaN where either is NaN."),
      Binary(Op::kMinimum, "minimum", InferNumericBinary, "The lesser of a and b; NaN where either is NaN."),
      Binary(Op::kEq, "eq", InferEquality, "a == b; bool."),
      Binary(Op::kNe, "ne", InferEquality, "a != b; bool."),
      Binary(Op::kLt, "lt", InferOrdering, "a < b; bool."),
      Binary(Op::kLe, "le", InferOrdering, "a <= b; bool."),
      Binary(Op::kGt, "gt", InferOrdering, "a > b; bool."),
      Binary(Op::kGe, "ge", InferOrdering, "a >= b; bool."),
      Binary(Op::kLogicalAnd, "logical_and", InferLogical, "a and b; bool."),
      Binary(Op::kLogicalOr, "logical_or", InferLogical, "a or b; bool."),
      Binary(Op::kWhere, "where", InferWhere, "a where the condition holds, b elsewhere; all three broadcast."),

      {.op = Op::kConstant,
       .name = "constant",
       .group = "Creation and shape",
       .attrs = {{"value", AttrKind::kFloat}, {"dtype", AttrKind::kDType}, {"shape", AttrKind::kDims, Dims{}}},
       .infer = InferConstant,
       .doc = "A tensor whose elements are all `value`, which must be a value of `dtype` (floats are rounded)."},
      {.op = Op::kIota,
       .name = "iota",
       .group = "Creation and shape",
       .attrs = {{"dtype", AttrKind::kDType}, {"shape", AttrKind::kDims}, {"axis", AttrKind::kInt}},
       .infer = InferIota,
       .doc = "Each element is its index along `axis`: 0, 1, 2, ..."},
      {.op = Op::kReshape,
       .name = "reshape",
       .group = "Creation and shape",
       .operands = {{"x"}},
       .attrs = {{"shape", AttrKind::kDims}},
       .infer = InferReshape,
       .doc = "The same elements in row-major order under another shape of as many elements."},
      {.op = Op::kTranspose,
       .name = "transpose",
       .group = "Creation and shape",
       .operands = {{"x"}},
       .attrs = {{"perm", AttrKind::kInts}},
       .infer = InferTranspose,
       .doc = "Axes permuted: axis i of the result is axis perm[i] of x."},
      {.op = Op::kExpand,
       .name = "expand",
       .group = "Creation and shape",
       .operands = {{"x"}},
       .attrs = {{"shape", AttrKind::kDims}},
       .infer = InferExpand,
       .doc = "x broadcast to `shape` by numpy's rule: axes aligned at the last, dims of 1 repeated."},
      {.op = Op::kSlice,
       .name = "slice",
       .group = "Creation and shape",
       .operands = {{"x"}},
       .attrs = {{"axis", AttrKind::kInt},
                 {"start", AttrKind::kDim},
                 {"stop", AttrKind::kDim},
                 {"step", AttrKind::kInt, int64_t{1}}},
       .infer = InferSlice,
       .doc =
           "Elements start, start + step, ... below stop along `axis`; 0 <= start <= stop <= the axis's dim, step >= "
           "1. With a step above 1 the length stop - start is a constant or a multiple of the step."},
      {.op = Op::kConcat,
       .name = "concat",
       .group = "Creation and shape",
       .operands = {{"xs", kVariadic}},
       .attrs = {{"axis", AttrKind::kInt}},
       .infer = InferConcat,
       .doc = "The operands one after the other along `axis`; they agree in dtype and in every other dim."},

      {.op = Op::kEmbedding,
       .name = "embedding",
       .group = "Lookups",
       .operands = {{"table"}, {"ids"}, {"scale", kOptional}},
       .attrs = {{"dtype", AttrKind::kDType}},
       .infer = InferEmbedding,
       .doc = "table[V, C], ids[...] (i32 or i64) -> dtype[..., C]: row ids[i] of the table, cast to `dtype`. "
              "0 <= ids[i] < V. A table of i8 holds the codes of quantize, scale[V] their scales: a row is then each "
              "code times the row's scale, rounded to f32."},
      {.op = Op::kGatherRows,
       .name = "gather_rows",
       .group = "Lookups",
       .operands = {{"x"}, {"rows"}},
       .infer = InferGatherRows,
       .doc = "x[N, ...], rows[L] (i32) -> [L, ...]: row rows[i] of x. 0 <= rows[i] < N."},
      {.op = Op::kIndex,
       .name = "index",
       .group = "Lookups",
       .operands = {{"x"}, {"indices", kVariadic}},
       .infer = InferIndex,
       .doc = "x[N0, N1, ..., rest], k indices (i32 or i64) that broadcast to one shape [...] -> [..., rest]: "
              "x[indices0, indices1, ...], one index for each of x's first k axes. An index i of axis a counts from "
              "the end where it is negative; -Na <= i < Na."},

      Reduction(Op::kReduceSum, "reduce_sum", InferReduceNumeric, "The sum over `axes`."),
      Reduction(Op::kReduceMean, "reduce_mean", InferReduceFloat, "The mean over `axes`."),
      Reduction(Op::kReduceMax, "reduce_max", InferReduceNumeric,
                "The greatest element over `axes`, which hold at least one; NaN if any is NaN."),
      {.op = Op::kCumsum,
       .name = "cumsum",
       .group = "Reductions and contractions",
       .operands = {{"x"}},
       .attrs = {{"axis", AttrKind::kInt}},
       .infer = InferCumsum,
       .doc = "Each element plus all before it along `axis`."},
      {.op = Op::kSoftmax,
       .name = "softmax",
       .group = "Reductions and contractions",
       .operands = {{"x"}},
       .attrs = {{"axis", AttrKind::kInt}},
       .infer = InferSoftmax,
       .doc = "e^(x - m) / sum(e^(x - m)) along `axis`, m the axis's maximum."},
      {.op = Op::kMatmul,
       .name = "matmul",
       .group = "Reductions and contractions",
       .operands = {{"a"}, {"b"}},
       .infer = InferMatmul,
       .doc =
           "a[..., M, K] @ b[..., K, N] -> [..., M, N] in a's dtype; the leading axes broadcast. Products and sums in "
           "f32 or wider."},
      {.op = Op::kLinear,
       .name = "linear",
       .group = "Reductions and contractions",
       .operands = {{"x"}, {"weight"}, {"bias", kOptional}},
       .infer = InferLinear,
       .doc = "x[..., K], weight[N, K], bias[N] -> [..., N] in x's dtype: sum over k of x[..., k] * weight[n, k], plus "
              "bias[n]. The weight may have another float dtype than x. Products and sums in f32 or wider."},
      {.op = Op::kLayerNorm,
       .name = "layer_norm",
       .group = "Reductions and contractions",
       .operands = {{"x"}, {"weight", kOptional}, {"bias", kOptional}},
       .attrs = {{"eps", AttrKind::kFloat}},
       .infer = InferNorm,
       .doc = "Over the last axis, of C channels: (x - mean(x)) / sqrt(var(x) + eps) * weight[C] + bias[C], var the "
              "biased variance."},
      {.op = Op::kRmsNorm,
       .name = "rms_norm",
       .group = "Reductions and contractions",
       .operands = {{"x"}, {"weight", kOptional}},
       .attrs = {{"eps", AttrKind::kFloat}},
       .infer = InferNorm,
       .doc = "Over the last axis, of C channels: x / sqrt(mean(x^2) + eps) * weight[C]."},
      {.op = Op::kAttention,
       .name = "attention",
       .group = "Reductions and contractions",
       .operands = {{"q"}, {"k"}, {"v"}, {"mask", kOptional}},
       .attrs = {{"causal", AttrKind::kBool}, {"scale", AttrKind::kFloat}, {"window", AttrKind::kInt, int64_t{0}}},
       .infer = InferAttention,
       .doc =
           "q[B, H, S, D], k[B, Hkv, Skv, D], v[B, Hkv, Skv, Dv] -> [B, H, S, Dv]: softmax over keys j of scale * "
           "q[i] . k[j], times v[j]. H is a multiple of Hkv, and query head h reads kv head h / (H / Hkv). With "
           "causal, "
           "query i sees keys j <= i + (Skv - S); with a window w > 0, of those only j > i + (Skv - S) - w. A mask "
           "broadcasts to [B, H, S, Skv]: of bool, only keys where it is true are seen; of q's dtype, it is added to "
           "the scaled products. A query that sees no key gives zeros."},

      {.op = Op::kRope,
       .name = "rope",
       .group = "Fused",
       .operands = {{"x"}, {"cos"}, {"sin"}},
       .infer = InferRope,
       .doc = "Rotary position embedding, the half-split form: x * cos + partner(x) * sin, partner(x) being "
              "concat(-x[..., D/2:], x[..., :D/2]) for x[..., D]. D is even; cos and sin, of D channels too, broadcast "
              "to x's shape."},
      {.op = Op::kFusedLinear,
       .name = "fused_linear",
       .group = "Fused",
       .operands = {{"x"},
                    {"weight"},
                    {"bias", kOptional},
                    {"residual", kOptional},
                    {"norm_weight", kOptional},
                    {"norm_bias", kOptional},
                    {"weight_scale", kOptional}},
       .attrs = {{"norm", AttrKind::kString, std::string("none")},
                 {"eps", AttrKind::kFloat, 0.0},
                 {"activation", AttrKind::kString, std::string("none")},
                 {"gated", AttrKind::kBool, false},
                 {"clip", AttrKind::kFloat, std::numeric_limits<double>::infinity()},
                 {"dtype", AttrKind::kDType, DType::kF32}},
       .infer = InferFusedLinear,
       .doc =
           "A linear layer with what stands before and after it: h = x, or layer_norm or rms_norm of x by `norm`, "
           "`eps`, norm_weight and norm_bias; z = h weight^T + bias for weight[N, K], bias[N]; y = f(z), f being "
           "`activation`: none, gelu, gelu_tanh, silu or relu; with `gated`, y = f(z[..., :N/2]) * z[..., N/2:]; "
           "the result is y + residual, of `dtype` as residual is, and rounded once. A weight of i8 holds the codes "
           "of quantize, weight_scale[N] its scales: then h, rounded to f32, becomes codes q and scales s by "
           "quantize with `clip`, and z = fl(fl(fl(sum of q[k] * weight[n, k]) * fl(s * weight_scale[n])) + "
           "bias[n]), the sum in i32 and fl rounding to f32. A weight of i8[N, K/2] with a weight_scale of "
           "f16[N, K/32, 2] holds quantize's codes of groups for weight[N, K]: then each group of 32 of h, rounded to "
           "f32, becomes codes q and a scale d as quantize makes them of a row, and with a group's sums P of q[k] * "
           "weight[n, k] and Q of q[k], z is bias[n] and, before it and in ascending order, the groups' fl(d * "
           "fl(fl(scale * P) + least value * Q)), each sum rounded to f32."},
      {.op = Op::kAddNorm,
       .name = "add_norm",
       .group = "Fused",
       .operands = {{"x"}, {"residual"}, {"weight", kOptional}, {"bias", kOptional}},
       .attrs = {{"norm", AttrKind::kString}, {"eps", AttrKind::kFloat}},
       .infer = InferAddNorm,
       .doc =
           "Two results: the sum x + residual, of equal shapes, and layer_norm or rms_norm, by `norm`, of that sum."},
      {.op = Op::kQuantize,
       .name = "quantize",
       .group = "Quantization",
       .operands = {{"x"}},
       .attrs = {{"clip", AttrKind::kFloat, std::numeric_limits<double>::infinity()},
                 {"group", AttrKind::kInt, int64_t{0}}},
       .infer = InferQuantize,
       .doc = "Symmetric codes of each row, the last axis, and its scale: x[..., K] -> i8[..., K], f32[...]. With fl "
              "rounding to f32 and a = min(max|x|, clip): if a < 2^-100 all codes and the scale are 0; else r = "
              "fl(127 / a), a code is fl(x * r) rounded to the nearest integer, ties to even, and clamped to +-127, "
              "and the scale is fl(a / 127). A row with an element that is not finite has codes 0 and scale NaN. With "
              "`group` 32, codes of 4 bits of each 32 elements, two a byte and the first in its lower half, and of "
              "each group a scale and a least value: x[..., K] -> i8[..., K/2], f16[..., K/32, 2]. With f16 rounding "
              "to f16: the least value is l = f16(min x), the scale s = f16(fl(fl(max x - min x) / 15)), a code is "
              "fl(fl(x - l) / s) rounded to the nearest integer, ties to even, and clamped to 0..15, or 0 if s is 0. A "
              "group with an element that is not finite, or whose s or l is not, has codes 0 and scale and least value "
              "NaN."},

      {.op = Op::kKvAppend,
       .name = "kv_append",
       .group = "Paged KV cache",
       .operands = {{"cache"}, {"k"}, {"v"}, {"row_start"}, {"kv_len"}, {"block_table"}},
       .attrs = {{"layer", AttrKind::kInt}},
       .effect = Effect::kConsumesCache,
       .infer = InferKvAppend,
       .doc =
           "cache, k[T, Hkv, D], v[T, Hkv, D], row_start[R+1], kv_len[R], block_table[R, P] (i32) -> cache: stores k "
           "and "
           "v, cast to the cache's dtype, in one layer; in a cache of i8 each head's k and v as codes with a scale, as "
           "quantize makes them of a row. Token t of row r, row_start[r] <= t < row_start[r+1], goes to "
           "slot p = kv_len[r] - (row_start[r+1] - t) of the row: page block_table[r, p / page_size], offset "
           "p % page_size. kv_len is the row's length after the append; row_start rises from 0 to T."},
      {.op = Op::kPagedAttention,
       .name = "paged_attention",
       .group = "Paged KV cache",
       .operands = {{"cache"}, {"q"}, {"row_start"}, {"kv_len"}, {"block_table"}},
       .attrs = {{"layer", AttrKind::kInt}, {"scale", AttrKind::kFloat}, {"window", AttrKind::kInt, int64_t{0}}},
       .effect = Effect::kReadsCache,
       .infer = InferPagedAttention,
       .doc =
           "cache, q[T, H, D], row_start[R+1], kv_len[R], block_table[R, P] (i32) -> [T, H, D] in q's dtype: attention "
           "of token t of row r over slots 0 .. p of its row, p being the token's own slot as in kv_append; with a "
           "window w > 0 only over slots above p - w. Heads share keys as in attention. Of a cache of i8 it reads "
           "codes times scales, in f32."},
  };
  table.push_back(
      {.op = Op::kCachedAttention,
       .name = "cached_attention",
       .group = "Paged KV cache",
       .operands =
           {{"cache"}, {"qkv"}, {"row_start"}, {"kv_len"}, {"block_table"}, {"cos", kOptional}, {"sin", kOptional}},
       .attrs = {{"layer", AttrKind::kInt},
                 {"heads", AttrKind::kInt},
                 {"scale", AttrKind::kFloat},
                 {"window", AttrKind::kInt, int64_t{0}}},
       .effect = Effect::kConsumesCache,
       .infer = InferCachedAttention,
       .doc =
           "cache, qkv[T, (H + 2 Hkv) D], row_start[R+1], kv_len[R], block_table[R, P] (i32), cos[T, D], sin[T, D] -> "
           "cache and [T, H D], H being `heads`: each token's queries, keys and values lie side by side, in this "
           "order. Queries and keys are turned as by rope if cos and sin are given; then kv_append, then "
           "paged_attention."});
  auto row = [&table](Op op) -> OpDef& { return table[static_cast<size_t>(op)]; };
  row(Op::kGelu).attrs = {{"approximate", AttrKind::kString, std::string("none")}};
  row(Op::kCast).attrs = {{"dtype", AttrKind::kDType}};
  row(Op::kWhere).operands = {{"condition"}, {"a"}, {"b"}};
  return table;
}

const std::vector<OpDef>& Table() {
  static const auto* table = new std::vector<OpDef>(MakeTable());
  return *table;
}

// "2 operands (x, weight)" and the like.
std::string WantedOperands(const OpDef& def) {
  std::vector<std::string> names;
  for (const OperandDef& operand : def.operands) {
    names.push_back(absl::StrCat(operand.name, operand.kind == OperandKind::kOptional   ? "?"
                                               : operand.kind == OperandKind::kVariadic ? "..."
                                                                                        : ""));
  }
  return absl::StrCat("operands (", absl::StrJoin(names, ", "), ")");
}

absl::Status CheckOperands(const OpDef& def, absl::Span<const Type> operands) {
  const bool variadic = !def.operands.empty() && def.operands.back().kind == OperandKind::kVariadic;
  size_t required = 0;
  for (const OperandDef& operand : def.operands) required += operand.kind != OperandKind::kOptional;
  if (operands.size() < required || (!variadic && operands.size() > def.operands.size())) {
    return Mismatch("operands", WantedOperands(def), absl::StrCat(operands.size()));
  }
  for (size_t i = 0; i < operands.size(); ++i) {
    const OperandDef& wanted = def.operands[std::min(i, def.operands.size() - 1)];
    if (operands[i].is_absent()) {
      if (wanted.kind != OperandKind::kOptional) return Mismatch(wanted.name, "a value", "_");
      continue;
    }
    const bool wants_cache = i == 0 && def.effect != Effect::kPure;
    if (operands[i].is_cache() != wants_cache) {
      return Mismatch(wanted.name, wants_cache ? "a cache" : "a tensor", operands[i].ToString());
    }
  }
  return absl::OkStatus();
}

absl::Status CompleteAttrs(const OpDef& def, AttrMap* attrs) {
  for (const AttrDef& wanted : def.attrs) {
    auto it = attrs->find(wanted.name);
    if (it == attrs->end()) {
      if (!wanted.default_value.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat("attribute ", wanted.name, " (", AttrKindName(wanted.kind), ") is missing"));
      }
      attrs->emplace(wanted.name, *wanted.default_value);
    } else if (KindOf(it->second) != wanted.kind) {
      return Mismatch(absl::StrCat("attribute ", wanted.name), AttrKindName(wanted.kind),
                      absl::StrCat(AttrKindName(KindOf(it->second)), " ", AttrToString(it->second)));
    }
  }
  for (const auto& [name, value] : *attrs) {
    bool known = false;
    for (const AttrDef& wanted : def.attrs) known |= wanted.name == name;
    if (!known) return absl::InvalidArgumentError(absl::StrCat("no attribute is called ", QuoteString(name)));
  }
  return absl::OkStatus();
}

absl::Status CheckResult(const Type& type) {
  if (!type.is_tensor()) return absl::OkStatus();
  const Dims& shape = type.tensor().shape;
  if (shape.size() > kMaxRank) {
    return Mismatch("result", absl::StrCat("rank ", kMaxRank, " or less"), type.ToString());
  }
  for (const DimExpr& dim : shape) {
    if (dim.constant().value_or(0) < 0) return Mismatch("result", "no negative dimension", type.ToString());
  }
  if (NumElements(shape).overflowed()) {
    return Mismatch("result", "an element count that fits 64 bits", type.ToString());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Type>> Infer(const OpDef& def, absl::Span<const Type> operands, AttrMap* attrs) {
  FF_RETURN_IF_ERROR(CheckOperands(def, operands));
  FF_RETURN_IF_ERROR(CompleteAttrs(def, attrs));
  FF_ASSIGN_OR_RETURN(std::vector<Type> types, def.infer(operands, *attrs));
  for (const Type& type : types) {
    FF_RETURN_IF_ERROR(CheckResult(type));
  }
  return types;
}

}  // namespace

absl::Span<const OpDef> OpTable() { return Table(); }

const OpDef& GetOpDef(Op op) {
  const size_t row = static_cast<size_t>(op);
  CHECK_LT(row, Table().size());
  return Table()[row];
}

const OpDef* FindOp(std::string_view name) {
  static const auto* by_name = [] {
    auto* map = new absl::flat_hash_map<std::string_view, const OpDef*>();
    for (const OpDef& def : Table()) map->emplace(def.name, &def);
    return map;
  }();
  auto it = by_name->find(name);
  return it == by_name->end() ? nullptr : it->second;
}

absl::StatusOr<std::vector<Type>> InferTypes(Op op, absl::Span<const Type> operands, AttrMap* attrs) {
  const OpDef& def = GetOpDef(op);
  absl::StatusOr<std::vector<Type>> types = Infer(def, operands, attrs);
  if (types.ok()) return types;
  return absl::Status(types.status().code(), absl::StrCat(def.name, ": ", types.status().message()));
}

}  // namespace flashflow::ir
