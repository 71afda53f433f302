// Rotation and append against the same in float64 on the host.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/paged_cache.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

struct Case {
  std::vector<RowSize> rows;
  int heads, kv_heads, head_dim, page_size;
  bool rotated = true, in_place = true;
  int misalign = 0;  // elements
};

template <class E, class Angle>
void Run(const Case& test, uint64_t seed, Report& report) {
  char where[160];
  std::snprintf(where, sizeof(where),
                "rope append heads %d/%d d %d page %d rotated %d in place %d misalign %d size %zu/%zu", test.heads,
                test.kv_heads, test.head_dim, test.page_size, test.rotated, test.in_place, test.misalign, sizeof(E),
                sizeof(Angle));
  const int d = test.head_dim;
  const TestRows rows(test.rows, std::vector<int>(test.rows.size(), 0), test.page_size, seed);
  const int tokens = rows.tokens();
  const int64_t stride = (test.heads + 2 * test.kv_heads) * d + test.misalign;
  GuardedBuffer<E> qkv(tokens * stride, test.misalign), q_out(int64_t{tokens} * test.heads * d);
  GuardedBuffer<Angle> cos(int64_t{tokens} * d), sin(int64_t{tokens} * d);
  GuardedBuffer<E> cache(int64_t{rows.pages()} * 2 * test.kv_heads * test.page_size * d);
  Fill(qkv, seed + 1, 2.0f);
  Fill(cos, seed + 2, 1.0f);
  Fill(sin, seed + 3, 1.0f);
  const auto x = qkv.Read();
  const auto c = cos.Read(), s = sin.Read();

  RopeAppendArgs args;
  args.dtype = kDtypeOf<E>;
  args.angle_dtype = kDtypeOf<Angle>;
  args.q = {qkv.data(), stride};
  args.q_out = test.in_place ? args.q : TokenHeads{q_out.data(), int64_t{test.heads} * d};
  args.k = {qkv.data() + test.heads * d, stride};
  args.v = {qkv.data() + (test.heads + test.kv_heads) * d, stride};
  if (test.rotated) {
    args.cos = cos.data();
    args.sin = sin.data();
  }
  args.cache = cache.data();
  args.rows = rows.Args();
  args.tokens = tokens;
  args.heads = test.heads;
  args.kv_heads = test.kv_heads;
  args.head_dim = d;
  args.page_size = test.page_size;
  const cudaError_t error = RopeAppend(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());

  const auto after = qkv.Read(), queries = q_out.Read(), stored = cache.Read();
  std::vector<bool> written(stored.size(), false);
  int64_t bad = 0;
  const auto check = [&](E got, int64_t token, int head, int channel, bool turned) {
    const auto* from = &x[token * stride + head * d];
    double expected = static_cast<float>(from[channel]), bound = 0;
    if (turned && test.rotated) {
      const int half = d / 2;
      const double partner =
          channel < half ? -static_cast<float>(from[channel + half]) : static_cast<float>(from[channel - half]);
      const double a = expected * static_cast<float>(c[token * d + channel]);
      const double b = partner * static_cast<float>(s[token * d + channel]);
      expected = a + b;
      bound = kHalfUnit<E> * std::fabs(expected) + 3 * 0x1p-24 * (std::fabs(a) + std::fabs(b)) + 0x1p-25;
    }
    bad += !(std::fabs(static_cast<float>(got) - expected) <= bound);
  };
  int64_t token = 0;
  for (int row = 0; row < rows.rows(); ++row) {
    for (int i = 0; i < test.rows[row].tokens; ++i, ++token) {
      for (int head = 0; head < test.heads; ++head) {
        for (int e = 0; e < d; ++e) {
          check(test.in_place ? after[token * stride + head * d + e] : queries[(token * test.heads + head) * d + e],
                token, head, e, true);
        }
      }
      const int slot = test.rows[row].slots - test.rows[row].tokens + i;
      const int64_t page = rows.table()[int64_t{row} * rows.pages_per_row() + slot / test.page_size];
      for (int v : {0, 1}) {
        for (int head = 0; head < test.kv_heads; ++head) {
          const int64_t at = CacheAt(page, v, head, slot % test.page_size, test.kv_heads, test.page_size, d);
          for (int e = 0; e < d; ++e) {
            check(stored[at + e], token, test.heads + v * test.kv_heads + head, e, v == 0);
            written[at + e] = true;
          }
        }
      }
    }
  }
  char what[80];
  std::snprintf(what, sizeof(what), "%lld elements are wrong", static_cast<long long>(bad));
  report.Expect(bad == 0, what, where);
  // Other slots, and in the projections what is not a query, stay as they are.
  int64_t touched = 0;
  const std::vector<uint8_t> poison(sizeof(E), 0xff);
  for (size_t i = 0; i < stored.size(); ++i) {
    touched += !written[i] && std::memcmp(&stored[i], poison.data(), sizeof(E)) != 0;
  }
  for (int64_t i = 0; i < tokens * stride; ++i) {
    if (test.in_place && i % stride < test.heads * d) continue;
    touched += std::memcmp(&after[i], &x[i], sizeof(E)) != 0;
  }
  report.Expect(touched == 0, "something else was written to", where);
  report.Expect(cache.GuardsIntact() && qkv.GuardsIntact() && q_out.GuardsIntact(), "a guard band was written to",
                where);
}

}  // namespace

void TestRopeAppend(Report& report) {
  uint64_t seed = 12000;
  const auto run = [&](const Case& test) {
    seed += 10;
    Run<Bf16, float>(test, seed, report);
    Run<Bf16, Bf16>(test, seed + 1, report);
    Run<__half, float>(test, seed + 2, report);
    Run<float, float>(test, seed + 3, report);
  };
  const std::vector<RowSize> decode = {{1, 1}, {1, 7}, {1, 64}, {1, 65}, {1, 127}};
  const std::vector<RowSize> mixed = {{0, 3}, {5, 5}, {1, 33}, {0, 9}, {0, 1}, {40, 100}, {1, 1}};
  for (const auto& rows : {decode, mixed}) {
    for (int d : {64, 80, 96, 128, 2, 10})
      run({.rows = rows, .heads = 6, .kv_heads = 2, .head_dim = d, .page_size = 16});
    run({.rows = rows, .heads = 3, .kv_heads = 3, .head_dim = 64, .page_size = 5, .in_place = false});
    run({.rows = rows, .heads = 3, .kv_heads = 3, .head_dim = 64, .page_size = 16, .rotated = false});
    run({.rows = rows, .heads = 0, .kv_heads = 4, .head_dim = 64, .page_size = 16, .rotated = false});
    run({.rows = rows, .heads = 2, .kv_heads = 1, .head_dim = 64, .page_size = 16, .misalign = 1});
  }
}

}  // namespace flashflow::cuda::testing
