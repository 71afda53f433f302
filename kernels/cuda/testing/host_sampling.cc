#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/testing/host_kernels.h"

namespace flashflow::cuda::testing {
namespace {

// The n-th draw of a seed as 64 random bits, by Philox4x32-10.
uint64_t PhiloxBits(uint64_t seed, uint64_t n) {
  uint32_t counter[4] = {static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return uint64_t{counter[0]} << 32 | counter[1];
}

// By integer weights, as sampling.h says; the filters take the tokens in the order of preference.
int32_t Draw(const std::vector<float>& logits, const SamplingRow& how) {
  const int32_t vocab = static_cast<int32_t>(logits.size());
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  if (how.temperature == 0) return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());

  constexpr float kOne = 4294967040.0f;  // the largest f32 below 2^32
  const float most = *std::ranges::max_element(logits);
  std::vector<uint64_t> weights(vocab);
  for (int32_t i = 0; i < vocab; ++i) {
    const double weight = std::exp((double{logits[i]} - most) / how.temperature) * kOne;
    weights[i] = static_cast<uint64_t>(std::nearbyint(weight));
  }
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return weights[a] > weights[b]; });
  while (weights[order.back()] == 0) order.pop_back();  // never drawn
  if (how.top_k > 0 && order.size() > static_cast<size_t>(how.top_k)) order.resize(how.top_k);
  if (how.top_p < 1) {
    uint64_t total = 0, sum = 0;
    for (const int32_t id : order) total += weights[id];
    const double share = std::ceil(double{how.top_p} * static_cast<double>(total));
    const uint64_t target = std::max<uint64_t>(static_cast<uint64_t>(share), 1);
    size_t kept = 0;
    while (sum < target && kept < order.size()) sum += weights[order[kept++]];
    order.resize(kept);
  }
  const double least = std::ceil(std::min(how.min_p, 1.0f) * kOne);
  std::erase_if(order, [&](int32_t id) { return static_cast<double>(weights[id]) < least; });

  std::ranges::sort(order);
  uint64_t total = 0;
  for (const int32_t id : order) total += weights[id];
  const uint64_t bits = PhiloxBits(how.seed, how.index) >> 11 << 11;
  auto target = static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * total >> 64);
  for (const int32_t id : order) {
    if (target < weights[id]) return id;
    target -= weights[id];
  }
  return -1;
}

}  // namespace

cudaError_t Refuse(const SampleArgs& args) {
  return args.logits == nullptr || args.how == nullptr || args.tokens == nullptr || args.rows < 1 || args.vocab < 1 ||
                 args.ld < args.vocab
             ? cudaErrorInvalidValue
             : cudaSuccess;
}

cudaError_t Compute(const HostMemory& memory, const SampleArgs& args) {
  const int64_t rows = args.rows, words = (int64_t{args.vocab} + 31) / 32;
  if (!memory.HoldsRows(args.logits, Dtype::kF32, rows, args.vocab, args.ld) ||
      !memory.Holds(args.how, rows * static_cast<int64_t>(sizeof(SamplingRow))) ||
      !memory.Holds(args.tokens, rows * 4) || (args.seen != nullptr && !memory.Holds(args.seen, rows * words * 4))) {
    return cudaErrorIllegalAddress;
  }
  std::vector<float> logits(args.vocab);
  for (int64_t row = 0; row < rows; ++row) {
    const SamplingRow& how = args.how[row];
    uint32_t* seen = args.seen == nullptr ? nullptr : args.seen + row * words;
    bool finite = true;
    for (int i = 0; i < args.vocab; ++i) {
      logits[i] = args.logits[row * args.ld + i];
      finite = finite && std::isfinite(logits[i]);
      if (seen != nullptr && (seen[i / 32] >> (i % 32) & 1) != 0) {
        logits[i] = logits[i] > 0 ? logits[i] / how.repetition_penalty : logits[i] * how.repetition_penalty;
      }
    }
    if (finite && how.temperature != 0 && !memory.Holds(args.workspace, rows * args.vocab * 4)) {
      return cudaErrorIllegalAddress;
    }
    const int32_t token = finite ? Draw(logits, how) : -1;
    args.tokens[row] = token;
    if (token >= 0 && seen != nullptr) seen[token / 32] |= uint32_t{1} << (token % 32);
  }
  return cudaSuccess;
}

}  // namespace flashflow::cuda::testing
