#include "runtime/engine/safetensors_header.h"

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Length(uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

std::string File(std::string_view json, size_t data_bytes) {
  return absl::StrCat(Length(json.size()), json, std::string(data_bytes, 'x'));
}

constexpr std::string_view kGood =
    R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},"__metadata__":{"k":"v","l":""},)"
    R"("a":{"shape":[2,3],"data_offsets":[0,24],"dtype":"F32"},"s":{"dtype":"U8","shape":[1],"data_offsets":[28,29]}}   )";

TEST(SafetensorsHeaderTest, ReadsTensorsInOrderOfTheirData) {
  const auto header = ParseSafetensorsHeader(File(kGood, 29));
  ASSERT_TRUE(header.ok()) << header.status();
  const auto start = static_cast<int64_t>(8 + kGood.size());
  ASSERT_EQ(header->tensors.size(), 3);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[0].dtype, DType::kF32);
  EXPECT_THAT(header->tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(header->tensors[0].offset, start);
  EXPECT_EQ(header->tensors[0].bytes, 24);
  EXPECT_EQ(header->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(header->tensors[1].offset, start + 24);
  EXPECT_EQ(header->tensors[2].dtype, std::nullopt);
  EXPECT_EQ(header->metadata.size(), 2);
  EXPECT_EQ(header->metadata.at("k"), "v");
}

TEST(SafetensorsHeaderTest, AcceptsScalarsAndEmptyTensors) {
  EXPECT_TRUE(ParseSafetensorsHeader(File(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)).ok());
  EXPECT_TRUE(ParseSafetensorsHeader(File(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", 0)).ok());
  EXPECT_TRUE(ParseSafetensorsHeader(File("{}", 0)).ok());
}

struct HostileCase {
  std::string name, file, error;
};

class HostileHeaderTest : public ::testing::TestWithParam<HostileCase> {};

TEST_P(HostileHeaderTest, IsDataLossThatSaysWhat) {
  const auto header = ParseSafetensorsHeader(GetParam().file);
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(header.status().message()), HasSubstr(GetParam().error));
}

std::string Entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return absl::StrCat(R"({"a":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}}");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, HostileHeaderTest,
    ::testing::Values(
        HostileCase{"Empty", "", "only 0 bytes"}, HostileCase{"Short", "1234567", "only 7 bytes"},
        HostileCase{"HugeLength", Length(~uint64_t{0}) + "{}", "more than safetensors allows"},
        HostileCase{"OverLimit", Length(kMaxHeaderBytes + 1) + "{}", "more than safetensors allows"},
        HostileCase{"LengthPastEnd", Length(3) + "{}", "truncated"},
        HostileCase{"NoBrace", File(" {}", 0), "does not start with '{'"},
        HostileCase{"NotJson", File("{\"a\"", 0), "not JSON"},
        HostileCase{"BadUtf8", File("{\"\xff\":{}}", 0), "not JSON"},
        HostileCase{"TrailingGarbage", File("{} {}", 0), "not JSON"},
        HostileCase{"EntryIsNumber", File(R"({"a":1})", 0), "tensor \"a\" has a number"},
        HostileCase{"EntryIsNull", File(R"({"a":null})", 0), "tensor \"a\" has null"},
        HostileCase{"EntryIsArray", File(R"({"a":[]})", 0), "tensor \"a\" has an array"},
        HostileCase{"EntryEmpty", File(R"({"a":{}})", 0), "lacks one of"},
        HostileCase{"MissingShape", File(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "lacks one of"},
        HostileCase{"UnknownKey", File(R"({"a":{"dtypes":"F32"}})", 0), "\"dtypes\" unknown"},
        HostileCase{"KeyTwice", File(R"({"a":{"dtype":"F32","dtype":"F32"}})", 0), "\"dtype\" unknown or twice"},
        HostileCase{"NameTwice",
                    File(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                         R"("a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})",
                         8),
                    "\"a\" twice"},
        HostileCase{"MetadataTwice", File(R"({"__metadata__":{"k":"v","k":"v"}})", 0), "\"k\" twice"},
        HostileCase{"MetadataNested", File(R"({"__metadata__":{"k":{}}})", 0), "an object"},
        HostileCase{"MetadataText", File(R"({"__metadata__":"k"})", 0), "a string"},
        HostileCase{"Deep", File(std::string(100000, '[').insert(0, R"({"a":{"shape":)"), 0), "an array"},
        HostileCase{"DeepObjects", File(R"({"a":{"shape":{"b":{)", 0), "an object"},
        HostileCase{"UnknownDType", File(Entry("F8_E4M3", "[1]", "[0,1]"), 1), "dtype \"F8_E4M3\""},
        HostileCase{"NegativeDim", File(Entry("F32", "[-1]", "[0,4]"), 4), "negative"},
        HostileCase{"FractionDim", File(Entry("F32", "[1.5]", "[0,4]"), 4), "fraction"},
        HostileCase{"HugeDim", File(Entry("F32", "[9223372036854775808]", "[0,4]"), 4), "too large"},
        HostileCase{"OverflowingShape", File(Entry("F32", "[4294967296,4294967296]", "[0,0]"), 0), "overflows"},
        HostileCase{"TooManyDims", File(Entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), "more than 8"},
        HostileCase{"StringInShape", File(Entry("F32", "[\"1\"]", "[0,4]"), 4), "a string"},
        HostileCase{"NestedShape", File(Entry("F32", "[[0,4]]", "[0,4]"), 4), "an array"},
        HostileCase{"OffsetsReversed", File(Entry("F32", "[1]", "[4,0]"), 4), "no [begin, end]"},
        HostileCase{"OffsetsThree", File(Entry("F32", "[1]", "[0,4,8]"), 4), "no [begin, end]"},
        HostileCase{"SizeMismatch", File(Entry("F32", "[2]", "[0,4]"), 4),
                    "takes 4 bytes, but its dtype and shape make 8"},
        HostileCase{"PastEnd", File(Entry("F32", "[2]", "[0,8]"), 7), "truncated"},
        HostileCase{"FarPastEnd", File(Entry("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 7),
                    "truncated"},
        HostileCase{"Gap", File(Entry("F32", "[1]", "[4,8]"), 8), "gap or an overlap"},
        HostileCase{"Appended", File(Entry("F32", "[1]", "[0,4]"), 5), "appended"},
        HostileCase{"Overlap",
                    File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                         R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                         6),
                    "tensor \"b\" starts at 2 where the one before it ends at 4"}),
    [](const auto& info) { return info.param.name; });

TEST(SafetensorsHeaderTest, NoPrefixAndNoFlippedByteCrashes) {
  const std::string good = File(kGood, 29);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(ParseSafetensorsHeader(std::string_view(good).substr(0, size)).ok()) << size;
  }
  for (size_t i = 0; i < 8 + kGood.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      (void)ParseSafetensorsHeader(bad).ok();  // some stay valid (a letter of a name): no crash is the claim
    }
  }
}

TEST(QuotedNameTest, EscapesAndShortens) {
  EXPECT_EQ(QuotedName("a\n\"b"), R"("a\n\"b")");
  EXPECT_EQ(QuotedName(std::string(500, 'n')).size(), 120 + 5);
}

}  // namespace
}  // namespace flashflow::engine
