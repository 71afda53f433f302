#include "runtime/engine/engine_file.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/engine_format.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two sections and three weights; f16 stands in for a checkpoint's dtype that is converted.
class EngineFileTest : public ::testing::Test {
 protected:
  EngineFileTest() {
    for (int i = 0; i < 6000; ++i) floats_.push_back(static_cast<float>(i) / 8 - 300);
    contents_.producer = "flashflow test";
    contents_.sections = {{"ff.graph", "ffir 1\n"}, {"ff.tokenizer", std::string(5000, 't')}};
    contents_.weights = {{"plain", DType::kF32, {60, 100}},
                         {"narrow", DType::kBF16, {3, 5}},
                         {"layers.0.\xce\xb1", DType::kF32, {}},
                         {"ids", DType::kI32, {2}}};
    folder_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    path_ = folder_ / "model.ff";
  }

  absl::StatusOr<SourceTensor> Source(std::string_view name) const {
    if (name == "plain") return SourceTensor{floats_.data(), DType::kF32, {60, 100}};
    if (name == "narrow") return SourceTensor{floats_.data() + 1, DType::kF32, {3, 5}};
    if (name == "ids") return SourceTensor{ids_, DType::kI32, {2}};
    return SourceTensor{halves_, DType::kF16, {}};
  }
  absl::Status Write(const WriteProgress& progress = nullptr) {
    return WriteEngine(path_, contents_, [this](std::string_view name) { return Source(name); }, progress);
  }
  std::string Bytes() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Overwrite(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<int64_t>(bytes.size()));
  }
  // Opens the file and verifies every weight, as loading it does.
  absl::Status OpenAndVerify() const {
    const auto file = EngineFile::Open(path_);
    if (!file.ok()) return file.status();
    for (const auto& [name, weight] : (*file)->weights()) {
      if (auto status = (*file)->Verify(weight); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename());
    return names;
  }

  EngineContents contents_;
  std::vector<float> floats_;
  const uint16_t halves_[1] = {0x3c00};
  const int32_t ids_[2] = {7, -1};
  fs::path folder_, path_;
};

TEST_F(EngineFileTest, RoundTrip) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const auto opened = EngineFile::Open(path_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const EngineFile& file = **opened;
  EXPECT_EQ(file.producer(), "flashflow test");
  EXPECT_EQ(file.section("ff.graph"), "ffir 1\n");
  EXPECT_EQ(file.section("ff.tokenizer"), std::string(5000, 't'));
  EXPECT_EQ(file.section("ff.config"), std::nullopt);
  ASSERT_EQ(file.weights().size(), 4);
  for (const auto& [name, weight] : file.weights()) {
    EXPECT_EQ(file.Verify(weight), absl::OkStatus()) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weight.bytes.data()) % kTensorAlignment, 0) << name;
  }
  const EngineWeight& plain = **file.weight("plain");
  EXPECT_EQ(plain.dtype, DType::kF32);
  EXPECT_THAT(plain.shape, ElementsAre(60, 100));
  ASSERT_EQ(plain.bytes.size(), 24000);
  EXPECT_EQ(std::memcmp(plain.bytes.data(), floats_.data(), 24000), 0);
  const EngineWeight& narrow = **file.weight("narrow");
  EXPECT_EQ(narrow.dtype, DType::kBF16);
  uint16_t first = 0;
  std::memcpy(&first, narrow.bytes.data(), 2);
  EXPECT_EQ(first, 0xc396);  // -299.875 -> -300
  const EngineWeight& scalar = **file.weight("layers.0.\xce\xb1");
  EXPECT_EQ(scalar.bytes, std::string_view("\0\0\x80\x3f", 4));
  EXPECT_TRUE(scalar.shape.empty());
  EXPECT_EQ(file.weight("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Files(), ElementsAre("model.ff"));
}

TEST_F(EngineFileTest, AReleasedWeightIsReadAgainFromTheFile) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const auto file = EngineFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  const EngineWeight* weight = (*file)->weight("plain").value();
  ASSERT_EQ((*file)->Verify(*weight), absl::OkStatus());
  const auto resident_bytes = [] {  // of files, as Linux counts them for this process
    std::ifstream status("/proc/self/smaps_rollup");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("Rss:")) return std::stoll(line.substr(4)) << 10;
    }
    return 0ll;
  };
  resident_bytes();  // what asking takes is there from now on
  const int64_t before = resident_bytes();
  (*file)->Release(*weight);
  EXPECT_LT(resident_bytes(), before) << "24,000 bytes have whole pages";
  EXPECT_EQ((*file)->Verify(*weight), absl::OkStatus());
  (*file)->Release(*(*file)->weight("ids").value());  // less than a page
  EXPECT_EQ((*file)->Verify(*(*file)->weight("narrow").value()), absl::OkStatus());
}

TEST_F(EngineFileTest, SameContentsMakeTheSameBytes) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const std::string first = Bytes();
  ASSERT_EQ(Write(), absl::OkStatus());
  EXPECT_EQ(first, Bytes());
}

// The header has a checksum, sections a hash, pads are zero, weights a checksum: no flipped bit goes unseen.
TEST_F(EngineFileTest, EveryFlippedByteIsFound) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const std::string good = Bytes();
  const size_t header_end = good.find("}}}") + 64;
  std::map<absl::StatusCode, int> seen;
  for (size_t i = 0; i < good.size(); i += i < header_end ? 1 : 37) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    Overwrite(bad);
    const absl::Status status = OpenAndVerify();
    ASSERT_FALSE(status.ok()) << "byte " << i;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.ff")) << i;
    ++seen[status.code()];
  }
  EXPECT_GT(seen[absl::StatusCode::kDataLoss], 0);
}

TEST_F(EngineFileTest, EveryTruncationIsFound) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const std::string good = Bytes();
  for (size_t size = 0; size < good.size(); size += size < 300 ? 1 : 101) {
    Overwrite(std::string_view(good).substr(0, size));
    EXPECT_EQ(OpenAndVerify().code(), absl::StatusCode::kDataLoss) << size;
  }
  Overwrite(good + '\0');
  EXPECT_EQ(OpenAndVerify().code(), absl::StatusCode::kDataLoss);
}

TEST_F(EngineFileTest, DamageNamesSectionAndWeight) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const std::string good = Bytes();
  std::string bad = good;
  bad[good.find("ffir 1\n")] ^= 1;
  Overwrite(bad);
  EXPECT_THAT(std::string(OpenAndVerify().message()), HasSubstr("section \"ff.graph\" is damaged"));
  bad = good;
  bad[good.size() - 1] ^= 1;
  Overwrite(bad);
  EXPECT_TRUE(EngineFile::Open(path_).ok());
  EXPECT_THAT(std::string(OpenAndVerify().message()), HasSubstr("weight \"ids\" is damaged"));
}

TEST_F(EngineFileTest, OtherFilesAreRefusedByWhatTheyAre) {
  EXPECT_EQ(OpenAndVerify().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(EngineFile::Open(folder_).status().code(), absl::StatusCode::kInvalidArgument);
  Overwrite(std::string("\2\0\0\0\0\0\0\0{}", 10));
  EXPECT_EQ(OpenAndVerify().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(OpenAndVerify().message()), HasSubstr("no FlashFlow engine"));
  const std::string json = R"({"__metadata__":{"format":"flashflow.engine","version":"2"}})";
  Overwrite(absl::StrCat(std::string(1, static_cast<char>(json.size())), std::string(7, '\0'), json));
  EXPECT_EQ(OpenAndVerify().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(OpenAndVerify().message()), HasSubstr("version \"2\""));
}

TEST_F(EngineFileTest, WriterRefusesWhatDoesNotFit) {
  const auto error = [&] {
    const absl::Status status = Write();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(Files().empty());
    return std::string(status.message());
  };
  const EngineContents good = contents_;
  contents_.weights[0].shape = {100, 60};
  EXPECT_THAT(error(), HasSubstr("\"plain\" has the shape [60, 100] but the model declares [100, 60]"));
  contents_ = good;
  contents_.weights[3].dtype = DType::kF32;
  EXPECT_THAT(error(), HasSubstr("\"ids\" has the dtype i32"));
  contents_ = good;
  contents_.weights[1].name = "plain";
  EXPECT_THAT(error(), HasSubstr("\"plain\" comes twice"));
  for (const char* name : {"", "ff.x", "__metadata__", "a\"b", "a\nb", "\xff"}) {
    contents_ = good;
    contents_.weights[1].name = name;
    EXPECT_THAT(error(), HasSubstr("name")) << name;
  }
  contents_ = good;
  contents_.sections[0].name = "ff.pad.0";
  EXPECT_THAT(error(), HasSubstr("must be named ff.*"));
  contents_ = good;
  contents_.weights[0].shape = {int64_t{1} << 40, int64_t{1} << 40};
  EXPECT_THAT(error(), HasSubstr("impossible shape"));
}

TEST_F(EngineFileTest, AFailureKeepsTheOldFile) {
  ASSERT_EQ(Write(), absl::OkStatus());
  const std::string good = Bytes();
  std::vector<int64_t> done;
  EXPECT_EQ(Write([&](int64_t bytes, int64_t total) {
              done.push_back(bytes);
              EXPECT_EQ(total, static_cast<int64_t>(good.size()));
              return done.size() == 3 ? absl::CancelledError("enough") : absl::OkStatus();
            }),
            absl::CancelledError("enough"));
  EXPECT_EQ(done.size(), 3);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(Bytes(), good);
  EXPECT_THAT(Files(), ElementsAre("model.ff"));
  EXPECT_EQ(WriteEngine(path_, contents_, [](std::string_view) { return absl::NotFoundError("no such weight"); }),
            absl::NotFoundError("no such weight"));
  EXPECT_EQ(Bytes(), good);
}

TEST_F(EngineFileTest, AFullDiskIsAnErrorThatLeavesNothing) {
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {20000, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status = Write();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(Files().empty());
}

TEST_F(EngineFileTest, AFolderThatIsNotThereIsNotFound) {
  path_ = folder_ / "absent" / "model.ff";
  EXPECT_EQ(Write().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace flashflow::engine
