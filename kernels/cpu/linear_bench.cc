// Linear layers of GPT-2 124M and SmolLM2-135M: GB/s of weights and GFLOP/s, beside the read bandwidth that the same
// run measures around each of them.
//
//   bazel run //kernels/cpu:linear_bench -- --benchmark_filter=f32/m:1/ --benchmark_repetitions=5
//
// Weights are rotated over more memory than the caches hold, as in a model whose layers come one after the other.
// `of_bandwidth` is the share of the measured bandwidth that the weights alone are read at; FLASHFLOW_BENCH_THREADS
// sets the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/linear.h"
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

void BM_Linear(benchmark::State& state, Shape shape, bool bf16) {
  static HugeBuffer* weights = [] {
    auto buffer = HugeBuffer::Allocate(kWeightBytes);
    CHECK(buffer.ok()) << buffer.status();
    std::fill_n(static_cast<uint8_t*>(buffer->data()), kWeightBytes, uint8_t{0x3C});  // small numbers in f32 and bf16
    return new HugeBuffer(*std::move(buffer));
  }();
  const auto [m, n, k] = shape;
  const size_t layer = static_cast<size_t>((n + 15) / 16 * 16 * (k + k % 2 * bf16));  // elements
  const size_t layer_bytes = layer * (bf16 ? 2 : 4);
  const size_t layers = kWeightBytes / layer_bytes;
  std::vector<float> x(static_cast<size_t>(m * k), 1.0f);
  std::vector<float> bias(static_cast<size_t>(n), 1.0f);
  std::vector<float> y(static_cast<size_t>(m * n));

  const double before = Bandwidth();
  size_t i = 0;
  for (auto _ : state) {
    Linear({.x = x.data(),
            .weight = static_cast<const uint8_t*>(weights->data()) + i * layer_bytes,
            .bf16_weight = bf16,
            .bias = bias.data(),
            .y = y.data(),
            .m = m,
            .n = n,
            .k = k},
           &Pool());
    i = (i + 1) % layers;
  }
  const double bandwidth = std::max(before, Bandwidth());
  const double bytes = static_cast<double>(state.iterations()) * static_cast<double>(layer_bytes);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsRate);
  state.counters["of_bandwidth"] = Counter(bytes / bandwidth, Counter::kIsRate);
  state.counters["GFLOP/s"] =
      Counter(static_cast<double>(state.iterations()) * 2e-9 * static_cast<double>(m * n * k), Counter::kIsRate);
  state.counters["bandwidth_GB/s"] = bandwidth * 1e-9;
}

void RegisterShapes() {
  // [n, k]: GPT-2's QKV, attention output, MLP up, MLP down and head, then SmolLM2's Q and output, K and V, gate and
  // up, down, and head.
  constexpr Shape kShapes[] = {{0, 2304, 768}, {0, 768, 768}, {0, 3072, 768}, {0, 768, 3072}, {0, 50257, 768},
                               {0, 576, 576},  {0, 192, 576}, {0, 1536, 576}, {0, 576, 1536}, {0, 49152, 576}};
  for (const bool bf16 : {false, true}) {
    for (const int64_t m : {1, 2, 4, 8, 16, 128, 512}) {
      for (Shape shape : kShapes) {
        if (shape.n > 40000 && m > 16) continue;  // heads run on few rows
        shape.m = m;
        const std::string name =
            absl::StrCat("linear/", bf16 ? "bf16" : "f32", "/m:", m, "/n:", shape.n, "/k:", shape.k);
        benchmark::RegisterBenchmark(name, [shape, bf16](benchmark::State& state) { BM_Linear(state, shape, bf16); })
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
