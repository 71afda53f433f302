// torch's type promotion between the two sides of a call.
#ifndef COMPILER_FRONTEND_PROMOTION_H_
#define COMPILER_FRONTEND_PROMOTION_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "compiler/frontend/lowering.h"

namespace flashflow::frontend {

// Both sides as tensors of the dtype that torch computes in.
struct Promoted {
  ir::Value* a;
  ir::Value* b;
};

// Of two arguments, each a tensor or a number. InvalidArgument names the argument that is neither. With
// `at_least_float`, integers and bools become f32, as in a true division.
absl::StatusOr<Promoted> Promote(const Call& call, std::string_view left, std::string_view right,
                                 bool at_least_float = false);

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_PROMOTION_H_
