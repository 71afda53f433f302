#include "compiler/ir/dim_expr.h"

#include <algorithm>
#include <limits>

#include "absl/container/btree_set.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();
constexpr int64_t kMinInt = std::numeric_limits<int64_t>::min();
constexpr size_t kMaxTerms = 64;
constexpr size_t kMaxDegree = 16;
constexpr int kMaxParseDepth = 64;
constexpr std::string_view kOverflowMark = "<overflow>";  // no identifier, so no symbol has this name

// Products and sums of bounds, in which int64's ends stand for infinity: a bound that has left int64 never comes back.
// Here `a` is not negative.
int64_t MulBound(int64_t a, int64_t b) {
  if (a == kMaxInt && b < 0) return kMinInt;
  int64_t result;
  if (!__builtin_mul_overflow(a, b, &result)) return result;
  return b > 0 ? kMaxInt : kMinInt;
}

// `infinity` is kMinInt for lower bounds and kMaxInt for upper ones.
int64_t AddBound(int64_t a, int64_t b, int64_t infinity) {
  if (a == infinity || b == infinity) return infinity;
  int64_t result;
  if (!__builtin_add_overflow(a, b, &result)) return result;
  return a < 0 ? kMinInt : kMaxInt;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<DimExpr> Run() {
    FF_ASSIGN_OR_RETURN(DimExpr expr, Sum());
    if (SkipSpace(); pos_ != text_.size()) return Error("an operator or the end");
    if (expr.overflowed()) return absl::InvalidArgumentError(absl::StrCat("dimension is too large: ", Excerpt()));
    return expr;
  }

 private:
  absl::StatusOr<DimExpr> Sum() {
    if (++depth_ > kMaxParseDepth) return absl::InvalidArgumentError("dimension is nested too deeply");
    const bool negative = Take('-');
    FF_ASSIGN_OR_RETURN(DimExpr sum, Product());
    if (negative) sum = DimExpr(0) - sum;
    while (true) {
      const bool minus = Take('-');
      if (!minus && !Take('+')) break;
      FF_ASSIGN_OR_RETURN(const DimExpr term, Product());
      sum = minus ? sum - term : sum + term;
    }
    --depth_;
    return sum;
  }

  absl::StatusOr<DimExpr> Product() {
    FF_ASSIGN_OR_RETURN(DimExpr product, Factor());
    while (Take('*')) {
      FF_ASSIGN_OR_RETURN(const DimExpr factor, Factor());
      product = product * factor;
    }
    return product;
  }

  absl::StatusOr<DimExpr> Factor() {
    if (Take('(')) {
      FF_ASSIGN_OR_RETURN(DimExpr inner, Sum());
      if (!Take(')')) return Error("')'");
      return inner;
    }
    SkipSpace();
    const size_t start = pos_;
    while (pos_ < text_.size() && (absl::ascii_isalnum(text_[pos_]) || text_[pos_] == '_')) ++pos_;
    const std::string_view word = text_.substr(start, pos_ - start);
    if (IsIdentifier(word)) return DimExpr::Symbol(word);
    int64_t number;
    if (!word.empty() && absl::SimpleAtoi(word, &number)) return DimExpr(number);
    pos_ = start;
    return Error("an integer that fits 64 bits, a symbol or '('");
  }

  bool Take(char c) {
    SkipSpace();
    if (pos_ == text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  void SkipSpace() {
    while (pos_ < text_.size() && absl::ascii_isspace(text_[pos_])) ++pos_;
  }

  std::string Excerpt() const {
    return text_.size() <= 80 ? absl::StrCat("'", text_, "'") : absl::StrCat("'", text_.substr(0, 80), "'...");
  }

  absl::Status Error(std::string_view wanted) const {
    return absl::InvalidArgumentError(
        absl::StrCat("dimension ", Excerpt(), ": expected ", wanted, " at character ", pos_ + 1));
  }

  std::string_view text_;
  size_t pos_ = 0;
  int depth_ = 0;
};

}  // namespace

bool IsIdentifier(std::string_view text) {
  return !text.empty() && !absl::ascii_isdigit(text[0]) &&
         std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isalnum(c) || c == '_'; });
}

DimExpr::DimExpr(int64_t constant) { AddTerm({}, constant); }

DimExpr DimExpr::Symbol(std::string_view name) {
  DimExpr expr;
  expr.AddTerm({std::string(name)}, 1);
  return expr;
}

DimExpr DimExpr::Overflow() {
  DimExpr expr;
  expr.terms_.emplace(Monomial{std::string(kOverflowMark)}, 1);
  return expr;
}

bool DimExpr::overflowed() const {
  return terms_.size() == 1 && terms_.begin()->first.size() == 1 && terms_.begin()->first[0] == kOverflowMark;
}

// Coefficients stay within +-INT64_MAX, so that each can be negated.
void DimExpr::AddTerm(const Monomial& monomial, int64_t coefficient) {
  if (overflowed()) return;
  int64_t& sum = terms_[monomial];
  if (monomial.size() > kMaxDegree || __builtin_add_overflow(sum, coefficient, &sum) || sum == kMinInt ||
      terms_.size() > kMaxTerms) {
    *this = Overflow();
  } else if (sum == 0) {
    terms_.erase(monomial);
  }
}

DimExpr operator+(const DimExpr& a, const DimExpr& b) {
  if (b.overflowed()) return b;
  DimExpr sum = a;
  for (const auto& [monomial, coefficient] : b.terms_) sum.AddTerm(monomial, coefficient);
  return sum;
}

DimExpr operator-(const DimExpr& a, const DimExpr& b) { return a + b * DimExpr(-1); }

DimExpr operator*(const DimExpr& a, const DimExpr& b) {
  if (a.overflowed() || b.overflowed()) return DimExpr::Overflow();
  DimExpr product;
  for (const auto& [monomial_a, coefficient_a] : a.terms_) {
    for (const auto& [monomial_b, coefficient_b] : b.terms_) {
      DimExpr::Monomial monomial;
      std::merge(monomial_a.begin(), monomial_a.end(), monomial_b.begin(), monomial_b.end(),
                 std::back_inserter(monomial));
      int64_t coefficient;
      if (__builtin_mul_overflow(coefficient_a, coefficient_b, &coefficient)) return DimExpr::Overflow();
      product.AddTerm(monomial, coefficient);
    }
  }
  return product;
}

absl::StatusOr<DimExpr> DimExpr::Parse(std::string_view text) { return Parser(text).Run(); }

std::string DimExpr::ToString() const {
  if (terms_.empty()) return "0";
  std::string text;
  auto append = [&text](const Monomial& monomial, int64_t coefficient) {
    const bool negative = coefficient < 0;
    if (!text.empty()) {
      text += negative ? " - " : " + ";
    } else if (negative) {
      text += "-";
    }
    const int64_t magnitude = negative ? -coefficient : coefficient;
    if (magnitude != 1 || monomial.empty()) absl::StrAppend(&text, magnitude, monomial.empty() ? "" : "*");
    absl::StrAppend(&text, absl::StrJoin(monomial, "*"));
  };
  for (const auto& [monomial, coefficient] : terms_) {
    if (!monomial.empty()) append(monomial, coefficient);
  }
  if (auto it = terms_.find({}); it != terms_.end()) append({}, it->second);  // the constant comes last
  return text;
}

bool DimExpr::IsConstant() const { return terms_.empty() || (terms_.size() == 1 && terms_.begin()->first.empty()); }

std::optional<int64_t> DimExpr::constant() const {
  if (!IsConstant()) return std::nullopt;
  return terms_.empty() ? 0 : terms_.begin()->second;
}

std::vector<std::string> DimExpr::symbols() const {
  if (overflowed()) return {};
  absl::btree_set<std::string> names;
  for (const auto& [monomial, coefficient] : terms_) names.insert(monomial.begin(), monomial.end());
  return {names.begin(), names.end()};
}

std::optional<DimExpr> DimExpr::DividedBy(const DimExpr& divisor) const {
  if (overflowed() || divisor.overflowed() || divisor.terms_.size() != 1) return std::nullopt;
  const auto& [divisor_monomial, divisor_coefficient] = *divisor.terms_.begin();
  DimExpr quotient;
  for (const auto& [monomial, coefficient] : terms_) {
    if (coefficient % divisor_coefficient != 0 ||
        !std::includes(monomial.begin(), monomial.end(), divisor_monomial.begin(), divisor_monomial.end())) {
      return std::nullopt;
    }
    Monomial rest;
    std::set_difference(monomial.begin(), monomial.end(), divisor_monomial.begin(), divisor_monomial.end(),
                        std::back_inserter(rest));
    quotient.AddTerm(rest, coefficient / divisor_coefficient);
  }
  return quotient;
}

absl::StatusOr<int64_t> DimExpr::Evaluate(const SymbolValues& values) const {
  if (overflowed()) return absl::OutOfRangeError("dimension expression overflows");
  int64_t sum = 0;
  for (const auto& [monomial, coefficient] : terms_) {
    int64_t term = coefficient;
    bool overflow = false;
    for (const std::string& symbol : monomial) {
      auto it = values.find(symbol);
      if (it == values.end()) {
        return absl::NotFoundError(absl::StrCat("no value for symbol ", symbol, " in dimension ", ToString()));
      }
      overflow |= __builtin_mul_overflow(term, it->second, &term);
    }
    if (overflow || __builtin_add_overflow(sum, term, &sum)) {
      return absl::OutOfRangeError(absl::StrCat("dimension ", ToString(), " does not fit 64 bits"));
    }
  }
  return sum;
}

absl::StatusOr<SymbolRange> DimExpr::Bounds(const SymbolRanges& ranges) const {
  if (overflowed()) return absl::OutOfRangeError("dimension expression overflows");
  SymbolRange bounds;
  for (const auto& [monomial, coefficient] : terms_) {
    int64_t low = 1;  // symbols are not negative, so a product's bounds are the products of the bounds
    int64_t high = 1;
    for (const std::string& symbol : monomial) {
      auto it = ranges.find(symbol);
      if (it == ranges.end()) {
        return absl::NotFoundError(absl::StrCat("symbol ", symbol, " in dimension ", ToString(), " is not declared"));
      }
      low = MulBound(low, it->second.min);
      high = MulBound(high, it->second.max);
    }
    if (coefficient < 0) std::swap(low, high);
    bounds.min = AddBound(bounds.min, MulBound(low, coefficient), kMinInt);
    bounds.max = AddBound(bounds.max, MulBound(high, coefficient), kMaxInt);
  }
  return bounds;
}

std::string DimsToString(const Dims& dims) {
  return absl::StrCat(
      "[", absl::StrJoin(dims, ", ", [](std::string* out, const DimExpr& dim) { out->append(dim.ToString()); }), "]");
}

DimExpr NumElements(const Dims& dims) {
  DimExpr product = 1;
  for (const DimExpr& dim : dims) product = product * dim;
  return product;
}

}  // namespace flashflow
