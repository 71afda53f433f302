// Attention over the paged cache against softmax(q k^T) v in float64 on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/paged_cache.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

using Bf16 = __nv_bfloat16;

// A bound on the relative error of rounding to T.
template <class T>
constexpr double kRounding = std::is_same_v<T, Bf16>     ? 0x1p-8
                             : std::is_same_v<T, __half> ? 0x1p-11
                                                         : 0x1p-23;

// A block a query of a head. Scores live in dynamic shared memory, a double for each slot.
template <class E>
__global__ void OracleKernel(PagedAttentionArgs p, double* expected, double* tolerance) {
  extern __shared__ double scores[];
  __shared__ unsigned long long worst_bits;
  const int token = blockIdx.x, h = blockIdx.y, d = p.head_dim;
  int row = 0;
  while (p.rows.row_start[row + 1] <= token) ++row;
  const int kv_head = h / (p.heads / p.kv_heads);
  const int end = p.rows.kv_len[row] - (p.rows.row_start[row + 1] - token) + 1;
  const int begin = p.window > 0 ? max(0, end - p.window) : 0;
  const auto at = [&](int slot, int v) {
    const int64_t page = p.rows.block_table[int64_t{row} * p.rows.pages_per_row + slot / p.page_size];
    return static_cast<const E*>(p.cache) + CacheAt(page, v, kv_head, slot % p.page_size, p.kv_heads, p.page_size, d);
  };
  const E* q = static_cast<const E*>(p.q) + token * p.q_stride + h * d;
  if (threadIdx.x == 0) worst_bits = 0;
  __syncthreads();
  for (int j = begin + threadIdx.x; j < end; j += blockDim.x) {
    double dot = 0, absolute = 0;
    for (int c = 0; c < d; ++c) {
      const double x = double{ToFloat(q[c])} * double{ToFloat(at(j, 0)[c])};
      dot += x;
      absolute += fabs(x);
    }
    scores[j] = dot * p.scale;
    // The f32 sum, its product with scale * log2(e) and the difference from the maximum.
    const double error = p.scale * absolute * (d / 16 + 16) * 0x1p-23 + 4 * fabs(scores[j]) * 0x1p-23;
    atomicMax(&worst_bits, static_cast<unsigned long long>(__double_as_longlong(error)));
  }
  __syncthreads();
  const double worst_score_error = __longlong_as_double(static_cast<long long>(worst_bits));
  double maximum = -INFINITY, sum = 0;
  for (int j = begin; j < end; ++j) maximum = fmax(maximum, scores[j]);
  for (int j = begin; j < end; ++j) sum += exp(scores[j] - maximum);
  for (int c = threadIdx.x; c < d; c += blockDim.x) {
    double value = 0, absolute = 0, all = 0;
    for (int j = begin; j < end; ++j) {
      const double v = double{ToFloat(at(j, 1)[c])};
      const double x = exp(scores[j] - maximum) / sum * v;
      value += x;
      absolute += fabs(x);
      all += fabs(v);
    }
    const int64_t index = (int64_t{token} * p.heads + h) * d + c;
    expected[index] = value;
    // Probabilities rounded to E (those of f16 below its least normal number by up to 2^-25 each), scores twice
    // (numerator and sum), the f32 sums and factors, and the output's own rounding.
    const double subnormal = std::is_same_v<E, __half> ? all * 0x1p-24 : 0.0;
    tolerance[index] = absolute * (kRounding<E> + 4 * worst_score_error + ((end - begin) / 16 + 64) * 0x1p-23) +
                       subnormal + kRounding<E> * fabs(value) + 1e-30;
  }
}

using Kernel = cudaError_t (*)(const PagedAttentionArgs&, cudaStream_t);
constexpr int kMostPrefillRows = 512;  // that the Hopper kernel takes

struct Case {
  std::vector<RowSize> rows;
  int heads, kv_heads, head_dim;
  int window = 0;
  int page_size = 16;
  float magnitude = 1.0f;
};

template <class E>
void Run(const Case& test, uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where),
                "paged attention %zu rows (%d/%d, ...) heads %d/%d d %d window %d page %d mag %g %s", test.rows.size(),
                test.rows[0].tokens, test.rows[0].slots, test.heads, test.kv_heads, test.head_dim, test.window,
                test.page_size, test.magnitude,
                std::is_same_v<E, Bf16>     ? "bf16"
                : std::is_same_v<E, __half> ? "f16"
                                            : "f32");
  const int d = test.head_dim;
  std::vector<int> first_needed;
  int most_slots = 0, most_tokens = 0;
  for (const RowSize& row : test.rows) {
    first_needed.push_back(test.window > 0 ? std::max(0, row.slots - row.tokens + 1 - test.window) : 0);
    most_slots = std::max(most_slots, row.slots);
    most_tokens = std::max(most_tokens, row.tokens);
  }
  const TestRows rows(test.rows, first_needed, test.page_size, seed);
  const int tokens = rows.tokens();
  GuardedBuffer<E> cache(int64_t{rows.pages()} * 2 * test.kv_heads * test.page_size * d);
  FillCacheKernel<<<dim3(rows.rows(), 64), 128>>>(cache.data(), rows.Args(), rows.pages(), test.kv_heads,
                                                  test.page_size, d, seed + 1, test.magnitude);
  FF_CUDA_OK(cudaGetLastError());
  // As the first part of merged projections.
  const int64_t q_stride = (test.heads + 2 * test.kv_heads) * d;
  const int64_t size = int64_t{tokens} * test.heads * d;
  GuardedBuffer<E> q(tokens * q_stride), o(size), again(size);
  Fill(q, seed + 2, test.magnitude);

  PagedAttentionArgs args;
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
  FF_CUDA_OK(cudaFuncSetAttribute(OracleKernel<E>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  OracleKernel<E><<<dim3(tokens, test.heads), 128, bytes>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());

  const cudaError_t error = PagedAttention(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(o.data(), expected, tolerance, size);
  char what[160];
  std::snprintf(what, sizeof(what), "%llu of %lld elements outside the tolerance, first %lld, worst ratio %g",
                mismatch.bad, static_cast<long long>(size), static_cast<long long>(mismatch.first), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);

  const auto same_bits = [&](const char* complaint) {
    const cudaError_t status = PagedAttention(args, nullptr);
    report.Expect(status == cudaSuccess, cudaGetErrorString(status), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    report.Expect(SameBytes(o.data(), again.data(), size * sizeof(E)), complaint, where);
    again.Poison();
  };
  args.o = again.data();
  same_bits("bits differ from run to run");
  for (int blocks : {1, 2, 8}) {
    args.blocks_per_row = blocks;
    same_bits(("bits differ with " + std::to_string(blocks) + " blocks a row").c_str());
  }
  args.blocks_per_row = 0;

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

  // The kernels for many tokens: right, and with bits of their own that depend on nothing beside a token either.
  PagedAttentionArgs prefill = args;
  prefill.tokens = tokens;
  prefill.rows = rows.Args();
  prefill.max_row_tokens = most_tokens;
  const auto prefill_by = [&](Kernel kernel, const char* name) {
    const auto launch = [&](E* to) {
      prefill.o = to;
      const cudaError_t status = kernel(prefill, nullptr);
      report.Expect(status == cudaSuccess, (std::string(name) + ": " + cudaGetErrorString(status)).c_str(), where);
      FF_CUDA_OK(cudaDeviceSynchronize());
    };
    o.Poison();
    launch(o.data());
    const Mismatch wrong = Compare(o.data(), expected, tolerance, size);
    std::snprintf(what, sizeof(what), "%s: %llu elements outside the tolerance, first %lld, worst ratio %g", name,
                  wrong.bad, static_cast<long long>(wrong.first), wrong.worst);
    report.Expect(wrong.bad == 0, what, where);

    if (tokens <= kMostPrefillRows) {
      prefill.rows = args.rows;
      prefill.max_row_tokens = 1;
      launch(again.data());
      report.Expect(SameBytes(o.data(), again.data(), size * sizeof(E)), "prefill's bits depend on the rows", where);
      again.Poison();
    }
    for (int row = 0; row < rows.rows(); ++row) {
      const PagedRows all = rows.Args();
      prefill.rows = {all.row_start + row, all.kv_len + row, all.block_table + int64_t{row} * all.pages_per_row, 1,
                      all.pages_per_row};
      prefill.max_row_tokens = std::max(1, test.rows[row].tokens);
      prefill.tokens = std::max(1, rows.start()[row + 1]);  // few enough for smaller tiles, too
      launch(again.data());
    }
    prefill.tokens = tokens;
    report.Expect(SameBytes(o.data(), again.data(), size * sizeof(E)), "prefill's bits depend on other rows", where);
    again.Poison();
    prefill.rows = rows.Args();
    prefill.max_row_tokens = most_tokens;
  };
  if (!std::is_same_v<E, float> && d <= 128) {
    prefill_by(PagedPrefillSm80, "sm80 prefill");
    const bool taken = report.hopper && std::is_same_v<E, Bf16> && test.page_size % 8 == 0;
    if (taken) prefill_by(PagedPrefillSm90, "sm90 prefill");
    // What is chosen: o has the result of the kernel that ran last.
    const bool long_rows = tokens >= 64 * rows.rows();
    prefill.o = o.data();
    (taken && long_rows ? PagedPrefillSm90 : PagedPrefillSm80)(prefill, nullptr);
    prefill.o = again.data();
    report.Expect(PagedPrefill(prefill, nullptr) == cudaSuccess, "prefill is refused", where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    report.Expect(SameBytes(o.data(), again.data(), size * sizeof(E)), "prefill is by another kernel", where);
    if (taken) {
      // A neighbor of NaN: what a tile reads of it beside its own row may reach nothing.
      const int64_t first = rows.start()[1], end = rows.start()[2];
      PagedPrefillSm90(prefill, nullptr);
      FF_CUDA_OK(cudaMemset(q.data() + first * q_stride, 0xff, (end - first) * q_stride * sizeof(E)));
      prefill.o = o.data();
      PagedPrefillSm90(prefill, nullptr);
      FF_CUDA_OK(cudaDeviceSynchronize());
      const int64_t width = int64_t{test.heads} * d;
      report.Expect(
          SameBytes(o.data(), again.data(), first * width * sizeof(E)) &&
              SameBytes(o.data() + end * width, again.data() + end * width, (tokens - end) * width * sizeof(E)),
          "a row's NaN reach its neighbors", where);
    } else if (report.hopper) {
      report.Expect(PagedPrefillSm90(prefill, nullptr) == cudaErrorNotSupported, "the Hopper kernel takes it", where);
    }
    prefill.tokens = 0;
    report.Expect(PagedPrefillSm90(prefill, nullptr) == cudaErrorNotSupported, "an unknown number of tokens", where);
  }

  report.Expect(o.GuardsIntact() && again.GuardsIntact() && q.GuardsIntact() && cache.GuardsIntact(),
                "a guard band was written to", where);
  cudaFree(expected);
  cudaFree(tolerance);
}

struct DecodeCase {
  std::vector<RowSize> rows;
  int heads, kv_heads, head_dim;
  bool turned = true;
  int window = 0;
  int page_size = 16;
};

// One launch against the two that it stands for: the same bits, in the result and in all of the cache.
template <class E, class Angle>
void RunDecode(const DecodeCase& test, uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where), "paged decode %zu rows heads %d/%d d %d turned %d window %d page %d %s %zu",
                test.rows.size(), test.heads, test.kv_heads, test.head_dim, test.turned, test.window, test.page_size,
                std::is_same_v<E, Bf16> ? "bf16" : "f16", sizeof(Angle));
  const int d = test.head_dim;
  const TestRows rows(test.rows, std::vector<int>(test.rows.size(), 0), test.page_size, seed);
  const int tokens = rows.tokens();
  const int64_t stride = (test.heads + 2 * test.kv_heads) * d, size = int64_t{tokens} * test.heads * d;
  const int64_t cache_size = int64_t{rows.pages()} * 2 * test.kv_heads * test.page_size * d;
  GuardedBuffer<E> qkv(tokens * stride), turned(size), expected(size), got(size), appended(cache_size),
      cache(cache_size);
  GuardedBuffer<Angle> cos(int64_t{tokens} * d), sin(int64_t{tokens} * d);
  Fill(qkv, seed + 2, 2.0f);
  Fill(cos, seed + 3, 1.0f);
  Fill(sin, seed + 4, 1.0f);
  const auto fill_cache = [&](GuardedBuffer<E>& buffer) {
    buffer.Poison();
    FillCacheKernel<<<dim3(rows.rows(), 64), 128>>>(buffer.data(), rows.Args(), rows.pages(), test.kv_heads,
                                                    test.page_size, d, seed + 1, 1.0f);
    FF_CUDA_OK(cudaGetLastError());
    FF_CUDA_OK(cudaDeviceSynchronize());
  };

  PagedDecodeArgs decode;
  RopeAppendArgs& append = decode.append;
  append.dtype = kDtypeOf<E>;
  append.angle_dtype = kDtypeOf<Angle>;
  append.q = {qkv.data(), stride};
  append.q_out = {turned.data(), int64_t{test.heads} * d};
  append.k = {qkv.data() + test.heads * d, stride};
  append.v = {qkv.data() + (test.heads + test.kv_heads) * d, stride};
  if (test.turned) {
    append.cos = cos.data();
    append.sin = sin.data();
  }
  append.cache = appended.data();
  append.rows = rows.Args();
  append.tokens = tokens;
  append.heads = test.heads;
  append.kv_heads = test.kv_heads;
  append.head_dim = d;
  append.page_size = test.page_size;
  fill_cache(appended);
  report.Expect(RopeAppend(append, nullptr) == cudaSuccess, "the append is refused", where);

  PagedAttentionArgs attend;
  attend.dtype = append.dtype;
  attend.q = turned.data();
  attend.q_stride = append.q_out.stride;
  attend.o = expected.data();
  attend.cache = appended.data();
  attend.rows = append.rows;
  attend.heads = test.heads;
  attend.kv_heads = test.kv_heads;
  attend.head_dim = d;
  attend.page_size = test.page_size;
  attend.scale = decode.scale = 1.0f / std::sqrt(static_cast<float>(d));
  attend.window = decode.window = test.window;
  report.Expect(PagedAttention(attend, nullptr) == cudaSuccess, "attention is refused", where);

  decode.o = got.data();
  append.cache = cache.data();
  for (const int blocks : {0, 1, 2, 8}) {
    decode.blocks_per_row = blocks;
    fill_cache(cache);
    got.Poison();
    const cudaError_t error = PagedDecode(decode, nullptr);
    report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
    FF_CUDA_OK(cudaDeviceSynchronize());
    const std::string with = " with " + std::to_string(blocks) + " blocks a row";
    report.Expect(SameBytes(got.data(), expected.data(), size * sizeof(E)), ("other results" + with).c_str(), where);
    report.Expect(SameBytes(cache.data(), appended.data(), cache_size * sizeof(E)), ("another cache" + with).c_str(),
                  where);
  }
  report.Expect(got.GuardsIntact() && cache.GuardsIntact() && qkv.GuardsIntact(), "a guard band was written to", where);

  decode.blocks_per_row = 0;
  append.page_size = 8;
  report.Expect(PagedDecode(decode, nullptr) == cudaErrorNotSupported, "pages of 8 slots are taken", where);
  append.page_size = test.page_size;
  append.k.stride = stride + 1;
  report.Expect(PagedDecode(decode, nullptr) == cudaErrorNotSupported, "unaligned keys are taken", where);
  append.k.stride = stride;
  append.sin = test.turned ? nullptr : sin.data();
  report.Expect(PagedDecode(decode, nullptr) == cudaErrorInvalidValue, "half of the angles are taken", where);
}

void TestPagedDecode(Report& report) {
  uint64_t seed = 15000;
  const auto run = [&](DecodeCase test) {
    seed += 10;
    RunDecode<Bf16, float>(test, seed, report);
    RunDecode<Bf16, Bf16>(test, seed + 1, report);
    RunDecode<__half, float>(test, seed + 2, report);
    test.turned = false;
    RunDecode<Bf16, float>(test, seed + 3, report);
  };
  // Slots that begin and end tiles, runs of tiles, warps' and splits' parts and rounds; rows that have no token.
  const std::vector<RowSize> rows = {{1, 1},   {1, 2},   {0, 40},   {1, 16},   {1, 17},   {1, 32},   {1, 33}, {1, 128},
                                     {1, 129}, {1, 500}, {1, 1024}, {1, 1025}, {1, 1041}, {1, 2100}, {0, 9}};
  for (int d : {64, 80, 96, 128}) {
    run({.rows = rows, .heads = 3, .kv_heads = 3, .head_dim = d});
    run({.rows = rows, .heads = 9, .kv_heads = 3, .head_dim = d, .window = 100});
    // More queries of a kv head than a tile has, and than a block.
    run({.rows = rows, .heads = 24, .kv_heads = 2, .head_dim = d, .window = 1});
    run({.rows = rows, .heads = 20, .kv_heads = 1, .head_dim = d});
  }
  run({.rows = rows, .heads = 4, .kv_heads = 2, .head_dim = 64, .page_size = 64});
  run({.rows = std::vector<RowSize>(200, {1, 130}), .heads = 12, .kv_heads = 12, .head_dim = 64});
  run({.rows = {{1, 70}}, .heads = 12, .kv_heads = 12, .head_dim = 64});
}

}  // namespace

void TestPagedAttention(Report& report) {
  uint64_t seed = 9000;
  const auto run = [&]<class E>(const Case& test) {
    seed += 10;
    Run<E>(test, seed, report);
  };
  const auto all_types = [&](const Case& test) {
    run.operator()<Bf16>(test);
    run.operator()<__half>(test);
    run.operator()<float>(test);
  };
  const std::vector<RowSize> odd = {{1, 1},   {1, 7},   {1, 63},   {1, 64},  {1, 65},
                                    {1, 127}, {1, 129}, {1, 1023}, {1, 2100}};
  for (int d : {64, 80, 96, 128}) {
    all_types({.rows = odd, .heads = 3, .kv_heads = 3, .head_dim = d});
    all_types({.rows = odd, .heads = 9, .kv_heads = 3, .head_dim = d, .window = 100});
    run.operator()<Bf16>({.rows = odd, .heads = 8, .kv_heads = 1, .head_dim = d});
    run.operator()<Bf16>({.rows = odd, .heads = 24, .kv_heads = 2, .head_dim = d, .magnitude = 8.0f});
    // Chunks of prompts beside single tokens and a row that has none.
    all_types({.rows = {{5, 5}, {1, 300}, {0, 40}, {33, 500}, {2, 1025}, {70, 71}},
               .heads = 6,
               .kv_heads = 2,
               .head_dim = d});
    all_types({.rows = {{40, 200}, {1, 300}, {3, 1000}}, .heads = 2, .kv_heads = 2, .head_dim = d, .window = 17});
  }
  all_types({.rows = {{1, 900}, {1, 20}}, .heads = 4, .kv_heads = 4, .head_dim = 64, .page_size = 64});
  all_types({.rows = {{1, 250}, {1, 20}}, .heads = 4, .kv_heads = 4, .head_dim = 64, .page_size = 32});
  // Large scores, whose products with the scale round: tiles of which some tokens see nothing may not matter to them.
  for (int window : {0, 100}) {
    run.operator()<Bf16>({.rows = {{300, 300}, {63, 63}, {40, 41}, {193, 450}},
                          .heads = 4,
                          .kv_heads = 1,
                          .head_dim = 64,
                          .window = window,
                          .magnitude = 4.0f});
  }
  // What the plain kernel takes.
  all_types({.rows = {{3, 90}, {1, 20}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .page_size = 7});
  for (int d : {8, 16, 72, 256}) all_types({.rows = odd, .heads = 4, .kv_heads = 2, .head_dim = d, .window = 200});
  // Prompts whose ends lie on both sides of blocks, tiles and pages, some of them continued.
  const std::vector<RowSize> prompts = {{300, 300}, {1, 1},     {7, 7},    {0, 0},   {63, 63},  {65, 65},
                                        {127, 127}, {128, 128}, {64, 192}, {40, 41}, {193, 450}};
  for (int d : {64, 80, 96, 128, 72, 8}) {
    run.operator()<Bf16>({.rows = prompts, .heads = 3, .kv_heads = 3, .head_dim = d});
    run.operator()<Bf16>({.rows = prompts, .heads = 6, .kv_heads = 2, .head_dim = d, .window = 1});
    run.operator()<Bf16>({.rows = prompts, .heads = 4, .kv_heads = 1, .head_dim = d, .window = 100, .magnitude = 4.0f});
  }
  for (int page_size : {8, 32, 128, 256}) {
    run.operator()<Bf16>({.rows = prompts, .heads = 2, .kv_heads = 1, .head_dim = 64, .page_size = page_size});
    run.operator()<Bf16>(
        {.rows = prompts, .heads = 2, .kv_heads = 1, .head_dim = 128, .window = 17, .page_size = page_size});
  }
  // Many tiles: three warpgroups a tile of 64 channels, two bands of 128, more rounds than one.
  const std::vector<RowSize> many = {{500, 500}, {1, 30}, {700, 700}, {65, 65}, {180, 380}, {700, 1000}};
  for (int window : {0, 130}) {
    run.operator()<Bf16>({.rows = many, .heads = 24, .kv_heads = 8, .head_dim = 64, .window = window});
  }
  run.operator()<Bf16>({.rows = many, .heads = 24, .kv_heads = 24, .head_dim = 128});
  // More rows than fit on the GPU at once.
  run.operator()<Bf16>({.rows = std::vector<RowSize>(200, {1, 400}), .heads = 12, .kv_heads = 12, .head_dim = 64});

  TestPagedDecode(report);

  PagedAttentionArgs args;
  report.Expect(PagedAttention(args, nullptr) == cudaErrorInvalidValue, "null pointers are taken", "paged attention");
}

}  // namespace flashflow::cuda::testing
