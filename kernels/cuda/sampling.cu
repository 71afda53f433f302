// The kernel behind Sample: a row's blocks find its maximum; the first of them writes integer weights, and narrows the
// filters' threshold down by counting and summing what lies above trial thresholds.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sampling.h"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kTrials = 3;  // thresholds tried in one reading of the weights
constexpr int kAhead = 4;   // logits that a thread has under way at a time
// Blocks of a cluster that share the reading of a row's logits where there are few rows: a greedy row is done then, and
// one multiprocessor alone would take 10 us for 50,257 of them.
constexpr int kRowBlocks = 8;
constexpr int kFewRows = 16;

// The most preferred token: larger logits first, lower ids among equals. Finite floats in the order of their keys.
struct Best {
  float logit;
  int32_t id;
  bool finite;  // all of the logits so far

  __device__ __forceinline__ void Take(const Best& other) {
    if (other.logit > logit || (other.logit == logit && other.id < id)) {
      logit = other.logit;
      id = other.id;
    }
    finite = finite && other.finite;
  }
};

// How many weights are at or above a threshold, and their sum: below 2^32 tokens of below 2^32 each.
struct Mass {
  uint64_t count, sum;
};

struct Shared {
  Best best[kWarps];
  Best blocks[kRowBlocks];
  Mass mass[kWarps][kTrials];
  uint64_t sums[kWarps];
  uint32_t ties[kWarps];
};

__device__ __forceinline__ uint64_t WarpSum(uint64_t value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

__device__ __forceinline__ float Penalized(const SampleArgs& p, const SamplingRow& how, const uint32_t* seen, int id,
                                           float logit) {
  if (seen == nullptr || how.repetition_penalty == 1.0f || (seen[id / 32] >> (id % 32) & 1) == 0) return logit;
  return logit > 0 ? logit / how.repetition_penalty : logit * how.repetition_penalty;
}

// The number of the n-th draw of a seed, as 64 random bits.
__device__ uint64_t PhiloxBits(uint64_t seed, uint64_t n) {
  uint32_t counter[4] = {static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    for (int i = 0; i < 4; ++i) counter[i] = next[i];
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return uint64_t{counter[0]} << 32 | counter[1];
}

class Row {
 public:
  __device__ Row(const uint32_t* weights, int vocab, Shared& shared)
      : weights_(weights), vocab_(vocab), shared_(shared) {}

  // The weights at or above each of the thresholds. Every thread gets them.
  __device__ void MassAt(const uint32_t (&thresholds)[kTrials], Mass (&mass)[kTrials]) const {
    Mass mine[kTrials] = {};
    for (int i = threadIdx.x; i < vocab_; i += kThreads) {
      const uint32_t weight = weights_[i];
#pragma unroll
      for (int t = 0; t < kTrials; ++t) {
        if (weight >= thresholds[t]) {
          ++mine[t].count;
          mine[t].sum += weight;
        }
      }
    }
    __syncthreads();  // a thread may still be reading the last results
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      const Mass warp = {WarpSum(mine[t].count), WarpSum(mine[t].sum)};
      if (threadIdx.x % 32 == 0) shared_.mass[threadIdx.x / 32][t] = warp;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      const Mass of_warp = shared_.mass[threadIdx.x % 32][t];
      mass[t] = {WarpSum(of_warp.count), WarpSum(of_warp.sum)};
    }
  }

  __device__ Mass MassAt(uint32_t threshold) const {
    const uint32_t thresholds[kTrials] = {threshold, UINT32_MAX, UINT32_MAX};
    Mass mass[kTrials];
    MassAt(thresholds, mass);
    return mass[0];
  }

  // The largest threshold in [low, UINT32_MAX] whose mass has `member` >= target; that of `low` has.
  __device__ uint32_t Narrow(uint32_t low, uint64_t Mass::* member, uint64_t target) const {
    uint64_t first = low, end = uint64_t{1} << 32;  // the answer is in [first, end)
    while (end - first > 1) {
      uint32_t thresholds[kTrials];
#pragma unroll
      for (int t = 0; t < kTrials; ++t) {
        const uint64_t step = (end - first) * (t + 1) / (kTrials + 1);
        thresholds[t] = static_cast<uint32_t>(first + (step > 0 ? step : 1));  // below `end`, which is two or more away
      }
      Mass mass[kTrials];
      MassAt(thresholds, mass);
#pragma unroll
      for (int t = kTrials - 1; t >= 0; --t) {
        if (mass[t].*member >= target) {
          first = thresholds[t];
          break;
        }
        end = thresholds[t];
      }
    }
    return static_cast<uint32_t>(first);
  }

  // The token at `target` along the ids, of those whose weight is above `threshold` and the first `ties` of those at
  // it. Their sum is above `target`.
  __device__ int32_t At(uint64_t target_share, uint32_t threshold, uint64_t ties) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int segment = (vocab_ + kWarps - 1) / kWarps;
    const int begin = min(warp * segment, vocab_), end = min(begin + segment, vocab_);
    uint64_t sum = 0, tied = 0;
    for (int i = begin + lane; i < end; i += 32) {
      const uint32_t weight = weights_[i];
      if (weight > threshold) sum += weight;
      if (weight == threshold) ++tied;
    }
    sum = WarpSum(sum);
    tied = WarpSum(tied);
    __syncthreads();
    if (lane == 0) {
      shared_.sums[warp] = sum;
      shared_.ties[warp] = static_cast<uint32_t>(tied);
    }
    __syncthreads();
    // Every thread goes through the warps' sums: what is before this warp, what is of it, what is in all.
    uint64_t total = 0, before = 0, mine = 0, ties_left = ties, ties_here = 0;
    for (int w = 0; w < kWarps; ++w) {
      const uint64_t kept = min(uint64_t{shared_.ties[w]}, ties_left);
      const uint64_t of_warp = shared_.sums[w] + kept * threshold;
      if (w < warp) before += of_warp;
      if (w == warp) {
        mine = of_warp;
        ties_here = kept;
      }
      total += of_warp;
      ties_left -= kept;
    }
    const uint64_t target = __umul64hi(target_share, total);
    if (target < before || target - before >= mine) return -1;
    // This warp has it: 32 ids at a time, with running sums over the lanes.
    uint64_t passed = before;
    for (int base = begin; base < end; base += 32) {
      const int i = base + lane;
      const uint32_t weight = i < end ? weights_[i] : 0;
      const bool tie = i < end && weight == threshold;
      const uint32_t tie_mask = __ballot_sync(~0u, tie);
      const bool kept = i < end && (weight > threshold || (tie && __popc(tie_mask & ((1u << lane) - 1)) < ties_here));
      uint64_t running = kept ? weight : 0;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const uint64_t other = __shfl_up_sync(~0u, running, offset);
        if (lane >= offset) running += other;
      }
      const uint32_t reached = __ballot_sync(~0u, passed + running > target);
      if (reached != 0) return base + __ffs(static_cast<int>(reached)) - 1;
      passed += __shfl_sync(~0u, running, 31);
      const uint64_t used = __popc(tie_mask);
      ties_here -= min(used, ties_here);
    }
    return -1;  // not reached: the warp's sum is above the target
  }

 private:
  const uint32_t* weights_;
  int vocab_;
  Shared& shared_;
};

// kBlocks: of a row, a cluster if it is more than one.
template <int kBlocks>
__global__ void __launch_bounds__(kThreads) SampleKernel(const SampleArgs p) {
  __shared__ Shared shared;
  LetNextKernelStart();
  AwaitPreviousKernel();
#if __CUDA_ARCH__ >= 900
  [[maybe_unused]] const auto cluster = cooperative_groups::this_cluster();
  if constexpr (kBlocks > 1) cluster.barrier_arrive();  // which says that this block runs
#endif
  const int64_t row = blockIdx.x / kBlocks;
  const int block = blockIdx.x % kBlocks;
  const int words = (p.vocab + 31) / 32;
  const float* logits = p.logits + row * p.ld;
  uint32_t* seen = p.seen == nullptr ? nullptr : p.seen + row * words;
  const SamplingRow how = p.how[row];

  Best best = {-INFINITY, INT32_MAX, true};
  const int slice = (p.vocab + kBlocks - 1) / kBlocks;
  const int end = min((block + 1) * slice, p.vocab);
  for (int i = block * slice + static_cast<int>(threadIdx.x); i < end; i += kAhead * kThreads) {
    float ahead[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) ahead[a] = i + a * kThreads < end ? logits[i + a * kThreads] : 0;
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int id = i + a * kThreads;
      if (id < end) best.Take({Penalized(p, how, seen, id, ahead[a]), id, isfinite(ahead[a])});
    }
  }
  const auto warp_best = [&] {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      best.Take({__shfl_xor_sync(~0u, best.logit, offset), __shfl_xor_sync(~0u, best.id, offset),
                 __shfl_xor_sync(~0u, static_cast<int>(best.finite), offset) != 0});
    }
  };
  warp_best();
  if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared.best[threadIdx.x % 32];
  warp_best();
#if __CUDA_ARCH__ >= 900
  if constexpr (kBlocks > 1) {
    cluster.barrier_wait();
    if (threadIdx.x == 0) *cluster.map_shared_rank(&shared.blocks[block], 0) = best;
    cluster.sync();
    if (block > 0) return;
    for (const Best& other : shared.blocks) best.Take(other);
  }
#endif

  int32_t token = -1;
  if (best.finite && how.temperature == 0) {
    token = threadIdx.x == 0 ? best.id : -1;
  } else if (best.finite) {
    // exp((logit - max) / temperature), of which the largest is 2^32 less 256, the largest f32 below 2^32.
    constexpr float kOne = 4294967040.0f;
    const float scale = kLog2E / how.temperature;
    uint32_t* weights = p.workspace + row * p.vocab;
    const uint32_t least = __float2uint_ru(fminf(how.min_p, 1.0f) * kOne);
    for (int i = threadIdx.x; i < p.vocab; i += kThreads) {
      const float logit = Penalized(p, how, seen, i, logits[i]);
      weights[i] = __float2uint_rn(exp2f((logit - best.logit) * scale) * kOne);
    }
    __syncthreads();
    const Row weighed(weights, p.vocab, shared);
    // Weights of 0 are never drawn.
    uint32_t threshold = 1;
    uint64_t ties = UINT64_MAX;
    if (how.top_k > 0 && how.top_k < p.vocab) {
      const uint64_t k = how.top_k;
      if (weighed.MassAt(1).count > k) {
        threshold = weighed.Narrow(1, &Mass::count, k);
        const uint64_t above = threshold == UINT32_MAX ? 0 : weighed.MassAt(threshold + 1).count;
        ties = k - above;
      }
    }
    if (how.top_p < 1) {
      const Mass at = weighed.MassAt(threshold);
      const Mass above = threshold == UINT32_MAX ? Mass() : weighed.MassAt(threshold + 1);
      const uint64_t kept_ties = min(ties, at.count - above.count);
      const uint64_t total = above.sum + kept_ties * threshold;
      const uint64_t target =
          max(static_cast<uint64_t>(ceil(double{how.top_p} * static_cast<double>(total))), uint64_t{1});
      if (above.sum >= target) {
        threshold = weighed.Narrow(threshold + 1, &Mass::sum, target);
        ties = UINT64_MAX;
      }
      const uint64_t surely = threshold == UINT32_MAX ? 0 : weighed.MassAt(threshold + 1).sum;
      ties = min(ties, (target - surely + threshold - 1) / threshold);
    }
    if (least > threshold) {  // the largest weight passes min_p
      threshold = least;
      ties = UINT64_MAX;
    }
    // 53 bits, as the CPU's number in [0, 1) has.
    token = weighed.At(PhiloxBits(how.seed, how.index) >> 11 << 11, threshold, ties);
  } else if (threadIdx.x == 0) {
    p.tokens[row] = -1;
  }
  // One warp has the token, or one thread.
  if (token >= 0 && (how.temperature == 0 || threadIdx.x % 32 == 0)) {
    p.tokens[row] = token;
    if (seen != nullptr) seen[token / 32] |= 1u << (token % 32);
  }
}

}  // namespace

cudaError_t Sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.logits == nullptr || args.how == nullptr || args.tokens == nullptr || args.rows < 1 || args.vocab < 1 ||
      args.ld < args.vocab) {
    return cudaErrorInvalidValue;
  }
  int device = 0, major = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (major >= 9 && args.rows <= kFewRows) {
    return LaunchOverlapped(SampleKernel<kRowBlocks>, args.rows * kRowBlocks, kRowBlocks, kThreads, 0, stream, args);
  }
  return LaunchOverlapped(SampleKernel<1>, args.rows, 1, kThreads, 0, stream, args);
}

}  // namespace flashflow::cuda
