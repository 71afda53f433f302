// A SAX handler that refuses everything: readers of small fixed JSON forms override what they expect.
#ifndef RUNTIME_ENGINE_STRICT_SAX_H_
#define RUNTIME_ENGINE_STRICT_SAX_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace flashflow::engine {

// Reads a text without building a document: memory is bounded by what the subclass keeps, whatever the text holds.
class StrictSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  // Whether `text` is one JSON value that the handler took; otherwise error() says why not.
  bool Parse(std::string_view text) { return nlohmann::json::sax_parse(text.begin(), text.end(), this); }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { return Unexpected("a number"); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a fraction"); }
  bool string(string_t&) override { return Unexpected("a string"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool start_object(std::size_t) override { return Unexpected("an object"); }
  bool key(string_t&) override { return Unexpected("a key"); }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return Unexpected("an array"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Refuse(absl::StrCat("is not JSON at byte ", position));
  }

 protected:
  bool Refuse(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  virtual std::string Where() const { return ""; }  // "tensor \"a\" ", for messages
  bool Unexpected(std::string_view what) { return Refuse(absl::StrCat(Where(), "has ", what, " where none belongs")); }

 private:
  std::string error_;
};

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_STRICT_SAX_H_
