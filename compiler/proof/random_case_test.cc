#include "compiler/proof/random_case.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "compiler/ir/float_convert.h"
#include "compiler/proof/planted_pass.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using interpreter::Cache;
using interpreter::Tensor;
using interpreter::Values;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Lt;

constexpr std::string_view kInputs = R"ir(ffir 1
  graph @g {
    symbol B [2, 8]
    symbol S [0, 3]
    input %x "x" : f32[B, 64]
    input %i "i" : i32[B, 64]
    input %m "m" : bool[B, 64]
    input %s "s" : f32[S]
    input %p "position_ids" : i64[B, 5]
    weight %w "w" : f32[B, 64]
    %y = neg(%x) : f32[B, 64]
    output "y" %y
  })ir";

const Tensor& In(const Values& values, std::string_view name) { return std::get<Tensor>(values.at(name)); }

TEST(RandomCaseTest, EveryThirdCaseIsPositiveAndEveryThirdTheLeast) {
  const auto graph = Parse(kInputs);
  std::set<uint64_t> seeds;
  std::set<int64_t> sizes;
  const std::vector<Case> cases = MakeCases(*graph, 9, /*seed=*/1);
  for (size_t i = 0; i < cases.size(); ++i) {
    seeds.insert(cases[i].seed);
    sizes.insert(cases[i].symbols.at("B"));
    EXPECT_EQ(cases[i].positive, i % 3 == 1);
    EXPECT_THAT(cases[i].symbols.at("B"), AllOf(Ge(2), Lt(9)));
    EXPECT_THAT(cases[i].symbols.at("S"), AllOf(Ge(i % 3 == 2 ? 0 : 1), Lt(i % 3 == 2 ? 1 : 4)));
    EXPECT_TRUE(i % 3 != 2 || cases[i].symbols.at("B") == 2);
    const ir::Graph* const graphs[] = {graph.get()};
    const auto values = RandomInputs(graphs, cases[i], /*index_limit=*/5, /*round_to_narrowest=*/false);
    ASSERT_TRUE(values.ok()) << values.status();
    const auto weight = RandomWeightSource({graph.get()}, cases[i], 5, false)("w");
    ASSERT_TRUE(weight.ok()) << weight.status();
    for (const std::vector<double>& floats : {In(*values, "x").floats, (*weight)->floats}) {
      EXPECT_EQ(std::ranges::any_of(floats, [](double v) { return v < 0; }), i % 3 != 1);
      EXPECT_TRUE(std::ranges::all_of(floats, [](double v) { return v == static_cast<float>(v); }));
    }
    EXPECT_THAT(In(*values, "i").ints, Each(AllOf(Ge(0), Lt(5))));
    EXPECT_THAT(In(*values, "m").ints, Each(AllOf(Ge(0), Lt(2))));
    EXPECT_EQ(std::set<int64_t>(In(*values, "i").ints.begin(), In(*values, "i").ints.end()).size(), 5u);
    for (size_t at = 0; at < In(*values, "position_ids").ints.size(); ++at) {
      EXPECT_EQ(In(*values, "position_ids").ints[at], static_cast<int64_t>(at % 5));
    }
  }
  EXPECT_EQ(seeds.size(), cases.size());
  EXPECT_GT(sizes.size(), 2u);
}

TEST(RandomCaseTest, RoundsToTheNarrowestTypeWhereItIsAsked) {
  const auto wide = Parse(R"(ffir 1 graph @g { input %x "x" : f32[64] weight %w "w" : f32[64]
                             %y = add(%x, %w) : f32[64] output "y" %y })");
  const auto narrow = Parse(R"(ffir 1 graph @g { input %x "x" : bf16[64] weight %w "w" : bf16[64]
                               %y = add(%x, %w) : bf16[64] output "y" %y })");
  const ir::Graph* const graphs[] = {wide.get(), narrow.get()};
  const Case setting = MakeCases(*wide, 1, /*seed=*/3)[0];
  for (const bool round : {false, true}) {
    const auto values = RandomInputs(graphs, setting, 1, round);
    ASSERT_TRUE(values.ok()) << values.status();
    const auto weight = RandomWeightSource({wide.get(), narrow.get()}, setting, 1, round)("w");
    ASSERT_TRUE(weight.ok()) << weight.status();
    for (const std::vector<double>& floats : {In(*values, "x").floats, (*weight)->floats}) {
      EXPECT_EQ(std::ranges::all_of(floats, [](double v) { return RoundTo(DType::kBF16, v) == v; }), round);
    }
  }
}

TEST(RandomCaseTest, ThereIsNoTensorOfLessThanNoElements) {
  const auto graph = Parse(R"(ffir 1 graph @g { symbol S [0, 3] input %x "x" : f32[S - 1]
                              %y = neg(%x) : f32[S - 1] output "y" %y })");
  const ir::Graph* const graphs[] = {graph.get()};
  const Case least = MakeCases(*graph, 3, /*seed=*/1)[2];
  EXPECT_THAT(std::string(RandomInputs(graphs, least, 1, false).status().message()), HasSubstr("is -1"));
}

// Rows that codes hold as they are: integers times a power of two, 127 the largest of them, within the clip.
TEST(RandomCaseTest, CodesHoldTheRowsThatBecomeCodes) {
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8, 32]
      weight %a "a" : f32[4, 32]
      weight %b "b" : f32[4, 32]
      %w = concat(%a, %b) {axis = 0} : f32[8, 32]
      %c, %s = quantize(%w) {clip = 0.125} : i8[8, 32], f32[8]
      %d, %t = quantize(%a) {clip = 0.5} : i8[4, 32], f32[4]
      %y = fused_linear(%x, %c, _, _, _, _, %s) {clip = 0.75} : f32[8, 8]
      output "d" %d
      output "y" %y
    })ir");
  const ir::Graph* const graphs[] = {graph.get()};
  const auto check = [](const Tensor& rows, double clip) {
    for (int64_t row = 0; row < rows.shape[0]; ++row) {
      const auto begin = rows.floats.begin() + row * 32;
      double largest = 0;
      for (auto it = begin; it != begin + 32; ++it) largest = std::max(largest, std::abs(*it));
      EXPECT_LE(largest, clip);
      const double step = largest / 127;
      EXPECT_EQ(std::ldexp(0.5, std::ilogb(step) + 1), step) << "no power of two";
      for (auto it = begin; it != begin + 32; ++it) EXPECT_EQ(*it / step, std::nearbyint(*it / step));
    }
  };
  for (const Case& setting : MakeCases(*graph, 4, /*seed=*/1)) {
    const auto values = RandomInputs(graphs, setting, 1, /*round_to_narrowest=*/true);
    ASSERT_TRUE(values.ok()) << values.status();
    check(In(*values, "x"), 0.75);
    const auto weights = RandomWeightSource({graph.get()}, setting, 1, /*round_to_narrowest=*/true);
    check(**weights("a"), 0.125);
    check(**weights("b"), 0.125);
  }
}

// And groups of 4-bit codes: a least value plus 0 to 15 steps, a power of two, with both ends.
TEST(RandomCaseTest, GroupsHoldTheRowsThatBecomeGroups) {
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[8, 64]
      weight %a "a" : f32[4, 64]
      weight %b "b" : f32[4, 64]
      %w = concat(%a, %b) {axis = 0} : f32[8, 64]
      %c, %s = quantize(%w) {group = 32} : i8[8, 32], f16[8, 2, 2]
      %y = fused_linear(%x, %c, _, _, _, _, %s) : f32[8, 8]
      output "y" %y
    })ir");
  bool negative = false;
  for (const Case& setting : MakeCases(*graph, 4, /*seed=*/1)) {
    const auto weights = RandomWeightSource({graph.get()}, setting, 1, /*round_to_narrowest=*/true);
    const auto b = weights("b");
    for (auto begin = (*b)->floats.begin(); begin != (*b)->floats.end(); begin += 32) {
      const auto [least, most] = std::minmax_element(begin, begin + 32);
      const double step = (*most - *least) / 15;
      EXPECT_EQ(std::exp2(std::ilogb(step)), step) << "no power of two";
      for (auto it = begin; it != begin + 32; ++it) {
        EXPECT_EQ((*it - *least) / step, std::nearbyint((*it - *least) / step));
        EXPECT_TRUE(*it >= 0 || !setting.positive);
        negative |= *it < 0;
      }
    }
    // Each group of x has the row's largest element, 127 times a power of two, and integers times that.
    const auto values = RandomInputs({{graph.get()}}, setting, 1, /*round_to_narrowest=*/true);
    ASSERT_TRUE(values.ok()) << values.status();
    const std::vector<double>& x = In(*values, "x").floats;
    for (auto begin = x.begin(); begin != x.end(); begin += 32) {
      double largest = 0;
      for (auto it = begin; it != begin + 32; ++it) largest = std::max(largest, std::abs(*it));
      const double step = largest / 127;
      EXPECT_EQ(std::exp2(std::ilogb(step)), step) << "no power of two";
      for (auto it = begin; it != begin + 32; ++it) EXPECT_EQ(*it / step, std::nearbyint(*it / step));
    }
  }
  EXPECT_TRUE(negative);
}

TEST(RandomCaseTest, BatchesOfStepsAreRagged) {
  const auto graph = Parse(R"ir(ffir 1
    graph @g {
      symbol T [1, 64]
      symbol R [1, 8]
      symbol P [1, 8]
      input %positions "positions" : i32[T]
      input %rs "row_start" : i32[R + 1]
      input %kl "kv_len" : i32[R]
      input %bt "block_table" : i32[R, P]
      input %cache "cache" : cache[2, 1, 2, f32]
      input %x "x" : f32[T, 1, 2]
      %c = kv_append(%cache, %x, %x, %rs, %kl, %bt) {layer = 0} : cache[2, 1, 2, f32]
      output "cache" %c
    })ir");
  ASSERT_TRUE(IsStepGraph(*graph));
  int several_rows = 0, prompts = 0, continued_prompts = 0, decodes = 0, out_of_order = 0;
  const std::vector<Case> cases = MakeCases(*graph, 24, /*seed=*/1);
  for (const Case& setting : cases) {
    const ir::Graph* const graphs[] = {graph.get()};
    const auto values = RandomInputs(graphs, setting, 1, false);
    ASSERT_TRUE(values.ok()) << values.status();
    const std::vector<int64_t>&row_start = In(*values, "row_start").ints, &kv_len = In(*values, "kv_len").ints;
    const Tensor& table = In(*values, "block_table");
    const Cache& cache = std::get<Cache>(values->at("cache"));
    several_rows += kv_len.size() > 1;
    std::set<int64_t> pages;
    size_t held = 0;
    for (size_t row = 0; row < kv_len.size(); ++row) {
      const int64_t tokens = row_start[row + 1] - row_start[row], past = kv_len[row] - tokens;
      prompts += tokens > 1 && past == 0;
      continued_prompts += tokens > 1 && past > 0;
      decodes += tokens == 1 && past > 0;
      for (int64_t i = 0; i < tokens; ++i) EXPECT_EQ(In(*values, "positions").ints[row_start[row] + i], past + i);
      held += static_cast<size_t>(kv_len[row]);
      const int64_t* of_row = table.ints.data() + static_cast<int64_t>(row) * table.shape[1];
      for (int64_t page = 0; page * kCasePageSize < kv_len[row]; ++page) {
        EXPECT_THAT(of_row[page], AllOf(Ge(0), Lt(kCasePages)));
        EXPECT_TRUE(pages.insert(of_row[page]).second) << "a page of two rows";
        out_of_order += page > 0 && of_row[page] != of_row[page - 1] + 1 && of_row[page] != of_row[page - 1] - 1;
      }
    }
    // A key and a value of two numbers a layer, where a row has one; NaN elsewhere.
    const auto numbers = std::ranges::count_if(cache.data, [](double v) { return !std::isnan(v); });
    EXPECT_EQ(static_cast<size_t>(numbers), held * 2 * 2 * 2);
  }
  EXPECT_GT(several_rows, 4);
  EXPECT_GT(prompts, 4);
  EXPECT_GT(continued_prompts, 0);
  EXPECT_GT(decodes, 4);
  EXPECT_GT(out_of_order, 4);
}

}  // namespace
}  // namespace flashflow::proof
