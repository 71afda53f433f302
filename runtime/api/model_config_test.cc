#include "runtime/api/model_config.h"

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ModelConfigTest, ReadsWhatItKnows) {
  const auto config =
      ParseModelConfig(R"({"name":"tiny","architecture":"llama","eos_token_ids":[2,0],"chat_template":null})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "tiny");
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2, 0));
  EXPECT_THAT(ParseModelConfig("{}")->eos_token_ids, IsEmpty());
  EXPECT_EQ(ParseModelConfig(R"({"name":null})")->name, "");
}

TEST(ModelConfigTest, RefusesOtherKinds) {
  for (const char* text :
       {"", "[]", "{", R"({"name":1})", R"({"architecture":[]})", R"({"eos_token_ids":2})", R"({"eos_token_ids":[-1]})",
        R"({"eos_token_ids":["a"]})", R"({"eos_token_ids":[2147483648]})", R"({"eos_token_ids":[1.5]})"}) {
    EXPECT_EQ(ParseModelConfig(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace flashflow::runtime
