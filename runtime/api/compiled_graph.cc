#include "runtime/api/compiled_graph.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/no_destructor.h"
#include "absl/strings/str_cat.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/options.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_weights.h"
#include "runtime/api/open_device.h"
#include "runtime/core/graph_executor.h"

namespace flashflow::runtime {
namespace {

// A device of this process, for graphs: it lives as long as the process, as its threads may outlast any graph.
struct Host {
  std::mutex mutex;  // guards all below
  std::unique_ptr<Device> device;
  std::unique_ptr<SharedArena> arena;  // on the CPU
};

Host& HostOf(std::string_view device) {
  static absl::NoDestructor<std::map<std::string, Host, std::less<>>> hosts;
  static absl::NoDestructor<std::mutex> mutex;
  const std::lock_guard lock(*mutex);
  return hosts->try_emplace(std::string(device == "cuda" ? "cuda:0" : device)).first->second;
}

// Opens the device at first use. The host's mutex must be held.
absl::Status Open(Host& host, std::string_view device) {
  if (host.device != nullptr) return absl::OkStatus();
  FF_ASSIGN_OR_RETURN(host.device, OpenDevice(device, /*threads=*/0));
  if (host.device->SharesHostMemory()) host.arena = std::make_unique<SharedArena>(host.device.get());
  return absl::OkStatus();
}

absl::StatusOr<plan::Plan> CompilePlan(const ir::Graph& rectangular, std::string_view device_kind) {
  passes::CompileOptions options;
  options.device = device_kind;
  FF_ASSIGN_OR_RETURN(driver::CompiledRectangle compiled, driver::CompileGraph(rectangular, options));
  return std::move(compiled.plan);
}

}  // namespace

struct CompiledGraph::Impl {
  Host& host;
  std::unique_ptr<GraphExecutor> executor;
};

CompiledGraph::CompiledGraph(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CompiledGraph::~CompiledGraph() = default;

absl::Status CheckGraph(const ir::Graph& rectangular, std::string_view device) {
  return CompiledGraph::Compile(rectangular, device).status();
}

absl::StatusOr<LoadedWeight> PackWeight(const kernels::TensorView& row_major, std::string_view layout,
                                        bool transposed) {
  LoadedWeight loaded;
  loaded.view = row_major;
  if (transposed && row_major.rank == 2) std::swap(loaded.view.dims[0], loaded.view.dims[1]);
  const auto shape = absl::MakeConstSpan(loaded.view.dims.data(), static_cast<size_t>(row_major.rank));
  FF_ASSIGN_OR_RETURN(loaded.bytes, kernels::PackedBytes(layout, shape, row_major.dtype));
  if (layout == kernels::kRowMajor && !transposed) return loaded;
  FF_ASSIGN_OR_RETURN(const int64_t source_bytes, kernels::PackedBytes(kernels::kRowMajor, shape, row_major.dtype));
  Host& host = HostOf("cpu");
  const std::lock_guard lock(host.mutex);
  FF_RETURN_IF_ERROR(Open(host, "cpu"));
  FF_ASSIGN_OR_RETURN(loaded.buffer, host.device->Allocate(static_cast<size_t>(loaded.bytes), "a packed weight"));
  loaded.view.data = loaded.buffer->data();
  FF_RETURN_IF_ERROR(kernels::PackCpuWeight(
      layout, shape, row_major.dtype,
      absl::MakeConstSpan(static_cast<const std::byte*>(row_major.data), static_cast<size_t>(source_bytes)),
      absl::MakeSpan(static_cast<std::byte*>(loaded.view.data), static_cast<size_t>(loaded.bytes)),
      static_cast<cpu::ThreadPool*>(host.device->launch_handle()), transposed));
  return loaded;
}

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompiledGraph::Compile(const ir::Graph& rectangular,
                                                                      std::string_view device) {
  Host& host = HostOf(device);
  const std::lock_guard lock(host.mutex);
  FF_RETURN_IF_ERROR(Open(host, device));
  FF_ASSIGN_OR_RETURN(plan::Plan plan, CompilePlan(rectangular, host.device->kind()));
  FF_ASSIGN_OR_RETURN(auto executor, GraphExecutor::Create(std::move(plan), driver::PlanGraphArena, host.arena.get(),
                                                           host.device.get()));
  auto impl = std::unique_ptr<Impl>(new Impl{host, std::move(executor)});
  return std::unique_ptr<CompiledGraph>(new CompiledGraph(std::move(impl)));
}

const plan::Plan& CompiledGraph::plan() const { return impl_->executor->plan(); }

absl::StatusOr<std::vector<std::vector<int64_t>>> CompiledGraph::OutputDims(absl::Span<const int64_t> symbols) const {
  return impl_->executor->OutputDims(symbols);
}

absl::StatusOr<int64_t> CompiledGraph::ArenaBytes(absl::Span<const int64_t> symbols) const {
  const std::lock_guard lock(impl_->host.mutex);
  return impl_->executor->ArenaBytes(symbols);
}

absl::Status CompiledGraph::Run(absl::Span<const int64_t> symbols, absl::Span<const kernels::TensorView> inputs,
                                absl::Span<const LoadedWeight* const> weights,
                                absl::Span<const kernels::TensorView> outputs, const CallersResources* callers) {
  const std::lock_guard lock(impl_->host.mutex);
  if (impl_->host.device->SharesHostMemory() != (callers == nullptr)) {
    return absl::InvalidArgumentError(callers == nullptr ? "a graph on a GPU runs with its caller's arena and stream"
                                                         : "a graph on the CPU takes no arena and no stream");
  }
  return impl_->executor->Run(symbols, inputs, weights, outputs, callers);
}

}  // namespace flashflow::runtime
