#include "runtime/core/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace flashflow::runtime {

void StepBatch::AddRow(int64_t request, absl::Span<const int32_t> tokens, int64_t position,
                       absl::Span<const int32_t> pages) {
  if (row_start.empty()) row_start.push_back(0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    token_ids.push_back(tokens[i]);
    positions.push_back(static_cast<int32_t>(position + i));
  }
  row_start.push_back(static_cast<int32_t>(token_ids.size()));
  kv_len.push_back(static_cast<int32_t>(position + tokens.size()));
  CHECK_LE(static_cast<int64_t>(pages.size()), pages_per_row);
  block_table.insert(block_table.end(), pages.begin(), pages.end());
  block_table.resize(requests.size() * pages_per_row + pages_per_row, 0);
  requests.push_back(request);
}

Scheduler::Scheduler(const Limits& limits, PagePool* pool) : limits_(limits), pool_(pool) {
  CHECK_GT(limits.context_length, 0);
  CHECK_GT(limits.page_size, 0);
  CHECK_GT(limits.max_rows, 0);
  CHECK_GE(limits.max_tokens, limits.max_rows) << "every running request must be able to decode in one step";
}

Scheduler::~Scheduler() {
  for (const int64_t id : running_) pool_->Free(all_[id].pages);
}

absl::StatusOr<int64_t> Scheduler::Add(absl::Span<const int32_t> prompt, int64_t max_new_tokens) {
  CHECK_GE(max_new_tokens, 1);
  if (prompt.empty()) return absl::InvalidArgumentError("the prompt is empty: it must have at least one token");
  if (static_cast<int64_t>(prompt.size()) >= limits_.context_length) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", prompt.size(), " tokens, and the model's context length is ", limits_.context_length,
        " with room for at least one new token: shorten the prompt to ", limits_.context_length - 1, " tokens"));
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= limits_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("token ", i, " of the prompt is ", prompt[i],
                                                     ", outside the vocabulary of ", limits_.vocab_size));
    }
  }
  Request request;
  const int64_t room = limits_.context_length - static_cast<int64_t>(prompt.size());
  request.max_length = static_cast<int64_t>(prompt.size()) + std::min(room, max_new_tokens);
  if (PagesFor(request.max_length) > pool_->num_pages()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a sequence of ", request.max_length, " tokens needs ", PagesFor(request.max_length),
                     " pages of the KV cache, which has ", pool_->num_pages(),
                     ": raise kv_cache_bytes, or lower max_tokens or the prompt's length"));
  }
  request.tokens.assign(prompt.begin(), prompt.end());
  const int64_t id = next_id_++;
  all_.emplace(id, std::move(request));
  waiting_.push_back(id);
  return id;
}

bool Scheduler::CanAdmit() const {
  return !waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_rows &&
         PagesFor(all_.at(waiting_.front()).max_length) <= pool_->num_free();
}

void Scheduler::Admit() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_rows) {
    Request& request = all_[waiting_.front()];
    std::optional<std::vector<int32_t>> pages = pool_->Allocate(PagesFor(request.max_length));
    if (!pages) return;  // in order of arrival: a shorter one behind it waits too, so that none starves
    request.pages = *std::move(pages);
    running_.push_back(waiting_.front());
    waiting_.pop_front();
  }
}

int64_t Scheduler::AddKnown(int64_t id, int64_t room, StepBatch* batch) const {
  const Request& request = all_.at(id);
  const int64_t left = static_cast<int64_t>(request.tokens.size()) - request.computed;
  const int64_t count = std::min(left, room);
  if (count == 0) return 0;
  const auto tokens = absl::MakeConstSpan(request.tokens).subspan(request.computed, count);
  batch->AddRow(id, tokens, request.computed, request.pages);
  if (count == left) {
    batch->logit_rows.push_back(batch->row_start.back() - 1);
    batch->logit_requests.push_back(id);
  }
  return count;
}

std::optional<StepBatch> Scheduler::Next() {
  Admit();
  if (running_.empty()) return std::nullopt;
  StepBatch batch;
  batch.pages_per_row = PagesFor(limits_.context_length);
  int64_t room = limits_.max_tokens;
  const auto left = [&](int64_t id) {
    const Request& request = all_[id];
    return static_cast<int64_t>(request.tokens.size()) - request.computed;
  };
  for (const int64_t id : running_) {
    if (left(id) == 1) room -= AddKnown(id, 1, &batch);  // decoding, or the last token of a prompt
  }
  for (const int64_t id : running_) {
    if (left(id) > 1) room -= AddKnown(id, room, &batch);
  }
  return batch;
}

std::optional<StepBatch> Scheduler::NextAfter(const StepBatch& last) {
  if (CanAdmit()) return std::nullopt;
  StepBatch batch;
  batch.pages_per_row = PagesFor(limits_.context_length);
  for (const int64_t id : last.logit_requests) {
    const auto it = all_.find(id);
    if (it == all_.end()) return std::nullopt;
    const Request& request = it->second;
    const auto known = static_cast<int64_t>(request.tokens.size());
    if (request.computed != known) return std::nullopt;
    if (known + 1 >= request.max_length) continue;
    batch.AddRow(id, {0}, request.computed, request.pages);
    batch.logit_rows.push_back(batch.row_start.back() - 1);
    batch.logit_requests.push_back(id);
  }
  batch.tokens_from_previous = static_cast<int64_t>(batch.requests.size());
  if (batch.tokens_from_previous != 0 && batch.requests.size() != last.logit_requests.size()) return std::nullopt;
  int64_t room = limits_.max_tokens - batch.tokens_from_previous;
  for (const int64_t id : running_) room -= AddKnown(id, room, &batch);  // none of those that wait for their token
  return batch.requests.empty() ? std::nullopt : std::optional(std::move(batch));
}

void Scheduler::Commit(const StepBatch& batch) {
  for (size_t row = 0; row < batch.requests.size(); ++row) {
    const auto it = all_.find(batch.requests[row]);
    if (it != all_.end()) it->second.computed = batch.kv_len[row];
  }
}

bool Scheduler::Append(int64_t request, int32_t token) {
  const auto it = all_.find(request);
  CHECK(it != all_.end()) << "no request " << request;
  Request& r = it->second;
  CHECK_GE(r.computed, static_cast<int64_t>(r.tokens.size())) << "request " << request << " has no logits to sample";
  r.tokens.push_back(token);
  return static_cast<int64_t>(r.tokens.size()) < r.max_length;
}

bool Scheduler::Remove(int64_t request) {
  const auto it = all_.find(request);
  if (it == all_.end()) return false;
  pool_->Free(it->second.pages);  // none while it waits
  std::erase(running_, request);
  std::erase(waiting_, request);
  all_.erase(it);
  return true;
}

std::vector<int64_t> Scheduler::requests() const {
  std::vector<int64_t> ids = running_;
  ids.insert(ids.end(), waiting_.begin(), waiting_.end());
  return ids;
}

}  // namespace flashflow::runtime
