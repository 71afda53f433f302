#include "compiler/frontend/json_place.h"

#include <string>

#include "gtest/gtest.h"

namespace flashflow::frontend {
namespace {

TEST(JsonPlaceTest, CountsLinesAndColumnsFromOne) {
  EXPECT_EQ(PlaceOf("ab\ncd", 0), "1:1");
  EXPECT_EQ(PlaceOf("ab\ncd", 2), "1:3");
  EXPECT_EQ(PlaceOf("ab\ncd", 4), "2:2");
  EXPECT_EQ(PlaceOf("ab\ncd", 99), "2:3");
}

// What begins at the path, five characters of it.
std::string At(std::string_view text, std::string_view path) {
  return std::string(text.substr(OffsetOf(text, path), 5));
}

TEST(JsonPlaceTest, FindsValuesOfEveryKind) {
  constexpr std::string_view kText =
      R"json({"a": [10, [11 , true], {"b": "x,]}\"y", "c": null}], "d.e": {"\u0066": 2.5e3}, "list": [], "ab": 1})json";
  EXPECT_EQ(At(kText, ""), "{\"a\":");
  EXPECT_EQ(At(kText, "a"), "[10, ");
  EXPECT_EQ(At(kText, "a[0]"), "10, [");
  EXPECT_EQ(At(kText, "a[1][0]"), "11 , ");
  EXPECT_EQ(At(kText, "a[1][1]"), "true]");
  EXPECT_EQ(At(kText, "a[2].b"), "\"x,]}");
  EXPECT_EQ(At(kText, "a[2].c"), "null}");
  EXPECT_EQ(At(kText, "d.e.f"), "2.5e3");
  EXPECT_EQ(At(kText, "list"), "[], \"");
  EXPECT_EQ(At(kText, "ab"), "1}");
}

TEST(JsonPlaceTest, TakesTheLastOfDoubledKeysAndTheNearestOfMissingOnes) {
  EXPECT_EQ(At(R"({"a": 1, "a": 2})", "a"), "2}");
  EXPECT_EQ(At(R"({"a": {"b": 12345}})", "a.c"), "{\"b\":");
  EXPECT_EQ(At(R"({"a": [1, 2]})", "a[7]"), "[1, 2");
  EXPECT_EQ(OffsetOf("  []", "a"), 2u);
}

TEST(JsonPlaceTest, NestsWithoutEnd) {
  const std::string deep = std::string(1 << 18, '[') + std::string(1 << 18, ']');
  EXPECT_EQ(OffsetOf(deep, "[0][0]"), 2u);
}

}  // namespace
}  // namespace flashflow::frontend
