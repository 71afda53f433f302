// Which value of a graph stands, after a pass, for which value of the graph before it.
//
// A value that the pass leaves alone stands for itself; ReplaceAllUsesWith(from, to) says that `to` stands for all that
// `from` stood for. Each such pair is a claim of the pass: the two are related as its Relation says.
#ifndef COMPILER_PROOF_CORRESPONDENCE_H_
#define COMPILER_PROOF_CORRESPONDENCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "compiler/ir/graph.h"

namespace flashflow::proof {

// Copies the graph and watches it until it is destroyed. The graph must outlive it.
class Correspondence : public ir::GraphObserver {
 public:
  // `rewrites` gives the number of the rewrite under way, from 1 on; 0 before the first.
  Correspondence(ir::Graph* graph, std::function<int64_t()> rewrites);
  ~Correspondence() override;
  Correspondence(const Correspondence&) = delete;
  Correspondence& operator=(const Correspondence&) = delete;

  const ir::Graph& before() const { return *before_; }
  const ir::Graph& after() const { return *after_; }

  // The value of the graph after the pass that stands for a value before it; nullptr if none does any more. Inputs and
  // weights are stood for by those of the same name.
  const ir::Value* StandIn(const ir::Value* before) const;
  // What a value of the graph after the pass stands for, in no order.
  std::vector<const ir::Value*> Originals(const ir::Value* after) const;
  // The last rewrite that gave the value before the pass another stand-in; 0 if it stands for itself.
  int64_t RewriteOf(const ir::Value* before) const;

  void OnReplaceAllUses(const ir::Value* from, const ir::Value* to) override;
  void OnDelete(const ir::Value* value) override;
  void OnSwap() override;

 private:
  ir::Graph* after_;
  std::function<int64_t()> rewrites_;
  std::unique_ptr<ir::Graph> before_;
  absl::flat_hash_map<const ir::Value*, const ir::Value*> stand_in_;                // results only
  absl::flat_hash_map<const ir::Value*, std::vector<const ir::Value*>> originals_;  // the other way round
  absl::flat_hash_map<const ir::Value*, int64_t> rewrite_of_;
};

// The input or weight of `graph` with the name and kind of `source`, an input or a weight; nullptr if it has none.
const ir::Value* SameSource(const ir::Graph& graph, const ir::Value* source);

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_CORRESPONDENCE_H_
