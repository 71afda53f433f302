#include "compiler/passes/pass_manager.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "compiler/ir/status_macros.h"
#include "compiler/ir/verifier.h"
#include "compiler/passes/unknown_name.h"

namespace flashflow::passes {

absl::Status PassManager::Skip(absl::Span<const std::string> names) {
  for (const std::string& name : names) {
    const auto same = [&name](const std::unique_ptr<Pass>& pass) { return pass->name() == name; };
    if (std::none_of(passes_.begin(), passes_.end(), same)) {
      std::vector<std::string> known;
      for (const auto& pass : passes_) known.emplace_back(pass->name());
      return UnknownName("pass", name, known);
    }
    std::erase_if(passes_, same);
  }
  return absl::OkStatus();
}

absl::StatusOr<PassRecord> RunPass(const Pass& pass, ir::Graph* graph, PassContext* context) {
  const absl::Time start = absl::Now();
  absl::StatusOr<bool> changed = pass.Run(graph, context);
  const absl::Duration duration = absl::Now() - start;
  if (!changed.ok()) {
    return absl::Status(changed.status().code(), absl::StrCat("pass ", pass.name(), ": ", changed.status().message()));
  }
  if (absl::Status s = ir::Verify(*graph); !s.ok()) {
    return absl::InternalError(absl::StrCat("pass ", pass.name(), " left an invalid graph: ", s.message()));
  }
  return PassRecord{std::string(pass.name()), pass.relation(), *changed,
                    context->rewrites(),      duration,        context->remarks()};
}

absl::StatusOr<std::vector<PassRecord>> PassManager::Run(ir::Graph* graph, const CompileOptions& options) const {
  FF_RETURN_IF_ERROR(CheckOptions(options));
  FF_RETURN_IF_ERROR(ir::Verify(*graph));
  std::vector<PassRecord> records;
  for (size_t i = 0; i < passes_.size(); ++i) {
    const Pass& pass = *passes_[i];
    if (before_) before_(static_cast<int>(i), pass, *graph);
    PassContext context(pass.name(), options);
    FF_ASSIGN_OR_RETURN(PassRecord record, RunPass(pass, graph, &context));
    if (after_) after_(static_cast<int>(i), pass, *graph);
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace flashflow::passes
