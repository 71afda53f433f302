// Rows of an embedding table against the same on the host, bit for bit.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

struct Case {
  std::vector<int64_t> ids;
  int64_t table_rows, channels;
  bool wide_ids = false;
  int misalign = 0;  // elements
};

template <class In, class Out>
void Run(const Case& test, uint64_t seed, Report& report) {
  char where[120];
  std::snprintf(where, sizeof(where), "embedding %zu ids of %d bytes, channels %lld, misalign %d, size %zu to %zu",
                test.ids.size(), test.wide_ids ? 8 : 4, static_cast<long long>(test.channels), test.misalign,
                sizeof(In), sizeof(Out));
  const int64_t tokens = static_cast<int64_t>(test.ids.size());
  GuardedBuffer<In> table(test.table_rows * test.channels, test.misalign);
  GuardedBuffer<Out> out(tokens * test.channels, test.misalign);
  GuardedBuffer<int64_t> wide(tokens);
  GuardedBuffer<int32_t> narrow(tokens);
  const std::vector<int32_t> narrow_ids(test.ids.begin(), test.ids.end());
  FF_CUDA_OK(cudaMemcpy(wide.data(), test.ids.data(), tokens * sizeof(int64_t), cudaMemcpyHostToDevice));
  FF_CUDA_OK(cudaMemcpy(narrow.data(), narrow_ids.data(), tokens * sizeof(int32_t), cudaMemcpyHostToDevice));
  GuardedBuffer<float> scale(test.table_rows);
  constexpr bool kCodes = std::is_same_v<In, int8_t>;
  if constexpr (kCodes) {
    std::vector<int8_t> codes(test.table_rows * test.channels);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int8_t>(static_cast<int>(i * 37 % 255) - 127);
    FF_CUDA_OK(cudaMemcpy(table.data(), codes.data(), codes.size(), cudaMemcpyHostToDevice));
  } else {
    Fill(table, seed, 3.0f);
  }
  Fill(scale, seed + 1, 3.0f);

  EmbeddingArgs args;
  args.scale = kCodes ? scale.data() : nullptr;
  args.table_dtype = kDtypeOf<In>;
  args.out_dtype = kDtypeOf<Out>;
  args.table = table.data();
  args.ids = test.wide_ids ? static_cast<const void*>(wide.data()) : narrow.data();
  args.wide_ids = test.wide_ids;
  args.out = out.data();
  args.table_rows = test.table_rows;
  args.tokens = tokens;
  args.channels = test.channels;
  const cudaError_t error = Embedding(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());

  const auto from = table.Read();
  const auto got = out.Read();
  const auto scales = scale.Read();
  int64_t bad = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t id = test.ids[t];
    for (int64_t c = 0; c < test.channels; ++c) {
      const Out& value = got[t * test.channels + c];
      if (id < 0 || id >= test.table_rows) {
        const Out poison = [] {
          Out x;
          std::memset(&x, 0xff, sizeof(x));
          return x;
        }();
        bad += !std::isnan(static_cast<float>(value)) || std::memcmp(&value, &poison, sizeof(Out)) == 0;
      } else {
        const float scaled = static_cast<float>(from[id * test.channels + c]) * (kCodes ? scales[id] : 1.0f);
        const Out expected = static_cast<Out>(scaled);
        bad += std::memcmp(&value, &expected, sizeof(Out)) != 0;
      }
    }
  }
  char what[80];
  std::snprintf(what, sizeof(what), "%lld elements are wrong", static_cast<long long>(bad));
  report.Expect(bad == 0, what, where);
  report.Expect(out.GuardsIntact(), "a guard band was written to", where);
}

}  // namespace

void TestEmbedding(Report& report) {
  using Bf16 = __nv_bfloat16;
  uint64_t seed = 15000;
  for (int64_t channels : {1, 7, 8, 64, 576, 1602}) {
    for (bool wide_ids : {false, true}) {
      const Case test = {.ids = {5, 0, 36, 5, 17, -1, 37, 36, INT32_MAX, INT32_MIN, 2},
                         .table_rows = 37,
                         .channels = channels,
                         .wide_ids = wide_ids};
      Case misaligned = test;
      misaligned.misalign = 1;
      seed += 10;
      Run<Bf16, Bf16>(test, seed, report);
      Run<Bf16, float>(test, seed + 1, report);
      Run<Bf16, __half>(test, seed + 2, report);
      Run<__half, __half>(test, seed + 3, report);
      Run<__half, float>(test, seed + 4, report);
      Run<__half, Bf16>(test, seed + 5, report);
      Run<float, float>(test, seed + 6, report);
      Run<float, Bf16>(test, seed + 7, report);
      Run<float, __half>(test, seed + 8, report);
      Run<Bf16, Bf16>(misaligned, seed + 9, report);
      Run<int8_t, Bf16>(test, seed, report);
      Run<int8_t, float>(test, seed, report);
      Run<int8_t, __half>(misaligned, seed, report);
    }
  }
  // Ids that are in the table only if their upper halves are dropped.
  Run<Bf16, Bf16>({.ids = {int64_t{1} << 32, -(int64_t{1} << 32), 1}, .table_rows = 3, .channels = 8, .wide_ids = true},
                  seed, report);

  EmbeddingArgs args;
  report.Expect(Embedding(args, nullptr) == cudaErrorInvalidValue, "null pointers are taken", "embedding");
}

}  // namespace flashflow::cuda::testing
