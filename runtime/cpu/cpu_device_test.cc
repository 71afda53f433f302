#include "runtime/cpu/cpu_device.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/catalog.h"
#include "runtime/engine/engine_file.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::runtime {
namespace {

using ::testing::HasSubstr;

TEST(CpuDeviceTest, ThreadsAreAsAsked) {
  EXPECT_EQ((*CreateCpuDevice(3))->num_threads(), 3);
  EXPECT_GE((*CreateCpuDevice(0))->num_threads(), 1);
  for (int threads : {-1, kMaxThreads + 1}) {
    EXPECT_EQ(CreateCpuDevice(threads).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CpuDeviceTest, EveryKernelOfTheCatalogIsThere) {
  const auto device = CreateCpuDevice(1);
  for (const kernels::KernelSpec& kernel : kernels::Catalog()) {
    EXPECT_EQ((*device)->launchers().Has(kernel.id, kernel.version), kernel.device == "cpu") << kernel.id;
  }
  EXPECT_EQ((*device)->key(), "cpu/1");
}

TEST(CpuDeviceTest, MemoryIsZeroAlignedAndLimited) {
  const auto device = CreateCpuDevice(1);
  const auto buffer = (*device)->Allocate(10000, "a test");
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0);
  const auto* bytes = static_cast<const char*>((*buffer)->data());
  EXPECT_TRUE(std::all_of(bytes, bytes + 10000, [](char c) { return c == 0; }));
  EXPECT_TRUE((*device)->Allocate(0, "nothing").ok());
  const absl::Status status = (*device)->Allocate(size_t{1} << 60, "the impossible").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the impossible needs"));
}

// A weight of 40 x 70,000 floats: checked in several pieces by several threads.
TEST(CpuDeviceTest, WeightsAreVerifiedAndPacked) {
  constexpr int64_t kRows = 40, kColumns = 70000;
  std::vector<float> values(kRows * kColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const std::string path = std::filesystem::path(::testing::TempDir()) / "cpu_device.ff";
  const auto source = [&](std::string_view) {
    return engine::SourceTensor{values.data(), DType::kF32, {kRows, kColumns}};
  };
  ASSERT_EQ(engine::WriteEngine(path, {"test", {}, {{"w", DType::kF32, {kRows, kColumns}}}}, source), absl::OkStatus());
  const auto device = CreateCpuDevice(3);
  plan::Weight wanted{{"w"}, DType::kF32, {kRows, kColumns}, std::string(kernels::kPanel16)};
  {
    const auto file = engine::EngineFile::Open(path);
    const engine::EngineWeight& stored = **(*file)->weight("w");
    const auto packed = (*device)->LoadWeight(**file, {&stored}, wanted);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->bytes, 48 * kColumns * 4);
    const auto* data = static_cast<const float*>(packed->view.data);
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{0, 0}, {17, 3}, {39, kColumns - 1}}) {
      EXPECT_EQ(data[((n / 16) * kColumns + k) * 16 + n % 16], values[static_cast<size_t>(n * kColumns + k)]);
    }
    const plan::Weight wanted_packed = wanted;
    wanted.layout = kernels::kRowMajor;
    const auto mapped = (*device)->LoadWeight(**file, {&stored}, wanted);
    ASSERT_TRUE(mapped.ok());
    EXPECT_EQ(mapped->view.data, stored.bytes.data());
    EXPECT_EQ(mapped->buffer, nullptr);
    plan::Weight twice{{"w", "w"}, DType::kF32, {2 * kRows, kColumns}, std::string(kernels::kPanel16)};
    const auto joined = (*device)->LoadWeight(**file, {&stored, &stored}, twice);
    ASSERT_TRUE(joined.ok()) << joined.status();
    const auto* joined_data = static_cast<const float*>(joined->view.data);
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{0, 0}, {40, 0}, {57, 3}, {79, kColumns - 1}}) {
      EXPECT_EQ(joined_data[((n / 16) * kColumns + k) * 16 + n % 16],
                values[static_cast<size_t>(n % kRows * kColumns + k)]);
    }
    // Packed weights lie side by side, each on a line of its own, and one outlives the others and the device.
    absl::StatusOr<LoadedWeight> last;
    {
      const auto other_device = CreateCpuDevice(2);
      const auto first = (*other_device)->LoadWeight(**file, {&stored}, wanted_packed);
      last = (*other_device)->LoadWeight(**file, {&stored}, wanted_packed);
      ASSERT_TRUE(first.ok() && last.ok());
      EXPECT_EQ(static_cast<char*>(last->view.data) - static_cast<char*>(first->view.data), first->bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(last->view.data) % 64, 0);
    }
    EXPECT_EQ(static_cast<const float*>(last->view.data)[1], values[kColumns]);
    wanted.layout = "spiral";
    EXPECT_EQ((*device)->LoadWeight(**file, {&stored}, wanted).status().code(), absl::StatusCode::kInvalidArgument);
  }
  for (int64_t from_end : {int64_t{1}, int64_t{5} << 20, int64_t{10} << 20}) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-from_end, std::ios::end);
    const int byte = file.get();
    file.seekp(-from_end, std::ios::end);
    file.put(static_cast<char>(byte ^ 1));
    file.close();
    const auto damaged = engine::EngineFile::Open(path);
    wanted.layout = kernels::kRowMajor;
    EXPECT_EQ((*device)->LoadWeight(**damaged, {*(*damaged)->weight("w")}, wanted).status().code(),
              absl::StatusCode::kDataLoss);
    std::fstream mend(path, std::ios::in | std::ios::out | std::ios::binary);
    mend.seekp(-from_end, std::ios::end);
    mend.put(static_cast<char>(byte));
  }
}

}  // namespace
}  // namespace flashflow::runtime
