#include "kernels/cpu/paged_rows.h"

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::cpu {
namespace {

using testing::HasSubstr;

// Two rows over pages of 4 slots in a cache of 10 pages: 3 new tokens of 5 slots, 1 of 8.
struct Step {
  std::vector<int32_t> row_start = {0, 3, 4};
  std::vector<int32_t> kv_len = {5, 8};
  std::vector<int32_t> block_table = {9, 0, -1, 3, 4, 77};
  int64_t pages_per_row = 3;

  std::string Check(int64_t tokens = 4) const {
    return CheckPagedRows({row_start, kv_len, block_table, pages_per_row}, tokens, /*page_size=*/4, /*pages=*/10);
  }
};

TEST(CheckPagedRowsTest, TakesWhatFitsAndIgnoresPagesThatAreNotUsed) { EXPECT_EQ(Step().Check(), ""); }

TEST(CheckPagedRowsTest, NoRows) {
  Step step{.row_start = {0}, .kv_len = {}, .block_table = {}};
  EXPECT_EQ(step.Check(0), "");
  EXPECT_THAT(step.Check(1), HasSubstr("row_start ends with 0"));
}

TEST(CheckPagedRowsTest, NamesWhatIsWrong) {
  const auto changed = [](auto change) {
    Step step;
    change(step);
    return step.Check();
  };
  EXPECT_THAT(Step().Check(5), HasSubstr("row_start ends with 4 for 5 tokens"));
  EXPECT_THAT(changed([](Step& s) { s.row_start[0] = 1; }), HasSubstr("row_start begins with 1"));
  EXPECT_THAT(changed([](Step& s) { s.row_start[1] = 5; }), HasSubstr("descends after row 1"));
  EXPECT_THAT(changed([](Step& s) { s.row_start[1] = -1; }), HasSubstr("descends after row 0"));
  EXPECT_THAT(changed([](Step& s) { s.row_start.pop_back(); }), HasSubstr("row_start has 2 entries for 2 rows"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[0] = 2; }), HasSubstr("kv_len[0] is 2"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[1] = -1; }), HasSubstr("kv_len[1] is -1"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[1] = 13; }), HasSubstr("more than 3 pages"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[1] = INT32_MAX; }), HasSubstr("more than 3 pages"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[1] = 9; }), HasSubstr("block_table[1, 2] is 77"));
  EXPECT_THAT(changed([](Step& s) { s.kv_len[0] = 9; }), HasSubstr("block_table[0, 2] is -1"));
  EXPECT_THAT(changed([](Step& s) { s.block_table[0] = 10; }), HasSubstr("block_table[0, 0] is 10"));
  EXPECT_THAT(changed([](Step& s) { s.block_table.pop_back(); }), HasSubstr("block_table has 5 entries"));
  EXPECT_THAT(changed([](Step& s) { s.pages_per_row = -1; }), HasSubstr("block_table has 6 entries"));
}

}  // namespace
}  // namespace flashflow::cpu
