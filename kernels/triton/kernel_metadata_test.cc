#include "kernels/triton/kernel_metadata.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/triton/arguments.h"

namespace flashflow::triton {
namespace {

using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(KernelMetadataTest, DescribesEveryCompiledKernel) {
  const char* listed = std::getenv("TRITON_CUBINS");
  ASSERT_NE(listed, nullptr);
  int kernels = 0;
  for (absl::string_view path : absl::StrSplit(listed, ' ', absl::SkipEmpty())) {
    if (!absl::EndsWith(path, ".json")) continue;
    SCOPED_TRACE(path);
    const auto metadata = ParseKernelMetadata(ReadFile(std::string(path)));
    ASSERT_TRUE(metadata.ok()) << metadata.status();
    EXPECT_EQ(metadata->arch, absl::StrContains(path, "sm_90") ? "sm_90a" : "sm_80");
    const std::string cubin = ReadFile(absl::StrReplaceAll(path, {{".json", ".cubin"}}));
    ASSERT_EQ(static_cast<int64_t>(cubin.size()), metadata->cubin_bytes);
    EXPECT_EQ(cubin.substr(0, 4), "\177ELF");
    EXPECT_THAT(cubin, HasSubstr(metadata->entry));
    ++kernels;
  }
  EXPECT_EQ(kernels, 14);
}

std::string Good() {
  return R"({"format": 1, "compiler": "triton 3.7.1", "kernel": "m.f", "entry": "f", "arch": "sm_90a", "threads": 128,
             "shared_bytes": 65536, "parameters": [{"name": "x", "type": "*bf16", "multiple_of": 16},
             {"name": "m", "type": "i32", "multiple_of": 1}, {"name": "n", "type": "i64", "multiple_of": 16},
             {"name": "eps", "type": "fp32", "multiple_of": 1}],
             "hidden_parameters": ["global_scratch", "profile_scratch"], "constants": {}, "cubin_bytes": 4096})";
}

TEST(KernelMetadataTest, RefusesWhatItDoesNotKnow) {
  ASSERT_TRUE(ParseKernelMetadata(Good()).ok());
  const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"\"format\": 1", "\"format\": 2", "format: this reader knows 1, got 2"},
      {"\"format\": 1", "\"format\": \"1\"", "format: expected an integer"},
      {"\"format\": 1, ", "", "format: expected an integer"},
      {"\"constants\"", "\"clusters\": 2, \"constants\"", "\"clusters\" is no key of it"},
      {"\"multiple_of\": 16}", "\"multiple_of\": 16, \"space\": \"shared\"}", "parameter x: \"space\" is no key of it"},
      {"\"entry\": \"f\"", "\"entry\": \"\"", "entry: expected 1 to 256 characters, got 0"},
      {"\"entry\": \"f\"", "\"entry\": 7", "entry: expected a string"},
      {"sm_90a", "gfx942", "arch: expected sm_90a or the like, got \"gfx942\""},
      {"sm_90a", "sm_9", "arch: expected"},
      {"sm_90a", "sm_9000", "arch: expected"},
      {"\"threads\": 128", "\"threads\": 100", "threads: expected a multiple of 32, got 100"},
      {"\"threads\": 128", "\"threads\": 2048", "threads: expected 32 to 1024, got 2048"},
      {"\"threads\": 128", "\"threads\": 18446744073709551615", "threads: expected an integer"},
      {"65536", "-1", "shared_bytes: expected 0 to 232448, got -1"},
      {"65536", "232449", "shared_bytes: expected 0 to 232448, got 232449"},
      {"\"*bf16\"", "\"*\"", "parameter x: type \"*\" is none of"},
      {"\"*bf16\"", "\"tensordesc<bf16[64, 64]>\"", "parameter x: type"},
      {"\"multiple_of\": 16", "\"multiple_of\": 8", "parameter x: multiple_of: expected 1 or 16, got 8"},
      {"\"multiple_of\": 16", "\"multiple_of\": 0", "multiple_of: expected 1 to 16, got 0"},
      {"[\"global_scratch\", \"profile_scratch\"]", "[\"global_scratch\"]",
       "hidden_parameters: expected global_scratch"},
      {"\"constants\": {}", "\"constants\": []", "constants: expected an object"},
      {"4096", "0", "cubin_bytes: expected 1 to"},
      {"{\"format\"", "[{\"format\"", "expected a JSON object"},
  };
  for (const auto& [from, to, says] : cases) {
    std::string text = Good();
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, std::string(from).size(), to);
    const auto metadata = ParseKernelMetadata(text);
    ASSERT_FALSE(metadata.ok()) << to;
    EXPECT_EQ(metadata.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(metadata.status().message()), HasSubstr(absl::StrCat("triton metadata: ")));
    EXPECT_THAT(std::string(metadata.status().message()), HasSubstr(says)) << to;
  }
  std::string many = "{\"name\": \"x\", \"type\": \"i32\", \"multiple_of\": 1}";
  for (int i = 0; i < 64; ++i) absl::StrAppend(&many, ", {\"name\": \"x\", \"type\": \"i32\", \"multiple_of\": 1}");
  std::string text = Good();
  text.replace(text.find("{\"name\": \"x\""), 0, absl::StrCat(many, ", "));
  EXPECT_THAT(std::string(ParseKernelMetadata(text).status().message()), HasSubstr("a list of at most 64"));
  EXPECT_THAT(std::string(ParseKernelMetadata(std::string((1 << 20) + 1, ' ')).status().message()),
              HasSubstr("expected at most 1048576 bytes"));
}

TEST(KernelMetadataTest, RunsOnItsOwnArchitectureAlone) {
  KernelMetadata plain = *ParseKernelMetadata(absl::StrReplaceAll(Good(), {{"sm_90a", "sm_86"}}));
  EXPECT_FALSE(RunsOn(plain, 8, 0));
  EXPECT_TRUE(RunsOn(plain, 8, 6));
  EXPECT_TRUE(RunsOn(plain, 8, 9));
  EXPECT_FALSE(RunsOn(plain, 9, 6));
  const KernelMetadata exact = *ParseKernelMetadata(absl::StrReplaceAll(Good(), {{"sm_90a", "sm_100a"}}));
  EXPECT_TRUE(RunsOn(exact, 10, 0));
  EXPECT_FALSE(RunsOn(exact, 10, 3));
}

TEST(ArgumentsTest, FitTheParametersByNumberTypeAndMultiple) {
  const KernelMetadata metadata = *ParseKernelMetadata(Good());
  alignas(16) static char memory[32];
  const auto says = [&](std::vector<Argument> arguments) {
    return std::string(CheckArguments(metadata, arguments).message());
  };
  EXPECT_EQ(says({memory, int32_t{3}, int64_t{32}, 1.0f}), "");
  EXPECT_EQ(says({nullptr, int32_t{3}, int64_t{0}, 1.0f}), "");
  EXPECT_THAT(says({memory, int32_t{3}, int64_t{32}}), HasSubstr("m.f: expected 4 arguments, got 3"));
  EXPECT_THAT(says({memory, int64_t{3}, int64_t{32}, 1.0f}), HasSubstr("m.f: m: expected i32, got i64"));
  EXPECT_THAT(says({memory, int32_t{3}, int64_t{32}, memory}), HasSubstr("m.f: eps: expected fp32, got a pointer"));
  EXPECT_THAT(says({memory + 8, int32_t{3}, int64_t{32}, 1.0f}), HasSubstr("m.f: x: expected a multiple of 16"));
  EXPECT_THAT(says({memory, int32_t{3}, int64_t{24}, 1.0f}), HasSubstr("m.f: n: expected a multiple of 16"));
}

}  // namespace
}  // namespace flashflow::triton
