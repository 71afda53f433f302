// Runs a plan's steps on a device: packed tokens in, logits out.
#ifndef RUNTIME_CORE_EXECUTOR_H_
#define RUNTIME_CORE_EXECUTOR_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "kernels/registry/tactic.h"
#include "runtime/core/bound_plan.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// One step's inputs: T tokens of R rows, of which L tokens get logits. Row r owns tokens row_start[r] to
// row_start[r + 1] and has kv_len[r] positions in the cache once they are appended; its page p is
// block_table[r * pages_per_row + p].
struct StepInputs {
  absl::Span<const int32_t> token_ids;    // [T]
  absl::Span<const int32_t> positions;    // [T]
  absl::Span<const int32_t> row_start;    // [R + 1]
  absl::Span<const int32_t> kv_len;       // [R]
  absl::Span<const int32_t> block_table;  // [R, pages_per_row]
  absl::Span<const int32_t> logit_rows;   // [L], indices of tokens
  int64_t pages_per_row = 0;
};

// Kernels are bound and memory is allocated once; a step allocates nothing. Used by one thread at a time.
class Executor {
 public:
  // The plan must have passed plan::Validate. The device, the engine file behind `weights` and, unless it is null,
  // `tuned`, as BoundPlan has it, must outlive the executor. NotFound names a kernel that this build lacks;
  // InvalidArgument a plan whose inputs, outputs or weights are not those of a step graph; ResourceExhausted what did
  // not fit.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(plan::Plan plan, std::vector<LoadedWeight> weights,
                                                          int64_t cache_pages, Device* device,
                                                          const kernels::TunedConfigs* tuned = nullptr);

  // The logits [L, vocab_size] in fp32 on the host, valid until the next call. InvalidArgument if the inputs do not
  // fit together or pass the plan's limits; the error of a kernel names its step. After an error the new tokens'
  // slots of the cache are undefined, all others unchanged. step_us, one for each step of the plan or empty, gets how
  // long each took.
  absl::StatusOr<absl::Span<const float>> Run(const StepInputs& inputs, absl::Span<double> step_us = {});

  const plan::Plan& plan() const { return plan_; }
  std::string TacticOf(size_t step) const { return bound_->TacticOf(step); }  // of a step, as it last ran
  int64_t vocab_size() const { return vocab_size_; }
  int64_t cache_pages() const { return cache_.num_pages; }
  int64_t cache_bytes() const { return static_cast<int64_t>(cache_buffer_->size()); }
  int64_t arena_bytes() const { return static_cast<int64_t>(arena_->size()); }
  int64_t weight_bytes() const { return weight_bytes_; }  // of all weights, each in its layout
  // Of the weights that linear steps stream through, whatever the batch: what a decode step reads at least.
  int64_t linear_weight_bytes() const { return linear_weight_bytes_; }

 private:
  Executor(plan::Plan plan, std::vector<LoadedWeight> weights, Device* device, const kernels::TunedConfigs* tuned)
      : plan_(std::move(plan)), weights_(std::move(weights)), device_(device), tuned_(tuned) {}
  absl::Status Prepare(int64_t cache_pages);
  absl::Status PrepareInputs();
  absl::Status PrepareOutputs();
  absl::Status PrepareWeights();
  absl::Status PrepareCache(int64_t pages);
  absl::Status CheckInputs(const StepInputs& inputs) const;
  absl::Status CopyInputs(const StepInputs& inputs);
  absl::Status Specialize(int64_t tokens, int64_t rows, int64_t logit_rows, int64_t pages);

  plan::Plan plan_;
  std::vector<LoadedWeight> weights_;
  Device* device_;
  const kernels::TunedConfigs* tuned_;
  int64_t vocab_size_ = 0;
  int64_t weight_bytes_ = 0, linear_weight_bytes_ = 0;

  std::vector<std::unique_ptr<Buffer>> input_buffers_;  // by input
  std::unique_ptr<Buffer> arena_, logits_, cache_buffer_;
  std::vector<float> host_logits_;  // unused where the device shares the host's memory
  kernels::CacheView cache_;

  std::unique_ptr<BoundPlan> bound_;
  std::array<int64_t, 4> specialized_{-1, -1, -1, -1};  // T, R, L, P
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_EXECUTOR_H_
