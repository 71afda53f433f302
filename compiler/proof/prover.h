// Proves that passes keep their relations, by evaluation: rewrite by rewrite while they run, then the graph as a whole.
//
// A pass is watched while it rewrites a graph. Each value of the rewritten graph that stands for one of the graph as it
// was is a claim; the outputs' claims are shown from the inputs on: by the operations being the same on operands whose
// claims hold, or by evaluating the smallest region around the rewrite on random boundary values (region.h), in several
// cases, ragged batches of step graphs among them. Regions that print the same are evaluated once for all passes. A
// region that fails is tried again with more of the graph around it, since a rewrite may rest on how the values at its
// boundary were made; it is broken if it fails with everything that kMaxGrowth steps reach.
//
// Layers of int8 codes are the same function only of values that codes hold, as they are in regions: the whole graph is
// compared up to the pass that introduces them, and from it on.
//
// kv-cache restructures the graph as a whole: the rows of its step graph, run in random chunks through a cache, are
// compared with the rows of the rectangular graph.
#ifndef COMPILER_PROOF_PROVER_H_
#define COMPILER_PROOF_PROVER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass.h"
#include "compiler/passes/pass_manager.h"

namespace flashflow::proof {

struct ProofOptions {
  int cases = 3;      // settings in which a region is evaluated
  uint64_t seed = 1;  // of all random values
  bool whole = true;  // compare the whole graph before the first pass with that after the last
};

// Where a relation was found broken.
struct Violation {
  std::string pass = {};  // empty: no pass alone; the whole graph after all passes differs
  passes::Relation relation = passes::Relation::kIdentical;
  int64_t rewrite = 0;      // the number of the rewrite, from 1 on; 0 if it is not known
  std::string before = {};  // the value as the graph before the pass describes its node
  std::string after = {};   // what stands for it after the pass; may be empty
  std::string detail = {};  // what differs
  std::string region = {};  // the two graphs that show it, printed; may be empty
  std::string ToString() const;
};

// What it took to prove one pass.
struct PassProof {
  passes::PassRecord record;
  int64_t claims = 0;     // values whose claims the outputs rest on
  int64_t regions = 0;    // of them, those that are not the same operation on the same operands
  int64_t evaluated = 0;  // of those, regions that nothing proved before looks like
  absl::Duration duration;
  std::optional<Violation> violation;
};

struct ProofReport {
  std::vector<PassProof> passes;  // up to the first that is broken
  absl::Duration whole;           // spent on the whole graph
  std::optional<Violation> violation;
};

struct Bisection {
  int pass_index = 0;   // among the passes given
  int64_t rewrite = 0;  // the first rewrite of that pass after which the graph is broken; 0: the pass's end
  Violation violation;  // with the pass limited to that rewrite
};

class Prover {
 public:
  Prover(passes::CompileOptions options, ProofOptions proof) : options_(std::move(options)), proof_(proof) {}

  // Runs the pass, no more than `max_rewrites` of its rewrites, and checks its relation. An error is the pass's own, or
  // a claim that cannot be evaluated.
  absl::StatusOr<PassProof> ProvePass(const passes::Pass& pass, ir::Graph* graph,
                                      int64_t max_rewrites = std::numeric_limits<int64_t>::max());

  // Sees the graph after each pass that Prove ran, broken or not; `index` counts them.
  using Hook = std::function<void(int index, const PassProof& proof, const ir::Graph& graph)>;
  void set_after(Hook hook) { after_ = std::move(hook); }

  // Runs the passes in order up to the first that breaks its relation, then compares the whole graph.
  absl::StatusOr<ProofReport> Prove(absl::Span<const std::unique_ptr<passes::Pass>> passes, ir::Graph* graph);

  // The first rewrite of the first pass that breaks. NotFound if none does. Assumes that what a rewrite broke, later
  // ones do not mend.
  absl::StatusOr<Bisection> Bisect(absl::Span<const std::unique_ptr<passes::Pass>> passes, const ir::Graph& graph);

 private:
  absl::StatusOr<std::optional<Violation>> CheckClaims(const passes::Pass& pass, const class Correspondence& pairs,
                                                       PassProof* proof);
  absl::StatusOr<std::optional<std::string>> CheckWhole(const ir::Graph& before, const ir::Graph& after,
                                                        bool identical) const;

  passes::CompileOptions options_;
  ProofOptions proof_;
  Hook after_;
  absl::flat_hash_set<std::string> proven_;  // printed regions with their relation
};

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_PROVER_H_
