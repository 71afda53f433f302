// Runs passes over a graph, with the verifier in between.
#ifndef COMPILER_PASSES_PASS_MANAGER_H_
#define COMPILER_PASSES_PASS_MANAGER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass.h"

namespace flashflow::passes {

// What one pass did.
struct PassRecord {
  std::string pass;
  Relation relation = Relation::kIdentical;
  bool changed = false;
  int64_t rewrites = 0;
  absl::Duration duration;
  std::vector<Remark> remarks;
};

// Runs one pass and verifies the graph after it. The context's limit on rewrites holds. Errors as PassManager::Run's.
absl::StatusOr<PassRecord> RunPass(const Pass& pass, ir::Graph* graph, PassContext* context);

class PassManager {
 public:
  // Sees the graph before and after each pass that runs; `index` counts them. For dumps and for proofs of a relation.
  using Hook = std::function<void(int index, const Pass& pass, const ir::Graph& graph)>;

  explicit PassManager(std::vector<std::unique_ptr<Pass>> passes) : passes_(std::move(passes)) {}

  // Leaves out the passes of these names. InvalidArgument for a name that no pass has.
  absl::Status Skip(absl::Span<const std::string> names);
  void set_before(Hook hook) { before_ = std::move(hook); }
  void set_after(Hook hook) { after_ = std::move(hook); }
  absl::Span<const std::unique_ptr<Pass>> passes() const { return passes_; }

  // Runs every pass once, in order, and verifies the graph before the first and after each. On an error the graph is as
  // the pass that it names left it; a graph that the verifier refuses after a pass is an Internal error.
  absl::StatusOr<std::vector<PassRecord>> Run(ir::Graph* graph, const CompileOptions& options) const;

 private:
  std::vector<std::unique_ptr<Pass>> passes_;
  Hook before_;
  Hook after_;
};

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_PASS_MANAGER_H_
