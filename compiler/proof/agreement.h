// Whether two evaluations agree, and how far apart rounding alone may take them.
#ifndef COMPILER_PROOF_AGREEMENT_H_
#define COMPILER_PROOF_AGREEMENT_H_

#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"

namespace flashflow::proof {

// What is different: "element [1, 3] is 0.25, expected 0.5, allowed difference 1e-07". nullopt: nothing is. NaN equals
// NaN, -0 equals 0, and nothing but itself equals an infinity. Where `got` has a narrower float type than `want`, its
// elements must be those of `want`, rounded; where it is a cache of i8 and `want` is not, those of `want`, or what
// their codes stand for.
std::optional<std::string> Difference(const interpreter::Value& want, const interpreter::Value& got, double allowed);

// How far the outputs of a graph move, by name and at most over all elements, for each unit of relative error that a
// rounding makes anywhere in it: how much of eps a reassociated evaluation may differ by.
//
// Measured, not estimated: the graph runs in the wide mode once more while every element that a node computes is moved
// at random by up to 2^-30 of itself, times the number of terms that the node adds up. Cancellation, norms of small
// rows and exponentials show as they are. `outputs` are those of the undisturbed run.
absl::StatusOr<absl::flat_hash_map<std::string, double>> ErrorGrowth(const ir::Graph& graph,
                                                                     const interpreter::Values& inputs,
                                                                     const interpreter::WeightSource& weights,
                                                                     const SymbolValues& symbols,
                                                                     const interpreter::Values& outputs);

// The relative error of one rounding to a float type.
double UnitRoundoff(DType dtype);
inline constexpr double kWideRoundoff = 0x1p-53;

// What a sum in another order may differ by, given the growth: both sides round, and the measurement is a sample.
inline double AllowedDifference(double growth, double roundoff) { return 8 * growth * roundoff; }

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_AGREEMENT_H_
