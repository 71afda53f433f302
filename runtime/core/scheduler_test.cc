#include "runtime/core/scheduler.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Scheduler::Limits kLimits = {
    .vocab_size = 100, .context_length = 32, .max_tokens = 8, .max_rows = 4, .page_size = 4};

std::vector<int32_t> Prompt(int length, int first = 10) {
  std::vector<int32_t> tokens(length);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(SchedulerTest, PromptIsReadInChunksAndLogitsComeWithTheLast) {
  PagePool pool(8);
  Scheduler scheduler(kLimits, &pool);
  const int64_t id = *scheduler.Add(Prompt(11), 2);

  auto batch = scheduler.Next();
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->token_ids, Prompt(8));
  EXPECT_THAT(batch->positions, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(batch->row_start, ElementsAre(0, 8));
  EXPECT_THAT(batch->kv_len, ElementsAre(8));
  EXPECT_THAT(batch->logit_rows, IsEmpty());
  scheduler.Commit(*batch);

  batch = scheduler.Next();
  EXPECT_EQ(batch->token_ids, Prompt(3, 18));
  EXPECT_THAT(batch->positions, ElementsAre(8, 9, 10));
  EXPECT_THAT(batch->kv_len, ElementsAre(11));
  EXPECT_THAT(batch->logit_rows, ElementsAre(2));
  EXPECT_THAT(batch->logit_requests, ElementsAre(id));
  scheduler.Commit(*batch);
  EXPECT_TRUE(scheduler.Append(id, 55));

  batch = scheduler.Next();
  EXPECT_THAT(batch->token_ids, ElementsAre(55));
  EXPECT_THAT(batch->positions, ElementsAre(11));
  EXPECT_THAT(batch->kv_len, ElementsAre(12));
  scheduler.Commit(*batch);
  EXPECT_FALSE(scheduler.Append(id, 56)) << "two tokens were asked for";
  EXPECT_TRUE(scheduler.Remove(id));
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(pool.num_free(), 8);
}

TEST(SchedulerTest, TheStepAfterAStepWhoseTokensAreUnknown) {
  PagePool pool(16);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(5), 2), b = *scheduler.Add(Prompt(2, 50), 9);
  const auto first = scheduler.Next();
  scheduler.Commit(*first);
  const auto second = scheduler.NextAfter(*first);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->requests, first->logit_requests);
  EXPECT_THAT(second->token_ids, ElementsAre(0, 0));
  EXPECT_EQ(second->tokens_from_previous, 2);
  EXPECT_THAT(second->positions, ElementsAre(5, 2));
  EXPECT_THAT(second->row_start, ElementsAre(0, 1, 2));
  EXPECT_THAT(second->kv_len, ElementsAre(6, 3));
  EXPECT_THAT(second->logit_rows, ElementsAre(0, 1));
  EXPECT_EQ(second->logit_requests, second->requests);
  scheduler.Commit(*second);
  EXPECT_TRUE(scheduler.Append(a, 1));
  EXPECT_TRUE(scheduler.Append(b, 2));
  EXPECT_FALSE(scheduler.NextAfter(*second)) << "the token that is drawn is the last of a's two";
  EXPECT_FALSE(scheduler.Append(a, 3));
  EXPECT_TRUE(scheduler.Append(b, 4));
  EXPECT_TRUE(scheduler.Remove(a));
  const auto third = scheduler.Next();
  ASSERT_TRUE(third);
  EXPECT_THAT(third->token_ids, ElementsAre(4));
  EXPECT_THAT(third->positions, ElementsAre(3));
}

TEST(SchedulerTest, NoStepIsCertainWhileSomebodyJoinsOrLeaves) {
  PagePool pool(16);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(2), 20);
  const auto first = scheduler.Next();
  scheduler.Commit(*first);
  const int64_t b = *scheduler.Add(Prompt(12), 4);
  EXPECT_FALSE(scheduler.NextAfter(*first)) << "b can join";
  scheduler.Append(a, 1);
  const auto second = scheduler.Next();
  scheduler.Commit(*second);
  EXPECT_TRUE(scheduler.NextAfter(*second)) << "b's prompt goes on";
  scheduler.Append(a, 2);
  const auto third = scheduler.Next();
  scheduler.Commit(*third);
  EXPECT_TRUE(scheduler.NextAfter(*third));
  const int64_t c = *scheduler.Add(Prompt(31), 1);
  EXPECT_TRUE(scheduler.NextAfter(*third)) << "c waits for pages, and holds nobody up";
  scheduler.Remove(b);
  EXPECT_FALSE(scheduler.NextAfter(*third)) << "b is gone";
  EXPECT_TRUE(scheduler.Remove(c));
  EXPECT_TRUE(scheduler.Remove(a));
  EXPECT_EQ(pool.num_free(), 16);
}

TEST(SchedulerTest, PromptsGoOnBesideUnknownTokensAndWithoutThem) {
  PagePool pool(32);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(2), 5), b = *scheduler.Add(Prompt(13, 40), 1);
  const auto first = scheduler.Next();
  EXPECT_THAT(first->row_start, ElementsAre(0, 2, 8));
  scheduler.Commit(*first);
  const auto second = scheduler.NextAfter(*first);
  ASSERT_TRUE(second);
  EXPECT_THAT(second->requests, ElementsAre(a, b));
  EXPECT_THAT(second->token_ids, ElementsAre(0, 46, 47, 48, 49, 50, 51, 52));
  EXPECT_THAT(second->positions, ElementsAre(2, 6, 7, 8, 9, 10, 11, 12));
  EXPECT_EQ(second->tokens_from_previous, 1);
  EXPECT_THAT(second->logit_requests, ElementsAre(a, b));
  scheduler.Commit(*second);
  scheduler.Append(a, 1);
  EXPECT_FALSE(scheduler.NextAfter(*second)) << "b ends, and a does not: what is drawn has another order";
  scheduler.Append(a, 2);
  scheduler.Append(b, 3);
  scheduler.Remove(b);
  scheduler.Remove(a);

  const int64_t c = *scheduler.Add(Prompt(8), 1), d = *scheduler.Add(Prompt(3, 60), 1);
  const auto third = scheduler.Next();
  EXPECT_THAT(third->requests, ElementsAre(c));
  scheduler.Commit(*third);
  const auto fourth = scheduler.NextAfter(*third);
  ASSERT_TRUE(fourth) << "c ends with the token of the third";
  EXPECT_THAT(fourth->requests, ElementsAre(d));
  EXPECT_THAT(fourth->token_ids, ElementsAre(60, 61, 62));
  EXPECT_EQ(fourth->tokens_from_previous, 0);
  scheduler.Commit(*fourth);
  EXPECT_FALSE(scheduler.NextAfter(*fourth)) << "nothing is left to do";
}

TEST(SchedulerTest, DecodingRowsComeFirstAndPromptsFillTheRest) {
  PagePool pool(32);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(2), 5);
  scheduler.Commit(*scheduler.Next());
  scheduler.Append(a, 1);
  const int64_t b = *scheduler.Add(Prompt(9, 40), 5);
  const int64_t c = *scheduler.Add(Prompt(3, 60), 5);
  const auto batch = scheduler.Next();
  EXPECT_THAT(batch->requests, ElementsAre(a, b)) << "no room for c beside 1 + 7 tokens";
  EXPECT_THAT(batch->row_start, ElementsAre(0, 1, 8));
  EXPECT_THAT(batch->logit_requests, ElementsAre(a));
  scheduler.Commit(*batch);
  scheduler.Append(a, 2);
  const auto next = scheduler.Next();
  EXPECT_THAT(next->requests, ElementsAre(a, b, c));
  EXPECT_THAT(next->row_start, ElementsAre(0, 1, 3, 6));
  EXPECT_THAT(next->logit_requests, ElementsAre(a, b, c));
}

TEST(SchedulerTest, BlockTableListsEachRowsPagesInOrder) {
  PagePool pool(8);
  Scheduler scheduler(kLimits, &pool);
  ASSERT_TRUE(scheduler.Add(Prompt(5), 1).ok());  // 6 tokens: pages 0, 1
  ASSERT_TRUE(scheduler.Add(Prompt(2), 1).ok());  // 3 tokens: page 2
  const auto batch = scheduler.Next();
  EXPECT_EQ(batch->pages_per_row, 8);
  EXPECT_THAT(batch->block_table, ElementsAre(0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0));
}

TEST(SchedulerTest, RequestsWaitInOrderUntilPagesAreFree) {
  PagePool pool(8);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(4), 20);  // 24 tokens: 6 pages
  const int64_t b = *scheduler.Add(Prompt(4), 8);   // 12 tokens: 3 pages, more than the 2 that are left
  const int64_t c = *scheduler.Add(Prompt(4), 2);   // would fit, but came after b
  EXPECT_THAT(scheduler.Next()->requests, ElementsAre(a));
  EXPECT_TRUE(scheduler.Remove(a));
  EXPECT_THAT(scheduler.Next()->requests, ElementsAre(b, c));
}

TEST(SchedulerTest, StepThatFailedIsGivenAgain) {
  PagePool pool(8);
  Scheduler scheduler(kLimits, &pool);
  ASSERT_TRUE(scheduler.Add(Prompt(11), 2).ok());
  const auto first = scheduler.Next(), again = scheduler.Next();
  EXPECT_EQ(first->token_ids, again->token_ids);
  EXPECT_EQ(first->positions, again->positions);
}

TEST(SchedulerTest, GenerationEndsWithTheContext) {
  PagePool pool(8);
  Scheduler scheduler(kLimits, &pool);
  const int64_t id = *scheduler.Add(Prompt(30), 1000);
  while (scheduler.Next()->logit_rows.empty()) scheduler.Commit(*scheduler.Next());
  scheduler.Commit(*scheduler.Next());
  EXPECT_TRUE(scheduler.Append(id, 1));  // 31 of 32
  scheduler.Commit(*scheduler.Next());
  EXPECT_FALSE(scheduler.Append(id, 2));
}

TEST(SchedulerTest, RefusesWhatCannotRun) {
  PagePool pool(4);
  Scheduler scheduler(kLimits, &pool);
  EXPECT_THAT(scheduler.Add({}, 1).status().message(), HasSubstr("prompt is empty"));
  const auto full = scheduler.Add(Prompt(32), 1).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(full.message(), HasSubstr("32 tokens"));
  EXPECT_THAT(full.message(), HasSubstr("context length is 32"));
  EXPECT_THAT(scheduler.Add({5, 100}, 1).status().message(), HasSubstr("token 1 of the prompt is 100"));
  EXPECT_THAT(scheduler.Add({-1}, 1).status().message(), HasSubstr("token 0 of the prompt is -1"));
  const auto large = scheduler.Add(Prompt(10), 10).status();  // 20 tokens: 5 pages of 4
  EXPECT_EQ(large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(large.message(), HasSubstr("kv_cache_bytes"));
  EXPECT_FALSE(scheduler.HasWork());
}

TEST(SchedulerTest, WaitingRequestCanBeRemoved) {
  PagePool pool(2);
  Scheduler scheduler(kLimits, &pool);
  const int64_t a = *scheduler.Add(Prompt(4), 4);
  const int64_t b = *scheduler.Add(Prompt(4), 4);
  EXPECT_THAT(scheduler.Next()->requests, ElementsAre(a));
  EXPECT_TRUE(scheduler.Remove(b));
  EXPECT_FALSE(scheduler.Remove(b));
  EXPECT_THAT(scheduler.requests(), ElementsAre(a));
}

TEST(SchedulerTest, ThousandRandomRequestsAllFinishAndReturnTheirPages) {
  std::mt19937 random(1);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  PagePool pool(20);
  Scheduler scheduler(kLimits, &pool);
  std::map<int64_t, std::vector<int32_t>> sequences;  // what each request's cache should hold
  std::map<int64_t, int> wanted;
  int submitted = 0, finished = 0;
  while (finished < 1000) {
    while (submitted < 1000 && pick(0, 2) == 0) {
      const int length = pick(1, 31), count = pick(1, 40);
      const int64_t id = *scheduler.Add(Prompt(length, pick(0, 60)), count);
      wanted[id] = std::min(count, 32 - length);
      ++submitted;
    }
    if (!scheduler.HasWork()) continue;
    const auto batch = scheduler.Next();
    ASSERT_TRUE(batch) << "waiting requests, but none admitted";
    ASSERT_LE(batch->token_ids.size(), 8u);
    ASSERT_LE(batch->requests.size(), 4u);
    std::set<int32_t> pages;
    size_t distinct = 0;
    for (size_t row = 0; row < batch->requests.size(); ++row) {
      auto& sequence = sequences[batch->requests[row]];
      ASSERT_EQ(batch->positions[batch->row_start[row]], static_cast<int32_t>(sequence.size())) << "no gap, no repeat";
      sequence.insert(sequence.end(), batch->token_ids.begin() + batch->row_start[row],
                      batch->token_ids.begin() + batch->row_start[row + 1]);
      ASSERT_EQ(batch->kv_len[row], static_cast<int32_t>(sequence.size()));
      const int used = (batch->kv_len[row] + 3) / 4;
      distinct += used;
      for (int i = 0; i < used; ++i) pages.insert(batch->block_table[row * batch->pages_per_row + i]);
    }
    ASSERT_EQ(pages.size(), distinct) << "two rows share a page";
    scheduler.Commit(*batch);
    for (const int64_t id : batch->logit_requests) {
      const bool more = scheduler.Append(id, pick(0, 99));
      ASSERT_EQ(more, --wanted[id] > 0);
      if (!more) {
        ASSERT_TRUE(scheduler.Remove(id));
        ++finished;
      }
    }
  }
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(pool.num_free(), 20);
}

}  // namespace
}  // namespace flashflow::runtime
