#include "kernels/cuda/testing/host_api.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/cuda/testing/host_graph_kernels.h"
#include "kernels/cuda/testing/host_kernels.h"

namespace flashflow::cuda::testing {
namespace {

// A piece of a stream's work.
using Work = std::function<cudaError_t()>;
using Clock = std::chrono::steady_clock;

struct Graph {
  std::vector<Work> nodes;
};

struct Stream {
  std::deque<Work> work;
  int64_t enqueued = 0, done = 0;  // pieces of work so far
  std::unique_ptr<Graph> capture;  // being captured
  bool broken = false;             // the capture
};

struct Event {
  Stream* stream = nullptr;  // null: never recorded, or in a capture
  int64_t after = 0;         // of the stream's pieces of work
  std::shared_ptr<Clock::time_point> time = std::make_shared<Clock::time_point>();
};

const char* ErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "another error";
  }
}

// A name as a template's argument.
template <size_t size>
struct Name {
  constexpr Name(const char (&text)[size]) { std::copy(text, text + size, value); }
  char value[size];
};

}  // namespace

class HostApi::State {
 public:
  explicit State(const HostApiOptions& options)
      : options(options), device(options.memory_bytes, /*poisoned=*/true), pinned(INT64_MAX, /*poisoned=*/false) {}

  // Error of the call, which it also remembers.
  cudaError_t Say(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
  }

  // What stands in the way of the call: an error asked for by Fail, or that of earlier work.
  cudaError_t Before(std::string_view function) {
    const auto failure = failures.find(std::string(function));
    if (failure != failures.end()) {
      if (failure->second.second-- == 0) {
        const cudaError_t error = failure->second.first;
        failures.erase(failure);
        return Say(error);
      }
    }
    return Say(sticky);
  }

  // Where CUDA refuses what cannot be captured while the calling thread captures.
  cudaError_t RefuseInCapture() {
    bool capturing = false;
    for (const auto& [stream, owned] : streams) {
      if (stream->capture == nullptr) continue;
      stream->broken = true;
      capturing = true;
    }
    return capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
  }

  // nullptr: no such stream. That of a null handle is CUDA's own.
  Stream* Find(cudaStream_t handle) {
    if (handle == nullptr) return &legacy;
    const auto stream = streams.find(reinterpret_cast<Stream*>(handle));
    return stream == streams.end() ? nullptr : stream->first;
  }

  cudaError_t Enqueue(cudaStream_t handle, Work work) {
    Stream* stream = Find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture != nullptr) {
      stream->capture->nodes.push_back(std::move(work));
      return cudaSuccess;
    }
    stream->work.push_back(std::move(work));
    ++stream->enqueued;
    return options.deferred ? cudaSuccess : Run(*stream, stream->enqueued);
  }

  // Objects behind opaque handles.
  template <class Handle, class T>
  static Handle Make(std::map<T*, std::unique_ptr<T>>& all) {
    auto made = std::make_unique<T>();
    T* key = made.get();
    all[key] = std::move(made);
    return reinterpret_cast<Handle>(key);
  }
  template <class Handle, class T>
  static T* Find(const std::map<T*, std::unique_ptr<T>>& all, Handle handle) {
    const auto found = all.find(reinterpret_cast<T*>(handle));
    return found == all.end() ? nullptr : found->first;
  }
  template <class Handle, class T>
  static cudaError_t Destroy(std::map<T*, std::unique_ptr<T>>& all, Handle handle) {
    return all.erase(reinterpret_cast<T*>(handle)) == 1 ? cudaSuccess : cudaErrorInvalidResourceHandle;
  }

  // cudaMalloc, cudaHostAlloc and their inverses, which wait for all work.
  cudaError_t Allocate(HostMemory& memory, void** data, size_t bytes) {
    if (cudaError_t error = RefuseInCapture()) return error;
    *data = bytes == 0 ? nullptr : memory.Allocate(static_cast<int64_t>(bytes));
    return bytes > 0 && *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
  }
  cudaError_t Free(HostMemory& memory, void* data) {
    if (cudaError_t error = RefuseInCapture()) return error;
    if (cudaError_t error = RunAll()) return error;
    return data == nullptr || memory.Free(data) ? cudaSuccess : cudaErrorInvalidValue;
  }

  // Does the stream's work up to its piece `until`.
  cudaError_t Run(Stream& stream, int64_t until) {
    while (stream.done < until) {
      const Work work = std::move(stream.work.front());
      stream.work.pop_front();
      ++stream.done;
      const cudaError_t error = sticky == cudaSuccess ? work() : sticky;
      if (error != cudaSuccess) sticky = error;
    }
    return sticky;
  }

  cudaError_t RunAll() {
    Run(legacy, legacy.enqueued);
    for (const auto& [stream, owned] : streams) Run(*stream, stream->enqueued);
    return sticky;
  }

  cudaError_t Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
    Stream* stream = Find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const auto size = static_cast<int64_t>(bytes);
    if (bytes == 0) return cudaSuccess;
    if (device.Holds(to, size) != to_device || device.Holds(from, size) != from_device) return cudaErrorInvalidValue;
    const Work copy = [this, to, from, bytes, size, to_device, from_device] {
      if (device.Holds(to, size) != to_device || device.Holds(from, size) != from_device) {
        return cudaErrorIllegalAddress;
      }
      std::memmove(to, from, bytes);
      return cudaSuccess;
    };
    if (stream->capture != nullptr) return Enqueue(handle, copy);
    // Of memory that is not page-locked, CUDA keeps a copy, and waits until it is written.
    if (!from_device && !pinned.Holds(from, size)) {
      const auto* begin = static_cast<const char*>(from);
      return Enqueue(handle, [to, kept = std::vector<char>(begin, begin + bytes)] {
        std::memcpy(to, kept.data(), kept.size());
        return cudaSuccess;
      });
    }
    if (cudaError_t error = Enqueue(handle, copy)) return error;
    return to_device || pinned.Holds(to, size) ? cudaSuccess : Run(*stream, stream->enqueued);
  }

  template <class Args>
  cudaError_t Launch(const char* name, const Args& args, cudaStream_t stream, cudaError_t refused) {
    if (refused != cudaSuccess) return refused;
    return Enqueue(stream, [this, name, args] {
      kernels.emplace_back(name);
      return Compute(device, args);
    });
  }

  cudaError_t BeginCapture(cudaStream_t handle) {
    Stream* stream = Find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream == &legacy) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture != nullptr) return cudaErrorIllegalState;
    stream->capture = std::make_unique<Graph>();
    stream->broken = false;
    return cudaSuccess;
  }

  // An end that fails ends it nevertheless.
  void DropCapture(cudaError_t error, cudaStream_t handle) {
    const std::lock_guard lock(mutex);
    Stream* stream = Find(handle);
    if (error != cudaSuccess && stream != nullptr) stream->capture = nullptr;
  }

  cudaError_t EndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    *graph = nullptr;
    Stream* stream = Find(handle);
    if (stream == nullptr) return cudaErrorInvalidResourceHandle;
    if (stream->capture == nullptr) return cudaErrorIllegalState;
    std::unique_ptr<Graph> captured = std::move(stream->capture);
    if (stream->broken) return cudaErrorStreamCaptureInvalidated;
    *graph = reinterpret_cast<cudaGraph_t>(captured.get());
    graphs[captured.get()] = std::move(captured);
    return cudaSuccess;
  }

  // Runs `call` as the function of that name, unless something stands in its way.
  template <class Call>
  static cudaError_t Do(std::string_view function, Call call) {
    State& state = *current_;
    const std::lock_guard lock(state.mutex);
    if (cudaError_t error = state.Before(function)) return error;
    return state.Say(call(state));
  }

  // The function of a kernel whose arguments' type says all.
  template <class Args, Name name>
  static cudaError_t Kernel(const Args& args, cudaStream_t stream) {
    return Do(name.value, [&](State& state) { return state.Launch(name.value, args, stream, Refuse(args)); });
  }

  static const Api kTable;
  static State* current_;  // of the HostApi that lives

  HostApiOptions options;
  std::recursive_mutex mutex;
  HostMemory device, pinned;
  Stream legacy;
  std::map<Stream*, std::unique_ptr<Stream>> streams;
  std::map<Event*, std::unique_ptr<Event>> events;
  std::map<Graph*, std::unique_ptr<Graph>> graphs, runnables;
  std::map<std::string, std::pair<cudaError_t, int>, std::less<>> failures;
  std::vector<std::string> kernels;
  cudaError_t last_error = cudaSuccess, sticky = cudaSuccess;
};

HostApi::State* HostApi::State::current_ = nullptr;

const Api HostApi::State::kTable = {
    .get_device_info =
        [](int device, DeviceInfo* info) {
          return Do("get_device_info", [&](State& state) {
            if (info == nullptr) return cudaErrorInvalidValue;
            *info = {};
            if (device != 0) return cudaErrorInvalidDevice;
            std::snprintf(info->name, sizeof(info->name), "host memory");
            info->compute_capability = info->binary_capability = state.options.compute_capability;
            info->sm_count = 132;
            info->sm_clock_khz = 1'000'000;
            info->memory_clock_khz = 1'000'000;
            info->memory_bus_bits = 1024;
            info->memory_bytes = state.device.capacity();
            info->l2_bytes = int64_t{1} << 20;
            info->shared_bytes_per_block = 227 << 10;
            info->driver_version = info->runtime_version = 13000;
            return cudaSuccess;
          });
        },
    .set_device =
        [](int device) {
          return Do("set_device", [&](State&) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; });
        },
    .mem_get_info =
        [](size_t* free_bytes, size_t* total_bytes) {
          return Do("mem_get_info", [&](State& state) {
            *total_bytes = state.device.capacity();
            *free_bytes = state.device.capacity() - state.device.used();
            return cudaSuccess;
          });
        },
    .get_error_string = ErrorString,
    .get_last_error =
        [] {
          State& state = *current_;
          const std::lock_guard lock(state.mutex);
          return std::exchange(state.last_error, state.sticky);
        },

    .malloc_device =
        [](void** data, size_t bytes) {
          return Do("malloc_device", [&](State& state) { return state.Allocate(state.device, data, bytes); });
        },
    .free_device =
        [](void* data) { return Do("free_device", [&](State& state) { return state.Free(state.device, data); }); },
    .malloc_host =
        [](void** data, size_t bytes) {
          return Do("malloc_host", [&](State& state) { return state.Allocate(state.pinned, data, bytes); });
        },
    .free_host =
        [](void* data) { return Do("free_host", [&](State& state) { return state.Free(state.pinned, data); }); },
    .memcpy_async =
        [](void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
          return Do("memcpy_async", [&](State& state) { return state.Copy(to, from, bytes, kind, stream); });
        },
    .memset_async =
        [](void* data, int value, size_t bytes, cudaStream_t stream) {
          return Do("memset_async", [&](State& state) {
            return state.Enqueue(stream, [&state, data, value, bytes] {
              if (!state.device.Holds(data, static_cast<int64_t>(bytes))) return cudaErrorIllegalAddress;
              std::memset(data, value, bytes);
              return cudaSuccess;
            });
          });
        },

    .stream_create =
        [](cudaStream_t* stream) {
          return Do("stream_create", [&](State& state) {
            *stream = State::Make<cudaStream_t>(state.streams);
            return cudaSuccess;
          });
        },
    .stream_destroy =
        [](cudaStream_t handle) {
          return Do("stream_destroy", [&](State& state) {
            Stream* stream = state.Find(handle);
            if (stream == nullptr || handle == nullptr) return cudaErrorInvalidResourceHandle;
            const cudaError_t error = state.Run(*stream, stream->enqueued);
            for (auto& [event, owned] : state.events) {
              if (event->stream == stream) event->stream = nullptr;
            }
            state.streams.erase(stream);
            return error;
          });
        },
    .stream_synchronize =
        [](cudaStream_t handle) {
          return Do("stream_synchronize", [&](State& state) {
            Stream* stream = state.Find(handle);
            if (stream == nullptr) return cudaErrorInvalidResourceHandle;
            if (stream->capture != nullptr) return state.RefuseInCapture();
            return state.Run(*stream, stream->enqueued);
          });
        },
    .stream_wait_event =
        [](cudaStream_t stream, cudaEvent_t handle) {
          return Do("stream_wait_event", [&](State& state) {
            const Event* event = State::Find(state.events, handle);
            if (event == nullptr) return cudaErrorInvalidResourceHandle;
            return state.Enqueue(stream, [&state, other = event->stream, after = event->after] {
              // A stream that is gone had done its work.
              return state.streams.contains(other) ? state.Run(*other, after) : cudaSuccess;
            });
          });
        },
    .event_create =
        [](cudaEvent_t* event) {
          return Do("event_create", [&](State& state) {
            *event = State::Make<cudaEvent_t>(state.events);
            return cudaSuccess;
          });
        },
    .event_destroy =
        [](cudaEvent_t handle) {
          return Do("event_destroy", [&](State& state) { return State::Destroy(state.events, handle); });
        },
    .event_record =
        [](cudaEvent_t handle, cudaStream_t on) {
          return Do("event_record", [&](State& state) {
            Event* event = State::Find(state.events, handle);
            Stream* stream = state.Find(on);
            if (event == nullptr || stream == nullptr) return cudaErrorInvalidResourceHandle;
            event->stream = nullptr;
            if (stream->capture != nullptr) return cudaSuccess;
            event->stream = stream;
            event->after = stream->enqueued + 1;
            return state.Enqueue(on, [time = event->time] {
              *time = Clock::now();
              return cudaSuccess;
            });
          });
        },
    .event_synchronize =
        [](cudaEvent_t handle) {
          return Do("event_synchronize", [&](State& state) {
            const Event* event = State::Find(state.events, handle);
            if (event == nullptr) return cudaErrorInvalidResourceHandle;
            return event->stream == nullptr ? cudaSuccess : state.Run(*event->stream, event->after);
          });
        },
    .event_elapsed_time =
        [](float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
          return Do("event_elapsed_time", [&](State& state) {
            const Event *first = State::Find(state.events, start), *last = State::Find(state.events, end);
            if (first == nullptr || last == nullptr) return cudaErrorInvalidResourceHandle;
            for (const Event* event : {first, last}) {
              if (event->stream == nullptr) return cudaErrorInvalidResourceHandle;
              if (event->stream->done < event->after) return cudaErrorNotReady;
            }
            *milliseconds = std::chrono::duration<float, std::milli>(*last->time - *first->time).count();
            return cudaSuccess;
          });
        },
    .stream_begin_capture =
        [](cudaStream_t stream) {
          return Do("stream_begin_capture", [&](State& state) { return state.BeginCapture(stream); });
        },
    .stream_end_capture =
        [](cudaStream_t stream, cudaGraph_t* graph) {
          const cudaError_t error =
              Do("stream_end_capture", [&](State& state) { return state.EndCapture(stream, graph); });
          current_->DropCapture(error, stream);
          return error;
        },
    .graph_instantiate =
        [](cudaGraphExec_t* runnable, cudaGraph_t handle) {
          return Do("graph_instantiate", [&](State& state) {
            const Graph* graph = State::Find(state.graphs, handle);
            if (graph == nullptr) return cudaErrorInvalidValue;
            *runnable = State::Make<cudaGraphExec_t>(state.runnables);
            *State::Find(state.runnables, *runnable) = *graph;
            return cudaSuccess;
          });
        },
    .graph_destroy =
        [](cudaGraph_t graph) {
          return Do("graph_destroy", [&](State& state) { return State::Destroy(state.graphs, graph); });
        },
    .graph_exec_destroy =
        [](cudaGraphExec_t runnable) {
          return Do("graph_exec_destroy", [&](State& state) { return State::Destroy(state.runnables, runnable); });
        },
    .graph_launch =
        [](cudaGraphExec_t handle, cudaStream_t stream) {
          return Do("graph_launch", [&](State& state) {
            const Graph* runnable = State::Find(state.runnables, handle);
            if (runnable == nullptr) return cudaErrorInvalidValue;
            for (const Work& node : runnable->nodes) {
              if (cudaError_t error = state.Enqueue(stream, node)) return error;
            }
            return cudaSuccess;
          });
        },

    .gemm =
        [](const GemmArgs& args, cudaStream_t stream) {
          return Do("gemm", [&](State& state) {
            return state.Launch("gemm", args, stream, RefuseGemm(args, state.options.compute_capability));
          });
        },
    .gemm_portable =
        [](const GemmArgs& args, cudaStream_t stream) {
          return Do("gemm_portable", [&](State& state) {
            return state.Launch("gemm_portable", args, stream, RefuseGemmPortable(args));
          });
        },
    .gemm_rows_sm90 =
        [](const GemmArgs& args, const GemmRowsSm90Config&, cudaStream_t stream) {
          return Do("gemm_rows_sm90", [&](State& state) {
            return state.Launch("gemm_rows_sm90", args, stream,
                                RefuseGemmRowsSm90(args, state.options.compute_capability));
          });
        },
    .norm = Kernel<NormArgs, "norm">,
    .embedding = Kernel<EmbeddingArgs, "embedding">,
    .rope_append = Kernel<RopeAppendArgs, "rope_append">,
    .paged_attention = Kernel<PagedAttentionArgs, "paged_attention">,
    .paged_prefill =
        [](const PagedAttentionArgs& args, cudaStream_t stream) {
          return Do("paged_prefill", [&](State& state) {
            return state.Launch("paged_prefill", args, stream, RefusePagedPrefill(args));
          });
        },
    .paged_decode = Kernel<PagedDecodeArgs, "paged_decode">,
    .int8_append = Kernel<Int8AppendArgs, "int8_append">,
    .int8_attention = Kernel<Int8AttentionArgs, "int8_attention">,
    .fused_attention = Kernel<AttentionArgs, "fused_attention">,
    .softmax = Kernel<SoftmaxArgs, "softmax">,
    .quantize = Kernel<QuantizeArgs, "quantize">,
    .sample = Kernel<SampleArgs, "sample">,
    .unary = Kernel<UnaryArgs, "unary">,
    .binary = Kernel<BinaryArgs, "binary">,
    .cast = Kernel<CastArgs, "cast">,
    .fill = Kernel<FillArgs, "fill">,
    .iota = Kernel<IotaArgs, "iota">,
    .strided_copy = Kernel<CopyArgs, "strided_copy">,
    .select = Kernel<SelectArgs, "select">,
    .index = Kernel<IndexArgs, "index">,
    .cumsum = Kernel<CumsumArgs, "cumsum">,
    .reduce = Kernel<ReduceArgs, "reduce">,
    .softmax_columns = Kernel<SoftmaxColumnsArgs, "softmax_columns">,
    .matmul = Kernel<MatMulArgs, "matmul">,
    .masked_attention = Kernel<MaskedAttentionArgs, "masked_attention">,
    .rope = Kernel<RopeArgs, "rope">,
};

HostApi::HostApi(const HostApiOptions& options) : state_(std::make_unique<State>(options)) {
  if (State::current_ != nullptr) {
    std::fprintf(stderr, "a HostApi lives already\n");
    std::abort();
  }
  State::current_ = state_.get();
}

HostApi::~HostApi() { State::current_ = nullptr; }

const Api& HostApi::api() const { return State::kTable; }

void HostApi::Fail(std::string_view function, cudaError_t error, int skip) {
  const std::lock_guard lock(state_->mutex);
  state_->failures[std::string(function)] = {error, skip};
}

bool HostApi::TakeBackFailures() {
  const std::lock_guard lock(state_->mutex);
  return !std::exchange(state_->failures, {}).empty();
}

std::vector<std::string> HostApi::TakeKernels() {
  const std::lock_guard lock(state_->mutex);
  return std::exchange(state_->kernels, {});
}

int64_t HostApi::device_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->device.used();
}

int64_t HostApi::live_objects() const {
  const std::lock_guard lock(state_->mutex);
  const size_t handles =
      state_->streams.size() + state_->events.size() + state_->graphs.size() + state_->runnables.size();
  return state_->device.blocks() + state_->pinned.blocks() + static_cast<int64_t>(handles);
}

}  // namespace flashflow::cuda::testing
