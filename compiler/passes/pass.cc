#include "compiler/passes/pass.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/ir/printer.h"

namespace flashflow::passes {

std::string_view RelationName(Relation relation) {
  switch (relation) {
    case Relation::kIdentical:
      return "identical";
    case Relation::kReassociated:
      return "reassociated";
    case Relation::kNarrowed:
      return "narrowed";
    case Relation::kRestructured:
      return "restructured";
  }
  return "?";
}

std::string Remark::ToString() const {
  return absl::StrCat(pass, " refused", node.empty() ? "" : " at ", node, ": ", reason);
}

void PassContext::Refuse(const ir::Graph& graph, const ir::Node* node, std::string reason) {
  Remark remark = {pass_, node == nullptr ? "" : ir::Describe(graph, *node), std::move(reason)};
  // A pass that sweeps several times meets the same node again.
  if (std::ranges::find(remarks_, remark) == remarks_.end()) remarks_.push_back(std::move(remark));
}

}  // namespace flashflow::passes
