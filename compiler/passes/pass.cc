#include "compiler/passes/pass.h"

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
  remarks_.push_back({pass_, node == nullptr ? "" : ir::Describe(graph, *node), std::move(reason)});
}

}  // namespace flashflow::passes
