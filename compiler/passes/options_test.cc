#include "compiler/passes/options.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(OptionsTest, SetsByName) {
  CompileOptions options;
  ASSERT_TRUE(SetOption("page_size", int64_t{32}, &options).ok());
  ASSERT_TRUE(SetOption("dtype", std::string("bf16"), &options).ok());
  ASSERT_TRUE(SetOptionFromText("max_rows", "7", &options).ok());
  ASSERT_TRUE(SetOptionFromText("device", "cuda", &options).ok());
  EXPECT_EQ(options.page_size, 32);
  EXPECT_EQ(options.dtype, "bf16");
  EXPECT_EQ(options.max_rows, 7);
  EXPECT_EQ(options.device, "cuda");
  EXPECT_EQ(options.max_tokens, 512);
  EXPECT_TRUE(CheckOptions(options).ok());
}

TEST(OptionsTest, RefusesByName) {
  CompileOptions options;
  EXPECT_THAT(Message(SetOption("pagesize", int64_t{32}, &options)),
              HasSubstr("unknown option \"pagesize\"; known: dtype, quantize, kv_dtype, activation_dtype"));
  EXPECT_THAT(Message(SetOption("page_size", int64_t{0}, &options)), HasSubstr("page_size: expected 1 to 1024, got 0"));
  EXPECT_THAT(Message(SetOption("page_size", std::string("32"), &options)), HasSubstr("expected an int, got \"32\""));
  EXPECT_THAT(Message(SetOption("dtype", int64_t{1}, &options)), HasSubstr("expected a string, got 1"));
  EXPECT_THAT(Message(SetOption("dtype", std::string("f16"), &options)), HasSubstr("\"f32\", \"bf16\", got \"f16\""));
  EXPECT_THAT(Message(SetOptionFromText("max_tokens", "many", &options)), HasSubstr("expected an int, got \"many\""));
  options.max_tokens = -1;
  EXPECT_THAT(Message(CheckOptions(options)), HasSubstr("max_tokens"));
}

}  // namespace
}  // namespace flashflow::passes
