// A problem: what a kernel is asked to compute, as the tuner and the choice of tactics see it. An op, a dtype and
// sizes.
#ifndef KERNELS_REGISTRY_PROBLEM_H_
#define KERNELS_REGISTRY_PROBLEM_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/dtype.h"

namespace flashflow::kernels {

// How one size of an op enters a shape bucket.
enum class SizeKind : uint8_t {
  kExact,     // fixed by the model: n, k, head_dim
  kBucketed,  // grows and shrinks from step to step: tokens, rows. Bucketed up to the next power of two
  kFlag,      // 0 or 1; 0 is not written
};

struct SizeSpec {
  std::string_view name;
  SizeKind kind = SizeKind::kExact;
};

// The sizes of an op, in the order in which Problem has and texts write them:
//
//   linear        m, n, k: x[m, k] weight[n, k]^T; flags as fused_linear's but for `gated`
//   fused_linear  the same, and flags: gated (the weight's second half of rows is multiplied with the first's result),
//                 activated, residual, f32_output
//   attention     batch, heads, kv_heads, q_tokens, kv_tokens, head_dim; flag: causal
//   paged_attention   rows, heads, kv_heads, context, head_dim: a decode step, one token of each row over its context
//   layer_norm, rms_norm, softmax, quantize   rows, columns; quantize's result is i8 and a scale a row
//
// NotFound for an op that has no tactics; it lists those that do.
absl::StatusOr<absl::Span<const SizeSpec>> SizesOf(std::string_view op);

struct Problem {
  std::string op;
  DType dtype = DType::kF32;  // of weights; of all operands where there are none
  std::vector<int64_t> sizes;
};

// A problem of the named sizes; flags may be left out. InvalidArgument names what is missing, unknown, given twice or
// out of range (sizes are 1 to 2^31 - 1).
struct NamedSize {
  std::string_view name;
  int64_t value = 0;
};
absl::StatusOr<Problem> MakeProblem(std::string_view op, DType dtype, absl::Span<const NamedSize> sizes);

// The size called `name`. The op must have it.
int64_t SizeOf(const Problem& problem, std::string_view name);

// "linear/bf16/m=5,n=2304,k=768" and back; flags are names alone: "fused_linear/bf16/m=1,n=3072,k=576,gated".
std::string ProblemToText(const Problem& problem);
absl::StatusOr<Problem> ParseProblem(std::string_view text);

// The part of the key of tuning records that says for which sizes they are: "m=5..8,n=2304,k=768".
std::string ShapeBucket(const Problem& problem);

// The bytes that must move and the arithmetic that must be done, whatever kernel does it: each operand and result once.
// `activations` is the dtype of everything that is no weight.
struct ProblemCost {
  double bytes = 0;
  double flops = 0;  // a multiply-add is two
};
ProblemCost CostOfProblem(const Problem& problem, DType activations);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_PROBLEM_H_
