#include "compiler/frontend/promotion.h"

#include <cstdint>

#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

// torch's order of categories: bool < integer < float. A dtype of a higher category wins; within one, the wider.
int Category(DType dtype) { return dtype == DType::kBool ? 0 : IsInteger(dtype) ? 1 : 2; }

DType Wider(DType a, DType b) {
  if (a == b) return a;
  if (Category(a) != Category(b)) return Category(a) > Category(b) ? a : b;
  if (Category(a) == 2) return DType::kF32;  // two different floats: f16 with bf16, or either with f32
  return DTypeBytes(a) > DTypeBytes(b) ? a : b;
}

// One side of a binary call. Tensors with dims outrank those without, which outrank plain numbers: the lower ranks only
// raise the category.
struct Side {
  ir::Value* tensor = nullptr;  // nullptr: a number
  double number = 0;
  DType dtype = DType::kF32;
  int rank_class = 0;  // 2 a tensor with dims, 1 a tensor of shape [], 0 a number
};

absl::StatusOr<Side> ReadSide(const Call& call, std::string_view name) {
  const Arg& arg = call.Get(name);
  if (const auto* value = std::get_if<bool>(&arg.value)) return Side{nullptr, *value ? 1.0 : 0.0, DType::kBool, 0};
  if (const auto* value = std::get_if<double>(&arg.value)) return Side{nullptr, *value, DType::kF32, 0};
  if (const auto* value = std::get_if<int64_t>(&arg.value)) {
    constexpr int64_t kLargest = int64_t{1} << 53;
    if (*value > kLargest || *value < -kLargest) {
      return call.Error(name, "an integer that a double holds exactly, |x| <= 2^53");
    }
    return Side{nullptr, static_cast<double>(*value), DType::kI64, 0};
  }
  if (!std::holds_alternative<Ref>(arg.value)) return call.Error(name, "a tensor or a number");
  FF_ASSIGN_OR_RETURN(ir::Value * tensor, call.Tensor(name));
  return Side{tensor, 0, tensor->tensor().dtype, tensor->tensor().shape.empty() ? 1 : 2};
}

DType PromotedDType(const Side& a, const Side& b) {
  if (a.rank_class == b.rank_class) return Wider(a.dtype, b.dtype);
  const Side& high = a.rank_class > b.rank_class ? a : b;
  const Side& low = a.rank_class > b.rank_class ? b : a;
  return Category(low.dtype) > Category(high.dtype) ? low.dtype : high.dtype;
}

absl::StatusOr<ir::Value*> Materialize(const Call& call, const Side& side, DType dtype) {
  return side.tensor != nullptr ? call.Cast(side.tensor, dtype) : call.Constant(side.number, dtype);
}

}  // namespace

absl::StatusOr<Promoted> Promote(const Call& call, std::string_view left, std::string_view right, bool at_least_float) {
  FF_ASSIGN_OR_RETURN(const Side a, ReadSide(call, left));
  FF_ASSIGN_OR_RETURN(const Side b, ReadSide(call, right));
  DType dtype = PromotedDType(a, b);
  if (at_least_float && !IsFloat(dtype)) dtype = DType::kF32;
  Promoted promoted;
  FF_ASSIGN_OR_RETURN(promoted.a, Materialize(call, a, dtype));
  FF_ASSIGN_OR_RETURN(promoted.b, Materialize(call, b, dtype));
  return promoted;
}

}  // namespace flashflow::frontend
