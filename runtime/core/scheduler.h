// Continuous batching: which tokens of which requests the next step runs.
//
// A step packs one decode token of every running request and, in what room is left, chunks of the prompts that are
// still being read. Pages for a request's whole possible length are taken when it is admitted, so an admitted request
// always finishes; requests wait in order of arrival. No clocks, no randomness: the same calls give the same batches.
#ifndef RUNTIME_CORE_SCHEDULER_H_
#define RUNTIME_CORE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/core/page_pool.h"

namespace flashflow::runtime {

// The inputs of one step, packed as the step graph takes them (compiler/plan/plan.h), and whose rows they are.
struct StepBatch {
  std::vector<int32_t> token_ids;    // [T]
  std::vector<int32_t> positions;    // [T]
  std::vector<int32_t> row_start;    // [R + 1]
  std::vector<int32_t> kv_len;       // [R], after the step
  std::vector<int32_t> block_table;  // [R, pages_per_row]; unused entries are 0
  std::vector<int32_t> logit_rows;   // [L], ascending
  int64_t pages_per_row = 0;
  int64_t tokens_from_previous = 0;  // the first so many tokens are what the step before draws, in order: ids of 0 here

  std::vector<int64_t> requests;        // [R]
  std::vector<int64_t> logit_requests;  // [L]: the request that a row of logits is for

  // Adds a row of `count` tokens that continue a sequence at `position`; its pages hold the sequence so far and these.
  void AddRow(int64_t request, absl::Span<const int32_t> tokens, int64_t position, absl::Span<const int32_t> pages);
};

class Scheduler {
 public:
  struct Limits {
    int64_t vocab_size = 0;
    int64_t context_length = 0;  // tokens of a sequence, prompt and generated
    int64_t max_tokens = 0;      // T of a step
    int64_t max_rows = 0;        // R of a step, and the number of running requests
    int64_t page_size = 0;       // tokens
  };

  // The pool outlives the scheduler and may be shared.
  Scheduler(const Limits& limits, PagePool* pool);
  ~Scheduler();  // gives all pages back

  // Queues a request for up to max_new_tokens tokens (fewer where the context ends). InvalidArgument for an empty
  // prompt, a token outside the vocabulary, or a prompt that leaves no room in the context; ResourceExhausted if the
  // whole cache could not hold it.
  absl::StatusOr<int64_t> Add(absl::Span<const int32_t> prompt, int64_t max_new_tokens);

  // The next step, or nullopt if no request can run. Commit it once it has run, or has been started; until then Next
  // gives it again.
  std::optional<StepBatch> Next();
  void Commit(const StepBatch& batch);

  // The step after `last`, which is committed and whose tokens are not known yet: what `last` draws a token for goes on
  // with it, in the same order, and then prompts go on. nullopt unless that is certain to be the next step as far as
  // the requests' lengths go: all that want a token of `last` have room for one more after that, or all end with it,
  // and none that waits could join. Until the tokens of `last` are appended, Next may not be called once this is
  // committed.
  std::optional<StepBatch> NextAfter(const StepBatch& last);

  // The token sampled for a request after a step with its logits. Returns true if there is room for another.
  bool Append(int64_t request, int32_t token);

  // Ends a request, running or waiting. Returns false if there is none of this id.
  bool Remove(int64_t request);

  bool HasWork() const { return !running_.empty() || !waiting_.empty(); }
  std::vector<int64_t> requests() const;  // running, then waiting, in order of arrival

 private:
  struct Request {
    std::vector<int32_t> tokens;  // the prompt, then what was generated
    int64_t computed = 0;         // tokens whose keys and values are in the cache, or will be: the last may be unknown
    int64_t max_length = 0;       // tokens it may come to
    std::vector<int32_t> pages;
  };

  int64_t PagesFor(int64_t tokens) const { return (tokens + limits_.page_size - 1) / limits_.page_size; }
  bool CanAdmit() const;
  // Adds a row of what of a request's known tokens is not computed yet, `room` of them at most. Returns how many.
  int64_t AddKnown(int64_t id, int64_t room, StepBatch* batch) const;
  void Admit();

  Limits limits_;
  PagePool* pool_;
  int64_t next_id_ = 1;
  std::vector<int64_t> running_;  // in order of admission
  std::deque<int64_t> waiting_;
  absl::flat_hash_map<int64_t, Request> all_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_SCHEDULER_H_
