// Dimensions as integer expressions over named, ranged symbols.
//
// A DimExpr is a polynomial with integer coefficients in canonical form, so that equal expressions compare equal:
// (B*S + 1) - 1 == S*B. It needs no simplifier and hashes by value. Symbols' ranges live in the graph or the plan.
// Arithmetic that leaves int64, 64 terms or degree 16 gives the one expression that is overflowed(): it stays so
// through further arithmetic, has no value and no bounds, and no verified graph holds it.
#ifndef COMPILER_IR_DIM_EXPR_H_
#define COMPILER_IR_DIM_EXPR_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace flashflow {

// A symbol's closed range of values, 0 <= min <= max.
struct SymbolRange {
  int64_t min = 0;
  int64_t max = 0;
  friend bool operator==(const SymbolRange&, const SymbolRange&) = default;
};

using SymbolRanges = absl::flat_hash_map<std::string, SymbolRange>;
using SymbolValues = absl::flat_hash_map<std::string, int64_t>;

class DimExpr {
 public:
  DimExpr() = default;                           // 0
  DimExpr(int64_t constant);                     // NOLINT(google-explicit-constructor): dims are mostly plain numbers
  static DimExpr Symbol(std::string_view name);  // precondition: an identifier, [A-Za-z_][A-Za-z0-9_]*

  // Reads what ToString writes: sums of products of integers and identifiers ([A-Za-z_][A-Za-z0-9_]*), parentheses
  // allowed. InvalidArgument on anything else, on coefficients that overflow, and on more than 64 terms.
  static absl::StatusOr<DimExpr> Parse(std::string_view text);
  std::string ToString() const;  // "B*S + 2*T - 1", terms in canonical order

  bool IsConstant() const;
  bool overflowed() const;
  std::optional<int64_t> constant() const;   // the value if IsConstant()
  std::vector<std::string> symbols() const;  // sorted, unique

  // Exact quotient where the divisor is a constant or a single term that divides every term; otherwise nullopt.
  std::optional<DimExpr> DividedBy(const DimExpr& divisor) const;

  // The value for these symbols. NotFound for a symbol without a value, OutOfRange on int64 overflow.
  absl::StatusOr<int64_t> Evaluate(const SymbolValues& values) const;
  // Bounds that hold for all values in the ranges (interval arithmetic, saturating at int64's ends). NotFound for a
  // symbol without a range, OutOfRange if overflowed().
  absl::StatusOr<SymbolRange> Bounds(const SymbolRanges& ranges) const;

  friend DimExpr operator+(const DimExpr& a, const DimExpr& b);
  friend DimExpr operator-(const DimExpr& a, const DimExpr& b);
  friend DimExpr operator*(const DimExpr& a, const DimExpr& b);
  friend bool operator==(const DimExpr&, const DimExpr&) = default;
  friend bool operator<(const DimExpr& a, const DimExpr& b) { return a.terms_ < b.terms_; }
  template <typename H>
  friend H AbslHashValue(H h, const DimExpr& e) {
    return H::combine(std::move(h), e.terms_);
  }

 private:
  using Monomial = std::vector<std::string>;  // sorted symbol names, repeated for powers; empty = 1
  void AddTerm(const Monomial& monomial, int64_t coefficient);
  static DimExpr Overflow();
  std::map<Monomial, int64_t> terms_;  // no zero coefficients
};

using Dims = std::vector<DimExpr>;

std::string DimsToString(const Dims& dims);  // "[B, S, 576]"
DimExpr NumElements(const Dims& dims);       // the product; 1 for no dims
bool IsIdentifier(std::string_view text);    // [A-Za-z_][A-Za-z0-9_]*, as symbols' names are

}  // namespace flashflow

#endif  // COMPILER_IR_DIM_EXPR_H_
