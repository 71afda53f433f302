#include "compiler/passes/token_lookup.h"

#include <vector>

#include "absl/container/flat_hash_set.h"

namespace flashflow::passes {

using ir::Value;

bool IsTokenLookup(const ir::Node& node) {
  if (node.op() != ir::Op::kEmbedding) return false;
  std::vector<const Value*> stack = {node.operand(1)};
  absl::flat_hash_set<const Value*> seen;
  while (!stack.empty()) {
    const Value* v = stack.back();
    stack.pop_back();
    if (v == nullptr || !seen.insert(v).second) continue;
    if (v->kind() == ir::ValueKind::kInput && (v->name() == "input_ids" || v->name() == "token_ids")) return true;
    if (v->def() != nullptr) stack.insert(stack.end(), v->def()->operands().begin(), v->def()->operands().end());
  }
  return false;
}

}  // namespace flashflow::passes
