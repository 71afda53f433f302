#include <cmath>

#include "absl/strings/str_cat.h"
#include "compiler/ir/infer.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::ir {
namespace {

absl::Status CheckHeads(const DimExpr& heads, const DimExpr& kv_heads) {
  if (heads.DividedBy(kv_heads).has_value()) return absl::OkStatus();
  return Mismatch("q", absl::StrCat("a multiple of ", kv_heads.ToString(), " heads, as keys and values have"),
                  absl::StrCat(heads.ToString(), " heads"));
}

absl::Status CheckScoreAttrs(const AttrMap& attrs) {
  if (const double scale = Get<double>(attrs, "scale"); !std::isfinite(scale)) {
    return Mismatch("scale", "a finite number", AttrToString(scale));
  }
  if (const int64_t window = Get<int64_t>(attrs, "window"); window < 0) {
    return Mismatch("window", "0 (none) or more", absl::StrCat(window));
  }
  return absl::OkStatus();
}

absl::Status CheckIndexTensor(std::string_view what, const TensorType& type, const Dims& shape) {
  if (type.dtype != DType::kI32) return Mismatch(what, "i32", type);
  return RequireShape(what, type, shape);
}

// row_start[R+1], kv_len[R] and block_table[R, P]: three operands from `first` on.
absl::Status CheckRows(Operands operands, size_t first) {
  const TensorType& row_start = operands[first].tensor();
  const TensorType& kv_len = operands[first + 1].tensor();
  const TensorType& block_table = operands[first + 2].tensor();
  FF_RETURN_IF_ERROR(RequireRank("kv_len", kv_len, 1));
  FF_RETURN_IF_ERROR(RequireRank("block_table", block_table, 2));
  const DimExpr& rows = kv_len.shape[0];
  FF_RETURN_IF_ERROR(CheckIndexTensor("row_start", row_start, {rows + 1}));
  FF_RETURN_IF_ERROR(CheckIndexTensor("kv_len", kv_len, {rows}));
  return CheckIndexTensor("block_table", block_table, {rows, block_table.shape[1]});
}

absl::Status CheckLayer(const CacheType& cache, const AttrMap& attrs) {
  const int64_t layer = Get<int64_t>(attrs, "layer");
  if (layer >= 0 && layer < cache.layers) return absl::OkStatus();
  return Mismatch("layer", absl::StrCat("one of the ", cache.layers, " layers of ", Type(cache).ToString()),
                  absl::StrCat(layer));
}

}  // namespace

InferResult InferAttention(Operands operands, const AttrMap& attrs) {
  const TensorType& q = operands[0].tensor();
  const TensorType& k = operands[1].tensor();
  const TensorType& v = operands[2].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("q", q));
  if (k.dtype != q.dtype) return Mismatch("k", DTypeName(q.dtype), k);
  if (v.dtype != q.dtype) return Mismatch("v", DTypeName(q.dtype), v);
  FF_RETURN_IF_ERROR(RequireRank("q", q, 4));
  FF_RETURN_IF_ERROR(RequireRank("k", k, 4));
  FF_RETURN_IF_ERROR(RequireRank("v", v, 4));
  FF_RETURN_IF_ERROR(RequireShape("k", k, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]}));
  FF_RETURN_IF_ERROR(RequireShape("v", v, {k.shape[0], k.shape[1], k.shape[2], v.shape[3]}));
  FF_RETURN_IF_ERROR(CheckHeads(q.shape[1], k.shape[1]));
  FF_RETURN_IF_ERROR(CheckScoreAttrs(attrs));
  if (!Get<bool>(attrs, "causal") && Get<int64_t>(attrs, "window") != 0) {
    return Mismatch("window", "0, as the attention is not causal", absl::StrCat(Get<int64_t>(attrs, "window")));
  }
  if (IsGiven(operands, 3)) {
    const TensorType& mask = operands[3].tensor();
    const Dims scores = {q.shape[0], q.shape[1], q.shape[2], k.shape[2]};
    if (mask.dtype != DType::kBool && mask.dtype != q.dtype) {
      return Mismatch("mask", absl::StrCat("bool or ", DTypeName(q.dtype)), mask);
    }
    if (absl::StatusOr<Dims> shape = Broadcast(scores, mask.shape); !shape.ok() || *shape != scores) {
      return Mismatch("mask", absl::StrCat("a shape that broadcasts to ", DimsToString(scores)), mask);
    }
  }
  return std::vector<Type>{TensorType{q.dtype, {q.shape[0], q.shape[1], q.shape[2], v.shape[3]}}};
}

InferResult InferKvAppend(Operands operands, const AttrMap& attrs) {
  const CacheType& cache = operands[0].cache();
  const TensorType& k = operands[1].tensor();
  const TensorType& v = operands[2].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("k", k));
  FF_RETURN_IF_ERROR(RequireRank("k", k, 3));
  FF_RETURN_IF_ERROR(RequireShape("k", k, {k.shape[0], cache.kv_heads, cache.head_dim}));
  if (v != k) return Mismatch("v", Type(k).ToString(), v);
  FF_RETURN_IF_ERROR(CheckRows(operands, 3));
  FF_RETURN_IF_ERROR(CheckLayer(cache, attrs));
  return std::vector<Type>{operands[0]};
}

InferResult InferCachedAttention(Operands operands, const AttrMap& attrs) {
  const CacheType& cache = operands[0].cache();
  const TensorType& qkv = operands[1].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("qkv", qkv));
  FF_RETURN_IF_ERROR(RequireRank("qkv", qkv, 2));
  const int64_t heads = Get<int64_t>(attrs, "heads");
  constexpr int64_t kMostHeads = int64_t{1} << 20;  // keeps the products below from overflowing
  if (heads < 1 || heads > kMostHeads || heads % cache.kv_heads != 0) {
    return Mismatch("heads", absl::StrCat("a multiple of the cache's ", cache.kv_heads, " heads"), absl::StrCat(heads));
  }
  const DimExpr& tokens = qkv.shape[0];
  const DimExpr dim = cache.head_dim;
  FF_RETURN_IF_ERROR(
      RequireShape("qkv", qkv, {tokens, DimExpr(heads) * dim + DimExpr(2) * DimExpr(cache.kv_heads) * dim}));
  FF_RETURN_IF_ERROR(CheckRows(operands, 2));
  FF_RETURN_IF_ERROR(CheckLayer(cache, attrs));
  FF_RETURN_IF_ERROR(CheckScoreAttrs(attrs));
  if (IsGiven(operands, 5) != IsGiven(operands, 6)) return Mismatch("cos, sin", "both or neither", "one");
  for (const size_t i : {5, 6}) {
    if (!IsGiven(operands, i)) continue;
    const std::string_view what = i == 5 ? "cos" : "sin";
    FF_RETURN_IF_ERROR(RequireFloat(what, operands[i].tensor()));
    FF_RETURN_IF_ERROR(RequireShape(what, operands[i].tensor(), {tokens, dim}));
    if (cache.head_dim % 2 != 0)
      return Mismatch("cache", "an even head_dim, as heads are turned", operands[0].ToString());
  }
  return std::vector<Type>{operands[0], TensorType{qkv.dtype, {tokens, DimExpr(heads) * dim}}};
}

InferResult InferPagedAttention(Operands operands, const AttrMap& attrs) {
  const CacheType& cache = operands[0].cache();
  const TensorType& q = operands[1].tensor();
  FF_RETURN_IF_ERROR(RequireFloat("q", q));
  FF_RETURN_IF_ERROR(RequireRank("q", q, 3));
  FF_RETURN_IF_ERROR(RequireShape("q", q, {q.shape[0], q.shape[1], cache.head_dim}));
  FF_RETURN_IF_ERROR(CheckHeads(q.shape[1], cache.kv_heads));
  FF_RETURN_IF_ERROR(CheckRows(operands, 2));
  FF_RETURN_IF_ERROR(CheckLayer(cache, attrs));
  FF_RETURN_IF_ERROR(CheckScoreAttrs(attrs));
  return std::vector<Type>{q};
}

}  // namespace flashflow::ir
