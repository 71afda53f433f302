#include "runtime/engine/engine_writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/crc/crc32c.h"
#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "compiler/plan/sha256.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/convert.h"
#include "runtime/engine/engine_format.h"
#include "runtime/engine/safetensors_header.h"

namespace flashflow::engine {
namespace {

constexpr int64_t kChunkBytes = int64_t{4} << 20;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kLengthBytes = 8;  // the header's length in front of it

int64_t AlignUp(int64_t value) { return (value + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

absl::Status CheckName(std::string_view name, absl::flat_hash_set<std::string_view>& seen) {
  const bool plain = std::none_of(name.begin(), name.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; });
  if (name.empty() || name.size() > kMaxNameBytes || !plain ||
      !nlohmann::json::accept(absl::StrCat("\"", name, "\""))) {
    return absl::InvalidArgumentError(absl::StrCat("the name ", QuotedName(name),
                                                   " cannot be stored: it must be UTF-8 of 1 to ", kMaxNameBytes,
                                                   " bytes without quotes, backslashes and control characters"));
  }
  if (!seen.insert(name).second) return absl::InvalidArgumentError(absl::StrCat(QuotedName(name), " comes twice"));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> WeightBytes(const WeightSpec& spec) {
  int64_t bytes = DTypeBytes(spec.dtype);
  for (int64_t dim : spec.shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("weight ", QuotedName(spec.name), " has the impossible shape [",
                                                     absl::StrJoin(spec.shape, ", "), "]"));
    }
  }
  if (spec.shape.size() > kMaxTensorRank) {
    return absl::InvalidArgumentError(absl::StrCat("weight ", QuotedName(spec.name), " has ", spec.shape.size(),
                                                   " dimensions; at most ", kMaxTensorRank, " can be stored"));
  }
  return bytes;
}

// One tensor of the file in its place: a section, a weight or, with neither, padding.
struct Slot {
  const EngineSection* section = nullptr;
  const WeightSpec* weight = nullptr;
  int64_t begin = 0, end = 0;  // relative to the first tensor
};

absl::StatusOr<std::vector<Slot>> Layout(const EngineContents& contents) {
  std::vector<Slot> slots;
  absl::flat_hash_set<std::string_view> names;
  int64_t end = 0;
  const auto place = [&](const EngineSection* section, const WeightSpec* weight, int64_t bytes) -> absl::Status {
    if (const int64_t start = AlignUp(end); start != end) {
      slots.push_back({nullptr, nullptr, end, start});
      end = start;
    }
    if (bytes > std::numeric_limits<int64_t>::max() / 2 - end) {
      return absl::InvalidArgumentError("the weights together are larger than any file");
    }
    slots.push_back({section, weight, end, end + bytes});
    end += bytes;
    return absl::OkStatus();
  };
  for (const EngineSection& section : contents.sections) {
    if (auto status = CheckName(section.name, names); !status.ok()) return status;
    if (!absl::StartsWith(section.name, kSectionPrefix) || absl::StartsWith(section.name, kPadPrefix)) {
      return absl::InvalidArgumentError(absl::StrCat("section ", QuotedName(section.name), " must be named ff.*"));
    }
    if (auto status = place(&section, nullptr, static_cast<int64_t>(section.bytes.size())); !status.ok()) return status;
  }
  for (const WeightSpec& weight : contents.weights) {
    if (auto status = CheckName(weight.name, names); !status.ok()) return status;
    if (absl::StartsWith(weight.name, kSectionPrefix) || weight.name == "__metadata__") {
      return absl::InvalidArgumentError(absl::StrCat("weight ", QuotedName(weight.name), " has a reserved name"));
    }
    const absl::StatusOr<int64_t> bytes = WeightBytes(weight);
    if (!bytes.ok()) return bytes.status();
    if (auto status = place(nullptr, &weight, *bytes); !status.ok()) return status;
  }
  return slots;
}

// The length, the JSON and its padding. The size does not depend on the values of the checksums.
std::string Header(const EngineContents& contents, const std::vector<Slot>& slots,
                   const std::vector<absl::crc32c_t>& weight_crcs) {
  using nlohmann::json;
  json sections = json::object(), weights = json::object(), header = json::object();
  size_t next_crc = 0;
  int pads = 0;
  for (const Slot& slot : slots) {
    std::string name;
    std::optional<DType> dtype;
    std::vector<int64_t> shape = {slot.end - slot.begin};
    if (slot.section != nullptr) {
      name = slot.section->name;
      sections[name] = {{"sha256", Sha256Hex(slot.section->bytes)}};
    } else if (slot.weight != nullptr) {
      name = slot.weight->name;
      dtype = slot.weight->dtype;
      shape = slot.weight->shape;
      weights[name] = absl::StrFormat("%08x", static_cast<uint32_t>(weight_crcs[next_crc++]));
    } else {
      name = absl::StrCat(kPadPrefix, pads++);
    }
    header[name] = {{"dtype", StoredDTypeName(dtype)}, {"shape", shape}, {"data_offsets", {slot.begin, slot.end}}};
  }
  header["__metadata__"] = {{"format", kFormatName},         {"version", kFormatVersion},
                            {"producer", contents.producer}, {"sections", sections.dump()},
                            {"weights", weights.dump()},     {"header_crc32c", std::string(kCrcDigits, '0')}};
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize(static_cast<size_t>(AlignUp(static_cast<int64_t>(kLengthBytes + text.size()))) - kLengthBytes, ' ');
  const size_t field = text.find(kHeaderCrcField);
  CHECK_NE(field, std::string::npos);
  text.replace(field + kHeaderCrcField.size(), kCrcDigits,
               absl::StrFormat("%08x", static_cast<uint32_t>(absl::ComputeCrc32c(text))));
  std::string prefix;
  for (size_t i = 0; i < kLengthBytes; ++i) prefix.push_back(static_cast<char>(uint64_t{text.size()} >> (8 * i)));
  return prefix + text;
}

// A new file that vanishes unless it is committed.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string target) : target_(std::move(target)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  absl::Status Create() {
    static std::atomic<int> counter = 0;
    std::string path = absl::StrCat(target_, ".tmp-", ::getpid(), "-", counter.fetch_add(1));
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) return Error("create", path);
    path_ = std::move(path);
    return absl::OkStatus();
  }

  // A clear error before minutes of writing, where the file system tells its free space.
  absl::Status CheckSpace(int64_t bytes) const {
    struct statvfs info;
    if (::fstatvfs(fd_, &info) != 0 || info.f_blocks == 0) return absl::OkStatus();
    const double free_bytes = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
    if (free_bytes >= static_cast<double>(bytes)) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s needs %.1f MiB but its disk has %.1f MiB free: free some or write it elsewhere", target_,
                        static_cast<double>(bytes) / (1 << 20), free_bytes / (1 << 20)));
  }

  absl::Status Write(std::string_view bytes, int64_t offset) {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return Error("write", target_);
      bytes.remove_prefix(static_cast<size_t>(written));
      offset += written;
    }
    return absl::OkStatus();
  }

  absl::Status Commit() {
    if (::fsync(fd_) != 0) return Error("sync", target_);
    if (::close(std::exchange(fd_, -1)) != 0) return Error("close", target_);
    if (::rename(path_.c_str(), target_.c_str()) != 0) return Error("rename the new file to", target_);
    path_.clear();
    // The rename is durable once its folder is; a file system that cannot sync a folder has nothing to lose here.
    const std::filesystem::path folder = std::filesystem::path(target_).parent_path();
    const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
      ::fsync(fd);
      ::close(fd);
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Error(std::string_view action, std::string_view path) {
    const int error = errno;
    std::string message = absl::StrCat("cannot ", action, " ", path, ": ", std::strerror(error));
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(std::move(message));
    return absl::ErrnoToStatus(error, absl::StrCat("cannot ", action, " ", path));
  }

  std::string target_;
  std::string path_;
  int fd_ = -1;
};

absl::Status CheckSource(const WeightSpec& spec, const SourceTensor& tensor) {
  if (tensor.shape != spec.shape) {
    return absl::InvalidArgumentError(absl::StrCat("weight ", QuotedName(spec.name), " has the shape [",
                                                   absl::StrJoin(tensor.shape, ", "), "] but the model declares [",
                                                   absl::StrJoin(spec.shape, ", "), "]"));
  }
  if (tensor.dtype != spec.dtype && !(IsFloat(tensor.dtype) && IsFloat(spec.dtype))) {
    return absl::InvalidArgumentError(absl::StrCat("weight ", QuotedName(spec.name), " has the dtype ",
                                                   DTypeName(tensor.dtype), ", which does not convert to ",
                                                   DTypeName(spec.dtype)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteEngine(const std::string& path, const EngineContents& contents, const WeightSource& source,
                         const WriteProgress& progress) {
  const absl::StatusOr<std::vector<Slot>> slots = Layout(contents);
  if (!slots.ok()) return slots.status();
  std::vector<absl::crc32c_t> crcs(contents.weights.size(), absl::crc32c_t{0});
  const auto data_start = static_cast<int64_t>(Header(contents, *slots, crcs).size());
  if (data_start > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the header would have ", data_start, " bytes; safetensors allows ", kMaxHeaderBytes));
  }
  const int64_t total = data_start + (slots->empty() ? 0 : slots->back().end);

  TemporaryFile file(path);
  if (auto status = file.Create(); !status.ok()) return status;
  if (auto status = file.CheckSpace(total); !status.ok()) return status;

  const auto write = [&](std::string_view bytes, int64_t offset) -> absl::Status {
    while (!bytes.empty()) {
      const std::string_view chunk = bytes.substr(0, kChunkBytes);
      if (auto status = file.Write(chunk, offset); !status.ok()) return status;
      offset += static_cast<int64_t>(chunk.size());
      bytes.remove_prefix(chunk.size());
      if (progress) {
        if (auto status = progress(offset, total); !status.ok()) return status;
      }
    }
    return absl::OkStatus();
  };

  std::vector<char> converted;
  size_t next_crc = 0;
  for (const Slot& slot : *slots) {
    int64_t offset = data_start + slot.begin;
    if (slot.section != nullptr) {
      if (auto status = write(slot.section->bytes, offset); !status.ok()) return status;
    } else if (slot.weight == nullptr) {
      const std::string zeros(static_cast<size_t>(slot.end - slot.begin), '\0');
      if (auto status = write(zeros, offset); !status.ok()) return status;
    } else {
      const WeightSpec& spec = *slot.weight;
      const absl::StatusOr<SourceTensor> tensor = source(spec.name);
      if (!tensor.ok()) return tensor.status();
      if (auto status = CheckSource(spec, *tensor); !status.ok()) return status;
      const int64_t src_bytes = DTypeBytes(tensor->dtype), dst_bytes = DTypeBytes(spec.dtype);
      const int64_t count = (slot.end - slot.begin) / dst_bytes, step = kChunkBytes / dst_bytes;
      absl::crc32c_t crc{0};
      for (int64_t i = 0; i < count; i += step) {
        const int64_t n = std::min(step, count - i);
        const char* bytes = static_cast<const char*>(tensor->data) + i * src_bytes;
        if (tensor->dtype != spec.dtype) {
          converted.resize(static_cast<size_t>(n * dst_bytes));
          ConvertFloats(bytes, tensor->dtype, converted.data(), spec.dtype, n);
          bytes = converted.data();
        }
        const std::string_view chunk(bytes, static_cast<size_t>(n * dst_bytes));
        crc = absl::ExtendCrc32c(crc, chunk);
        if (auto status = write(chunk, offset); !status.ok()) return status;
        offset += n * dst_bytes;
      }
      crcs[next_crc++] = crc;
    }
  }
  const std::string header = Header(contents, *slots, crcs);
  CHECK_EQ(static_cast<int64_t>(header.size()), data_start);
  if (auto status = file.Write(header, 0); !status.ok()) return status;
  return file.Commit();
}

}  // namespace flashflow::engine
