#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/strides.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::interpreter {
namespace {

// Fills the result with the elements of x that stand at `offset` plus the result's index under `strides`.
void CopyStrided(const Tensor& x, int64_t offset, const Shape& strides, Tensor* result) {
  auto copy = [&](const auto& from, auto* to) {
    Walk<1>(result->shape, {strides}, {offset},
            [&](int64_t i, const std::array<int64_t, 1>& at) { (*to)[i] = from[at[0]]; });
  };
  if (IsFloat(x.dtype)) {
    copy(x.floats, &result->floats);
  } else {
    copy(x.ints, &result->ints);
  }
}

// Copies `count` elements between tensors of the same kind of dtype.
void CopyRun(const Tensor& from, int64_t from_offset, int64_t count, Tensor* to, int64_t to_offset) {
  if (IsFloat(from.dtype)) {
    std::copy_n(from.floats.begin() + from_offset, count, to->floats.begin() + to_offset);
  } else {
    std::copy_n(from.ints.begin() + from_offset, count, to->ints.begin() + to_offset);
  }
}

int64_t Product(const Shape& shape, size_t begin, size_t end) {
  return NumElements(Shape(shape.begin() + begin, shape.begin() + end));
}

}  // namespace

absl::Status EvalConstant(Evaluation& e) {
  const double value = e.attr<double>("value");
  std::fill(e.result().floats.begin(), e.result().floats.end(), value);
  if (!e.result().ints.empty()) std::fill(e.result().ints.begin(), e.result().ints.end(), static_cast<int64_t>(value));
  return absl::OkStatus();
}

absl::Status EvalIota(Evaluation& e) {
  Shape strides(e.result().shape.size(), 0);
  strides[e.attr<int64_t>("axis")] = 1;
  const bool is_float = IsFloat(e.result().dtype);
  Walk<1>(e.result().shape, {strides}, {0}, [&](int64_t i, const std::array<int64_t, 1>& at) {
    if (is_float) {
      e.result().floats[i] = static_cast<double>(at[0]);
    } else {
      e.result().ints[i] = at[0];
    }
  });
  return absl::OkStatus();
}

absl::Status EvalReshape(Evaluation& e) {
  CopyRun(e.input(0), 0, e.result().NumElements(), &e.result(), 0);
  return absl::OkStatus();
}

absl::Status EvalTranspose(Evaluation& e) {
  const Shape dense = DenseStrides(e.input(0).shape);
  Shape strides;
  for (int64_t axis : e.attr<std::vector<int64_t>>("perm")) strides.push_back(dense[axis]);
  CopyStrided(e.input(0), 0, strides, &e.result());
  return absl::OkStatus();
}

absl::Status EvalExpand(Evaluation& e) {
  CopyStrided(e.input(0), 0, BroadcastStrides(e.input(0).shape, e.result().shape.size()), &e.result());
  return absl::OkStatus();
}

absl::Status EvalSlice(Evaluation& e) {
  const int64_t axis = e.attr<int64_t>("axis");
  const int64_t dim = e.input(0).shape[axis];
  FF_ASSIGN_OR_RETURN(const int64_t start, e.attr<DimExpr>("start").Evaluate(e.symbols));
  FF_ASSIGN_OR_RETURN(const int64_t stop, e.attr<DimExpr>("stop").Evaluate(e.symbols));
  if (start < 0 || start > stop || stop > dim) {
    return absl::OutOfRangeError(
        absl::StrCat("start and stop: expected 0 <= start <= stop <= ", dim, ", got ", start, " and ", stop));
  }
  Shape strides = DenseStrides(e.input(0).shape);
  const int64_t offset = start * strides[axis];
  strides[axis] *= e.attr<int64_t>("step");
  CopyStrided(e.input(0), offset, strides, &e.result());
  return absl::OkStatus();
}

absl::Status EvalConcat(Evaluation& e) {
  const size_t axis = e.attr<int64_t>("axis");
  const Shape& shape = e.result().shape;
  const int64_t outer = Product(shape, 0, axis);
  const int64_t row = Product(shape, axis, shape.size());
  int64_t offset = 0;
  for (const Tensor* x : e.inputs) {
    const int64_t run = Product(x->shape, axis, shape.size());
    for (int64_t i = 0; i < outer; ++i) CopyRun(*x, i * run, run, &e.result(), i * row + offset);
    offset += run;
  }
  return absl::OkStatus();
}

absl::Status EvalGather(Evaluation& e) {
  const Tensor& table = e.input(0);
  const Tensor& rows = e.input(1);
  const int64_t run = Product(table.shape, 1, table.shape.size());
  for (size_t i = 0; i < rows.ints.size(); ++i) {
    const int64_t row = rows.ints[i];
    if (row < 0 || row >= table.shape[0]) {
      return absl::OutOfRangeError(
          absl::StrCat("index ", row, " at place ", i, " is outside a table of ", table.shape[0], " rows"));
    }
    const int64_t to = static_cast<int64_t>(i) * run;
    if (e.HasInput(2)) {  // codes
      const double scale = e.input(2).floats[row];
      for (int64_t c = 0; c < run; ++c) {
        e.result().floats[to + c] = Single(e.mode, static_cast<double>(table.ints[row * run + c]) * scale);
      }
    } else {
      CopyRun(table, row * run, run, &e.result(), to);
    }
  }
  return absl::OkStatus();
}

absl::Status EvalIndex(Evaluation& e) {
  const Tensor& x = e.input(0);
  const size_t indices = e.inputs.size() - 1;
  const size_t rank = e.result().shape.size() - (x.shape.size() - indices);
  const Shape lead(e.result().shape.begin(), e.result().shape.begin() + static_cast<int64_t>(rank));
  const int64_t run = Product(x.shape, indices, x.shape.size());
  std::vector<int64_t> rows(NumElements(lead), 0);  // which run of x stands at each place
  for (size_t k = 0; k < indices; ++k) {
    const Tensor& index = e.input(k + 1);
    absl::Status status;
    Walk<1>(lead, {BroadcastStrides(index.shape, rank)}, {0}, [&](int64_t i, const std::array<int64_t, 1>& at) {
      const int64_t value = index.ints[at[0]];
      if (value < -x.shape[k] || value >= x.shape[k]) {
        status = absl::OutOfRangeError(absl::StrCat("index ", value, " is outside axis ", k, " of ", x.shape[k]));
      }
      rows[i] = rows[i] * x.shape[k] + (value < 0 ? value + x.shape[k] : value);
    });
    FF_RETURN_IF_ERROR(status);
  }
  for (size_t i = 0; i < rows.size(); ++i) CopyRun(x, rows[i] * run, run, &e.result(), static_cast<int64_t>(i) * run);
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
