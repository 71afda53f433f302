// The arguments of a Triton kernel's launch, held to its metadata.
#ifndef KERNELS_TRITON_ARGUMENTS_H_
#define KERNELS_TRITON_ARGUMENTS_H_

#include <cstdint>
#include <variant>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/triton/kernel_metadata.h"

namespace flashflow::triton {

// A device pointer, or a number of the parameter's type.
using Argument = std::variant<const void*, int32_t, int64_t, float>;

// InvalidArgument, naming the kernel and the parameter, for another number of arguments, an argument of another type,
// or one that is no multiple of what the kernel was compiled for. A null pointer is a multiple of everything: a kernel
// gets it for an operand that its constants leave out.
absl::Status CheckArguments(const KernelMetadata& metadata, absl::Span<const Argument> arguments);

}  // namespace flashflow::triton

#endif  // KERNELS_TRITON_ARGUMENTS_H_
