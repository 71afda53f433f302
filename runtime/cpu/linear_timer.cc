#include "runtime/cpu/linear_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/linear.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_tactics.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/cpu/host_resources.h"

namespace flashflow::runtime {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSampleS = 1e-3;
constexpr uint8_t kSmallNumbers = 0x3C;  // in every byte: about 0.01 as f32 and as bf16

class LinearTimer final : public Timer {
 public:
  LinearTimer(const kernels::Problem& problem, int64_t layer_bytes, TimingMemory* memory)
      : memory_(memory),
        layer_bytes_(layer_bytes),
        layers_(static_cast<int64_t>(memory->weights().size()) / layer_bytes) {
    const int64_t m = kernels::SizeOf(problem, "m"), n = kernels::SizeOf(problem, "n");
    const bool gated = kernels::SizeOf(problem, "gated") != 0;
    linear_.m = m;
    linear_.n = n;
    linear_.k = kernels::SizeOf(problem, "k");
    linear_.weight_type = problem.dtype == DType::kBF16 ? cpu::LinearWeight::kBF16 : cpu::LinearWeight::kF32;
    linear_.gated = gated;
    if (gated) linear_.activation = cpu::Activation::kSilu;
    x_.assign(static_cast<size_t>(m * linear_.k), 0.01f);
    y_.resize(static_cast<size_t>(m * (gated ? n / 2 : n)));
    linear_.x = x_.data();
    linear_.y = y_.data();
  }

  absl::StatusOr<double> TimeUs(const kernels::Tactic& tactic) override {
    FF_ASSIGN_OR_RETURN(const cpu::LinearConfig config, kernels::LinearConfigOf(tactic.config));
    if (runs_ == 0) {
      Run(config, 1);  // wakes the threads and brings x and y into memory
      runs_ = static_cast<int>(std::clamp(std::ceil(kSampleS / Run(config, 1)), 1.0, 256.0));
    }
    return Run(config, runs_) * 1e6;
  }

 private:
  // Seconds of one run.
  double Run(const cpu::LinearConfig& config, int runs) {
    const auto start = Clock::now();
    for (int i = 0; i < runs; ++i) {
      linear_.weight = static_cast<const uint8_t*>(memory_->weights().data()) + layer_ * layer_bytes_;
      layer_ = (layer_ + 1) % layers_;
      cpu::Linear(linear_, memory_->pool(), config);
    }
    return std::max(std::chrono::duration<double>(Clock::now() - start).count() / runs, 1e-9);
  }

  TimingMemory* const memory_;
  const int64_t layer_bytes_, layers_;
  cpu::LinearProblem linear_;
  std::vector<float> x_, y_;
  int64_t layer_ = 0;
  int runs_ = 0;  // of a sample
};

}  // namespace

absl::StatusOr<std::unique_ptr<TimingMemory>> TimingMemory::Create(int threads, int64_t bytes) {
  FF_ASSIGN_OR_RETURN(const int count, ThreadCount(threads));
  const int64_t taken = std::clamp<int64_t>(bytes, 0, AvailableMemoryBytes() / 4);
  FF_ASSIGN_OR_RETURN(cpu::HugeBuffer weights, cpu::HugeBuffer::Allocate(static_cast<size_t>(taken)));
  std::fill_n(static_cast<uint8_t*>(weights.data()), weights.size(), kSmallNumbers);
  return std::unique_ptr<TimingMemory>(new TimingMemory(count, std::move(weights)));
}

absl::StatusOr<std::unique_ptr<Timer>> CreateLinearTimer(const kernels::Problem& problem, TimingMemory* memory) {
  const bool bf16 = problem.dtype == DType::kBF16;
  if ((problem.op != "linear" && problem.op != "fused_linear") || (!bf16 && problem.dtype != DType::kF32)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the CPU times linear layers of f32 and bf16 weights, not ", kernels::ProblemToText(problem)));
  }
  const int64_t m = kernels::SizeOf(problem, "m"), n = kernels::SizeOf(problem, "n"), k = kernels::SizeOf(problem, "k");
  if (kernels::SizeOf(problem, "gated") != 0 && n % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a gated layer has an even n, not ", n));
  }
  FF_ASSIGN_OR_RETURN(const int64_t packed,
                      kernels::PackedBytes(bf16 ? kernels::kPanel16Vnni2 : kernels::kPanel16, {n, k}, problem.dtype));
  const int64_t layer_bytes = (packed + 63) / 64 * 64;  // aligned as the kernel wants it
  const auto room = static_cast<int64_t>(memory->weights().size());
  int64_t activations = 0;
  if (layer_bytes > room || __builtin_mul_overflow(m, (n + k) * 4, &activations) || activations > room) {
    return absl::InvalidArgumentError(absl::StrCat(kernels::ProblemToText(problem), " takes more than the ", room,
                                                   " bytes that there are for timing"));
  }
  return std::make_unique<LinearTimer>(problem, layer_bytes, memory);
}

}  // namespace flashflow::runtime
