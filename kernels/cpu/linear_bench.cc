// Linear layers of GPT-2 124M and SmolLM2-135M: GB/s of weights and GFLOP/s, beside the read bandwidth that the same
// run measures around each of them.
//
//   bazel run //kernels/cpu:linear_bench -- --benchmark_filter=f32/m:1/ --benchmark_repetitions=5
//
// int8 and int4 include the coding of rows; int8_vectors is int8 without the matrix unit.
//
// Weights are rotated over more memory than the caches hold, as in a model whose layers come one after the other.
// `of_bandwidth` is the share of the measured bandwidth that the weights alone are read at; FLASHFLOW_BENCH_THREADS
// sets the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/linear_int8.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr size_t kWeightBytes = size_t{1} << 30;

struct Shape {
  int64_t m, n, k;
};

ThreadPool& Pool() {
  static ThreadPool* pool = [] {
    int threads = 0;
    const char* text = std::getenv("FLASHFLOW_BENCH_THREADS");
    if (text != nullptr) CHECK(absl::SimpleAtoi(text, &threads)) << "FLASHFLOW_BENCH_THREADS is " << text;
    return new ThreadPool(threads);
  }();
  return *pool;
}

double Bandwidth() {
  const auto rate = MeasureReadBandwidth(kWeightBytes, 3, &Pool());
  CHECK(rate.ok()) << rate.status();
  return *rate;
}

void Report(benchmark::State& state, Shape shape, size_t layer_bytes, double bandwidth) {
  const double bytes = static_cast<double>(state.iterations()) * static_cast<double>(layer_bytes);
  const double products = static_cast<double>(state.iterations()) * static_cast<double>(shape.m * shape.n * shape.k);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsRate);
  state.counters["of_bandwidth"] = Counter(bytes / bandwidth, Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(2e-9 * products, Counter::kIsRate);
  state.counters["bandwidth_GB/s"] = bandwidth * 1e-9;
}

void BM_Linear(benchmark::State& state, Shape shape, LinearWeight type) {
  static HugeBuffer* weights = [] {
    auto buffer = HugeBuffer::Allocate(kWeightBytes);
    CHECK(buffer.ok()) << buffer.status();
    std::fill_n(static_cast<uint8_t*>(buffer->data()), kWeightBytes,
                uint8_t{0x3C});  // small numbers in f32, f16 and bf16
    return new HugeBuffer(*std::move(buffer));
  }();
  const auto [m, n, k] = shape;
  const bool int4 = type == LinearWeight::kInt4;
  const size_t layer = static_cast<size_t>((n + 15) / 16 * 16 * (k + k % 2));  // elements
  const size_t group_bytes = int4 ? layer / 8 : 0;
  const size_t layer_bytes = int4 ? layer / 2 + group_bytes : layer * (type == LinearWeight::kF32 ? 4 : 2);
  const size_t layers = kWeightBytes / layer_bytes;
  std::vector<float> x(static_cast<size_t>(m * k), 1.0f);
  std::vector<float> bias(static_cast<size_t>(n), 1.0f);
  std::vector<float> y(static_cast<size_t>(m * n));
  std::vector<uint8_t> codes(static_cast<size_t>(m * Int4RowBytes(k)));

  const double before = Bandwidth();
  size_t i = 0;
  for (auto _ : state) {
    const auto* groups = static_cast<const uint8_t*>(weights->data()) + i * layer_bytes;
    if (int4) QuantizeInt4Rows(x.data(), m, k, codes.data(), &Pool());
    Linear({.x = x.data(),
            .codes = codes.data(),
            .weight = groups + group_bytes,
            .weight_type = type,
            .groups = int4 ? groups : nullptr,
            .bias = bias.data(),
            .y = y.data(),
            .m = m,
            .n = n,
            .k = k},
           &Pool());
    i = (i + 1) % layers;
  }
  Report(state, shape, layer_bytes, std::max(before, Bandwidth()));
}

// Of int8 codes, its rows coded anew each time.
void BM_Int8Linear(benchmark::State& state, Shape shape, MatrixUnit unit) {
  static HugeBuffer* weights = [] {
    auto buffer = HugeBuffer::Allocate(kWeightBytes);
    CHECK(buffer.ok()) << buffer.status();
    std::fill_n(static_cast<uint8_t*>(buffer->data()), kWeightBytes, uint8_t{0x3C});
    return new HugeBuffer(*std::move(buffer));
  }();
  const auto [m, n, k] = shape;
  const size_t layer_bytes = static_cast<size_t>((n + 15) / 16 * (64 + (k + 63) / 64 * 64 * 16));
  const size_t layers = kWeightBytes / layer_bytes;
  std::vector<float> x(static_cast<size_t>(m * k), 1.0f), y(static_cast<size_t>(m * n)),
      x_scale(static_cast<size_t>(m));
  std::vector<float> bias(static_cast<size_t>(n), 1.0f), weight_scale(bias);
  std::vector<uint8_t> codes(static_cast<size_t>(m * Int8RowBytes(k)));

  const double before = Bandwidth();
  size_t i = 0;
  for (auto _ : state) {
    QuantizeLinearRows(x.data(), m, k, 100.0f, codes.data(), x_scale.data(), &Pool());
    Int8Linear({.x = codes.data(),
                .x_scale = x_scale.data(),
                .weight = static_cast<const uint8_t*>(weights->data()) + i * layer_bytes,
                .weight_scale = weight_scale.data(),
                .bias = bias.data(),
                .y = y.data(),
                .m = m,
                .n = n,
                .k = k},
               &Pool(), unit);
    i = (i + 1) % layers;
  }
  Report(state, shape, layer_bytes, std::max(before, Bandwidth()));
}

void RegisterShapes() {
  // [n, k]: GPT-2's QKV, attention output, MLP up, MLP down and head, then SmolLM2's Q and output, K and V, gate and
  // up, down, and head.
  constexpr Shape kShapes[] = {{0, 2304, 768}, {0, 768, 768}, {0, 3072, 768}, {0, 768, 3072}, {0, 50257, 768},
                               {0, 576, 576},  {0, 192, 576}, {0, 1536, 576}, {0, 576, 1536}, {0, 49152, 576}};
  static const auto* types = new std::vector<std::pair<std::string, std::function<void(benchmark::State&, Shape)>>>{
      {"f32", [](benchmark::State& state, Shape shape) { BM_Linear(state, shape, LinearWeight::kF32); }},
      {"bf16", [](benchmark::State& state, Shape shape) { BM_Linear(state, shape, LinearWeight::kBF16); }},
      {"int4", [](benchmark::State& state, Shape shape) { BM_Linear(state, shape, LinearWeight::kInt4); }},
      {"int8", [](benchmark::State& state, Shape shape) { BM_Int8Linear(state, shape, MatrixUnit::kIfThere); }},
      {"int8_vectors", [](benchmark::State& state, Shape shape) { BM_Int8Linear(state, shape, MatrixUnit::kNever); }}};
  for (const auto& [type, run] : *types) {
    for (const int64_t m : {1, 2, 4, 8, 16, 128, 512}) {
      for (Shape shape : kShapes) {
        if (shape.n > 40000 && m > 16) continue;  // heads run on few rows
        shape.m = m;
        const std::string name = absl::StrCat("linear/", type, "/m:", m, "/n:", shape.n, "/k:", shape.k);
        benchmark::RegisterBenchmark(name, [shape, &run = run](benchmark::State& state) { run(state, shape); })
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

}  // namespace
}  // namespace flashflow::cpu

int main(int argc, char** argv) {
  flashflow::cpu::RegisterShapes();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
