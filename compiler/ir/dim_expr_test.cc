#include "compiler/ir/dim_expr.h"

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace flashflow {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();
const DimExpr B = DimExpr::Symbol("B");
const DimExpr S = DimExpr::Symbol("S");
const DimExpr T = DimExpr::Symbol("T");

TEST(DimExpr, EqualExpressionsCompareEqual) {
  EXPECT_EQ(B * S + 1 - 1, S * B);
  EXPECT_EQ((B + 1) * (B - 1), B * B - 1);
  EXPECT_EQ(B - B, DimExpr(0));
  EXPECT_NE(B * S, B + S);
  EXPECT_EQ(absl::HashOf(B * S + 1 - 1), absl::HashOf(S * B));
}

TEST(DimExpr, PrintsTermsInOneOrder) {
  EXPECT_EQ((DimExpr(-1) + T * 2 + S * B).ToString(), "B*S + 2*T - 1");
  EXPECT_EQ((DimExpr(3) - B * B).ToString(), "-B*B + 3");
  EXPECT_EQ(DimExpr(0).ToString(), "0");
  EXPECT_EQ(DimExpr(-7).ToString(), "-7");
  EXPECT_EQ(DimsToString({B, S, 576}), "[B, S, 576]");
  EXPECT_EQ(DimsToString({}), "[]");
}

TEST(DimExpr, ParseReadsWhatToStringWrites) {
  for (const DimExpr& expr : {DimExpr(0), DimExpr(-5), DimExpr(kMaxInt), DimExpr(-kMaxInt), B, B * S + T * 2 - 1,
                              DimExpr(-1) * B * B * S + 3 * T, (B + S) * (B + S) * (T - 4)}) {
    absl::StatusOr<DimExpr> parsed = DimExpr::Parse(expr.ToString());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, expr) << expr.ToString();
  }
  EXPECT_EQ(*DimExpr::Parse(" ( B+1 ) *2 - B"), B + 2);
}

TEST(DimExpr, ParseRefusesEverythingElse) {
  for (const char* text : {"", " ", "B+", "*B", "2B", "B S", "B//S", "(B", "B)", "B - -1", "9223372036854775808", "%",
                           "B\xff", "9223372036854775807*2", "B*B*B*B*B*B*B*B*B*B*B*B*B*B*B*B*B"}) {
    absl::StatusOr<DimExpr> parsed = DimExpr::Parse(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(DimExpr::Parse(std::string(100000, '(')).ok());
  std::string many_terms = "x0";
  for (int i = 1; i < 65; ++i) many_terms += "+x" + std::to_string(i);
  EXPECT_FALSE(DimExpr::Parse(many_terms).ok());
  EXPECT_TRUE(DimExpr::Parse(many_terms.substr(0, many_terms.rfind('+'))).ok());
}

TEST(DimExpr, OverflowIsStickyAndHasNoValue) {
  const DimExpr huge = DimExpr(kMaxInt) * B;
  const DimExpr overflow = huge + B;
  EXPECT_TRUE(overflow.overflowed());
  EXPECT_TRUE((overflow - overflow).overflowed());
  EXPECT_TRUE((overflow * 0).overflowed());
  EXPECT_TRUE((1 + overflow).overflowed());
  EXPECT_TRUE(DimExpr(std::numeric_limits<int64_t>::min()).overflowed());
  EXPECT_FALSE(overflow.IsConstant());
  EXPECT_EQ(overflow.DividedBy(1), std::nullopt);
  EXPECT_EQ(overflow.Evaluate({{"B", 1}}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(overflow.Bounds({{"B", {1, 1}}}).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(DimExpr, DividesExactlyOrNotAtAll) {
  EXPECT_EQ((B * S * 12).DividedBy(B * 4), S * 3);
  EXPECT_EQ((B * S * 12 + B).DividedBy(B), S * 12 + 1);
  EXPECT_EQ((B * 12 + 6).DividedBy(6), B * 2 + 1);
  EXPECT_EQ(DimExpr(0).DividedBy(B), DimExpr(0));
  EXPECT_EQ((B * 3).DividedBy(2), std::nullopt);
  EXPECT_EQ((B + 1).DividedBy(B), std::nullopt);
  EXPECT_EQ((B * B).DividedBy(B + 1), std::nullopt);
  EXPECT_EQ(B.DividedBy(0), std::nullopt);
}

TEST(DimExpr, Evaluates) {
  EXPECT_EQ(*(B * S + T * 2 - 1).Evaluate({{"B", 3}, {"S", 5}, {"T", 7}}), 28);
  EXPECT_EQ(B.Evaluate({{"S", 1}}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((B * B).Evaluate({{"B", int64_t{1} << 32}}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ((B + B * S).symbols(), (std::vector<std::string>{"B", "S"}));
}

TEST(DimExpr, BoundsHoldForAllValues) {
  const SymbolRanges ranges = {{"B", {1, 4}}, {"S", {2, 10}}, {"T", {0, kMaxInt}}};
  EXPECT_EQ(*(B * S - 3).Bounds(ranges), (SymbolRange{-1, 37}));
  EXPECT_EQ(*(S - B).Bounds(ranges), (SymbolRange{-2, 9}));
  EXPECT_EQ(*(T * T - 5).Bounds(ranges), (SymbolRange{-5, kMaxInt}));
  EXPECT_EQ(*(DimExpr(5) - T * T).Bounds(ranges), (SymbolRange{std::numeric_limits<int64_t>::min(), 5}));
  EXPECT_EQ(DimExpr::Symbol("Q").Bounds(ranges).status().code(), absl::StatusCode::kNotFound);
}

TEST(DimExpr, NumElements) {
  EXPECT_EQ(NumElements({}), DimExpr(1));
  EXPECT_EQ(NumElements({B, 3, S}), B * S * 3);
  EXPECT_TRUE(NumElements({kMaxInt, 2}).overflowed());
}

}  // namespace
}  // namespace flashflow
