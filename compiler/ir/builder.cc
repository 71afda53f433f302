#include "compiler/ir/builder.h"

#include "absl/log/check.h"
#include "compiler/ir/verifier.h"

namespace flashflow::ir {

DimExpr GraphBuilder::Symbol(std::string_view name, int64_t min, int64_t max) {
  CHECK_OK(graph_->DeclareSymbol(name, {min, max}));
  return DimExpr::Symbol(name);
}

Value* GraphBuilder::Input(std::string name, DType dtype, Dims shape) {
  return graph_->AddInput(std::move(name), TensorType{dtype, std::move(shape)});
}

Value* GraphBuilder::CacheInput(std::string name, CacheType type) { return graph_->AddInput(std::move(name), type); }

Value* GraphBuilder::Weight(std::string name, Dims shape, DType dtype) {
  return graph_->AddWeight(std::move(name), {dtype, std::move(shape)});
}

Value* GraphBuilder::Add(Op op, std::vector<Value*> operands, AttrMap attrs, std::string loc) {
  absl::StatusOr<Node*> node = graph_->AddNode(op, std::move(operands), std::move(attrs), std::move(loc));
  CHECK_OK(node.status());
  return (*node)->result();
}

void GraphBuilder::Output(std::string name, Value* value) { graph_->AddOutput(std::move(name), value); }

std::unique_ptr<Graph> GraphBuilder::Build() {
  CHECK_OK(Verify(*graph_));
  return std::move(graph_);
}

}  // namespace flashflow::ir
