#include "runtime/api/byte_level_vocab.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

std::string Tokenizer(std::string_view vocab, std::string_view added = "[]",
                      std::string_view decoder = R"({"type":"ByteLevel"})", std::string_view type = "BPE") {
  return absl::StrCat(R"({"model":{"type":")", type, R"(","vocab":)", vocab, R"(},"added_tokens":)", added,
                      R"(,"decoder":)", decoder, "}");
}

TEST(ByteLevelVocabTest, TurnsTheVocabularysCodePointsIntoBytes) {
  // U+0120 writes the space, U+010A the newline, U+00C3 U+00A9 the two bytes of e-acute, U+0143 the soft hyphen 0xad.
  const auto vocab = ByteLevelVocab::Parse(
      Tokenizer("{\"Hello\":0,\"\xc4\xa0world\":1,\"\xc4\x8a\":2,\"\xc3\x83\xc2\xa9\":3,\"\xc3\x82\xc5\x83\":4}"));
  ASSERT_TRUE(vocab.ok()) << vocab.status();
  EXPECT_EQ(vocab->Decode({0, 1, 2, 3, 4}), "Hello world\n\xc3\xa9\xc2\xad");
  EXPECT_EQ(vocab->Decode({-1, 5, 1 << 30}), "");
}

TEST(ByteLevelVocabTest, SpecialTokensAreSilentAndAddedOnesAreText) {
  const auto vocab = ByteLevelVocab::Parse(Tokenizer(
      R"({"a":0,"<end>":1})", R"([{"id":1,"content":"<end>","special":true},{"id":2,"content":"  x","special":false}])",
      R"({"type":"Sequence","decoders":[{"type":"Strip"},{"type":"ByteLevel"}]})"));
  ASSERT_TRUE(vocab.ok()) << vocab.status();
  EXPECT_EQ(vocab->Decode({0, 1, 2}), "a  x");
}

TEST(ByteLevelVocabTest, OtherTokenizersAreUnimplemented) {
  EXPECT_EQ(ByteLevelVocab::Parse(Tokenizer("{}", "[]", R"({"type":"Metaspace"})")).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ByteLevelVocab::Parse(Tokenizer("{}", "[]", "null")).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ByteLevelVocab::Parse(Tokenizer("{}", "[]", R"({"type":"ByteLevel"})", "Unigram")).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(ByteLevelVocabTest, DamagedTextIsInvalid) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}"), std::string(R"({"model":[]})"),
        Tokenizer("[]"), Tokenizer(R"({"a":-1})"), Tokenizer(R"({"a":"0"})"), Tokenizer(R"({"a":99999999999})"),
        Tokenizer("{}", "7"), Tokenizer("{}", "[7]"), Tokenizer("{}", R"([{"id":1}])"),
        Tokenizer("{}", R"([{"content":"x"}])")}) {
    EXPECT_EQ(ByteLevelVocab::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace flashflow::runtime
