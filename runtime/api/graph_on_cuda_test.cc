// A rectangular graph on a GPU as the host computes one, against the CPU: the caller's memory, and its stream.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "compiler/driver/compile.h"
#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/testing/host_api.h"
#include "runtime/api/compiled_graph.h"
#include "runtime/core/graph_executor.h"
#include "runtime/cuda/cuda_device.h"

namespace flashflow::runtime {
namespace {

using kernels::TensorView;
using ::testing::HasSubstr;

// A norm and a product that become one, attention under a mask, and odd sizes throughout.
constexpr std::string_view kGraph = R"ir(ffir 1
graph @block {
  symbol B [1, 8]
  symbol S [1, 64]
  input %0 "ids" : i64[B, S]
  input %1 "lengths" : i64[B, 1]
  weight %2 "table" : f32[11, 15]
  weight %3 "gamma" : f32[15]
  weight %4 "up" : f32[21, 15]
  weight %5 "bias" : f32[21]
  %6 = embedding(%2, %0) {dtype = f32} : f32[B, S, 15]
  %7 = rms_norm(%6, %3) {eps = 1e-05} : f32[B, S, 15]
  %8 = linear(%7, %4, %5) : f32[B, S, 21]
  %9 = relu(%8) : f32[B, S, 21]
  %10 = reshape(%9) {shape = dims(B, S, 3, 7)} : f32[B, S, 3, 7]
  %11 = transpose(%10) {perm = [0, 2, 1, 3]} : f32[B, 3, S, 7]
  %12 = iota() {dtype = i64, shape = dims(1, S), axis = 1} : i64[1, S]
  %13 = lt(%12, %1) : bool[B, S]
  %14 = reshape(%13) {shape = dims(B, 1, 1, S)} : bool[B, 1, 1, S]
  %15 = attention(%11, %11, %11, %14) {causal = false, scale = 0.5} : f32[B, 3, S, 7]
  %16 = reduce_mean(%15) {axes = [1, 3]} : f32[B, S]
  %17 = cumsum(%12) {axis = 1} : i64[1, S]
  output "mean" %16
  output "sums" %17
}
)ir";

std::unique_ptr<ir::Graph> Graph() {
  auto graph = ir::Parse(kGraph);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

std::vector<float> Values(const std::string& name, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i * name.size()) + 0.3f);
  return values;
}

class GraphOnCudaTest : public ::testing::Test {
 protected:
  GraphOnCudaTest() {
    auto device = CreateCudaDevice(host_.api(), 0);
    EXPECT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    passes::CompileOptions options;
    options.device = "cuda";
    auto compiled = driver::CompileGraph(*Graph(), options);
    EXPECT_TRUE(compiled.ok()) << compiled.status();
    auto executor =
        GraphExecutor::Create(std::move(compiled->plan), driver::PlanGraphArena, /*arena=*/nullptr, device_.get());
    EXPECT_TRUE(executor.ok()) << executor.status();
    executor_ = *std::move(executor);
    EXPECT_EQ(host_.api().stream_create(&stream_), cudaSuccess);
    for (const plan::Weight& weight : executor_->plan().weights) {
      int64_t count = 1;
      for (int64_t dim : weight.shape) count *= dim;
      const std::vector<float> values = Values(weight.sources[0], count);
      LoadedWeight& loaded = weights_.emplace_back();
      loaded.view = View(Upload(values.data(), count * 4), weight.dtype, weight.shape);
      loaded.bytes = count * 4;
    }
  }
  ~GraphOnCudaTest() override {
    for (void* block : blocks_) EXPECT_EQ(host_.api().free_device(block), cudaSuccess);
    EXPECT_EQ(host_.api().stream_destroy(stream_), cudaSuccess);
  }

  void* Room(int64_t bytes) {
    void* block = nullptr;
    EXPECT_EQ(host_.api().malloc_device(&block, static_cast<size_t>(bytes)), cudaSuccess);
    blocks_.push_back(block);
    return block;
  }
  void* Upload(const void* data, int64_t bytes) {
    void* block = Room(bytes);
    std::memcpy(block, data, static_cast<size_t>(bytes));
    return block;
  }

  cuda::testing::HostApi host_{{.deferred = true}};
  std::unique_ptr<Device> device_;
  std::unique_ptr<GraphExecutor> executor_;
  cudaStream_t stream_ = nullptr;
  std::vector<LoadedWeight> weights_;
  std::vector<void*> blocks_;
};

TEST_F(GraphOnCudaTest, GivesWhatTheCpuGivesOnTheCallersStream) {
  const auto cpu = CompiledGraph::Compile(*Graph());
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  std::vector<LoadedWeight> cpu_weights;
  std::vector<std::vector<float>> memory;
  std::vector<const LoadedWeight*> pointers, cpu_pointers;
  memory.reserve((*cpu)->plan().weights.size());
  for (const plan::Weight& weight : (*cpu)->plan().weights) {
    int64_t count = 1;
    for (int64_t dim : weight.shape) count *= dim;
    memory.push_back(Values(weight.sources[0], count));
    auto packed = PackWeight(View(memory.back().data(), weight.dtype, weight.shape), weight.layout);
    ASSERT_TRUE(packed.ok()) << packed.status();
    cpu_weights.push_back(*std::move(packed));
  }
  for (const LoadedWeight& weight : cpu_weights) cpu_pointers.push_back(&weight);
  for (const LoadedWeight& weight : weights_) pointers.push_back(&weight);

  for (const auto& [batch, sequence] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 7}, {8, 64}}) {
    SCOPED_TRACE(testing::Message() << batch << " x " << sequence);
    std::vector<int64_t> ids(static_cast<size_t>(batch * sequence)), lengths(static_cast<size_t>(batch));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i * 7 % 11);
    for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = 1 + static_cast<int64_t>(i) % sequence;
    std::vector<float> want(ids.size());
    std::vector<int64_t> sums(static_cast<size_t>(sequence));
    ASSERT_EQ(
        (*cpu)->Run({batch, sequence},
                    {View(ids.data(), DType::kI64, {batch, sequence}), View(lengths.data(), DType::kI64, {batch, 1})},
                    cpu_pointers,
                    {View(want.data(), DType::kF32, {batch, sequence}), View(sums.data(), DType::kI64, {1, sequence})}),
        absl::OkStatus());

    const int64_t count = batch * sequence;
    const std::array<TensorView, 2> inputs = {View(Upload(ids.data(), count * 8), DType::kI64, {batch, sequence}),
                                              View(Upload(lengths.data(), batch * 8), DType::kI64, {batch, 1})};
    const std::array<TensorView, 2> outputs = {View(Room(count * 4), DType::kF32, {batch, sequence}),
                                               View(Room(sequence * 8), DType::kI64, {1, sequence})};
    const auto bytes = executor_->ArenaBytes({batch, sequence});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const CallersResources callers = {.arena = Room(*bytes), .arena_bytes = *bytes, .launch_handle = stream_};
    host_.TakeKernels();
    ASSERT_EQ(executor_->Run({batch, sequence}, inputs, pointers, outputs, &callers), absl::OkStatus());
    EXPECT_THAT(host_.TakeKernels(), testing::IsEmpty()) << "it returns before the stream has run";
    ASSERT_EQ(host_.api().stream_synchronize(stream_), cudaSuccess);
    const auto* got = static_cast<const float*>(outputs[0].data);
    // Values are below 16 and sums have at most 64 terms; a few ops, each within its K eps.
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(got[i], want[static_cast<size_t>(i)], 8 * 16 * 64 * std::numeric_limits<float>::epsilon()) << i;
    }
    EXPECT_EQ(std::memcmp(outputs[1].data, sums.data(), sums.size() * 8), 0);
  }
}

TEST_F(GraphOnCudaTest, WantsAnArenaThatIsLargeEnough) {
  const int64_t ids[2] = {1, 2}, length = 1;
  const std::array<TensorView, 2> inputs = {View(Upload(ids, 16), DType::kI64, {1, 2}),
                                            View(Upload(&length, 8), DType::kI64, {1, 1})};
  const std::array<TensorView, 2> outputs = {View(Room(8), DType::kF32, {1, 2}), View(Room(16), DType::kI64, {1, 2})};
  std::vector<const LoadedWeight*> pointers;
  for (const LoadedWeight& weight : weights_) pointers.push_back(&weight);
  const int64_t bytes = *executor_->ArenaBytes({1, 2});
  CallersResources callers = {.arena = Room(bytes), .arena_bytes = bytes - 1, .launch_handle = stream_};
  EXPECT_THAT(std::string(executor_->Run({1, 2}, inputs, pointers, outputs, &callers).message()),
              HasSubstr("the arena has"));
  EXPECT_EQ(executor_->Run({1, 2}, inputs, pointers, outputs), absl::InvalidArgumentError("a run without an arena"));
  EXPECT_EQ(executor_->ArenaBytes({9, 2}).status().code(), absl::StatusCode::kInvalidArgument);
}

// Kernels that read a weight early would find what was there before it was computed.
TEST_F(GraphOnCudaTest, AComputedWeightIsReadOnceItIsThere) {
  constexpr std::string_view kComputed = R"ir(ffir 1
graph @computed {
  input %0 "x" : bf16[4, 16]
  input %1 "change" : bf16[8, 16]
  weight %2 "w" : bf16[8, 16]
  %3 = add(%1, %2) : bf16[8, 16]
  %4 = linear(%0, %3) : bf16[4, 8]
  %5 = linear(%0, %2) : bf16[4, 8]
  output "changed" %4
  output "plain" %5
}
)ir";
  passes::CompileOptions options;
  options.device = "cuda";
  auto graph = ir::Parse(kComputed);
  ASSERT_TRUE(graph.ok()) << graph.status();
  auto compiled = driver::CompileGraph(**graph, options);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const auto executor =
      GraphExecutor::Create(std::move(compiled->plan), driver::PlanGraphArena, /*arena=*/nullptr, device_.get());
  ASSERT_TRUE(executor.ok()) << executor.status();
  LoadedWeight weight;
  weight.view = View(Room(256), DType::kBF16, {8, 16});
  weight.bytes = 256;
  const LoadedWeight* const weights = &weight;
  const int64_t bytes = *(*executor)->ArenaBytes({});
  const CallersResources callers = {.arena = Room(bytes), .arena_bytes = bytes, .launch_handle = stream_};
  host_.TakeKernels();
  ASSERT_EQ(
      (*executor)->Run({}, {View(Room(128), DType::kBF16, {4, 16}), View(Room(256), DType::kBF16, {8, 16})}, {weights},
                       {View(Room(64), DType::kBF16, {4, 8}), View(Room(64), DType::kBF16, {4, 8})}, &callers),
      absl::OkStatus());
  ASSERT_EQ(host_.api().stream_synchronize(stream_), cudaSuccess);
  EXPECT_THAT(host_.TakeKernels(), testing::ElementsAre("binary", "gemm_portable", "gemm"));
}

TEST_F(GraphOnCudaTest, ANormWhoseWeightIsComputedIsRefused) {
  auto graph = ir::Parse(R"ir(ffir 1
graph @computed {
  input %0 "x" : f32[4, 16]
  input %1 "weight" : f32[16]
  %2 = rms_norm(%0, %1) {eps = 1e-05} : f32[4, 16]
  output "y" %2
}
)ir");
  ASSERT_TRUE(graph.ok()) << graph.status();
  passes::CompileOptions options;
  options.device = "cuda";
  auto compiled = driver::CompileGraph(**graph, options);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_EQ(
      GraphExecutor::Create(std::move(compiled->plan), driver::PlanGraphArena, nullptr, device_.get()).status().code(),
      absl::StatusCode::kUnimplemented);
}

TEST(CompiledGraphOnTheCpuTest, TakesNoStream) {
  const auto cpu = CompiledGraph::Compile(*Graph());
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  const CallersResources callers;
  EXPECT_THAT(std::string((*cpu)->Run({1, 1}, {}, {}, {}, &callers).message()), HasSubstr("takes no arena"));
  EXPECT_EQ(CompiledGraph::Compile(*Graph(), "npu").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flashflow::runtime
