// What a pass is.
//
// A pass is a pure function of the graph, the options and the device: no clock, no randomness, no state. It rewrites
// the graph in place and says whether it changed it; where it declines a rewrite that a reader would expect, it leaves
// a remark with the reason. One pass = foo_pass.h (contract, with the IR before and after), foo_pass.cc,
// foo_pass_test.cc, one target, and a row in pipeline.cc.
#ifndef COMPILER_PASSES_PASS_H_
#define COMPILER_PASSES_PASS_H_

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"

namespace flashflow::passes {

// How the graph after the pass relates to the graph before it, value for value.
enum class Relation : uint8_t {
  kIdentical,     // equal results in the interpreter, typed or wide (-0 and 0 count as equal)
  kReassociated,  // equal but for the order of sums: within a bound from the number of terms and eps
  kNarrowed,      // equal to a reference that rounds at the same values
  kRestructured,  // another set of inputs; the step graph's rows equal the full graph's rows
};
std::string_view RelationName(Relation relation);

// "kv-cache refused at %42 = attention at "layers.0 (llama.py:88)": the attention is not causal".
struct Remark {
  std::string pass;
  std::string node;  // as ir::Describe; empty: the graph as a whole
  std::string reason;
  std::string ToString() const;
  friend bool operator==(const Remark&, const Remark&) = default;
};

// What a pass is given beside the graph, and where it reports. Made by the pass manager for each run of a pass.
class PassContext {
 public:
  // A pass makes at most `max_rewrites`: how a bisection finds the one that went wrong.
  PassContext(std::string_view pass, const CompileOptions& options,
              int64_t max_rewrites = std::numeric_limits<int64_t>::max())
      : pass_(pass), options_(options), max_rewrites_(max_rewrites) {}

  const CompileOptions& options() const { return options_; }

  // Counts a rewrite that the pass is about to make. False if it may make no more: then it leaves the graph as it is
  // and ends.
  [[nodiscard]] bool BeginRewrite() {
    if (rewrites_ >= max_rewrites_) return false;
    ++rewrites_;
    return true;
  }
  // `node` may be nullptr. Call it before the graph is changed: the remark describes the node as it is now.
  void Refuse(const ir::Graph& graph, const ir::Node* node, std::string reason);

  int64_t rewrites() const { return rewrites_; }
  const std::vector<Remark>& remarks() const { return remarks_; }

 private:
  std::string pass_;
  const CompileOptions& options_;
  int64_t max_rewrites_;
  int64_t rewrites_ = 0;
  std::vector<Remark> remarks_;
};

class Pass {
 public:
  virtual ~Pass() = default;
  virtual std::string_view name() const = 0;  // kebab-case
  virtual Relation relation() const = 0;
  // Whether the graph changed. An error means that the graph or the options contradict themselves; something that the
  // pass just does not handle is a remark and `false`.
  virtual absl::StatusOr<bool> Run(ir::Graph* graph, PassContext* context) const = 0;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_PASS_H_
