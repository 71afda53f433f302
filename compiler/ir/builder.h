// A shorthand for building graphs in code that knows its operands: tests and fixed graphs. Mistakes CHECK-fail;
// what comes from outside goes through Graph::AddNode, which returns them.
#ifndef COMPILER_IR_BUILDER_H_
#define COMPILER_IR_BUILDER_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compiler/ir/graph.h"

namespace flashflow::ir {

class GraphBuilder {
 public:
  explicit GraphBuilder(std::string name) : graph_(std::make_unique<Graph>(std::move(name))) {}

  DimExpr Symbol(std::string_view name, int64_t min, int64_t max);
  Value* Input(std::string name, DType dtype, Dims shape);
  Value* CacheInput(std::string name, CacheType type);
  Value* Weight(std::string name, Dims shape, DType dtype = DType::kF32);
  // The node's first result; def() of it has the others.
  Value* Add(Op op, std::vector<Value*> operands, AttrMap attrs = {}, std::string loc = "");
  void Output(std::string name, Value* value);

  Graph& graph() { return *graph_; }
  // The verified graph; the builder is empty after that.
  std::unique_ptr<Graph> Build();

 private:
  std::unique_ptr<Graph> graph_;
};

}  // namespace flashflow::ir

#endif  // COMPILER_IR_BUILDER_H_
