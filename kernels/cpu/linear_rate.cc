#include "kernels/cpu/linear_rate.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/linear.h"

namespace flashflow::cpu {

absl::StatusOr<double> MeasureLinearFlopPerS(LinearWeight weight_type, double budget_s, ThreadPool* pool) {
  using Seconds = std::chrono::duration<double>;
  constexpr int64_t kM = 192, kN = 512, kK = 256;  // half a megabyte of f32 weights
  constexpr uint8_t kSmallNumbers = 0x3C;          // in every byte: about 0.01 as f32 and as bf16
  auto weight = HugeBuffer::Allocate(kN * kK * (weight_type == LinearWeight::kBF16 ? 2 : 4));
  auto x = HugeBuffer::Allocate(kM * kK * sizeof(float));
  auto y = HugeBuffer::Allocate(kM * kN * sizeof(float));
  for (const auto* buffer : {&weight, &x, &y}) {
    if (!buffer->ok()) return buffer->status();
    std::fill_n(static_cast<uint8_t*>((*buffer)->data()), (*buffer)->size(), kSmallNumbers);
  }
  const auto start = std::chrono::steady_clock::now();
  double best = 0;
  for (int i = 0; i < 3 || Seconds(std::chrono::steady_clock::now() - start).count() < budget_s; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    Linear({.x = static_cast<const float*>(x->data()),
            .weight = weight->data(),
            .weight_type = weight_type,
            .y = static_cast<float*>(y->data()),
            .m = kM,
            .n = kN,
            .k = kK},
           pool);
    const double seconds = Seconds(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, 2.0 * kM * kN * kK / std::max(seconds, 1e-9));
  }
  return best;
}

}  // namespace flashflow::cpu
