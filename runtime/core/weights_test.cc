#include "runtime/core/weights.h"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/core/fake_device.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WeightsTest : public ::testing::Test {
 protected:
  WeightsTest() : path_(std::filesystem::path(::testing::TempDir()) / "weights.ff") {
    const engine::EngineContents contents = {"test", {}, {{"w", DType::kF32, {2, 2}}}};
    const auto source = [this](std::string_view) { return engine::SourceTensor{values_, DType::kF32, {2, 2}}; };
    EXPECT_EQ(engine::WriteEngine(path_, contents, source), absl::OkStatus());
  }
  absl::StatusOr<std::vector<LoadedWeight>> Load(const std::vector<plan::Weight>& weights) {
    auto file = engine::EngineFile::Open(path_);
    if (!file.ok()) return file.status();
    file_ = *std::move(file);
    return LoadWeights(*file_, weights, &device_);
  }

  const std::string path_;
  const float values_[4] = {1, 2, 3, 4};
  FakeDevice device_;
  std::unique_ptr<const engine::EngineFile> file_;
};

TEST_F(WeightsTest, OneForEachOfThePlans) {
  const plan::Weight w = {{"w"}, DType::kF32, {2, 2}, "row_major"};
  const auto loaded = Load({w, w});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->size(), 2);
  EXPECT_EQ(static_cast<const float*>((*loaded)[1].view.data)[3], 4);
}

TEST_F(WeightsTest, PartsAreJoinedAlongTheFirstAxis) {
  const auto loaded = Load({{{"w", "w", "w"}, DType::kF32, {6, 2}, "row_major"}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto* data = static_cast<const float*>((*loaded)[0].view.data);
  EXPECT_THAT(std::vector<float>(data, data + 12), ElementsAre(1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4));
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{5, 2}, {7, 2}, {2, 2}, {6, 1}, {12}, {}}) {
    const absl::Status status = Load({{{"w", "w", "w"}, DType::kF32, shape, "row_major"}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("weight \"w\" is f32[2, 2] but the plan wants a part of f32"));
  }
}

TEST_F(WeightsTest, ATransposedWeightHasItsAxesExchangedInTheFile) {
  const std::string path = std::filesystem::path(::testing::TempDir()) / "transposed.ff";
  const float values[6] = {1, 2, 3, 4, 5, 6};
  const engine::EngineContents contents = {"test", {}, {{"w", DType::kF32, {3, 2}}}};
  const auto source = [&](std::string_view) { return engine::SourceTensor{values, DType::kF32, {3, 2}}; };
  ASSERT_EQ(engine::WriteEngine(path, contents, source), absl::OkStatus());
  const auto file = engine::EngineFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const plan::Weight w = {{"w"}, DType::kF32, {2, 3}, "row_major", /*transposed=*/true};
  const auto loaded = LoadWeights(**file, {w}, &device_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)[0].view.dims[0], 2);
  const plan::Weight straight = {{"w"}, DType::kF32, {3, 2}, "row_major", /*transposed=*/true};
  EXPECT_THAT(LoadWeights(**file, {straight}, &device_).status().message(),
              HasSubstr("weight \"w\" is f32[3, 2] but the plan wants f32[2, 3]"));
}

TEST_F(WeightsTest, WhatDoesNotFitIsNamed) {
  const auto error = [&](const plan::Weight& weight) { return Load({weight}).status(); };
  absl::Status status = error({{"v"}, DType::kF32, {2, 2}, "row_major"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"v\""));
  status = error({{"w"}, DType::kF32, {4}, "row_major"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("weight \"w\" is f32[2, 2] but the plan wants f32[4]"));
  EXPECT_EQ(error({{"w"}, DType::kBF16, {2, 2}, "row_major"}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WeightsTest, DamageIsNamed) {
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7f');
  file.close();
  const absl::Status status = Load({{{"w"}, DType::kF32, {2, 2}, "row_major"}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"w\""));
}

}  // namespace
}  // namespace flashflow::runtime
