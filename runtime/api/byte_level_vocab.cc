#include "runtime/api/byte_level_vocab.h"

#include <array>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace flashflow::runtime {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxTokens = 1 << 24;
constexpr size_t kFirstSubstitute = 256;  // bytes that print nothing are written as the code points from here on

bool WrittenAsItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

// The byte that each code point of a vocabulary stands for, as GPT-2's encoder defined it.
std::array<std::optional<unsigned char>, 2 * kFirstSubstitute> ByteOfCodePoint() {
  std::array<std::optional<unsigned char>, 2 * kFirstSubstitute> table;
  size_t substitute = kFirstSubstitute;
  for (int byte = 0; byte < 256; ++byte) {
    table[WrittenAsItself(byte) ? static_cast<size_t>(byte) : substitute++] = static_cast<unsigned char>(byte);
  }
  return table;
}

std::string BytesOf(std::string_view token) {
  static const auto table = ByteOfCodePoint();
  std::string bytes;
  for (size_t i = 0; i < token.size(); ++i) {
    size_t code = static_cast<unsigned char>(token[i]);
    const bool two_bytes = (code & 0xe0) == 0xc0 && i + 1 < token.size();  // as all of the table beyond ASCII
    if (two_bytes) code = (code & 0x1f) << 6 | (static_cast<unsigned char>(token[i + 1]) & 0x3f);
    if ((two_bytes || code < 0x80) && code < table.size() && table[code]) {
      bytes.push_back(static_cast<char>(*table[code]));
      i += two_bytes ? 1 : 0;
    } else {
      bytes.push_back(token[i]);  // no code point of the table: as it stands
    }
  }
  return bytes;
}

// The member `key` of an object, null if it is absent or `value` is no object.
const json& Member(const json& value, const char* key) {
  static const json null;
  if (!value.is_object()) return null;
  const auto it = value.find(key);
  return it == value.end() ? null : *it;
}

bool HasByteLevelDecoder(const json& decoder) {
  if (Member(decoder, "type") == "ByteLevel") return true;
  for (const json& one : Member(decoder, "decoders")) {
    if (Member(one, "type") == "ByteLevel") return true;
  }
  return false;
}

absl::Status Damaged(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what));
}

}  // namespace

absl::StatusOr<ByteLevelVocab> ByteLevelVocab::Parse(std::string_view tokenizer_json) {
  const json root = json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  const json& model = Member(root, "model");
  if (!model.is_object()) return Damaged("it is no JSON object with a model");
  if (Member(model, "type") != "BPE" || !HasByteLevelDecoder(Member(root, "decoder"))) {
    return absl::UnimplementedError("the tokenizer is not byte-level BPE");
  }
  ByteLevelVocab vocab;
  const auto put = [&](const json& id, std::string bytes) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokens) return false;
    const auto index = id.get<size_t>();
    if (index >= vocab.bytes_.size()) vocab.bytes_.resize(index + 1);
    vocab.bytes_[index] = std::move(bytes);
    return true;
  };
  const json& tokens = Member(model, "vocab");
  if (!tokens.is_object()) return Damaged("its model has no vocab");
  for (const auto& [token, id] : tokens.items()) {
    if (!put(id, BytesOf(token))) return Damaged("its vocab has an id that is none");
  }
  const json& added = Member(root, "added_tokens");
  if (!added.is_null() && !added.is_array()) return Damaged("its added_tokens are no list");
  for (const json& token : added) {
    const json& content = Member(token, "content");
    if (!content.is_string() ||
        !put(Member(token, "id"), Member(token, "special") == true ? "" : content.get<std::string>())) {
      return Damaged("its added_tokens hold something that is no token");
    }
  }
  return vocab;
}

std::string ByteLevelVocab::Decode(absl::Span<const int32_t> ids) const {
  std::string text;
  for (int32_t id : ids) {
    if (id >= 0 && static_cast<size_t>(id) < bytes_.size()) text += bytes_[static_cast<size_t>(id)];
  }
  return text;
}

}  // namespace flashflow::runtime
