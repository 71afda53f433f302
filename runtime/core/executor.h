// Runs a plan's steps on a device: packed tokens in, logits out.
#ifndef RUNTIME_CORE_EXECUTOR_H_
#define RUNTIME_CORE_EXECUTOR_H_

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "kernels/registry/tactic.h"
#include "runtime/core/bound_plan.h"
#include "runtime/core/device.h"
#include "runtime/core/sampling_params.h"

namespace flashflow::runtime {

// How a row of logits becomes a token: the index'th draw of a request.
struct Draw {
  const SamplingParams* params = nullptr;
  uint64_t index = 0;
};

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
  absl::Span<const Draw> draws = {};  // [L]: the device draws a token from each row of logits; or empty
  // The first tokens are what the step before drew, in order; their token_ids are not read. All that it drew, or 0.
  int64_t tokens_from_previous = 0;
};

// Kernels are bound and memory is allocated once; a step allocates nothing. Where the device can record launches, a
// step of one token a row is recorded when its size first comes up and launched as a whole from then on; its size is
// rounded up to a power of two by rows that nobody sees. Used by one thread at a time.
class Executor {
 public:
  // Steps that may be started before the first of them is waited for.
  static constexpr int kInFlight = 2;

  // The plan must have passed plan::Validate. The device, the engine file behind `weights` and, unless it is null,
  // `tuned`, as BoundPlan has it, must outlive the executor. NotFound names a kernel that this build lacks;
  // InvalidArgument a plan whose inputs, outputs or weights are not those of a step graph; ResourceExhausted what did
  // not fit; batch_invariant as BoundPlan::Create.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(plan::Plan plan, std::vector<LoadedWeight> weights,
                                                          int64_t cache_pages, Device* device,
                                                          const kernels::TunedConfigs* tuned = nullptr,
                                                          bool batch_invariant = false);
  ~Executor();

  // The logits [L, vocab_size] in fp32 on the host, valid until the next call. InvalidArgument if the inputs do not
  // fit together or pass the plan's limits; the error of a kernel names its step. After an error the new tokens'
  // slots of the cache are undefined, all others unchanged. Nothing is drawn.
  absl::StatusOr<absl::Span<const float>> Run(const StepInputs& inputs);

  // What each step of the plan takes with these inputs, us: medians of three runs at least, and of as many as fit into
  // some seconds. Where the device can record launches: by how much the steps up to it take longer than those before
  // it, since there steps overlap, and waiting for one takes longer than many do. Statuses as Run.
  absl::StatusOr<std::vector<double>> TimeSteps(const StepInputs& inputs);

  // Starts a step whose tokens the device draws, and returns its number, for Tokens. Statuses as Run; InvalidArgument
  // also for a device without a sampler, and for tokens_from_previous where the step before, started likewise, drew
  // another number of tokens.
  absl::StatusOr<int64_t> Start(const StepInputs& inputs);
  // What a started step drew, [L], valid until kInFlight more are started: waits for it. -1 for a row whose logits are
  // not all finite.
  absl::StatusOr<absl::Span<const int32_t>> Tokens(int64_t step);

  // The logits [L, vocab_size] of the step started last, on the host, valid until the next call: waits for it.
  absl::StatusOr<absl::Span<const float>> Logits();

  const plan::Plan& plan() const { return plan_; }
  std::string TacticOf(size_t step) const { return bound_->TacticOf(step); }  // of a step, as it last ran
  int64_t vocab_size() const { return vocab_size_; }
  int64_t cache_pages() const { return usable_pages_; }
  int64_t cache_bytes() const { return static_cast<int64_t>(cache_buffer_->size()); }
  int64_t arena_bytes() const { return static_cast<int64_t>(arena_->size()); }
  int64_t weight_bytes() const { return weight_bytes_; }  // of all weights, each in its layout
  // Of the weights that linear steps stream through, whatever the batch: what a decode step reads at least.
  int64_t linear_weight_bytes() const { return linear_weight_bytes_; }

 private:
  // What launches depend on: the values of the plan's symbols T, R, L, P, and what is known of the rows.
  struct StepSize {
    int64_t tokens = 0, rows = 0, logit_rows = 0, pages = 0;
    int64_t max_row_tokens = 0;
    bool draws = false;
    friend auto operator<=>(const StepSize&, const StepSize&) = default;
  };
  struct Recorded {
    std::unique_ptr<Recording> recording;  // null if the size came up only once
    int64_t last_used = 0;                 // number of the step
  };
  // Where a step's inputs lie in input_block_, token ids first, and what the sampler wants to know behind them.
  struct InputLayout {
    std::array<int64_t, 6> offsets{};
    int64_t draws = 0;
    int64_t bytes = 0;
  };
  // What a step in flight needs on the host.
  struct Slot {
    std::unique_ptr<Buffer> inputs;  // nullptr where the device shares the host's memory
    std::unique_ptr<Buffer> tokens;  // what was drawn
    std::unique_ptr<Marker> done;
    int64_t step = -1;
    int64_t drawn = 0;
  };

  Executor(plan::Plan plan, std::vector<LoadedWeight> weights, Device* device, const kernels::TunedConfigs* tuned)
      : plan_(std::move(plan)), weights_(std::move(weights)), device_(device), tuned_(tuned) {}
  absl::Status Prepare(int64_t cache_pages, bool batch_invariant);
  absl::Status PrepareInputs();
  absl::Status PrepareOutputs();
  absl::Status PrepareWeights();
  absl::Status PrepareCache(int64_t pages);
  absl::Status CheckInputs(const StepInputs& inputs) const;
  InputLayout LayoutOf(const StepSize& size) const;
  StepSize Pad(const StepInputs& inputs) const;
  void Pack(const StepInputs& inputs, const StepSize& size, const InputLayout& layout, char* block) const;
  absl::Status Specialize(const StepSize& size, const InputLayout& layout);
  absl::Status LaunchAll(const StepSize& size, const InputLayout& layout);
  void ForgetOldest();
  absl::Status StartStep(const StepInputs& inputs);
  // TimeSteps, of what Specialize and the step before have left.
  absl::StatusOr<std::vector<double>> TimeOneByOne(const kernels::StepRows& rows);
  absl::StatusOr<std::vector<double>> TimeFirstSteps(const kernels::StepRows& rows);

  plan::Plan plan_;
  std::vector<LoadedWeight> weights_;
  Device* device_;
  const kernels::TunedConfigs* tuned_;
  int64_t vocab_size_ = 0;
  int64_t weight_bytes_ = 0, linear_weight_bytes_ = 0;

  std::vector<size_t> input_kinds_;  // by input of the plan: its place in InputLayout::offsets
  std::unique_ptr<Buffer> input_block_, arena_, logits_, cache_buffer_, draw_workspace_;
  std::unique_ptr<Buffer> host_logits_;  // made when first wanted; unused where the device shares the host's memory
  kernels::CacheView cache_;
  int64_t usable_pages_ = 0;  // of the cache; rows that only round a step up have one more

  std::unique_ptr<BoundPlan> bound_;
  StepSize specialized_;
  std::map<StepSize, Recorded> recorded_;
  std::array<Slot, kInFlight> slots_;
  int64_t steps_ = 0;       // started
  int64_t logit_rows_ = 0;  // of the last
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_EXECUTOR_H_
