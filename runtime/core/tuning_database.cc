#include "runtime/core/tuning_database.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"

namespace flashflow::runtime {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kFormat = "flashflow tuning";
constexpr size_t kMostWarnings = 20;

// One entry, read key by key; what is wrong first is kept.
class EntryReader {
 public:
  explicit EntryReader(const json& entry) : entry_(entry) {
    if (!entry.is_object()) error_ = "it is no object";
  }

  std::string Text(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) return Wrong(key, "a text");
    auto text = value->get<std::string>();
    if (text.empty() || text.size() > kMaxTuningTextBytes) return Wrong(key, "1 to 256 bytes of text");
    return text;
  }
  int64_t Whole(const char* key, int64_t least, int64_t most) {
    const json* value = Find(key);
    if (value == nullptr) return least;
    // `least` and `most` are not negative.
    if (!value->is_number_unsigned() || value->get<uint64_t>() > static_cast<uint64_t>(most) ||
        value->get<int64_t>() < least) {
      Wrong(key, absl::StrCat("a whole number, ", least, " to ", most));
      return least;
    }
    return value->get<int64_t>();
  }
  double Time(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return 0;
    const double number = value->is_number() ? value->get<double>() : -1;
    if (std::isfinite(number) && number >= 0) return number;
    Wrong(key, "a time, 0 or more");
    return 0;
  }
  std::map<std::string, int64_t> Config(const char* key) {
    std::map<std::string, int64_t> config;
    const json* value = Find(key);
    if (value == nullptr) return config;
    bool valid = value->is_object() && value->size() <= 64;
    if (valid) {
      for (const auto& [name, number] : value->items()) {
        valid = valid && !name.empty() && name.size() <= kMaxTuningTextBytes && number.is_number_unsigned() &&
                number.get<uint64_t>() < (uint64_t{1} << 40);
        if (valid) config[name] = number.get<int64_t>();
      }
    }
    if (!valid) Wrong(key, "an object of at most 64 whole numbers");
    return config;
  }
  // After all keys: "" or what is wrong.
  std::string Error() {
    if (error_.empty() && found_ != entry_.size()) error_ = "it has keys that no entry has";
    return error_;
  }

 private:
  const json* Find(const char* key) {
    if (!error_.empty()) return nullptr;
    const auto it = entry_.find(key);
    if (it == entry_.end()) {
      error_ = absl::StrCat("it has no \"", key, "\"");
      return nullptr;
    }
    ++found_;
    return &*it;
  }
  std::string Wrong(std::string_view key, std::string_view wanted) {
    if (error_.empty()) error_ = absl::StrCat("\"", key, "\" is not ", wanted);
    return "";
  }

  const json& entry_;
  size_t found_ = 0;
  std::string error_;
};

// "" if the entry was read.
std::string ReadEntry(const json& entry, TuningKey* key, TuningRecord* record) {
  EntryReader reader(entry);
  key->kernel = reader.Text("kernel");
  key->kernel_version = static_cast<int32_t>(reader.Whole("kernel_version", 1, 1 << 20));
  key->dtype = reader.Text("dtype");
  key->shape = reader.Text("shape");
  key->device = reader.Text("device");
  record->config = reader.Config("config");
  record->us = reader.Time("us");
  record->default_us = reader.Time("default_us");
  record->floor_us = reader.Time("floor_us");
  record->samples = reader.Whole("samples", 0, int64_t{1} << 40);
  record->source = reader.Text("source");
  std::string error = reader.Error();
  if (error.empty() && !ParseDType(key->dtype)) error = absl::StrCat("\"", key->dtype, "\" is no dtype");
  return error;
}

// Holds the lock until it dies.
class FileLock {
 public:
  static absl::StatusOr<FileLock> Take(const std::string& path) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
    FileLock lock(file);
    while (flock(file, LOCK_EX) != 0) {
      if (errno != EINTR) {
        return absl::UnavailableError(absl::StrCat("cannot lock ", path, ": ", std::strerror(errno)));
      }
    }
    return lock;
  }
  FileLock(FileLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock() {
    if (file_ >= 0) close(file_);
  }

 private:
  explicit FileLock(int file) : file_(file) {}
  int file_;
};

// nullopt: there is no such file.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxTuningFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.eof() && file.fail()) return absl::UnavailableError(absl::StrCat("cannot read ", path));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

void LogWarnings(const std::vector<std::string>& warnings) {
  for (size_t i = 0; i < warnings.size() && i < kMostWarnings; ++i) LOG(WARNING) << warnings[i];
  if (warnings.size() > kMostWarnings) LOG(WARNING) << "and " << warnings.size() - kMostWarnings << " more like these";
}

absl::Status WriteAtomically(const std::string& path, const std::string& text) {
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  if (std::ofstream file(part, std::ios::binary); !file || !(file << text) || !file.flush()) {
    std::remove(part.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write ", part));
  }
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(part.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", reason));
  }
  return absl::OkStatus();
}

}  // namespace

TuningKey KeyOf(const kernels::TacticSpec& spec, const kernels::Problem& problem, std::string_view device) {
  return {.kernel = std::string(spec.kernel),
          .kernel_version = spec.version,
          .dtype = std::string(DTypeName(problem.dtype)),
          .shape = kernels::ShapeBucket(problem),
          .device = std::string(device)};
}

absl::StatusOr<TuningDatabase> TuningDatabase::Parse(std::string_view text, std::string_view origin,
                                                     std::vector<std::string>* warnings) {
  if (text.size() > kMaxTuningFileBytes) {
    return absl::DataLossError(absl::StrCat(origin, " is larger than ", kMaxTuningFileBytes, " bytes"));
  }
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto find = [&](const char* key) -> const json* {
    if (!document.is_object()) return nullptr;
    const auto it = document.find(key);
    return it == document.end() ? nullptr : &*it;
  };
  const json *format = find("format"), *version = find("version"), *entries = find("entries");
  if (format == nullptr || *format != kFormat || version == nullptr || !version->is_number_unsigned()) {
    return absl::DataLossError(absl::StrCat(origin, " is no tuning database, or a damaged one"));
  }
  if (*version != kTuningFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(origin, " is of version ", version->dump(),
                                                      " of the format; this FlashFlow knows ", kTuningFormatVersion));
  }
  if (entries == nullptr || !entries->is_array()) {
    return absl::DataLossError(absl::StrCat(origin, " has no \"entries\""));
  }
  if (entries->size() > kMaxTuningEntries) {
    return absl::DataLossError(absl::StrCat(origin, " has ", entries->size(), " entries; at most ", kMaxTuningEntries));
  }
  TuningDatabase database;
  for (size_t i = 0; i < entries->size(); ++i) {
    TuningKey key;
    TuningRecord record;
    if (const std::string error = ReadEntry((*entries)[i], &key, &record); !error.empty()) {
      warnings->push_back(absl::StrCat(origin, ": entry ", i, " is ignored: ", error));
    } else if (!database.entries_.try_emplace(std::move(key), std::move(record)).second) {
      warnings->push_back(absl::StrCat(origin, ": entry ", i, " is ignored: another has the same key"));
    }
  }
  return database;
}

TuningDatabase TuningDatabase::Load(const std::string& path) {
  std::vector<std::string> warnings;
  const absl::StatusOr<std::optional<std::string>> text = ReadFile(path);
  absl::StatusOr<TuningDatabase> database =
      !text.ok()
          ? text.status()
          : (text->has_value() ? Parse(**text, path, &warnings) : absl::StatusOr<TuningDatabase>(TuningDatabase()));
  LogWarnings(warnings);
  if (database.ok()) return *std::move(database);
  LOG(WARNING) << "tuning is not used: " << database.status().message();
  return {};
}

absl::Status TuningDatabase::Merge(const std::string& path, const TuningDatabase& added) {
  std::error_code ignored;
  if (const fs::path folder = fs::path(path).parent_path(); !folder.empty()) fs::create_directories(folder, ignored);
  FF_ASSIGN_OR_RETURN(const FileLock lock, FileLock::Take(absl::StrCat(path, ".lock")));
  FF_ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadFile(path));
  TuningDatabase merged;
  if (text.has_value()) {
    std::vector<std::string> warnings;
    absl::StatusOr<TuningDatabase> stored = Parse(*text, path, &warnings);
    if (absl::IsFailedPrecondition(stored.status())) return stored.status();
    if (!stored.ok() || !warnings.empty()) {
      const std::string kept = absl::StrCat(path, ".damaged");
      FF_RETURN_IF_ERROR(WriteAtomically(kept, *text));
      LogWarnings(warnings);
      LOG(WARNING) << path << " is damaged; it is kept as " << kept;
    }
    if (stored.ok()) merged = *std::move(stored);
  }
  for (const auto& [key, record] : added.entries_) merged.entries_[key] = record;
  if (merged.entries_.size() > kMaxTuningEntries) {
    return absl::ResourceExhaustedError(absl::StrCat(path, " would have ", merged.entries_.size(), " entries; at most ",
                                                     kMaxTuningEntries, ": take another file"));
  }
  const std::string grown = merged.ToJson();
  if (grown.size() > kMaxTuningFileBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(path, " would have ", grown.size(), " bytes; at most ",
                                                     kMaxTuningFileBytes, ": take another file"));
  }
  return WriteAtomically(path, grown);
}

const TuningRecord* TuningDatabase::Find(const TuningKey& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : &it->second;
}

std::string TuningDatabase::ToJson() const {
  std::string text =
      absl::StrCat("{\"format\": \"", kFormat, "\", \"version\": ", kTuningFormatVersion, ", \"entries\": [");
  std::string_view separator = "\n";
  for (const auto& [key, record] : entries_) {
    const nlohmann::ordered_json entry = {{"kernel", key.kernel},
                                          {"kernel_version", key.kernel_version},
                                          {"dtype", key.dtype},
                                          {"shape", key.shape},
                                          {"device", key.device},
                                          {"config", record.config},
                                          {"us", record.us},
                                          {"default_us", record.default_us},
                                          {"floor_us", record.floor_us},
                                          {"samples", record.samples},
                                          {"source", record.source}};
    absl::StrAppend(&text, separator, entry.dump(-1, ' ', false, json::error_handler_t::replace));
    separator = ",\n";
  }
  return absl::StrCat(text, "\n]}\n");
}

}  // namespace flashflow::runtime
