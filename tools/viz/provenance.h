// What became of a graph's nodes while passes ran over it.
#ifndef TOOLS_VIZ_PROVENANCE_H_
#define TOOLS_VIZ_PROVENANCE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "compiler/ir/graph.h"

namespace flashflow::tools {

// Copies the graph and watches it until it is destroyed; the graph must outlive it. Passes run between BeginPass and
// EndPass, one after the other.
class Provenance : public ir::GraphObserver {
 public:
  explicit Provenance(ir::Graph* graph);
  ~Provenance() override;
  Provenance(const Provenance&) = delete;
  Provenance& operator=(const Provenance&) = delete;

  void BeginPass(std::string_view name);
  void EndPass();

  const ir::Graph& before() const { return *before_; }

  // The pass that made a node of the graph as it is now; empty for one that was there from the beginning.
  std::string MadeBy(const ir::Node* after) const;

  // For each node of before(), the node of the graph as it is now that does its work: the one whose result stands for
  // its result, or reads its weight, or whose inputs no longer need it, as those of a fused operation. Nodes without
  // an entry do no work any more: folded, dead, or equal to others.
  absl::flat_hash_map<const ir::Node*, const ir::Node*> Successors() const;

  void OnReplaceAllUses(const ir::Value* from, const ir::Value* to) override;
  void OnDelete(const ir::Value* value) override;
  void OnSwap() override { swapped_ = true; }

 private:
  // What is known of a value of the graph as it is now.
  struct Origin {
    std::vector<const ir::Value*> originals;  // of before(), for which it stands
    std::string made_by;
  };
  // A node at the beginning of a pass, by what a pass that builds the graph anew leaves of it.
  struct Remembered {
    ir::Op op;
    std::string loc;
    std::vector<Origin> results;
    std::vector<const ir::Value*> values;
  };

  // After a pass that built the graph anew.
  void RecognizeAll();
  // Of the nodes that a pass made, those that it made in place of others like them, on other rows.
  void RecognizeCopies(const std::vector<const ir::Node*>& made);

  ir::Graph* graph_;
  std::unique_ptr<ir::Graph> before_;
  absl::flat_hash_map<const ir::Value*, Origin> origins_;
  absl::flat_hash_set<const ir::Node*> dropped_;  // of before(): what inputs and weights stand for now
  std::string pass_;
  std::vector<Remembered> remembered_;
  absl::flat_hash_set<const ir::Value*> deleted_;  // of those remembered
  absl::flat_hash_set<const ir::Value*> moved_;    // of before(), whose stand-in is another one since the pass began
  bool swapped_ = false;
};

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_PROVENANCE_H_
