// Targets that move elements: views, slices, joins, lookups.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

absl::StatusOr<Values> One(absl::StatusOr<ir::Value*> value) {
  if (!value.ok()) return value.status();
  return Values{*value};
}

absl::StatusOr<ir::Value*> Slice(const Call& call, ir::Value* x, int64_t axis, DimExpr start, DimExpr stop,
                                 int64_t step = 1) {
  if (start == DimExpr(0) && stop == x->tensor().shape[axis] && step == 1) return x;
  return call.Emit(Op::kSlice, {x},
                   {{"axis", axis}, {"start", std::move(start)}, {"stop", std::move(stop)}, {"step", step}});
}

// Replaces a -1 among dims by what is left of `elements`.
absl::Status FillOpenDim(const Call& call, std::string_view name, const DimExpr& elements, Dims* dims) {
  DimExpr* open = nullptr;
  DimExpr known = 1;
  for (DimExpr& dim : *dims) {
    if (dim != DimExpr(-1)) {
      known = known * dim;
    } else if (open == nullptr) {
      open = &dim;
    } else {
      return call.Error(name, "at most one -1");
    }
  }
  if (open == nullptr) return absl::OkStatus();
  const std::optional<DimExpr> rest = elements.DividedBy(known);
  if (!rest.has_value()) {
    return call.Error(name, absl::StrCat("dims that divide the elements, ", elements.ToString()));
  }
  *open = *rest;
  return absl::OkStatus();
}

absl::StatusOr<Values> View(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(Dims shape, call.DimList("size"));
  FF_RETURN_IF_ERROR(FillOpenDim(call, "size", NumElements(x->tensor().shape), &shape));
  return One(call.Reshape(x, std::move(shape)));
}

absl::StatusOr<Values> Transpose(const Call& call, ir::Value* x, std::vector<int64_t> perm) {
  return One(call.Emit(Op::kTranspose, {x}, {{"perm", std::move(perm)}}));
}

std::vector<int64_t> IdentityPerm(size_t rank) {
  std::vector<int64_t> perm(rank);
  for (size_t i = 0; i < rank; ++i) perm[i] = static_cast<int64_t>(i);
  return perm;
}

absl::StatusOr<Values> TransposeInt(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const size_t rank = x->tensor().shape.size();
  FF_ASSIGN_OR_RETURN(const int64_t dim0, call.Axis("dim0", rank));
  FF_ASSIGN_OR_RETURN(const int64_t dim1, call.Axis("dim1", rank));
  std::vector<int64_t> perm = IdentityPerm(rank);
  std::swap(perm[dim0], perm[dim1]);
  return Transpose(call, x, std::move(perm));
}

absl::StatusOr<Values> Permute(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(std::vector<int64_t> perm, call.Axes("dims", x->tensor().shape.size()));
  return Transpose(call, x, std::move(perm));
}

absl::StatusOr<Values> TransposeMatrix(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  if (x->tensor().shape.size() > 2) return call.Error("self", "a tensor of rank 2 or less");
  std::vector<int64_t> perm = IdentityPerm(x->tensor().shape.size());
  if (perm.size() == 2) std::swap(perm[0], perm[1]);
  return Transpose(call, x, std::move(perm));
}

absl::StatusOr<Values> Unsqueeze(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  Dims shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t dim, call.Axis("dim", shape.size() + 1));
  shape.insert(shape.begin() + dim, DimExpr(1));
  return One(call.Reshape(x, std::move(shape)));
}

absl::StatusOr<Values> Squeeze(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const Dims& shape = x->tensor().shape;
  std::vector<int64_t> axes = IdentityPerm(shape.size());
  if (call.Has("dim")) {
    FF_ASSIGN_OR_RETURN(axes, call.Axes("dim", shape.size()));
  }
  std::vector<bool> listed(shape.size(), false);
  for (int64_t axis : axes) listed[axis] = true;
  Dims kept;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (!listed[i] || shape[i] != DimExpr(1)) kept.push_back(shape[i]);
  }
  return One(call.Reshape(x, std::move(kept)));
}

absl::StatusOr<Values> Expand(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(Dims size, call.DimList("size"));
  const Dims& shape = x->tensor().shape;
  if (size.size() < shape.size()) return call.Error("size", absl::StrCat("at least ", shape.size(), " dims"));
  const size_t added = size.size() - shape.size();
  for (size_t i = 0; i < size.size(); ++i) {
    if (size[i] != DimExpr(-1)) continue;
    if (i < added) return call.Error("size", "no -1 for a new dim");
    size[i] = shape[i - added];
  }
  if (size == shape) return Values{x};
  return One(call.Emit(Op::kExpand, {x}, {{"shape", std::move(size)}}));
}

// A slice bound as torch reads it: negative ones count from the end, then clamped to [0, dim]. Of a symbolic dim only
// bounds that no size clamps.
absl::StatusOr<DimExpr> SliceBound(const Call& call, std::string_view name, const DimExpr& dim, int64_t otherwise) {
  const Arg& arg = call.Get(name);
  if (const auto* expr = std::get_if<DimExpr>(&arg.value); expr != nullptr && !expr->IsConstant()) {
    if (call.IsWithin(*expr, 0, dim)) return *expr;
    return call.Error(name, absl::StrCat("a bound from 0 to ", dim.ToString(), " for all sizes"));
  }
  int64_t bound = otherwise;
  if (const auto* expr = std::get_if<DimExpr>(&arg.value)) {
    bound = *expr->constant();
  } else {
    FF_ASSIGN_OR_RETURN(bound, call.Int(name, otherwise));
  }
  if (bound == 0) return DimExpr(0);
  if (bound == std::numeric_limits<int64_t>::max()) return dim;
  if (const std::optional<int64_t> length = dim.constant(); length.has_value()) {
    if (bound < 0) bound += *length;
    return DimExpr(std::min(std::max<int64_t>(bound, 0), *length));
  }
  const DimExpr place = bound < 0 ? dim + DimExpr(bound) : DimExpr(bound);
  if (call.IsWithin(place, 0, dim)) return place;
  return call.Error(name, absl::StrCat("0 or the end: the sliced dim ", dim.ToString(), " is symbolic"));
}

absl::StatusOr<Values> SliceTensor(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const Dims& shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", shape.size(), 0));
  FF_ASSIGN_OR_RETURN(const DimExpr start, SliceBound(call, "start", shape[axis], 0));
  FF_ASSIGN_OR_RETURN(DimExpr stop, SliceBound(call, "end", shape[axis], std::numeric_limits<int64_t>::max()));
  FF_ASSIGN_OR_RETURN(const int64_t step, call.Int("step", 1));
  if ((stop - start).constant().value_or(0) < 0) stop = start;  // torch: an empty slice
  return One(Slice(call, x, axis, start, stop, step));
}

// x[..., index, ...] with the axis dropped.
absl::StatusOr<ir::Value*> SelectIndex(const Call& call, ir::Value* x, int64_t axis, int64_t index) {
  FF_ASSIGN_OR_RETURN(ir::Value * slice, Slice(call, x, axis, index, index + 1));
  Dims shape = x->tensor().shape;
  shape.erase(shape.begin() + axis);
  return call.Reshape(slice, std::move(shape));
}

absl::StatusOr<Values> Select(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const Dims& shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", shape.size()));
  const std::optional<int64_t> length = shape[axis].constant();
  if (!length.has_value()) {
    return call.Error("dim", absl::StrCat("an axis of constant size, not ", shape[axis].ToString()));
  }
  FF_ASSIGN_OR_RETURN(int64_t index, call.Int("index"));
  if (index < -*length || index >= *length) return call.Error("index", absl::StrCat("an index below ", *length));
  return One(SelectIndex(call, x, axis, index < 0 ? index + *length : index));
}

// Consecutive slices of these lengths.
absl::StatusOr<Values> SplitInto(const Call& call, ir::Value* x, int64_t axis, const std::vector<int64_t>& lengths) {
  Values parts;
  int64_t start = 0;
  for (int64_t length : lengths) {
    FF_ASSIGN_OR_RETURN(ir::Value * part, Slice(call, x, axis, start, start + length));
    parts.push_back(part);
    start += length;
  }
  return parts;
}

// The axis to split and its constant length, at most one part for each element.
struct SplitAxis {
  ir::Value* x;
  int64_t axis;
  int64_t length;
};
absl::StatusOr<SplitAxis> ReadSplitAxis(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", x->tensor().shape.size(), 0));
  const std::optional<int64_t> length = x->tensor().shape[axis].constant();
  if (!length.has_value()) {
    return call.Error("dim", absl::StrCat("an axis of constant size, not ", x->tensor().shape[axis].ToString()));
  }
  return SplitAxis{x, axis, *length};
}

absl::StatusOr<Values> SplitEvery(const Call& call, const SplitAxis& split, int64_t size) {
  // The declared results bound the parts before any are made.
  const int64_t parts = size < 1 ? -1 : split.length == 0 ? 1 : (split.length - 1) / size + 1;
  if (parts != static_cast<int64_t>(call.node().results.size())) {
    return absl::InvalidArgumentError(absl::StrCat("parts of ", size, " from an axis of ", split.length, " give ",
                                                   std::max<int64_t>(parts, 0), " results, but ",
                                                   call.node().results.size(), " are declared"));
  }
  std::vector<int64_t> lengths(parts, size);
  lengths.back() = split.length - size * (parts - 1);
  return SplitInto(call, split.x, split.axis, lengths);
}

absl::StatusOr<Values> SplitTensor(const Call& call) {
  FF_ASSIGN_OR_RETURN(const SplitAxis split, ReadSplitAxis(call));
  FF_ASSIGN_OR_RETURN(const int64_t size, call.Int("split_size"));
  return SplitEvery(call, split, size);
}

absl::StatusOr<Values> Chunk(const Call& call) {
  FF_ASSIGN_OR_RETURN(const SplitAxis split, ReadSplitAxis(call));
  FF_ASSIGN_OR_RETURN(const int64_t chunks, call.Int("chunks"));
  if (chunks < 1) return call.Error("chunks", "1 or more");
  return SplitEvery(call, split, split.length == 0 ? 1 : (split.length - 1) / chunks + 1);
}

absl::StatusOr<Values> SplitWithSizes(const Call& call) {
  FF_ASSIGN_OR_RETURN(const SplitAxis split, ReadSplitAxis(call));
  FF_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, call.IntList("split_sizes"));
  int64_t rest = split.length;
  for (int64_t size : sizes) {
    if (size < 0 || size > rest) return call.Error("split_sizes", absl::StrCat("sizes that add up to ", split.length));
    rest -= size;
  }
  if (rest != 0) return call.Error("split_sizes", absl::StrCat("sizes that add up to ", split.length));
  return SplitInto(call, split.x, split.axis, sizes);
}

absl::StatusOr<Values> Unbind(const Call& call) {
  FF_ASSIGN_OR_RETURN(const SplitAxis split, ReadSplitAxis(call));
  if (split.length != static_cast<int64_t>(call.node().results.size())) {
    return absl::InvalidArgumentError(absl::StrCat("an axis of ", split.length, " gives as many results, but ",
                                                   call.node().results.size(), " are declared"));
  }
  Values parts;
  for (int64_t i = 0; i < split.length; ++i) {
    FF_ASSIGN_OR_RETURN(ir::Value * part, SelectIndex(call, split.x, split.axis, i));
    parts.push_back(part);
  }
  return parts;
}

absl::StatusOr<Values> Cat(const Call& call) {
  FF_ASSIGN_OR_RETURN(Values tensors, call.Tensors("tensors"));
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", tensors[0]->tensor().shape.size(), 0));
  if (tensors.size() == 1) return tensors;
  return One(call.Emit(Op::kConcat, std::move(tensors), {{"axis", axis}}));
}

absl::StatusOr<Values> Lookup(const Call& call, ir::Value* table, ir::Value* ids) {
  return One(call.Emit(Op::kEmbedding, {table, ids}, {{"dtype", table->tensor().dtype}}));
}

absl::StatusOr<Values> Embedding(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * table, call.Tensor("weight"));
  FF_ASSIGN_OR_RETURN(ir::Value * ids, call.Tensor("indices"));
  return Lookup(call, table, ids);
}

// table[ids] as models with rotary embeddings write it; else x[indices0, indices1, ...].
absl::StatusOr<Values> IndexTensor(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(Values indices, call.Tensors("indices"));
  if (indices.size() == 1 && x->tensor().shape.size() == 2 && IsFloat(x->tensor().dtype)) {
    return Lookup(call, x, indices[0]);
  }
  indices.insert(indices.begin(), x);
  return One(call.Emit(Op::kIndex, std::move(indices)));
}

absl::StatusOr<Values> Cumsum(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", x->tensor().shape.size()));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  const DType as_torch = IsFloat(x->tensor().dtype) ? x->tensor().dtype : DType::kI64;
  FF_ASSIGN_OR_RETURN(x, call.Cast(x, dtype.value_or(as_torch)));
  return One(call.Emit(Op::kCumsum, {x}, {{"axis", axis}}));
}

// Each element minus the one before it, after what is prepended and before what is appended.
absl::StatusOr<Values> Diff(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_RETURN_IF_ERROR(call.RequireDefault("n", Arg{int64_t{1}}, "take differences one after the other"));
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", x->tensor().shape.size(), -1));
  FF_ASSIGN_OR_RETURN(ir::Value * first, call.OptionalTensor("prepend"));
  FF_ASSIGN_OR_RETURN(ir::Value * last, call.OptionalTensor("append"));
  if (x->tensor().dtype == DType::kBool) return call.Error("self", "a tensor of numbers");
  Values parts = {x};
  if (first != nullptr) parts.insert(parts.begin(), first);
  if (last != nullptr) parts.push_back(last);
  if (parts.size() > 1) {
    FF_ASSIGN_OR_RETURN(x, call.Emit(Op::kConcat, std::move(parts), {{"axis", axis}}));
  }
  const DimExpr length = x->tensor().shape[axis];
  FF_ASSIGN_OR_RETURN(ir::Value * later, Slice(call, x, axis, 1, length));
  FF_ASSIGN_OR_RETURN(ir::Value * earlier, Slice(call, x, axis, 0, length - 1));
  return One(call.Emit(Op::kSub, {later, earlier}));
}

absl::StatusOr<Values> ExpandAs(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const ir::Value* other, call.Tensor("other"));
  if (x->tensor().shape == other->tensor().shape) return Values{x};
  return One(call.Emit(Op::kExpand, {x}, {{"shape", other->tensor().shape}}));
}

// The axes from start_dim to end_dim as one.
absl::StatusOr<Values> Flatten(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const Dims& shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t start, call.Axis("start_dim", shape.size(), 0));
  FF_ASSIGN_OR_RETURN(const int64_t end, call.Axis("end_dim", shape.size(), -1));
  if (end < start) return call.Error("end_dim", "no axis before start_dim");
  Dims flat(shape.begin(), shape.begin() + start);
  flat.push_back(NumElements(Dims(shape.begin() + start, shape.begin() + end + 1)));
  flat.insert(flat.end(), shape.begin() + end + 1, shape.end());
  return One(call.Reshape(x, std::move(flat)));
}

// An axis as several of these sizes.
absl::StatusOr<Values> Unflatten(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  Dims shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", shape.size()));
  FF_ASSIGN_OR_RETURN(Dims sizes, call.DimList("sizes"));
  FF_RETURN_IF_ERROR(FillOpenDim(call, "sizes", shape[axis], &sizes));
  shape.erase(shape.begin() + axis);
  shape.insert(shape.begin() + axis, sizes.begin(), sizes.end());
  return One(call.Reshape(x, std::move(shape)));
}

// Each element of an axis several times: [a, b] twice is [a, a, b, b].
absl::StatusOr<Values> RepeatInterleave(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  const Dims& shape = x->tensor().shape;
  FF_ASSIGN_OR_RETURN(const int64_t repeats, call.Int("repeats"));
  if (!call.Has("dim")) return call.Error("dim", "an axis");
  FF_ASSIGN_OR_RETURN(const int64_t axis, call.Axis("dim", shape.size()));
  if (repeats < 1) return call.Error("repeats", "1 or more");
  Dims apart = shape;
  apart.insert(apart.begin() + axis + 1, DimExpr(1));
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Reshape(x, apart));
  apart[axis + 1] = repeats;
  FF_ASSIGN_OR_RETURN(result, call.Emit(Op::kExpand, {result}, {{"shape", apart}}));
  Dims joined = shape;
  joined[axis] = joined[axis] * DimExpr(repeats);
  return One(call.Reshape(result, std::move(joined)));
}

constexpr TargetRow kTargets[] = {
    {"aten.view.default", "self size", View},
    {"aten.reshape.default", "self size", View},
    {"aten._unsafe_view.default", "self size", View},
    {"aten.transpose.int", "self dim0 dim1", TransposeInt},
    {"aten.permute.default", "self dims", Permute},
    {"aten.t.default", "self", TransposeMatrix},
    {"aten.unsqueeze.default", "self dim", Unsqueeze},
    {"aten.squeeze.default", "self", Squeeze},
    {"aten.squeeze.dim", "self dim", Squeeze},
    {"aten.squeeze.dims", "self dim", Squeeze},
    {"aten.expand.default", "self size implicit~", Expand},
    {"aten.slice.Tensor", "self dim? start? end? step?", SliceTensor,
     "a symbolic axis is cut where every size has a place"},
    {"aten.select.int", "self dim index", Select, "of an axis of constant size"},
    {"aten.split.Tensor", "self split_size dim?", SplitTensor, "of an axis of constant size"},
    {"aten.split_with_sizes.default", "self split_sizes dim?", SplitWithSizes, "of an axis of constant size"},
    {"aten.split.sizes", "self split_sizes dim?", SplitWithSizes, "of an axis of constant size"},
    {"aten.chunk.default", "self chunks dim?", Chunk, "of an axis of constant size"},
    {"aten.unbind.int", "self dim?", Unbind, "of an axis of constant size"},
    {"aten.cat.default", "tensors dim?", Cat},
    {"aten.embedding.default", "weight indices padding_idx~ scale_grad_by_freq~ sparse~", Embedding},
    {"aten.index.Tensor", "self indices", IndexTensor, "index tensors for the first axes"},
    {"aten.cumsum.default", "self dim dtype?", Cumsum},
    {"aten.diff.default", "self n? dim? prepend? append?", Diff, "n must be 1"},
    {"aten.expand_as.default", "self other", ExpandAs},
    {"aten.flatten.using_ints", "self start_dim? end_dim?", Flatten},
    {"aten.unflatten.int", "self dim sizes", Unflatten},
    {"aten.repeat_interleave.self_int", "self repeats dim? output_size~", RepeatInterleave, "along one axis"},
};

}  // namespace

absl::Span<const TargetRow> ShapeTargets() { return kTargets; }

}  // namespace flashflow::frontend
