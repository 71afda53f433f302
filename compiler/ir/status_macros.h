// Early return on an error Status, without exceptions.
#ifndef COMPILER_IR_STATUS_MACROS_H_
#define COMPILER_IR_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define FF_STATUS_CONCAT_INNER(a, b) a##b
#define FF_STATUS_CONCAT(a, b) FF_STATUS_CONCAT_INNER(a, b)

// Returns from the function if `expr`, an absl::Status, is an error.
#define FF_RETURN_IF_ERROR(expr)                                            \
  do {                                                                      \
    if (absl::Status ff_status = (expr); !ff_status.ok()) return ff_status; \
  } while (false)

// Assigns or declares `lhs` from `expr`, an absl::StatusOr, or returns its error.
#define FF_ASSIGN_OR_RETURN(lhs, ...) \
  FF_ASSIGN_OR_RETURN_INNER(FF_STATUS_CONCAT(ff_status_or_, __LINE__), lhs, __VA_ARGS__)
#define FF_ASSIGN_OR_RETURN_INNER(temporary, lhs, ...) \
  auto temporary = (__VA_ARGS__);                      \
  if (!temporary.ok()) return temporary.status();      \
  lhs = *std::move(temporary)

#endif  // COMPILER_IR_STATUS_MACROS_H_
