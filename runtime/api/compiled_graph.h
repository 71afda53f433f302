// A rectangular graph, compiled and ready to run on a device: what torch.compile and flashflow.compile run.
#ifndef RUNTIME_API_COMPILED_GRAPH_H_
#define RUNTIME_API_COMPILED_GRAPH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/graph.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "runtime/core/device.h"
#include "runtime/core/graph_executor.h"

namespace flashflow::runtime {

// Whether the graph compiles for the device, without making anything of it: OK, or the error of Compile.
absl::Status CheckGraph(const ir::Graph& rectangular, std::string_view device = "cpu");

// A weight in one of the layouts that plans for the CPU ask for, its axes exchanged first if it is transposed. What is
// row-major and not transposed is the given memory itself. InvalidArgument for a layout that the weight's shape or
// dtype does not fit.
absl::StatusOr<LoadedWeight> PackWeight(const kernels::TensorView& row_major, std::string_view layout,
                                        bool transposed = false);

// Safe to use from several threads: all graphs of a process on a device share it and run, or on a GPU launch, one at a
// time. On the CPU they share its threads and one arena.
class CompiledGraph {
 public:
  // `device` is "cpu", "cuda" or "cuda:N". Unimplemented, with the source line, for what has no kernel; the errors of
  // the passes, and of OpenDevice.
  static absl::StatusOr<std::unique_ptr<CompiledGraph>> Compile(const ir::Graph& rectangular,
                                                                std::string_view device = "cpu");
  ~CompiledGraph();

  // Names, symbols, shapes, weights with their layouts.
  const plan::Plan& plan() const;
  absl::StatusOr<std::vector<std::vector<int64_t>>> OutputDims(absl::Span<const int64_t> symbols) const;
  absl::StatusOr<int64_t> ArenaBytes(absl::Span<const int64_t> symbols) const;
  // As GraphExecutor::Run. On the CPU all memory is the host's. On a GPU it is the GPU's, and the caller's resources
  // are wanted: an arena, and the cudaStream_t that all is launched on.
  absl::Status Run(absl::Span<const int64_t> symbols, absl::Span<const kernels::TensorView> inputs,
                   absl::Span<const LoadedWeight* const> weights, absl::Span<const kernels::TensorView> outputs,
                   const CallersResources* callers = nullptr);

 private:
  struct Impl;
  explicit CompiledGraph(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_COMPILED_GRAPH_H_
