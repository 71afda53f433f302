// The smallest pair of graphs that shows whether a claim of a pass holds.
//
// A claim says that value `after` of the rewritten graph stands for value `before` of the graph as it was. Both are
// walked back to where the graphs agree again: to pairs of float or cache values that stand for each other, and to
// inputs and weights. What lies in between becomes two small graphs over the same boundary, whose values an evaluation
// may choose freely. Constants and integer values are never at the boundary: rewrites may know what they hold.
#ifndef COMPILER_PROOF_REGION_H_
#define COMPILER_PROOF_REGION_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"
#include "compiler/proof/correspondence.h"

namespace flashflow::proof {

struct Claim {
  const ir::Value* before = nullptr;
  const ir::Value* after = nullptr;
  friend bool operator==(const Claim&, const Claim&) = default;
};

// Each symbol B of a region is the length of an input "symbol B", a vector that nothing reads.
inline constexpr std::string_view kSymbolInput = "symbol ";

// Two graphs with one output, "out". Inputs and weights that both have, have the same names and stand for each other.
// Inputs of the whole graph keep their names (they have roles: "kv_len"), weights are "weight 0", "weight 1", ... and
// results at the boundary "value 0", "value 1", ..., so that equal regions of different layers print the same.
struct Region {
  std::unique_ptr<ir::Graph> before;
  std::unique_ptr<ir::Graph> after;
  std::vector<Claim> boundary;  // the claims about results that it takes for granted
  // Results at the boundary of either side, as values before the pass: where the region could grow.
  std::vector<const ir::Value*> free;
};

// Extracts regions of one pass's work. The correspondence and its graphs must not change meanwhile.
class RegionExtractor {
 public:
  explicit RegionExtractor(const Correspondence& pairs);

  // Whether both sides are the same operation with the same attributes and types, on operands that stand for each
  // other: then the claim follows from the claims about those operands, which are added to `needed`.
  bool IsCongruent(const Claim& claim, std::vector<Claim>* needed) const;

  // `blocked`: values before the pass that must not be at the boundary. An error says why the claim has no region: the
  // rewritten side reads a source that the graph before the pass did not have.
  absl::StatusOr<Region> Extract(const Claim& claim, const absl::flat_hash_set<const ir::Value*>& blocked) const;

  // Program order of a value before the pass.
  int Order(const ir::Value* before) const { return before_order_.at(before); }

 private:
  struct Side;
  // The value that `after` stands for at a boundary of a claim about `root`; nullptr if it cannot be at one.
  const ir::Value* BoundaryOriginal(const ir::Value* after, const ir::Value* root,
                                    const absl::flat_hash_set<const ir::Value*>& blocked) const;

  const Correspondence& pairs_;
  absl::flat_hash_map<const ir::Value*, int> before_order_;
  absl::flat_hash_map<const ir::Value*, int> after_order_;
  std::vector<const ir::Value*> before_by_order_;
};

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_REGION_H_
