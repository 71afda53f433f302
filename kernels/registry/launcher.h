// Binding and launching: how an executor runs a plan's step on a device.
#ifndef KERNELS_REGISTRY_LAUNCHER_H_
#define KERNELS_REGISTRY_LAUNCHER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dtype.h"

namespace flashflow::kernels {

inline constexpr int kMaxRank = 6;

struct TensorView {
  void* data = nullptr;  // nullptr: an absent optional operand
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> dims{};  // row-major, dense; of a packed weight: its logical shape
  int64_t NumElements() const;
};

// The paged KV cache of all layers: [layers][num_pages][2][kv_heads] heads, each [page_size][head_dim] elements. Of i8
// those are codes, and behind each head's lie [page_size] scales of f32.
struct CacheView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t layers = 0, num_pages = 0, kv_heads = 0, page_size = 0, head_dim = 0;

  int64_t LayerBytes() const { return num_pages * 2 * kv_heads * page_size * KvHeadBytes(dtype, head_dim); }
};

// What is known on the host of a step's rows, whose lengths lie in the device's memory. Kernels on the host read those.
struct StepRows {
  int64_t max_row_tokens = 0;  // no row has more tokens in this step
};

struct LaunchContext {
  absl::Span<const TensorView> inputs;
  absl::Span<const TensorView> outputs;
  const CacheView* cache = nullptr;
  StepRows rows = {};  // of a step that uses the cache
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  void* device = nullptr;  // CPU: cpu::ThreadPool*; CUDA: the stream
  // Values of the kernel's parameters, as its TacticSpec (kernels/registry/tactic.h) lists them; empty: its defaults.
  absl::Span<const int64_t> config = {};
  // The operands of the next step that multiplies by a weight, after the last step the first's again; empty: unknown. A
  // device may fetch the weight, operand 1, ahead of time; gated, a row of its second half is read beside each of its
  // first.
  absl::Span<const TensorView> next_inputs = {};
  bool next_gated = false;
};

// A step with its attributes decoded: nothing is looked up or allocated when it runs.
class BoundKernel {
 public:
  virtual ~BoundKernel() = default;
  virtual absl::Status Launch(const LaunchContext& context) const = 0;
};

// What a binding may look at: dtypes, ranks and attributes; never data. Shapes come with each launch.
struct BindRequest {
  const AttrMap& attrs;
  absl::Span<const std::optional<DType>> input_dtypes;  // nullopt: an absent optional operand
  absl::Span<const DType> output_dtypes;
  std::string_view op;  // the step's IR op name: one kernel may compute several (cpu.binary: add, mul, ...)
  // The inputs that steps ahead of this one, or other work on the device, may have written just before; the others are
  // weights, complete long since.
  absl::Span<const int> computed_inputs = {};
};

using BindFn = std::function<absl::StatusOr<std::unique_ptr<BoundKernel>>(const BindRequest&)>;

// Filled by explicit calls (RegisterCpuKernels(&launchers)): no static constructors.
class Launchers {
 public:
  absl::Status Register(std::string_view kernel_id, int32_t version, BindFn bind);  // AlreadyExists if twice
  absl::StatusOr<std::unique_ptr<BoundKernel>> Bind(std::string_view kernel_id, int32_t version,
                                                    const BindRequest& request) const;  // NotFound names the kernel
  bool Has(std::string_view kernel_id, int32_t version) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_LAUNCHER_H_
