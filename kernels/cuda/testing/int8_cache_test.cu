// The cache of int8 codes: what is appended against the definition, and attention over it against float64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/int8_cache.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/paged_cache.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

using Bf16 = __nv_bfloat16;

template <class E>
constexpr const char* kName = std::is_same_v<E, Bf16>     ? "bf16"
                              : std::is_same_v<E, __half> ? "f16"
                                                          : "f32";

// Where a head's codes of a slot begin, and their scale, in bytes.
struct Place {
  int64_t codes, scale;
};
__host__ __device__ inline Place PlaceOf(int64_t page, int v, int kv_head, int slot, int kv_heads, int page_size,
                                         int head_dim) {
  const int64_t head = ((page * 2 + v) * kv_heads + kv_head) * page_size * (head_dim + 4);
  return {head + int64_t{slot} * head_dim, head + int64_t{page_size} * head_dim + 4 * slot};
}

// The definition, on the host.
void SetCodes(const std::vector<float>& x, uint8_t* codes, uint8_t* scale_bytes) {
  float most = 0;
  bool finite = true;
  for (float value : x) {
    finite = finite && std::isfinite(value);
    most = std::max(most, std::fabs(value));
  }
  float scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  std::memset(codes, 0, x.size());
  if (finite && most >= 0x1p-100f) {
    const float factor = 127.0f / most;
    scale = most / 127.0f;
    for (size_t i = 0; i < x.size(); ++i) {
      codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * factor), -127.0f, 127.0f)));
    }
  }
  std::memcpy(scale_bytes, &scale, 4);
}

// What Int8Append writes is, to the bit, the definition of what RopeAppend writes, and nothing else is written.
template <class E, class Angle>
void RunAppend(const std::vector<RowSize>& sizes, int heads, int kv_heads, int d, int page_size, bool turned,
               uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where), "int8 append heads %d/%d d %d page %d turned %d %s %zu", heads, kv_heads, d,
                page_size, turned, kName<E>, sizeof(Angle));
  const TestRows rows(sizes, std::vector<int>(sizes.size(), 0), page_size, seed);
  const int tokens = rows.tokens();
  const int64_t stride = (heads + 2 * kv_heads) * d, q_size = int64_t{tokens} * heads * d;
  const int64_t elements = int64_t{rows.pages()} * 2 * kv_heads * page_size * d;
  const int64_t bytes = elements / d * (d + 4);
  GuardedBuffer<E> qkv(tokens * stride), q_want(q_size), q_got(q_size), floats(elements);
  GuardedBuffer<uint8_t> cache(bytes);
  GuardedBuffer<Angle> cos(int64_t{tokens} * d), sin(int64_t{tokens} * d);
  Fill(qkv, seed + 2, 2.0f);
  Fill(cos, seed + 3, 1.0f);
  Fill(sin, seed + 4, 1.0f);
  // Heads that have rules of their own: zeros, below 2^-100 (but for f16), not finite.
  std::vector<E> host = qkv.Read();
  E* k = host.data() + heads * d;
  E* v = k + kv_heads * d;
  for (int i = 0; i < d; ++i) {
    k[i] = static_cast<E>(0.0f);
    v[i] = static_cast<E>(0x1p-101f);
  }
  if (tokens > 1) k[stride + d - 1] = static_cast<E>(std::numeric_limits<float>::infinity());
  Upload(qkv, host);

  Int8AppendArgs args;
  args.dtype = kDtypeOf<E>;
  args.angle_dtype = kDtypeOf<Angle>;
  args.q = {qkv.data(), stride};
  args.q_out = {q_want.data(), int64_t{heads} * d};
  args.k = {qkv.data() + heads * d, stride};
  args.v = {qkv.data() + (heads + kv_heads) * d, stride};
  if (turned) {
    args.cos = cos.data();
    args.sin = sin.data();
  }
  args.cache = floats.data();
  args.rows = rows.Args();
  args.tokens = tokens;
  args.heads = heads;
  args.kv_heads = kv_heads;
  args.head_dim = d;
  args.page_size = page_size;
  report.Expect(RopeAppend(args, nullptr) == cudaSuccess, "the float append is refused", where);
  args.cache = cache.data();
  args.q_out.data = q_got.data();
  const cudaError_t error = Int8Append(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());

  report.Expect(SameBytes(q_want.data(), q_got.data(), q_size * sizeof(E)), "other queries", where);
  const std::vector<E> values = floats.Read();
  std::vector<uint8_t> expected(bytes, 0xff);
  for (int row = 0; row < rows.rows(); ++row) {
    for (int i = 0; i < sizes[row].tokens; ++i) {
      const int slot = sizes[row].slots - sizes[row].tokens + i;
      const int64_t page = rows.table()[int64_t{row} * rows.pages_per_row() + slot / page_size];
      for (int part = 0; part < 2 * kv_heads; ++part) {
        const int is_v = part / kv_heads, head = part % kv_heads;
        const int64_t at = CacheAt(page, is_v, head, slot % page_size, kv_heads, page_size, d);
        std::vector<float> x;
        for (int c = 0; c < d; ++c) x.push_back(static_cast<float>(values[at + c]));
        const Place place = PlaceOf(page, is_v, head, slot % page_size, kv_heads, page_size, d);
        SetCodes(x, &expected[place.codes], &expected[place.scale]);
      }
    }
  }
  const std::vector<uint8_t> got = cache.Read();
  int64_t wrong = 0;
  for (int64_t i = 0; i < bytes; ++i) wrong += got[i] != expected[i];
  char what[100];
  std::snprintf(what, sizeof(what), "%lld of %lld bytes of the cache differ", static_cast<long long>(wrong),
                static_cast<long long>(bytes));
  report.Expect(wrong == 0, what, where);
  report.Expect(cache.GuardsIntact() && q_got.GuardsIntact() && qkv.GuardsIntact(), "a guard band was written to",
                where);

  args.page_size = 6;
  report.Expect(Int8Append(args, nullptr) == cudaErrorNotSupported, "pages of 6 slots are taken", where);
  args.page_size = page_size;
  args.cos = turned ? nullptr : cos.data();
  report.Expect(Int8Append(args, nullptr) == cudaErrorInvalidValue, "half of the angles are taken", where);
}

// Random codes in every slot of every row that its table can reach, and scales around k_scale / 127 and 1 / 127.
__global__ void FillCodesKernel(uint8_t* cache, PagedRows rows, int64_t pages, int kv_heads, int page_size,
                                int head_dim, uint64_t seed, float k_scale) {
  const int row = blockIdx.x;
  for (int slot = blockIdx.y; slot < rows.kv_len[row]; slot += gridDim.y) {
    const int64_t page = rows.block_table[int64_t{row} * rows.pages_per_row + slot / page_size];
    if (page >= pages) continue;
    for (int i = threadIdx.x; i < 2 * kv_heads * head_dim; i += blockDim.x) {
      const int v = i / (kv_heads * head_dim), head = i / head_dim % kv_heads, channel = i % head_dim;
      const Place place = PlaceOf(page, v, head, slot % page_size, kv_heads, page_size, head_dim);
      cache[place.codes + channel] =
          static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(RandomUniform(seed, place.codes + channel, 127.0f))));
      if (channel == 0) {
        *reinterpret_cast<float*>(cache + place.scale) =
            (1.5f + RandomUniform(seed + 1, place.scale, 0.5f)) * (v ? 1.0f : k_scale) / 127.0f;
      }
    }
  }
}

// A block a query of a head. Scores live in dynamic shared memory, a double for each slot.
template <class E>
__global__ void CodedOracleKernel(PagedAttentionArgs p, double* expected, double* tolerance) {
  extern __shared__ double scores[];
  __shared__ unsigned long long worst_bits;
  const int token = blockIdx.x, h = blockIdx.y, d = p.head_dim;
  int row = 0;
  while (p.rows.row_start[row + 1] <= token) ++row;
  const int kv_head = h / (p.heads / p.kv_heads);
  const int end = p.rows.kv_len[row] - (p.rows.row_start[row + 1] - token) + 1;
  const int begin = p.window > 0 ? max(0, end - p.window) : 0;
  const uint8_t* cache = static_cast<const uint8_t*>(p.cache);
  const auto at = [&](int slot, int v, int channel) {
    const int64_t page = p.rows.block_table[int64_t{row} * p.rows.pages_per_row + slot / p.page_size];
    const Place place = PlaceOf(page, v, kv_head, slot % p.page_size, p.kv_heads, p.page_size, d);
    return double{*reinterpret_cast<const float*>(cache + place.scale)} *
           static_cast<int8_t>(cache[place.codes + channel]);
  };
  const E* q = static_cast<const E*>(p.q) + token * p.q_stride + h * d;
  if (threadIdx.x == 0) worst_bits = 0;
  __syncthreads();
  for (int j = begin + threadIdx.x; j < end; j += blockDim.x) {
    double dot = 0, absolute = 0;
    for (int c = 0; c < d; ++c) {
      const double x = double{ToFloat(q[c])} * at(j, 0, c);
      dot += x;
      absolute += fabs(x);
    }
    scores[j] = dot * p.scale;
    // A lane's sum of d / 8 products and three more to join them, the key's scale, scale * log2(e), the difference from
    // the maximum.
    const double error = p.scale * absolute * (d / 8 + 8) * 0x1p-24 + 4 * fabs(scores[j]) * 0x1p-24;
    atomicMax(&worst_bits, static_cast<unsigned long long>(__double_as_longlong(error)));
  }
  __syncthreads();
  const double worst_score_error = __longlong_as_double(static_cast<long long>(worst_bits));
  double maximum = -INFINITY, sum = 0;
  for (int j = begin; j < end; ++j) maximum = fmax(maximum, scores[j]);
  for (int j = begin; j < end; ++j) sum += exp(scores[j] - maximum);
  for (int c = threadIdx.x; c < d; c += blockDim.x) {
    double value = 0, absolute = 0;
    for (int j = begin; j < end; ++j) {
      const double x = exp(scores[j] - maximum) / sum * at(j, 1, c);
      value += x;
      absolute += fabs(x);
    }
    const int64_t index = (int64_t{token} * p.heads + h) * d + c;
    expected[index] = value;
    // Scores twice (numerator and sum), exponentials of two ulp each, a part's f32 sums (8 slots of each 16th tile by a
    // team, then the teams, then 16 parts) with as many factors, the division, the output's own rounding.
    const double rounding = std::is_same_v<E, Bf16> ? 0x1p-8 : std::is_same_v<E, __half> ? 0x1p-11 : 0x1p-23;
    tolerance[index] = absolute * (4 * worst_score_error + ((end - begin) / 32 + 64) * 0x1p-23) +
                       rounding * fabs(value) + (std::is_same_v<E, __half> ? 0x1p-24 : 1e-30);
  }
}

struct Case {
  std::vector<RowSize> rows;
  int heads, kv_heads, head_dim;
  int window = 0;
  int page_size = 16;
  float magnitude = 1.0f;
};

template <class E>
void RunAttention(const Case& test, uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where),
                "int8 attention %zu rows (%d/%d, ...) heads %d/%d d %d window %d page %d mag %g %s", test.rows.size(),
                test.rows[0].tokens, test.rows[0].slots, test.heads, test.kv_heads, test.head_dim, test.window,
                test.page_size, test.magnitude, kName<E>);
  const int d = test.head_dim;
  std::vector<int> first_needed;
  int most_slots = 0, most_tokens = 1;
  for (const RowSize& row : test.rows) {
    first_needed.push_back(test.window > 0 ? std::max(0, row.slots - row.tokens + 1 - test.window) : 0);
    most_slots = std::max(most_slots, row.slots);
    most_tokens = std::max(most_tokens, row.tokens);
  }
  const TestRows rows(test.rows, first_needed, test.page_size, seed);
  const int tokens = rows.tokens();
  GuardedBuffer<uint8_t> cache(int64_t{rows.pages()} * 2 * test.kv_heads * test.page_size * (d + 4));
  FillCodesKernel<<<dim3(rows.rows(), 64), 128>>>(cache.data(), rows.Args(), rows.pages(), test.kv_heads,
                                                  test.page_size, d, seed + 1, test.magnitude);
  FF_CUDA_OK(cudaGetLastError());
  const int64_t q_stride = (test.heads + 2 * test.kv_heads) * d;  // as the first part of merged projections
  const int64_t size = int64_t{tokens} * test.heads * d;
  GuardedBuffer<E> q(tokens * q_stride), o(size), again(size);
  Fill(q, seed + 2, test.magnitude);

  Int8AttentionArgs args;
  args.dtype = kDtypeOf<E>;
  args.q = q.data();
  args.q_stride = q_stride;
  args.o = o.data();
  args.cache = cache.data();
  args.rows = rows.Args();
  args.max_row_tokens = most_tokens;
  args.heads = test.heads;
  args.kv_heads = test.kv_heads;
  args.head_dim = d;
  args.page_size = test.page_size;
  args.scale = 1.0f / std::sqrt(static_cast<float>(d));
  args.window = test.window;

  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, size * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, size * sizeof(double)));
  const int bytes = most_slots * static_cast<int>(sizeof(double));
  FF_CUDA_OK(cudaFuncSetAttribute(CodedOracleKernel<E>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  CodedOracleKernel<E><<<dim3(tokens, test.heads), 128, bytes>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());
  const cudaError_t error = Int8Attention(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(o.data(), expected, tolerance, size);
  char what[160];
  std::snprintf(what, sizeof(what), "%llu of %lld elements outside the tolerance, first %lld, worst ratio %g",
                mismatch.bad, static_cast<long long>(size), static_cast<long long>(mismatch.first), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);

  const auto same_bits = [&](const char* complaint) {
    const cudaError_t status = Int8Attention(args, nullptr);
    report.Expect(status == cudaSuccess, cudaGetErrorString(status), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    report.Expect(SameBytes(o.data(), again.data(), size * sizeof(E)), complaint, where);
    again.Poison();
  };
  args.o = again.data();
  same_bits("bits differ from run to run");
  // Every token as a row of its own: as if prompts had been fed a token at a time, beside other rows.
  std::vector<int32_t> start(1, 0), len, table;
  for (int row = 0; row < rows.rows(); ++row) {
    for (int i = 0; i < test.rows[row].tokens; ++i) {
      start.push_back(start.back() + 1);
      len.push_back(test.rows[row].slots - test.rows[row].tokens + i + 1);
      const auto* entries = rows.table().data() + int64_t{row} * rows.pages_per_row();
      table.insert(table.end(), entries, entries + rows.pages_per_row());
    }
  }
  GuardedBuffer<int32_t> one_start(start.size()), one_len(len.size()), one_table(table.size());
  args.rows = {Upload(one_start, start).data(), Upload(one_len, len).data(), Upload(one_table, table).data(), tokens,
               rows.pages_per_row()};
  args.max_row_tokens = 1;
  same_bits("bits depend on how tokens are put together into rows");
  report.Expect(o.GuardsIntact() && again.GuardsIntact() && q.GuardsIntact() && cache.GuardsIntact(),
                "a guard band was written to", where);
  cudaFree(expected);
  cudaFree(tolerance);
}

}  // namespace

void TestInt8Cache(Report& report) {
  uint64_t seed = 21000;
  const std::vector<RowSize> odd = {{1, 1},   {1, 7},   {1, 31},  {1, 32},   {1, 33},  {0, 40},
                                    {1, 511}, {1, 512}, {1, 513}, {1, 1023}, {1, 2100}};
  const std::vector<RowSize> mixed = {{5, 5}, {1, 300}, {0, 40}, {33, 500}, {2, 1025}, {70, 71}};
  for (const int d : {2, 6, 64, 80, 128, 256}) {
    for (const bool turned : {false, true}) {
      for (const int page_size : {4, 16}) {
        seed += 10;
        RunAppend<Bf16, float>(mixed, 4, 2, d, page_size, turned, seed, report);
        RunAppend<Bf16, Bf16>(odd, 3, 3, d, page_size, turned, seed + 1, report);
        RunAppend<__half, float>(mixed, 0, 1, d, page_size, turned, seed + 2, report);
        RunAppend<float, float>(odd, 6, 2, d, page_size, turned, seed + 3, report);
      }
    }
  }
  const auto all_types = [&](const Case& test) {
    seed += 10;
    RunAttention<Bf16>(test, seed, report);
    RunAttention<__half>(test, seed + 1, report);
    RunAttention<float>(test, seed + 2, report);
  };
  for (const int d : {8, 64, 72, 80, 128, 136, 256}) {
    all_types({.rows = odd, .heads = 3, .kv_heads = 3, .head_dim = d});
    all_types({.rows = odd, .heads = 9, .kv_heads = 3, .head_dim = d, .window = 100});
    all_types({.rows = odd, .heads = 10, .kv_heads = 2, .head_dim = d, .magnitude = 4.0f});
    all_types({.rows = mixed, .heads = 6, .kv_heads = 2, .head_dim = d});
    all_types({.rows = {{40, 200}, {1, 300}, {3, 1000}}, .heads = 2, .kv_heads = 2, .head_dim = d, .window = 17});
  }
  for (const int page_size : {4, 12, 64}) {
    all_types({.rows = mixed, .heads = 4, .kv_heads = 2, .head_dim = 64, .page_size = page_size});
    all_types({.rows = odd, .heads = 2, .kv_heads = 2, .head_dim = 64, .window = 1, .page_size = page_size});
  }
  all_types({.rows = std::vector<RowSize>(200, {1, 130}), .heads = 12, .kv_heads = 12, .head_dim = 64});

  Int8AttentionArgs args;
  report.Expect(Int8Attention(args, nullptr) == cudaErrorInvalidValue, "null pointers are taken", "int8 attention");
}

}  // namespace flashflow::cuda::testing
