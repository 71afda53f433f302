// Draws against the runtime sampler's rule, in float64 on the host.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

// Known answer: Philox4x32-10 of the counter and key of zeros begins 6627e8d5 e169c58d.
double Uniform(uint64_t seed, uint64_t n) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), 0, 0};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
  }
  return static_cast<double>((uint64_t{c[0]} << 32 | c[1]) >> 11) * 0x1p-53;
}

struct Drawn {
  int32_t token;
  bool close;  // within rounding of another token, or of another set of tokens
};

// Weights are off by their exponent's rounding, |logit - max| / temperature times a few eps, and by 2^-32 of the
// largest.
Drawn Expect(std::vector<float> logits, const SamplingRow& how, const std::vector<bool>& seen) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) return {-1, false};
    if (seen[i]) logits[i] = logits[i] > 0 ? logits[i] / how.repetition_penalty : logits[i] * how.repetition_penalty;
  }
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (how.temperature == 0) return {ids[0], false};
  const double max = logits[ids[0]];
  const auto weight = [&](int32_t id) { return std::exp((logits[id] - max) / how.temperature); };
  constexpr double kRelative = 2e-5;
  bool close = false;
  if (how.top_k > 0 && static_cast<size_t>(how.top_k) < ids.size()) ids.resize(how.top_k);
  if (how.top_p < 1) {
    double total = 0, sum = 0;
    for (int32_t id : ids) total += weight(id);
    size_t kept = 0;
    while (kept < ids.size() && sum < how.top_p * total) {
      sum += weight(ids[kept++]);
      close = close || std::abs(sum - how.top_p * total) < kRelative * total;
    }
    ids.resize(kept);
  }
  std::erase_if(ids, [&](int32_t id) {
    close = close || std::abs(weight(id) - how.min_p) < kRelative * how.min_p;
    return weight(id) < how.min_p;
  });
  std::sort(ids.begin(), ids.end());
  double total = 0, sum = 0;
  for (int32_t id : ids) total += weight(id);
  const double target = Uniform(how.seed, how.index) * total;
  for (int32_t id : ids) {
    sum += weight(id);
    close = close || std::abs(sum - target) < kRelative * total;
    if (target < sum) return {id, close};
  }
  return {ids.back(), true};
}

template <class T>
void Upload(const GuardedBuffer<T>& buffer, const std::vector<T>& values) {
  FF_CUDA_OK(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
}

struct Tally {
  int draws = 0, close = 0;
};

// `step`: logits are multiples of it, so that many are equal; 0: of any value.
void Run(int vocab, int pad, float step, bool with_seen, Report& report, Tally& tally) {
  char where[120];
  std::snprintf(where, sizeof(where), "sampling vocab %d pad %d step %g seen %d", vocab, pad, step, with_seen);
  std::vector<SamplingRow> how;
  for (float temperature : {0.0f, 0.3f, 1.0f, 2.5f}) {
    for (int top_k : {0, 1, 7, 40}) {
      for (float top_p : {1.0f, 0.9f, 0.2f}) {
        for (float min_p : {0.0f, 0.05f}) {
          SamplingRow row;
          row.temperature = temperature;
          row.top_k = top_k;
          row.top_p = top_p;
          row.min_p = min_p;
          row.repetition_penalty = with_seen ? 1.7f : 1.0f;
          row.seed = 77 + vocab;
          row.index = how.size() + (uint64_t{1} << 33);
          how.push_back(row);
        }
      }
    }
  }
  const int rows = static_cast<int>(how.size()), words = (vocab + 31) / 32;
  const int64_t ld = vocab + pad;
  std::mt19937 generator(vocab + pad);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(rows * ld);
  for (float& logit : logits) {
    logit = normal(generator);
    if (step > 0) logit = std::round(logit / step) * step;
  }
  if (rows > 3) logits[2 * ld + vocab / 2] = INFINITY;
  std::vector<uint32_t> seen(static_cast<size_t>(rows) * words);
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < vocab; ++i) {
      if (generator() % 3 == 0) seen[row * words + i / 32] |= 1u << (i % 32);
    }
  }

  GuardedBuffer<float> device_logits(rows * ld);
  GuardedBuffer<SamplingRow> device_how(rows);
  GuardedBuffer<uint32_t> device_seen(rows * int64_t{words}), workspace(rows * int64_t{vocab});
  GuardedBuffer<int32_t> tokens(rows);
  Upload(device_logits, logits);
  Upload(device_how, how);
  Upload(device_seen, seen);
  SampleArgs args;
  args.logits = device_logits.data();
  args.how = device_how.data();
  args.seen = with_seen ? device_seen.data() : nullptr;
  args.tokens = tokens.data();
  args.workspace = workspace.data();
  args.rows = rows;
  args.vocab = vocab;
  args.ld = ld;
  report.Expect(Sample(args, nullptr) == cudaSuccess, "refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  report.Expect(tokens.GuardsIntact() && workspace.GuardsIntact() && device_seen.GuardsIntact(),
                "a guard band was written to", where);
  const std::vector<int32_t> got = tokens.Read();
  const std::vector<uint32_t> marked = device_seen.Read();
  bool marks_right = true;
  for (int row = 0; row < rows; ++row) {
    std::vector<bool> is_seen(vocab);
    for (int i = 0; i < vocab; ++i) is_seen[i] = with_seen && (seen[row * words + i / 32] >> (i % 32) & 1) != 0;
    const Drawn want = Expect({logits.begin() + row * ld, logits.begin() + row * ld + vocab}, how[row], is_seen);
    ++tally.draws;
    if (want.close) ++tally.close;
    char what[160];
    std::snprintf(what, sizeof(what), "row %d (temperature %g, top_k %d, top_p %g, min_p %g): token %d, expected %d",
                  row, how[row].temperature, how[row].top_k, how[row].top_p, how[row].min_p, got[row], want.token);
    report.Expect(want.close || got[row] == want.token, what, where);
    if (with_seen && got[row] >= 0) seen[row * words + got[row] / 32] |= 1u << (got[row] % 32);
  }
  for (size_t i = 0; i < seen.size(); ++i) marks_right = marks_right && marked[i] == seen[i];
  report.Expect(marks_right, "tokens are not marked as seen", where);

  // The last row alone.
  if (with_seen) return;
  const std::vector<int32_t> all = got;
  args.logits += (rows - 1) * ld;
  args.how += rows - 1;
  args.rows = 1;
  tokens.Poison();
  report.Expect(Sample(args, nullptr) == cudaSuccess, "one row is refused", where);
  FF_CUDA_OK(cudaDeviceSynchronize());
  report.Expect(tokens.Read()[0] == all[rows - 1], "a token depends on other rows", where);
}

}  // namespace

void TestSampling(Report& report) {
  report.Expect(static_cast<uint64_t>(Uniform(0, 0) * 0x1p32) == 0x6627e8d5, "Philox's known answer", "sampling");
  Tally tally;
  for (int vocab : {1, 7, 32, 63, 65, 127, 1023, 50257}) {
    Run(vocab, 0, 0, false, report, tally);
    Run(vocab, 3, 0.5f, false, report, tally);
    Run(vocab, 1, 0, true, report, tally);
  }
  char what[80];
  std::snprintf(what, sizeof(what), "%d of %d draws are too close to tell", tally.close, tally.draws);
  report.Expect(tally.close * 20 < tally.draws, what, "sampling");
  report.Expect(Sample({}, nullptr) == cudaErrorInvalidValue, "empty arguments are accepted", "sampling");
}

}  // namespace flashflow::cuda::testing
