// Which kernels of the catalog can run an operation.
#ifndef COMPILER_CODEGEN_KERNEL_SELECTION_H_
#define COMPILER_CODEGEN_KERNEL_SELECTION_H_

#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"
#include "kernels/registry/catalog.h"

namespace flashflow::codegen {

// An operand as a kernel sees it.
struct OperandFacts {
  std::optional<DType> dtype = {};  // nullopt: absent
  bool is_weight = false;           // a weight of the graph itself, which can be given in any layout
};

// An operation without its cache operand and result.
struct OpFacts {
  std::string_view op = {};
  std::vector<OperandFacts> inputs = {};
  std::vector<DType> outputs = {};
  std::optional<DType> cache_dtype = {};  // set if it reads or appends to the KV cache
};

// The kernels of the device that can run it, best first, all wanting the weights in the first one's layouts.
// Unimplemented if there is none: the message names the op, its dtypes, and why each candidate was refused.
absl::StatusOr<std::vector<const kernels::KernelSpec*>> SelectKernels(const OpFacts& facts, std::string_view device);

}  // namespace flashflow::codegen

#endif  // COMPILER_CODEGEN_KERNEL_SELECTION_H_
