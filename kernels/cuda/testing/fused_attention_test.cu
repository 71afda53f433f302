// The attention kernels against softmax(q k^T) v in float64 on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

using Bf16 = __nv_bfloat16;

// A bound on the relative error of rounding to T.
template <class T>
constexpr double kRounding = std::is_same_v<T, Bf16>     ? 0x1p-8
                             : std::is_same_v<T, __half> ? 0x1p-11
                                                         : 0x1p-23;

// A block a query of a head. Scores live in dynamic shared memory, kv_tokens doubles.
template <class E>
__global__ void OracleKernel(AttentionArgs p, double* expected, double* tolerance) {
  extern __shared__ double scores[];
  __shared__ double worst_score_error;
  const int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
  const int kv_head = h / (p.heads / p.kv_heads);
  const bool packed = p.q_start != nullptr;
  const int q_first = packed ? p.q_start[b] : 0, kv_first = packed ? p.kv_start[b] : 0;
  const int q_tokens = packed ? p.q_start[b + 1] - q_first : p.q_tokens;
  const int kv_tokens = packed ? p.kv_start[b + 1] - kv_first : p.kv_tokens;
  if (i >= q_tokens) return;
  const auto offset = [&](const AttentionTensor& t, int first, int token, int head) {
    return (packed ? first * t.token_stride : b * t.batch_stride) + token * t.token_stride + head * t.head_stride;
  };
  const auto at = [&](const AttentionTensor& t, int first, int token, int head) {
    return static_cast<const E*>(t.data) + offset(t, first, token, head);
  };
  const int visible = p.causal ? i + 1 + kv_tokens - q_tokens : kv_tokens;
  const int begin = p.window > 0 ? max(0, visible - p.window) : 0;
  if (threadIdx.x == 0) worst_score_error = 0;
  __syncthreads();
  for (int j = begin + threadIdx.x; j < visible; j += blockDim.x) {
    double dot = 0, absolute = 0;
    for (int c = 0; c < p.head_dim; ++c) {
      const double x = double{ToFloat(at(p.q, q_first, i, h)[c])} * double{ToFloat(at(p.k, kv_first, j, kv_head)[c])};
      dot += x;
      absolute += fabs(x);
    }
    scores[j] = dot * p.scale;
    // The f32 sum, its product with scale * log2(e) and the difference from the maximum.
    const double error = p.scale * absolute * (p.head_dim / 16 + 16) * 0x1p-23 + 4 * fabs(scores[j]) * 0x1p-23;
    atomicMax(reinterpret_cast<unsigned long long*>(&worst_score_error), __double_as_longlong(error));
  }
  __syncthreads();
  double maximum = -INFINITY, sum = 0;
  for (int j = begin; j < visible; ++j) maximum = fmax(maximum, scores[j]);
  for (int j = begin; j < visible; ++j) sum += exp(scores[j] - maximum);
  for (int c = threadIdx.x; c < p.head_dim; c += blockDim.x) {
    double value = 0, absolute = 0, all = 0;
    for (int j = begin; j < visible; ++j) {
      const double v = double{ToFloat(at(p.v, kv_first, j, kv_head)[c])};
      const double x = exp(scores[j] - maximum) / sum * v;
      value += x;
      absolute += fabs(x);
      all += fabs(v);
    }
    const int64_t index = offset(p.o, q_first, i, h) + c;
    expected[index] = value;
    // Probabilities rounded to E (those of f16 below its least normal number by up to 2^-25 each), scores twice
    // (numerator and sum), the f32 sums, and the output's own rounding.
    const double subnormal = std::is_same_v<E, __half> ? all * 0x1p-24 : 0.0;
    tolerance[index] = absolute * (kRounding<E> + 4 * worst_score_error + ((visible - begin) / 16 + 16) * 0x1p-23) +
                       subnormal + kRounding<E> * fabs(value) + 1e-30;
  }
}

struct Case {
  int batch, heads, kv_heads, q_tokens, kv_tokens, head_dim;
  bool causal = true;
  bool merged = false;  // q, k and v are slices of one [tokens, heads + 2 kv_heads, head_dim] projection
  float magnitude = 1.0f;
  int window = 0;
};

using Kernel = cudaError_t (*)(const AttentionArgs&, cudaStream_t);

template <class E>
void Run(Kernel kernel, const Case& test, uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where),
                "%s attention batch %d heads %d/%d tokens %d/%d d %d causal %d merged %d mag %g window %d size %zu",
                kernel == FusedAttentionSm90   ? "sm90"
                : kernel == FusedAttentionSm80 ? "sm80"
                                               : "plain",
                test.batch, test.heads, test.kv_heads, test.q_tokens, test.kv_tokens, test.head_dim, test.causal,
                test.merged, test.magnitude, test.window, sizeof(E));
  const int d = test.head_dim;
  const int64_t q_size = int64_t{test.batch} * test.q_tokens * test.heads * d;
  const int64_t kv_size = int64_t{test.batch} * test.kv_tokens * test.kv_heads * d;
  GuardedBuffer<E> q(test.merged ? q_size + 2 * kv_size : q_size), k(kv_size), v(kv_size), o(q_size), again(q_size);
  Fill(q, seed + 1, test.magnitude);
  Fill(k, seed + 2, test.magnitude);
  Fill(v, seed + 3, 1.0f);

  AttentionArgs args;
  args.dtype = kDtypeOf<E>;
  args.window = test.window;
  args.batch = test.batch;
  args.heads = test.heads;
  args.kv_heads = test.kv_heads;
  args.q_tokens = test.q_tokens;
  args.kv_tokens = test.kv_tokens;
  args.head_dim = d;
  args.scale = 1.0f / std::sqrt(static_cast<float>(d));
  args.causal = test.causal;
  if (test.merged) {
    const int64_t row = (test.heads + 2 * test.kv_heads) * d;
    args.q = {q.data(), row * test.q_tokens, row, d};
    args.k = {q.data() + test.heads * d, row * test.q_tokens, row, d};
    args.v = {q.data() + (test.heads + test.kv_heads) * d, row * test.q_tokens, row, d};
    args.o = {o.data(), int64_t{test.heads} * d * test.q_tokens, test.heads * d, d};
  } else {
    // [batch, heads, tokens, head_dim]
    args.q = {q.data(), int64_t{test.heads} * test.q_tokens * d, d, int64_t{test.q_tokens} * d};
    args.k = {k.data(), int64_t{test.kv_heads} * test.kv_tokens * d, d, int64_t{test.kv_tokens} * d};
    args.v = {v.data(), int64_t{test.kv_heads} * test.kv_tokens * d, d, int64_t{test.kv_tokens} * d};
    args.o = {o.data(), int64_t{test.heads} * test.q_tokens * d, d, int64_t{test.q_tokens} * d};
  }

  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, q_size * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, q_size * sizeof(double)));
  const int bytes = test.kv_tokens * static_cast<int>(sizeof(double));
  FF_CUDA_OK(cudaFuncSetAttribute(OracleKernel<E>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  OracleKernel<E><<<dim3(test.q_tokens, test.heads, test.batch), 128, bytes>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());

  const cudaError_t error = kernel(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(o.data(), expected, tolerance, q_size);
  char what[160];
  std::snprintf(what, sizeof(what), "%llu of %lld elements outside the tolerance, first %lld, worst ratio %g",
                mismatch.bad, static_cast<long long>(q_size), static_cast<long long>(mismatch.first), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);
  report.Expect(o.GuardsIntact() && q.GuardsIntact() && k.GuardsIntact() && v.GuardsIntact(),
                "a guard band was written to", where);

  args.o.data = again.data();
  report.Expect(kernel(args, nullptr) == cudaSuccess, "the second run is refused", where);
  report.Expect(SameBytes(o.data(), again.data(), q_size * sizeof(E)), "bits differ from run to run", where);

  // A head alone gives the bits that it gives among others: here the last of the last batch row.
  again.Poison();
  const int64_t q_skip = (test.batch - 1) * args.q.batch_stride + (test.heads - 1) * args.q.head_stride;
  const int64_t o_skip = (test.batch - 1) * args.o.batch_stride + (test.heads - 1) * args.o.head_stride;
  const auto skip = [&](AttentionTensor& tensor) {
    tensor.data = static_cast<E*>(tensor.data) + (test.batch - 1) * tensor.batch_stride +
                  (test.kv_heads - 1) * tensor.head_stride;
  };
  skip(args.k);
  skip(args.v);
  args.q.data = static_cast<E*>(args.q.data) + q_skip;
  args.o.data = again.data() + o_skip;
  args.batch = args.heads = args.kv_heads = 1;
  report.Expect(kernel(args, nullptr) == cudaSuccess, "one head is refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const auto all = o.Read(), one = again.Read();
  bool same = true;
  for (int i = 0; i < test.q_tokens; ++i) {
    const int64_t row = o_skip + i * args.o.token_stride;
    same = same && std::memcmp(&all[row], &one[row], d * sizeof(E)) == 0;
  }
  report.Expect(same, "bits depend on the other heads", where);
  cudaFree(expected);
  cudaFree(tolerance);
}

// Rows of unequal length, packed, and one kernel's choice among them.
template <class E>
void RunPacked(const std::vector<int>& q_lengths, const std::vector<int>& kv_lengths, const Case& test, uint64_t seed,
               Report& report) {
  char where[120];
  std::snprintf(where, sizeof(where), "packed attention %zu rows heads %d/%d d %d causal %d window %d size %zu",
                q_lengths.size(), test.heads, test.kv_heads, test.head_dim, test.causal, test.window, sizeof(E));
  const int d = test.head_dim;
  AttentionArgs args;
  std::vector<int32_t> q_start(1, 0), kv_start(1, 0);
  for (size_t row = 0; row < q_lengths.size(); ++row) {
    q_start.push_back(q_start.back() + q_lengths[row]);
    kv_start.push_back(kv_start.back() + kv_lengths[row]);
    args.q_tokens = std::max(args.q_tokens, q_lengths[row]);
    args.kv_tokens = std::max(args.kv_tokens, kv_lengths[row]);
  }
  const int64_t q_size = int64_t{q_start.back()} * test.heads * d,
                kv_size = int64_t{kv_start.back()} * test.kv_heads * d;
  GuardedBuffer<E> q(q_size), k(kv_size), v(kv_size), o(q_size), again(q_size);
  GuardedBuffer<int32_t> q_starts(q_start.size()), kv_starts(kv_start.size());
  FF_CUDA_OK(cudaMemcpy(q_starts.data(), q_start.data(), q_start.size() * 4, cudaMemcpyHostToDevice));
  FF_CUDA_OK(cudaMemcpy(kv_starts.data(), kv_start.data(), kv_start.size() * 4, cudaMemcpyHostToDevice));
  Fill(q, seed + 1, 1.0f);
  Fill(k, seed + 2, 1.0f);
  Fill(v, seed + 3, 1.0f);
  args.dtype = kDtypeOf<E>;
  args.q = {q.data(), 0, int64_t{test.heads} * d, d};
  args.k = {k.data(), 0, int64_t{test.kv_heads} * d, d};
  args.v = {v.data(), 0, int64_t{test.kv_heads} * d, d};
  args.o = {o.data(), 0, int64_t{test.heads} * d, d};
  args.q_start = q_starts.data();
  args.kv_start = kv_starts.data();
  args.batch = static_cast<int>(q_lengths.size());
  args.heads = test.heads;
  args.kv_heads = test.kv_heads;
  args.head_dim = d;
  args.scale = 1.0f / std::sqrt(static_cast<float>(d));
  args.causal = test.causal;
  args.window = test.window;
  double *expected = nullptr, *tolerance = nullptr;
  FF_CUDA_OK(cudaMalloc(&expected, q_size * sizeof(double)));
  FF_CUDA_OK(cudaMalloc(&tolerance, q_size * sizeof(double)));
  const int bytes = args.kv_tokens * static_cast<int>(sizeof(double));
  FF_CUDA_OK(cudaFuncSetAttribute(OracleKernel<E>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  OracleKernel<E><<<dim3(args.q_tokens, args.heads, args.batch), 128, bytes>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());
  const cudaError_t error = FusedAttention(args, nullptr);
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const Mismatch mismatch = Compare(o.data(), expected, tolerance, q_size);
  char what[120];
  std::snprintf(what, sizeof(what), "%llu of %lld elements outside the tolerance, worst ratio %g", mismatch.bad,
                static_cast<long long>(q_size), mismatch.worst);
  report.Expect(mismatch.bad == 0, what, where);

  // The last row alone, as a batch of rows of equal length, gives the same bits by the same kernel.
  const int last = args.batch - 1;
  AttentionArgs alone = args;
  alone.q_start = alone.kv_start = nullptr;
  alone.batch = 1;
  alone.q_tokens = q_lengths[last];
  alone.kv_tokens = kv_lengths[last];
  const int64_t skip = int64_t{q_start[last]} * test.heads * d, kv_skip = int64_t{kv_start[last]} * test.kv_heads * d;
  alone.q.data = q.data() + skip;
  alone.k.data = k.data() + kv_skip;
  alone.v.data = v.data() + kv_skip;
  alone.o.data = again.data() + skip;
  const cudaError_t status =
      std::is_same_v<E, float> ? FusedAttentionPlain(alone, nullptr) : FusedAttentionSm80(alone, nullptr);
  report.Expect(status == cudaSuccess, cudaGetErrorString(status), where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  report.Expect(SameBytes(o.data() + skip, again.data() + skip, (q_size - skip) * sizeof(E)),
                "bits depend on the other rows", where);
  report.Expect(o.GuardsIntact() && again.GuardsIntact(), "a guard band was written to", where);
  cudaFree(expected);
  cudaFree(tolerance);
}

}  // namespace

void TestFusedAttention(Report& report) {
  uint64_t seed = 5000;
  const auto run = [&](const Case& test) {
    seed += 10;
    if (!report.hopper) return;
    Run<Bf16>(FusedAttentionSm90, test, seed, report);
  };
  const auto run_any_gpu = [&](const Case& test) {
    seed += 10;
    Run<Bf16>(FusedAttentionSm80, test, seed, report);
    Run<__half>(FusedAttentionSm80, test, seed + 1, report);
    Run<float>(FusedAttentionPlain, test, seed + 2, report);
  };
  for (bool causal : {true, false}) {
    for (int d : {64, 128, 80, 96, 8}) {
      for (int tokens : {1, 7, 63, 65, 127, 129, 191, 193, 385, 1023}) {
        run({.batch = 2,
             .heads = 3,
             .kv_heads = 3,
             .q_tokens = tokens,
             .kv_tokens = tokens,
             .head_dim = d,
             .causal = causal});
      }
    }
    for (int d : {64, 128}) {
      // Chunked prefill: fewer queries than keys; grouped queries; slices of a merged projection; sharp and flat
      // softmax.
      run({.batch = 2, .heads = 4, .kv_heads = 2, .q_tokens = 100, .kv_tokens = 777, .head_dim = d, .causal = causal});
      run({.batch = 1, .heads = 9, .kv_heads = 3, .q_tokens = 1, .kv_tokens = 300, .head_dim = d, .causal = causal});
      run({.batch = 3,
           .heads = 8,
           .kv_heads = 2,
           .q_tokens = 321,
           .kv_tokens = 321,
           .head_dim = d,
           .causal = causal,
           .merged = true});
      run({.batch = 1,
           .heads = 2,
           .kv_heads = 1,
           .q_tokens = 511,
           .kv_tokens = 511,
           .head_dim = d,
           .causal = causal,
           .magnitude = 8.0f});
      // More tiles than one round of the GPU, and an uneven last one.
      run({.batch = 8,
           .heads = 12,
           .kv_heads = 12,
           .q_tokens = 1000,
           .kv_tokens = 1000,
           .head_dim = d,
           .causal = causal,
           .merged = true});
    }
  }
  for (int d : {64, 80, 96, 128}) {
    for (int window : {1, 16, 100, 300}) {
      const Case equal = {.batch = 2, .heads = 4, .kv_heads = 2, .q_tokens = 777, .kv_tokens = 777, .head_dim = d};
      const Case chunk = {.batch = 1, .heads = 3, .kv_heads = 3, .q_tokens = 130, .kv_tokens = 700, .head_dim = d};
      for (Case test : {equal, chunk}) {
        test.window = window;
        run(test);
        if (window == 100) run_any_gpu(test);
      }
    }
  }
  for (bool causal : {true, false}) {
    for (int d : {64, 80, 96, 128, 8, 72}) {
      for (int tokens : {1, 63, 65, 127, 385}) {
        run_any_gpu({.batch = 2,
                     .heads = 4,
                     .kv_heads = 2,
                     .q_tokens = tokens,
                     .kv_tokens = tokens,
                     .head_dim = d,
                     .causal = causal});
      }
      run_any_gpu({.batch = 2,
                   .heads = 4,
                   .kv_heads = 1,
                   .q_tokens = 70,
                   .kv_tokens = 333,
                   .head_dim = d,
                   .causal = causal,
                   .magnitude = 4.0f});
      const Case any = {.heads = 4, .kv_heads = 2, .head_dim = d, .causal = causal, .window = causal ? 90 : 0};
      RunPacked<Bf16>({65, 1, 7, 300, 64}, {65, 40, 7, 300, 200}, any, seed += 10, report);
      RunPacked<__half>({65, 1, 7, 300, 64}, {65, 40, 7, 300, 200}, any, seed += 10, report);
      RunPacked<float>({65, 1, 7, 300, 64}, {65, 40, 7, 300, 200}, any, seed += 10, report);
    }
  }
  AttentionArgs none;
  report.Expect(FusedAttention(none, nullptr) == cudaErrorInvalidValue, "null pointers are taken", "attention");
}

}  // namespace flashflow::cuda::testing
