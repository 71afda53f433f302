#include "runtime/cpu/cpu_spec.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/dtype.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path Folder(const std::string& name) {
  const fs::path folder = fs::path(testing::TempDir()) / name;
  fs::remove_all(folder);
  return folder;
}

std::string OnlyFile(const fs::path& folder) {
  std::string found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(found, "") << "and " << entry.path();
    found = entry.path().string();
  }
  return found;
}

TEST(CpuSpecTest, IsMeasuredOnceAndKept) {
  const CpuSpecOptions options = {.threads = 1, .cache_folder = Folder("kept").string()};
  const auto measured = CpuSpec(options);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(measured->name, HasSubstr(", 1 thread"));
  EXPECT_GT(measured->read_gb_per_s, 0.01);
  EXPECT_GT(analysis::FlopPerS(*measured, DType::kF32), 1e7);
  EXPECT_GT(analysis::FlopPerS(*measured, DType::kBF16), 1e7);
  EXPECT_GT(measured->launch_us, 0);

  // What is kept is what is found, not measured again: a figure that no measurement gives.
  const std::string path = OnlyFile(options.cache_folder);
  analysis::DeviceSpec marked = *measured;
  marked.read_gb_per_s = 123456;
  std::ofstream(path) << analysis::DeviceSpecToJson(marked);
  EXPECT_EQ(FindDeviceSpec("cpu", options)->read_gb_per_s, 123456);
  // A half-written file, and one of another CPU, are measured anew and replaced.
  for (const std::string& text : {analysis::DeviceSpecToJson(marked).substr(0, 40), [&] {
                                    marked.name = "another";
                                    return analysis::DeviceSpecToJson(marked);
                                  }()}) {
    std::ofstream(path) << text;
    const auto again = CpuSpec(options);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_LT(again->read_gb_per_s, 123456);
    EXPECT_EQ(CpuSpec(options)->read_gb_per_s, again->read_gb_per_s);
    EXPECT_EQ(OnlyFile(options.cache_folder), path);
  }
  marked.name = measured->name;
  std::ofstream(path) << analysis::DeviceSpecToJson(marked);
  CpuSpecOptions once_more = options;
  once_more.measure_again = true;
  EXPECT_LT(CpuSpec(once_more)->read_gb_per_s, 123456);
}

TEST(CpuSpecTest, AFolderThatCannotBeWrittenIsNoError) {
  const fs::path folder = Folder("file");
  std::ofstream(folder.string()) << "not a folder";
  EXPECT_TRUE(CpuSpec({.threads = 1, .cache_folder = folder.string()}).ok());
  EXPECT_EQ(CpuSpec({.threads = -1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuSpecTest, DevicesAreFoundByName) {
  EXPECT_EQ(FindDeviceSpec("h200", {})->arch, "sm_90a");
  const fs::path file = Folder("toy.json");
  std::ofstream(file) << R"({"name": "Toy", "arch": "toy", "source": "made up", "read_gb_per_s": 1,
                             "tflop_per_s": {"f32": 1}, "launch_us": 2})";
  EXPECT_EQ(FindDeviceSpec(file.string(), {})->name, "Toy");
  EXPECT_EQ(FindDeviceSpec("none.json", {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(FindDeviceSpec("h2000", {}).status().message()), HasSubstr("a100, h100, h200, cpu, or"));
}

TEST(CpuSpecTest, TheUsersFolderIsThatOfThePythonLibrary) {
  setenv("XDG_CACHE_HOME", "/x/cache", 1);
  EXPECT_EQ(UserCacheFolder(), "/x/cache/flashflow");
  setenv("XDG_CACHE_HOME", "relative", 1);
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(UserCacheFolder(), "/home/someone/.cache/flashflow");
  unsetenv("HOME");
  EXPECT_EQ(UserCacheFolder(), "");
}

}  // namespace
}  // namespace flashflow::runtime
