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

absl::StatusOr<Values> View(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(Dims shape, call.DimList("size"));
  DimExpr* open = nullptr;
  DimExpr known = 1;
  for (DimExpr& dim : shape) {
    if (dim != DimExpr(-1)) {
      known = known * dim;
    } else if (open == nullptr) {
      open = &dim;
    } else {
      return call.Error("size", "at most one -1");
    }
  }
  if (open != nullptr) {
    const std::optional<DimExpr> rest = NumElements(x->tensor().shape).DividedBy(known);
    if (!rest.has_value()) {
      return call.Error("size", absl::StrCat("dims that divide the elements of ", x->type().ToString()));
    }
    *open = *rest;
  }
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

// A slice bound as torch reads it: negative ones count from the end, then clamped to [0, dim]. A symbolic dim is cut at
// its two ends only.
absl::StatusOr<DimExpr> SliceBound(const Call& call, std::string_view name, const DimExpr& dim, int64_t otherwise) {
  const Arg& arg = call.Get(name);
  if (const auto* expr = std::get_if<DimExpr>(&arg.value); expr != nullptr && !expr->IsConstant()) {
    if (*expr == dim) return dim;
    return call.Error(name, absl::StrCat("a constant, or all of the dim ", dim.ToString()));
  }
  int64_t bound = otherwise;
  if (const auto* expr = std::get_if<DimExpr>(&arg.value)) {
    bound = *expr->constant();
  } else {
    FF_ASSIGN_OR_RETURN(bound, call.Int(name, otherwise));
  }
  if (bound == 0) return DimExpr(0);
  if (bound == std::numeric_limits<int64_t>::max()) return dim;
  const std::optional<int64_t> length = dim.constant();
  if (!length.has_value()) {
    return call.Error(name, absl::StrCat("0 or the end: the sliced dim ", dim.ToString(), " is symbolic"));
  }
  if (bound < 0) bound += *length;
  return DimExpr(std::min(std::max<int64_t>(bound, 0), *length));
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

// table[ids] as models with rotary embeddings write it.
absl::StatusOr<Values> IndexTensor(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * table, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const Values indices, call.Tensors("indices"));
  if (indices.size() != 1) return call.Error("indices", "one index tensor, for rows of a table of rank 2");
  return Lookup(call, table, indices[0]);
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
    {"aten.slice.Tensor", "self dim? start? end? step?", SliceTensor, "a symbolic axis is cut at its two ends only"},
    {"aten.select.int", "self dim index", Select, "of an axis of constant size"},
    {"aten.split.Tensor", "self split_size dim?", SplitTensor, "of an axis of constant size"},
    {"aten.split_with_sizes.default", "self split_sizes dim?", SplitWithSizes, "of an axis of constant size"},
    {"aten.split.sizes", "self split_sizes dim?", SplitWithSizes, "of an axis of constant size"},
    {"aten.chunk.default", "self chunks dim?", Chunk, "of an axis of constant size"},
    {"aten.unbind.int", "self dim?", Unbind, "of an axis of constant size"},
    {"aten.cat.default", "tensors dim?", Cat},
    {"aten.embedding.default", "weight indices padding_idx~ scale_grad_by_freq~ sparse~", Embedding},
    {"aten.index.Tensor", "self indices", IndexTensor, "one index tensor into the rows of a matrix"},
};

}  // namespace

absl::Span<const TargetRow> ShapeTargets() { return kTargets; }

}  // namespace flashflow::frontend
