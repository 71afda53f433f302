#include "runtime/core/tuning_database.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TuningKey Key(const std::string& shape) { return {"cpu.linear.panel16", 1, "bf16", shape, "C, 2 threads"}; }
TuningRecord Record(double us) {
  return {.config = {{"block_k", 384}, {"tile_rows", 4}},
          .us = us,
          .default_us = 12.5,
          .floor_us = 9,
          .samples = 9,
          .source = "measured"};
}
TuningDatabase One(const std::string& shape, double us) {
  TuningDatabase database;
  database.Put(Key(shape), Record(us));
  return database;
}

std::string FreshPath(const std::string& name) {
  const fs::path folder = fs::path(testing::TempDir()) / name;
  fs::remove_all(folder);
  return (folder / "deep" / "tuning.json").string();
}
std::string Read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}
void Write(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(TuningDatabaseTest, RoundTripsAsAnEntryALine) {
  TuningDatabase database = One("m=1,n=2,k=3", 10.25);
  TuningKey other = Key("m=1,n=2,k=3");
  other.device = "another \"device\"";
  database.Put(other, Record(7));
  const std::string json = database.ToJson();
  EXPECT_EQ(std::ranges::count(json, '\n'), 4);
  EXPECT_THAT(json, HasSubstr(R"({"kernel":"cpu.linear.panel16","kernel_version":1,"dtype":"bf16",)"
                              R"("shape":"m=1,n=2,k=3","device":"C, 2 threads","config":{"block_k":384,"tile_rows":4},)"
                              R"("us":10.25,"default_us":12.5,"floor_us":9.0,"samples":9,"source":"measured"})"));
  std::vector<std::string> warnings;
  const auto again = TuningDatabase::Parse(json, "f", &warnings);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(warnings, IsEmpty());
  EXPECT_EQ(again->entries(), database.entries());
  EXPECT_EQ(again->ToJson(), json);
  EXPECT_EQ(*again->Find(Key("m=1,n=2,k=3")), Record(10.25));
  EXPECT_EQ(again->Find(Key("m=2,n=2,k=3")), nullptr);
  EXPECT_THAT(TuningDatabase::Parse(TuningDatabase().ToJson(), "f", &warnings)->entries(), IsEmpty());
}

TEST(TuningDatabaseTest, KeysAreOfTheProblem) {
  const kernels::TacticSpec& spec = *kernels::FindTacticSpec("cpu.linear.panel16", 1);
  const TuningKey key = KeyOf(spec, *kernels::ParseProblem("linear/bf16/m=7,n=48,k=16"), "C, 2 threads");
  EXPECT_EQ(key, Key("m=5..8,n=48,k=16"));
}

// Each damage costs its entry alone, and the warning says which and why.
TEST(TuningDatabaseTest, DamagedEntriesAreLeftOut) {
  TuningDatabase three = One("m=1", 1);
  three.Put(Key("m=2"), Record(2));
  three.Put(Key("m=3"), Record(3));
  const auto damage = [&](const std::string& from, const std::string& to) {
    std::string json = three.ToJson();
    const size_t line = json.find("\"m=2\"");
    const size_t begin = json.rfind('\n', line) + 1;
    const size_t at = json.find(from, begin);
    EXPECT_LT(at, json.find('\n', begin)) << from;
    json.replace(at, from.size(), to);
    std::vector<std::string> warnings;
    const auto database = TuningDatabase::Parse(json, "/a/file", &warnings);
    if (!database.ok()) return std::string(database.status().message());
    EXPECT_EQ(database->entries().size(), 2u) << json;
    EXPECT_NE(database->Find(Key("m=1")), nullptr);
    EXPECT_NE(database->Find(Key("m=3")), nullptr);
    return warnings.size() == 1 ? warnings[0] : "no warning";
  };
  const std::string where = "/a/file: entry 1 is ignored: ";
  EXPECT_EQ(damage("\"kernel\"", "\"cernel\""), where + "it has no \"kernel\"");
  EXPECT_EQ(damage("\"cpu.linear.panel16\"", "7"), where + "\"kernel\" is not a text");
  EXPECT_EQ(damage("\"cpu.linear.panel16\"", "\"\""), where + "\"kernel\" is not 1 to 256 bytes of text");
  EXPECT_EQ(damage("cpu.linear.panel16", std::string(257, 'a')), where + "\"kernel\" is not 1 to 256 bytes of text");
  EXPECT_EQ(damage("\"kernel_version\":1", "\"kernel_version\":-1"),
            where + "\"kernel_version\" is not a whole number, 1 to 1048576");
  EXPECT_THAT(damage("\"kernel_version\":1", "\"kernel_version\":99999999999999999999"), HasSubstr("whole number"));
  EXPECT_THAT(damage("\"kernel_version\":1", "\"kernel_version\":0"), HasSubstr("whole number"));
  EXPECT_THAT(damage("\"kernel_version\":1", "\"kernel_version\":1.5"), HasSubstr("whole number"));
  EXPECT_EQ(damage("\"bf16\"", "\"bf17\""), where + "\"bf17\" is no dtype");
  EXPECT_EQ(damage("\"us\":2.0", "\"us\":-2.0"), where + "\"us\" is not a time, 0 or more");
  EXPECT_THAT(damage("\"us\":2.0", "\"us\":null"), HasSubstr("\"us\" is not a time"));
  EXPECT_EQ(damage("\"block_k\":384", "\"block_k\":-384"),
            where + "\"config\" is not an object of at most 64 whole numbers");
  EXPECT_THAT(damage("\"block_k\":384", "\"block_k\":1099511627776"), HasSubstr("\"config\""));
  EXPECT_THAT(damage("\"block_k\":384", "\"\":384"), HasSubstr("\"config\""));
  EXPECT_THAT(damage("{\"block_k\":384,\"tile_rows\":4}", "[]"), HasSubstr("\"config\""));
  EXPECT_EQ(damage("\"us\"", "\"also\":1,\"us\""), where + "it has keys that no entry has");
  EXPECT_EQ(damage("\"m=2\"", "\"m=1\""), where + "another has the same key");
  EXPECT_EQ(damage("\"samples\":9", "\"samples\":\"9\""),
            where + "\"samples\" is not a whole number, 0 to 1099511627776");
}

TEST(TuningDatabaseTest, OtherFilesAreRefused) {
  const auto parse = [](const std::string& text) {
    std::vector<std::string> warnings;
    return TuningDatabase::Parse(text, "/a/file", &warnings).status();
  };
  const std::string good = TuningDatabase().ToJson();
  EXPECT_TRUE(parse(good).ok());
  for (const std::string& text : {std::string(), std::string("[]"), std::string("{}"), good.substr(0, 20),
                                  absl::StrReplaceAll(good, {{"flashflow", "other"}}),
                                  absl::StrReplaceAll(good, {{"\"version\": 1", "\"version\": \"1\""}}),
                                  absl::StrReplaceAll(good, {{"[\n]", "{}"}}), std::string(100000, '[')}) {
    EXPECT_EQ(parse(text).code(), absl::StatusCode::kDataLoss) << text.substr(0, 100);
    EXPECT_THAT(std::string(parse(text).message()), HasSubstr("/a/file"));
  }
  const absl::Status newer = parse(absl::StrReplaceAll(good, {{"\"version\": 1", "\"version\": 2"}}));
  EXPECT_EQ(newer.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(newer.message()), HasSubstr("of version 2 of the format; this FlashFlow knows 1"));
  EXPECT_EQ(parse(good + std::string(kMaxTuningFileBytes, ' ')).code(), absl::StatusCode::kDataLoss);
  std::string many = "0";
  for (size_t i = 0; i < kMaxTuningEntries; ++i) absl::StrAppend(&many, ",0");
  EXPECT_THAT(std::string(parse(absl::StrReplaceAll(good, {{"[\n]", absl::StrCat("[", many, "]")}})).message()),
              HasSubstr("has 16385 entries"));
}

TEST(TuningDatabaseTest, MergingReplacesItsOwnAndLeavesTheRest) {
  const std::string path = FreshPath("merge");
  EXPECT_THAT(TuningDatabase::Load(path).entries(), IsEmpty());
  TuningDatabase first = One("m=1", 1);
  first.Put(Key("m=2"), Record(2));
  ASSERT_TRUE(TuningDatabase::Merge(path, first).ok());
  TuningDatabase second = One("m=2", 20);
  second.Put(Key("m=3"), Record(3));
  // A kernel that this version does not know stays too: another one may.
  TuningKey foreign = Key("m=1");
  foreign.kernel = "cpu.of_the_future";
  second.Put(foreign, Record(4));
  ASSERT_TRUE(TuningDatabase::Merge(path, second).ok());
  const TuningDatabase merged = TuningDatabase::Load(path);
  EXPECT_EQ(merged.entries().size(), 4u);
  EXPECT_EQ(merged.Find(Key("m=1"))->us, 1);
  EXPECT_EQ(merged.Find(Key("m=2"))->us, 20);
  EXPECT_EQ(merged.Find(Key("m=3"))->us, 3);
  EXPECT_EQ(merged.Find(foreign)->us, 4);
  // No part of a write is left behind.
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(fs::path(path).parent_path())) {
    files.push_back(entry.path().filename().string());
  }
  EXPECT_THAT(files, testing::UnorderedElementsAre("tuning.json", "tuning.json.lock"));
}

TEST(TuningDatabaseTest, ADamagedFileIsKeptBesideTheNewOne) {
  const std::string path = FreshPath("damaged");
  Write(path, "half a fi");
  EXPECT_THAT(TuningDatabase::Load(path).entries(), IsEmpty());
  ASSERT_TRUE(TuningDatabase::Merge(path, One("m=1", 1)).ok());
  EXPECT_EQ(Read(path + ".damaged"), "half a fi");
  EXPECT_EQ(TuningDatabase::Load(path).entries().size(), 1u);
  // One damaged entry costs no other, and is kept too.
  const std::string one_bad = absl::StrReplaceAll(One("m=2", 2).ToJson(), {{"[\n", "[\n{},\n"}});
  Write(path, one_bad);
  ASSERT_TRUE(TuningDatabase::Merge(path, One("m=1", 1)).ok());
  EXPECT_EQ(Read(path + ".damaged"), one_bad);
  EXPECT_EQ(TuningDatabase::Load(path).entries().size(), 2u);
  // Another version's is not touched.
  const std::string newer = absl::StrReplaceAll(one_bad, {{"\"version\": 1", "\"version\": 2"}});
  Write(path, newer);
  EXPECT_EQ(TuningDatabase::Merge(path, One("m=1", 1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Read(path), newer);
  EXPECT_THAT(TuningDatabase::Load(path).entries(), IsEmpty());
}

TEST(TuningDatabaseTest, SizesAreLimited) {
  const std::string path = FreshPath("limits");
  TuningDatabase most;
  for (size_t i = 0; i < kMaxTuningEntries; ++i) {
    most.Put(Key(absl::StrCat(i)), TuningRecord{.config = {}, .source = "model"});
  }
  ASSERT_LT(most.ToJson().size(), kMaxTuningFileBytes);
  ASSERT_TRUE(TuningDatabase::Merge(path, most).ok());
  const absl::Status full = TuningDatabase::Merge(path, One("m=1", 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("would have 16385 entries"));
  TuningDatabase wide;
  for (int i = 0; i < 15000; ++i) {
    TuningRecord record = Record(1);
    record.source = std::string(kMaxTuningTextBytes, 's');
    wide.Put(Key(absl::StrCat(std::string(200, 'x'), i)), record);
  }
  EXPECT_EQ(TuningDatabase::Merge(FreshPath("wide"), wide).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TuningDatabase::Load(path).entries().size(), kMaxTuningEntries);
}

TEST(TuningDatabaseTest, AFolderThatCannotBeWrittenIsAnError) {
  const std::string path = FreshPath("file");
  Write(path, "a file");
  const absl::Status status = TuningDatabase::Merge(path + "/tuning.json", One("m=1", 1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("tuning.json.lock"));
}

// Two processes that tune at once: no entry of either is lost.
TEST(TuningDatabaseTest, TwoProcessesLoseNothing) {
  const std::string path = FreshPath("processes");
  constexpr int kEach = 60;
  int start[2];
  ASSERT_EQ(pipe(start), 0);
  std::vector<pid_t> children;
  for (int child = 0; child < 2; ++child) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      char byte;
      close(start[1]);
      if (read(start[0], &byte, 1) != 0) _exit(2);  // until both are there
      for (int i = 0; i < kEach; ++i) {
        if (!TuningDatabase::Merge(path, One(absl::StrCat(child, "/", i), i + 1)).ok()) _exit(1);
      }
      _exit(0);
    }
    children.push_back(pid);
  }
  close(start[0]);
  close(start[1]);
  for (pid_t pid : children) {
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  const TuningDatabase merged = TuningDatabase::Load(path);
  EXPECT_EQ(merged.entries().size(), 2u * kEach);
  for (int child = 0; child < 2; ++child) {
    for (int i = 0; i < kEach; ++i) {
      const TuningRecord* record = merged.Find(Key(absl::StrCat(child, "/", i)));
      ASSERT_NE(record, nullptr) << child << "/" << i;
      EXPECT_EQ(record->us, i + 1);
    }
  }
}

}  // namespace
}  // namespace flashflow::runtime
