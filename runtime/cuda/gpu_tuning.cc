#include "runtime/cuda/gpu_tuning.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/dtype.h"
#include "kernels/cuda/gemm.h"
#include "kernels/registry/tactic.h"

namespace flashflow::runtime {
namespace {

absl::Status ToStatus(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  if (error == cudaErrorNotSupported) return absl::InvalidArgumentError(message);
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

// Device memory full of bf16 numbers between 2^-8 and 1, of either sign: zeros would draw less power than real data. As
// f16 and f32 they are numbers too, and as s8 codes.
class Memory {
 public:
  static absl::StatusOr<Memory> Allocate(int64_t bytes) {
    void* data = nullptr;
    FF_RETURN_IF_ERROR(
        ToStatus(cudaMalloc(&data, static_cast<size_t>(bytes)), absl::StrCat("allocating ", bytes, " bytes")));
    Memory memory(static_cast<uint8_t*>(data), bytes);
    std::mt19937 random(1);
    std::vector<uint16_t> block(size_t{1} << 22);
    for (uint16_t& number : block) {
      const uint32_t bits = random();
      number = static_cast<uint16_t>((bits & 0x8000u) | (0x3B80u + bits % 0x0400u));
    }
    for (int64_t at = 0; at < bytes;) {
      const auto part = std::min<int64_t>(bytes - at, static_cast<int64_t>(block.size()) * 2);
      FF_RETURN_IF_ERROR(ToStatus(
          cudaMemcpy(memory.data_ + at, block.data(), static_cast<size_t>(part), cudaMemcpyHostToDevice), "copying"));
      at += part;
    }
    return memory;
  }
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() { cudaFree(data_); }
  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Memory(uint8_t* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  uint8_t* data_;
  int64_t bytes_;
};

// One layer's operands, one after the other.
struct Layer {
  int64_t a = 0, w = 0, a_scale = 0, w_scale = 0, residual = 0, d = 0;  // offsets
  int64_t bytes = 0;
};

int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

std::optional<cuda::Dtype> DtypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return cuda::Dtype::kF32;
    case DType::kF16:
      return cuda::Dtype::kF16;
    case DType::kBF16:
      return cuda::Dtype::kBf16;
    case DType::kI8:
      return cuda::Dtype::kS8;
    default:
      return std::nullopt;
  }
}

class GemmTimer final : public Timer {
 public:
  GemmTimer(const kernels::Problem& problem, const Memory& memory, cudaStream_t stream)
      : memory_(memory), stream_(stream) {
    const auto flag = [&](std::string_view name) { return kernels::SizeOf(problem, name) != 0; };
    args_.gated = flag("gated");
    args_.f32_output = flag("f32_output");
    const int64_t m = kernels::SizeOf(problem, "m"), rows = kernels::SizeOf(problem, "n"),
                  k = kernels::SizeOf(problem, "k");
    const int64_t n = args_.gated ? rows / 2 : rows;
    args_.m = static_cast<int>(m);
    args_.n = static_cast<int>(n);
    args_.k = static_cast<int>(k);
    args_.lda = args_.ldw = k;
    args_.ldd = args_.ld_residual = n;
    args_.activation = args_.gated ? cuda::Activation::kSilu
                                   : (flag("activated") ? cuda::Activation::kGeluTanh : cuda::Activation::kNone);
    args_.dtype = *DtypeOf(problem.dtype);
    has_residual_ = flag("residual");
    const auto bytes = static_cast<int64_t>(DTypeBytes(problem.dtype));
    const int64_t result_bytes = bytes == 1 ? 2 : bytes;  // of s8 products: bf16
    layer_.w = Aligned(m * k * bytes);
    layer_.a_scale = layer_.w + Aligned(rows * k * bytes);
    layer_.w_scale = layer_.a_scale + (bytes == 1 ? Aligned(m * 4) : 0);
    layer_.residual = layer_.w_scale + (bytes == 1 ? Aligned(rows * 4) : 0);
    layer_.d = layer_.residual + (has_residual_ ? Aligned(m * n * result_bytes) : 0);
    layer_.bytes = layer_.d + Aligned(m * n * (args_.f32_output ? 4 : result_bytes));
    layers_ = memory.bytes() / layer_.bytes;
  }
  ~GemmTimer() override {
    for (auto& [tactic, graph] : graphs_) cudaGraphExecDestroy(graph);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  int64_t layers() const { return layers_; }

  absl::Status Prepare() {
    for (cudaEvent_t& event : events_) FF_RETURN_IF_ERROR(ToStatus(cudaEventCreate(&event), "making an event"));
    return absl::OkStatus();
  }

  absl::StatusOr<double> TimeUs(const kernels::Tactic& tactic) override {
    const std::string name = kernels::TacticToText(tactic);
    auto graph = graphs_.find(name);
    if (graph == graphs_.end()) {
      FF_ASSIGN_OR_RETURN(const cudaGraphExec_t made, MakeGraph(tactic));
      graph = graphs_.emplace(name, made).first;
      FF_RETURN_IF_ERROR(Replay(graph->second).status());  // loads the code
    }
    return Replay(graph->second);
  }

 private:
  absl::Status Launch(const kernels::Tactic& tactic, int64_t layer) {
    cuda::GemmArgs args = args_;
    uint8_t* base = memory_.data() + layer % layers_ * layer_.bytes;
    args.a = base + layer_.a;
    args.w = base + layer_.w;
    if (args.dtype == cuda::Dtype::kS8) {
      args.a_scale = reinterpret_cast<const float*>(base + layer_.a_scale);
      args.w_scale = reinterpret_cast<const float*>(base + layer_.w_scale);
    }
    args.residual = has_residual_ ? base + layer_.residual : nullptr;
    args.d = base + layer_.d;
    const std::string_view kernel = tactic.spec->kernel;
    const auto value = [&](std::string_view name) {
      return static_cast<int>(kernels::ValueOf(*tactic.spec, tactic.config, name));
    };
    if (kernel == "cuda.gemm_skinny") return ToStatus(cuda::GemmSkinny(args, stream_), kernel);
    if (kernel == "cuda.gemm_portable") return ToStatus(cuda::GemmPortable(args, stream_), kernel);
    if (kernel == "cuda.gemm_sm90") {
      return ToStatus(cuda::GemmSm90(args, {.tile_n = value("tile_n")}, stream_), kernel);
    }
    if (kernel == "cuda.gemm_rows_sm90") {
      return ToStatus(cuda::GemmRowsSm90(args, {.tile_rows = value("tile_rows")}, stream_), kernel);
    }
    return absl::InvalidArgumentError(absl::StrCat(kernel, " cannot be timed here"));
  }

  absl::StatusOr<cudaGraphExec_t> MakeGraph(const kernels::Tactic& tactic) {
    // Outside the capture first: what a kernel sets up once cannot be captured, and an error is plain.
    FF_RETURN_IF_ERROR(Launch(tactic, 0));
    FF_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream_), "running"));
    FF_RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing"));
    absl::Status launched;
    for (int64_t i = 0; i < kLaunches && launched.ok(); ++i) launched = Launch(tactic, i);
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    const absl::Cleanup destroy = [&] { cudaGraphDestroy(graph); };
    FF_RETURN_IF_ERROR(launched);
    FF_RETURN_IF_ERROR(ToStatus(ended, "capturing"));
    cudaGraphExec_t executable = nullptr;
    FF_RETURN_IF_ERROR(ToStatus(cudaGraphInstantiate(&executable, graph, 0), "making a graph"));
    return executable;
  }

  absl::StatusOr<double> Replay(cudaGraphExec_t graph) {
    FF_RETURN_IF_ERROR(ToStatus(cudaEventRecord(events_[0], stream_), "recording"));
    FF_RETURN_IF_ERROR(ToStatus(cudaGraphLaunch(graph, stream_), "launching"));
    FF_RETURN_IF_ERROR(ToStatus(cudaEventRecord(events_[1], stream_), "recording"));
    FF_RETURN_IF_ERROR(ToStatus(cudaEventSynchronize(events_[1]), "running"));
    float ms = 0;
    FF_RETURN_IF_ERROR(ToStatus(cudaEventElapsedTime(&ms, events_[0], events_[1]), "timing"));
    return static_cast<double>(ms) * 1e3 / kLaunches;
  }

  static constexpr int64_t kLaunches = 32;

  const Memory& memory_;
  const cudaStream_t stream_;
  cuda::GemmArgs args_;
  bool has_residual_ = false;
  Layer layer_;
  int64_t layers_ = 0;
  std::map<std::string, cudaGraphExec_t> graphs_;  // by tactic
  cudaEvent_t events_[2] = {};
};

class CudaTuning final : public GpuTuning {
 public:
  CudaTuning(GpuFacts facts, Memory memory, cudaStream_t stream)
      : facts_(std::move(facts)), memory_(std::move(memory)), stream_(stream) {}
  ~CudaTuning() override { cudaStreamDestroy(stream_); }

  const GpuFacts& facts() const override { return facts_; }

  absl::StatusOr<std::unique_ptr<Timer>> CreateTimer(const kernels::Problem& problem) override {
    if ((problem.op != "linear" && problem.op != "fused_linear") || !DtypeOf(problem.dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the GPU times linear layers of f32, f16, bf16 and i8, not ", kernels::ProblemToText(problem)));
    }
    const double bytes = kernels::CostOfProblem(problem, DType::kF32).bytes;  // no operand is wider
    if (bytes * 2.1 > static_cast<double>(memory_.bytes())) {
      return absl::InvalidArgumentError(absl::StrCat(kernels::ProblemToText(problem), " takes more than half of the ",
                                                     memory_.bytes(), " bytes that there are for timing"));
    }
    auto timer = std::make_unique<GemmTimer>(problem, memory_, stream_);
    FF_RETURN_IF_ERROR(timer->Prepare());
    return timer;
  }

 private:
  const GpuFacts facts_;
  const Memory memory_;
  const cudaStream_t stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuTuning>> GpuTuning::Open(int64_t bytes) {
  cuda::DeviceInfo info;
  if (const cudaError_t error = cuda::GetDeviceInfo(0, &info); error != cudaSuccess) {
    return absl::FailedPreconditionError(absl::StrCat("there is no GPU to time on: ", cudaGetErrorString(error)));
  }
  FF_ASSIGN_OR_RETURN(Memory memory, Memory::Allocate(bytes));
  cudaStream_t stream = nullptr;
  FF_RETURN_IF_ERROR(ToStatus(cudaStreamCreate(&stream), "making a stream"));
  return std::make_unique<CudaTuning>(
      GpuFacts{.name = info.name, .arch = absl::StrCat("sm_", info.compute_capability), .sm_count = info.sm_count},
      std::move(memory), stream);
}

}  // namespace flashflow::runtime
