#include "compiler/ir/parser.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"

namespace flashflow::ir {
namespace {

constexpr size_t kMaxOutputs = 1024;

bool IsNameChar(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.'; }

// Recursive descent without a token stream: each rule reads from the cursor. The first error is kept in status_, and
// every rule after it is a no-op that returns an empty value, so that rules need no error plumbing.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::unique_ptr<Graph>> Run() {
    Expect("ffir");
    Expect("1");
    Expect("graph");
    Expect("@");
    graph_ = std::make_unique<Graph>(NameOrString());
    Expect("{");
    while (Ok() && !Take("}")) Statement();
    SkipSpace();
    if (Ok() && pos_ != text_.size()) Fail("the end of the text");
    if (!Ok()) return status_;
    Culprit culprit;
    if (const absl::Status s = Verify(*graph_, &culprit); !s.ok()) {
      auto place = places_.find(culprit.value);
      FailAt(culprit.output >= 0      ? output_places_[culprit.output]
             : place == places_.end() ? pos_
                                      : place->second,
             s.message());
      return status_;
    }
    return std::move(graph_);
  }

 private:
  // --- statements ---

  void Statement() {
    if (SkipSpace(); Peek() == '%') return NodeStatement();
    if (TakeWord("symbol")) return SymbolStatement();
    if (TakeWord("metadata")) return MetadataStatement();
    if (TakeWord("input")) return SourceStatement(ValueKind::kInput);
    if (TakeWord("weight")) return SourceStatement(ValueKind::kWeight);
    if (TakeWord("output")) return OutputStatement();
    Fail("a statement (symbol, metadata, input, weight, output, %name = ...) or '}'");
  }

  void SymbolStatement() {
    SkipSpace();
    const size_t start = pos_;
    const std::string name(Word());
    Expect("[");
    SymbolRange range;
    range.min = Int();
    Expect(",");
    range.max = Int();
    Expect("]");
    if (Ok()) Keep(graph_->DeclareSymbol(name, range), start);
  }

  void MetadataStatement() {
    SkipSpace();
    const size_t start = pos_;
    std::string name = NameOrString();
    Expect("=");
    Attr value = AttrValue();
    if (Ok() && !graph_->metadata().emplace(std::move(name), std::move(value)).second) {
      FailAt(start, "metadata exists twice");
    }
  }

  void SourceStatement(ValueKind kind) {
    SkipSpace();
    const size_t start = pos_;
    const std::string id = ValueName();
    std::string name = String();
    Expect(":");
    SkipSpace();
    const size_t type_start = pos_;
    Type type = ParseType();
    if (!Ok()) return;
    if (kind == ValueKind::kInput) {
      Define(id, graph_->AddInput(std::move(name), std::move(type)), start);
    } else if (type.is_tensor()) {
      Define(id, graph_->AddWeight(std::move(name), type.tensor()), start);
    } else {
      FailAt(type_start, "a weight is a tensor");
    }
  }

  void OutputStatement() {
    if (graph_->outputs().size() == kMaxOutputs) Fail(absl::StrCat("at most ", kMaxOutputs, " outputs"));
    SkipSpace();
    const size_t start = pos_;
    std::string name = String();
    Value* value = ValueRef();
    if (!Ok()) return;
    graph_->AddOutput(std::move(name), value);
    output_places_.push_back(start);
  }

  void NodeStatement() {
    const size_t start = pos_;
    std::vector<std::string> ids;
    do ids.push_back(ValueName());
    while (Ok() && Take(","));
    Expect("=");
    SkipSpace();
    const size_t op_start = pos_;
    const OpDef* op = FindOp(Word());
    if (Ok() && op == nullptr) FailAt(op_start, "there is no such op");
    std::vector<Value*> operands;
    Expect("(");
    if (!Take(")")) {
      do operands.push_back(TakeWord("_") ? nullptr : ValueRef());
      while (Ok() && Take(","));
      Expect(")");
    }
    AttrMap attrs = Attrs();
    Expect(":");
    std::vector<Type> types;
    do types.push_back(ParseType());
    while (Ok() && Take(","));
    std::string loc;
    if (TakeWord("loc")) loc = String();
    if (!Ok()) return;

    absl::StatusOr<Node*> node = graph_->AddNode(op->op, std::move(operands), std::move(attrs), std::move(loc));
    if (!node.ok()) return Keep(node.status(), op_start);
    if (ids.size() != (*node)->results().size() || types.size() != ids.size()) {
      return FailAt(start, absl::StrCat(op->name, " has ", (*node)->results().size(), " results"));
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      Value* result = (*node)->result(static_cast<int>(i));
      if (types[i] != result->type()) {
        return FailAt(start, absl::StrCat(op->name, " gives ", result->type().ToString(), ", the text says ",
                                          types[i].ToString()));
      }
      Define(ids[i], result, start);
    }
  }

  AttrMap Attrs() {
    AttrMap attrs;
    if (!Take("{")) return attrs;
    do {
      SkipSpace();
      const size_t start = pos_;
      std::string name(Word());
      Expect("=");
      Attr value = AttrValue();
      if (Ok() && !attrs.emplace(std::move(name), std::move(value)).second) FailAt(start, "attribute exists twice");
    } while (Ok() && Take(","));
    Expect("}");
    return attrs;
  }

  // --- values, types and attributes ---

  std::string ValueName() {
    Expect("%");
    const size_t start = pos_;
    while (pos_ < text_.size() && IsNameChar(text_[pos_])) ++pos_;
    if (Ok() && pos_ == start) Fail("a value's name");
    return std::string(text_.substr(start, pos_ - start));
  }

  Value* ValueRef() {
    SkipSpace();
    const size_t start = pos_;
    const std::string name = ValueName();
    auto it = values_.find(name);
    if (it != values_.end()) return it->second;
    if (Ok()) FailAt(start, absl::StrCat("%", name, " is not defined"));
    return nullptr;
  }

  void Define(const std::string& name, Value* value, size_t start) {
    if (!values_.emplace(name, value).second) FailAt(start, absl::StrCat("%", name, " is defined twice"));
    places_.emplace(value, start);
  }

  Type ParseType() {
    SkipSpace();
    const size_t start = pos_;
    const std::string_view word = Word();
    if (word == "cache") return ParseCacheType();
    const std::optional<DType> dtype = ParseDType(word);
    if (Ok() && !dtype.has_value()) FailAt(start, "expected a type, as f32[B, 8] or cache[30, 3, 64, f32]");
    Expect("[");
    Dims shape = DimList(']');
    return Ok() ? Type(TensorType{*dtype, std::move(shape)}) : Type();
  }

  Type ParseCacheType() {
    CacheType cache;
    Expect("[");
    for (int64_t* dim : {&cache.layers, &cache.kv_heads, &cache.head_dim}) {
      *dim = Int();
      Expect(",");
    }
    SkipSpace();
    const size_t start = pos_;
    const std::optional<DType> dtype = ParseDType(Word());
    if (Ok() && !dtype.has_value()) FailAt(start, "expected a dtype");
    Expect("]");
    cache.dtype = dtype.value_or(DType::kF32);
    return cache;
  }

  // Dimensions up to and with the closing character.
  Dims DimList(char close) {
    Dims dims;
    if (Take(std::string_view(&close, 1))) return dims;
    do dims.push_back(Dim(close));
    while (Ok() && Take(","));
    Expect(std::string_view(&close, 1));
    return dims;
  }

  DimExpr Dim(char close) {
    SkipSpace();
    const size_t start = pos_;
    int depth = 0;
    while (pos_ < text_.size() && text_[pos_] != '\n') {
      const char c = text_[pos_];
      if (depth == 0 && (c == ',' || c == close)) break;
      depth += (c == '(') - (c == ')');
      ++pos_;
    }
    absl::StatusOr<DimExpr> dim = DimExpr::Parse(text_.substr(start, pos_ - start));
    if (dim.ok()) return *dim;
    Keep(dim.status(), start);
    return {};
  }

  Attr AttrValue() {
    SkipSpace();
    const size_t start = pos_;
    const char c = Peek();
    if (c == '"') return String();
    if (Take("[")) return IntList();
    if (absl::ascii_isdigit(c) || c == '-') return Number();
    const std::string_view word = Word();
    if (word == "true" || word == "false") return word == "true";
    if (word == "inf") return std::numeric_limits<double>::infinity();
    if (word == "nan") return std::numeric_limits<double>::quiet_NaN();
    if (word == "dims") {
      Expect("(");
      return DimList(')');
    }
    if (word == "dim") {
      Expect("(");
      DimExpr dim = Dim(')');
      Expect(")");
      return dim;
    }
    if (const std::optional<DType> dtype = ParseDType(word); dtype.has_value()) return *dtype;
    if (Ok()) FailAt(start, "expected an attribute's value");
    return int64_t{0};
  }

  Attr IntList() {
    std::vector<int64_t> ints;
    if (Take("]")) return ints;
    do ints.push_back(Int());
    while (Ok() && Take(","));
    Expect("]");
    return ints;
  }

  // --- characters ---

  Attr Number() {
    const std::string_view text = NumberText();
    if (text == "-inf") return -std::numeric_limits<double>::infinity();
    int64_t integer;
    if (absl::SimpleAtoi(text, &integer)) return integer;
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool is_float = text.find_first_of(".e") != std::string_view::npos;
    if (Ok() && (!is_float || error != std::errc() || end != text.data() + text.size())) {
      pos_ -= text.size();
      Fail("a number that fits 64 bits");
    }
    return number;
  }

  int64_t Int() {
    SkipSpace();
    const std::string_view text = NumberText();
    int64_t integer = 0;
    if (Ok() && !absl::SimpleAtoi(text, &integer)) {
      pos_ -= text.size();
      Fail("an integer that fits 64 bits");
    }
    return integer;
  }

  std::string_view NumberText() {
    const size_t start = pos_;
    auto continues = [this] {
      const char c = Peek();
      return IsNameChar(c) || c == '-' || c == '+';
    };
    while (pos_ < text_.size() && continues()) ++pos_;
    return text_.substr(start, pos_ - start);
  }

  // [A-Za-z0-9_]+
  std::string_view Word() {
    SkipSpace();
    const size_t start = pos_;
    while (pos_ < text_.size() && (absl::ascii_isalnum(text_[pos_]) || text_[pos_] == '_')) ++pos_;
    if (pos_ == start) Fail("a word");
    return text_.substr(start, pos_ - start);
  }

  std::string NameOrString() {
    if (SkipSpace(); Peek() == '"') return String();
    const size_t start = pos_;
    while (pos_ < text_.size() && (IsNameChar(text_[pos_]) || text_[pos_] == '-')) ++pos_;
    if (pos_ == start) Fail("a name or a quoted string");
    return std::string(text_.substr(start, pos_ - start));
  }

  std::string String() {
    SkipSpace();
    const size_t start = pos_;
    if (Peek() != '"') {
      Fail("a quoted string");
      return "";
    }
    size_t end = start + 1;
    while (end < text_.size() && text_[end] != '"' && text_[end] != '\n') end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size() || text_[end] != '"') {
      FailAt(start, "the string has no end");
      return "";
    }
    pos_ = end + 1;
    std::string value;
    std::string error;
    if (!absl::CUnescape(text_.substr(start + 1, end - start - 1), &value, &error)) FailAt(start, error);
    return value;
  }

  // Takes a whole word: "input" is not taken from "inputs".
  bool TakeWord(std::string_view word) {
    SkipSpace();
    const size_t end = pos_ + word.size();
    if (end < text_.size() && IsNameChar(text_[end])) return false;
    return Take(word);
  }

  bool Take(std::string_view token) {
    SkipSpace();
    if (!Ok() || text_.substr(pos_, token.size()) != token) return false;
    pos_ += token.size();
    return true;
  }

  void Expect(std::string_view token) {
    if (!Take(token)) Fail(absl::StrCat("'", token, "'"));
  }

  char Peek() const { return pos_ < text_.size() ? text_[pos_] : '\0'; }

  void SkipSpace() {
    while (pos_ < text_.size()) {
      if (absl::ascii_isspace(text_[pos_])) {
        ++pos_;
      } else if (text_.substr(pos_, 2) == "//") {
        pos_ = std::min(text_.find('\n', pos_), text_.size());
      } else {
        return;
      }
    }
  }

  // --- errors ---

  bool Ok() const { return status_.ok(); }

  void Fail(std::string_view wanted) {
    std::string_view rest = text_.substr(std::min(pos_, text_.size()));
    rest = rest.substr(0, std::min<size_t>(rest.find('\n'), 20));
    FailAt(pos_, absl::StrCat("expected ", wanted, ", got ",
                              pos_ >= text_.size() ? "the end of the text" : QuoteString(rest)));
  }

  void FailAt(size_t pos, std::string_view message) {
    if (!Ok()) return;
    const std::string_view before = text_.substr(0, std::min(pos, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    status_ = absl::InvalidArgumentError(absl::StrCat(line, ":", before.size() - line_start + 1, ": ", message));
  }

  void Keep(const absl::Status& status, size_t pos) {
    if (!status.ok()) FailAt(pos, status.message());
  }

  std::string_view text_;
  size_t pos_ = 0;
  absl::Status status_;
  std::unique_ptr<Graph> graph_;
  absl::flat_hash_map<std::string, Value*> values_;
  absl::flat_hash_map<const Value*, size_t> places_;  // where each is defined
  std::vector<size_t> output_places_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Graph>> Parse(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("1:1: expected at most ", kMaxTextBytes, " bytes of .ffir, got ", text.size()));
  }
  return Parser(text).Run();
}

}  // namespace flashflow::ir
