// What compile_kernel.py writes beside a cubin: all that a launch needs, without Python or Triton.
#ifndef KERNELS_TRITON_KERNEL_METADATA_H_
#define KERNELS_TRITON_KERNEL_METADATA_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace flashflow::triton {

enum class ParameterType { kPointer, kI32, kI64, kF32 };

struct Parameter {
  std::string name;
  ParameterType type = ParameterType::kPointer;
  std::string element;  // of a pointer: "bf16", "fp32", "i32", ...
  int multiple_of = 1;  // the kernel was compiled for arguments that are multiples of this: 1 or 16
};

struct KernelMetadata {
  std::string compiler;  // "triton 3.7.1"
  std::string kernel;    // "fused_attention.prefill_kernel"
  std::string entry;     // the symbol in the cubin
  // The GPUs that the cubin runs on: of capability major.minor and up within major, or of exactly that one.
  std::string arch;  // as the assembler spells it: "sm_90a"
  int major = 0, minor = 0;
  bool exact = false;
  int threads = 0;       // of a block
  int shared_bytes = 0;  // dynamic shared memory of a block
  std::vector<Parameter> parameters;
  int hidden_parameters = 0;  // pointers that follow; null, as no kernel here uses what they are for
  int64_t cubin_bytes = 0;
};

// InvalidArgument, beginning with "triton metadata:" and naming the key, for a text that is no JSON, another format, a
// missing or unknown key, or a value that no launch can have: metadata which says more than this reader knows is
// refused, as the kernel may rely on it.
absl::StatusOr<KernelMetadata> ParseKernelMetadata(std::string_view json);

// Whether a GPU of this compute capability runs the cubin.
bool RunsOn(const KernelMetadata& metadata, int major, int minor);

}  // namespace flashflow::triton

#endif  // KERNELS_TRITON_KERNEL_METADATA_H_
