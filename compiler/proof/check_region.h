// Evaluates the two sides of a region and compares them as a relation says.
#ifndef COMPILER_PROOF_CHECK_REGION_H_
#define COMPILER_PROOF_CHECK_REGION_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/pass.h"
#include "compiler/proof/random_case.h"

namespace flashflow::proof {

// Two graphs with outputs of the same names, over inputs and weights that mean the same where they have the same names
// (a Region's, or a whole graph before and after passes that did not restructure it). In each case:
//
// - identical: equal in the typed mode.
// - narrowed: equal in the typed mode, `before` being given inputs and weights that are rounded already to the type
//   that `after` declares, or to what the int8 codes hold that it makes of them, and an output that `after` gives in a
//   narrower type being the output of `before`, rounded.
// - reassociated: equal in the wide mode and in the typed mode but for what roundings may do (agreement.h), those of
//   double and those of the widest-rounding float type that both sides use.
//
// nullopt if they are related; else what differs, and where. An error means that `before` could not be evaluated in any
// of the cases. A restructured pair is no pair of this kind.
absl::StatusOr<std::optional<std::string>> FindDifference(const ir::Graph& before, const ir::Graph& after,
                                                          passes::Relation relation, absl::Span<const Case> cases);

// The same, in the wide mode alone, for graphs after any passes: of roundings to types it sees those of weights only.
absl::StatusOr<std::optional<std::string>> FindWideDifference(const ir::Graph& before, const ir::Graph& after,
                                                              absl::Span<const Case> cases);

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_CHECK_REGION_H_
