// The attention kernels against softmax(q k^T) v in float64 on the device.
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

using Bf16 = __nv_bfloat16;

// A block a query of a head. Scores live in dynamic shared memory, kv_tokens doubles.
__global__ void OracleKernel(AttentionArgs p, double* expected, double* tolerance) {
  extern __shared__ double scores[];
  __shared__ double worst_score_error;
  const int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
  const int kv_head = h / (p.heads / p.kv_heads);
  const auto at = [&](const AttentionTensor& t, int token, int head) {
    return static_cast<const Bf16*>(t.data) + b * t.batch_stride + token * t.token_stride + head * t.head_stride;
  };
  const int visible = p.causal ? i + 1 + p.kv_tokens - p.q_tokens : p.kv_tokens;
  if (threadIdx.x == 0) worst_score_error = 0;
  __syncthreads();
  for (int j = threadIdx.x; j < visible; j += blockDim.x) {
    double dot = 0, absolute = 0;
    for (int c = 0; c < p.head_dim; ++c) {
      const double x = double{__bfloat162float(at(p.q, i, h)[c])} * double{__bfloat162float(at(p.k, j, kv_head)[c])};
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
  for (int j = 0; j < visible; ++j) maximum = fmax(maximum, scores[j]);
  for (int j = 0; j < visible; ++j) sum += exp(scores[j] - maximum);
  for (int c = threadIdx.x; c < p.head_dim; c += blockDim.x) {
    double value = 0, absolute = 0;
    for (int j = 0; j < visible; ++j) {
      const double x = exp(scores[j] - maximum) / sum * double{__bfloat162float(at(p.v, j, kv_head)[c])};
      value += x;
      absolute += fabs(x);
    }
    const int64_t index = b * p.o.batch_stride + i * p.o.token_stride + h * p.o.head_stride + c;
    expected[index] = value;
    // Probabilities rounded to bf16 (2^-8 each at worst), scores twice (numerator and sum), the f32 sums, and the
    // output's own rounding.
    tolerance[index] =
        absolute * (0x1p-8 + 4 * worst_score_error + (visible / 16 + 16) * 0x1p-23) + 0x1p-8 * fabs(value) + 1e-30;
  }
}

struct Case {
  int batch, heads, kv_heads, q_tokens, kv_tokens, head_dim;
  bool causal = true;
  bool merged = false;  // q, k and v are slices of one [tokens, heads + 2 kv_heads, head_dim] projection
  float magnitude = 1.0f;
};

void Run(const Case& test, uint64_t seed, Report& report) {
  char where[200];
  std::snprintf(where, sizeof(where), "attention batch %d heads %d/%d tokens %d/%d d %d causal %d merged %d mag %g",
                test.batch, test.heads, test.kv_heads, test.q_tokens, test.kv_tokens, test.head_dim, test.causal,
                test.merged, test.magnitude);
  const int d = test.head_dim;
  const int64_t q_size = int64_t{test.batch} * test.q_tokens * test.heads * d;
  const int64_t kv_size = int64_t{test.batch} * test.kv_tokens * test.kv_heads * d;
  GuardedBuffer<Bf16> q(test.merged ? q_size + 2 * kv_size : q_size), k(kv_size), v(kv_size), o(q_size), again(q_size);
  Fill(q, seed + 1, test.magnitude);
  Fill(k, seed + 2, test.magnitude);
  Fill(v, seed + 3, 1.0f);

  AttentionArgs args;
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
  FF_CUDA_OK(cudaFuncSetAttribute(OracleKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  OracleKernel<<<dim3(test.q_tokens, test.heads, test.batch), 128, bytes>>>(args, expected, tolerance);
  FF_CUDA_OK(cudaGetLastError());

  const cudaError_t error = FusedAttentionSm90(args, nullptr);
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
  report.Expect(FusedAttentionSm90(args, nullptr) == cudaSuccess, "the second run is refused", where);
  report.Expect(SameBytes(o.data(), again.data(), q_size * sizeof(Bf16)), "bits differ from run to run", where);

  // A head alone gives the bits that it gives among others: here the last of the last batch row.
  again.Poison();
  const int64_t q_skip = (test.batch - 1) * args.q.batch_stride + (test.heads - 1) * args.q.head_stride;
  const int64_t o_skip = (test.batch - 1) * args.o.batch_stride + (test.heads - 1) * args.o.head_stride;
  const auto skip = [&](AttentionTensor& tensor) {
    tensor.data = static_cast<Bf16*>(tensor.data) + (test.batch - 1) * tensor.batch_stride +
                  (test.kv_heads - 1) * tensor.head_stride;
  };
  skip(args.k);
  skip(args.v);
  args.q.data = static_cast<Bf16*>(args.q.data) + q_skip;
  args.o.data = again.data() + o_skip;
  args.batch = args.heads = args.kv_heads = 1;
  report.Expect(FusedAttentionSm90(args, nullptr) == cudaSuccess, "one head is refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  const auto all = o.Read(), one = again.Read();
  bool same = true;
  for (int i = 0; i < test.q_tokens; ++i) {
    const int64_t row = o_skip + i * args.o.token_stride;
    same = same && std::memcmp(&all[row], &one[row], d * sizeof(Bf16)) == 0;
  }
  report.Expect(same, "bits depend on the other heads", where);
  cudaFree(expected);
  cudaFree(tolerance);
}

}  // namespace

void TestFusedAttention(Report& report) {
  uint64_t seed = 5000;
  const auto run = [&](const Case& test) {
    seed += 10;
    Run(test, seed, report);
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
}

}  // namespace flashflow::cuda::testing
