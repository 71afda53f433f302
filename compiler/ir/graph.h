// The IR graph: a typed SSA list of nodes in program order, with named inputs, weights and outputs.
//
// Two forms share this class. An imported graph is rectangular, over (batch, sequence). The kv-cache rewrite turns it
// into a step graph over packed tokens, whose KV cache is a value of CacheType: consumed exactly once, by the next
// kv_append or as an output; reads of it come before its consumption in program order (the verifier holds to that).
#ifndef COMPILER_IR_GRAPH_H_
#define COMPILER_IR_GRAPH_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/op_table.h"
#include "compiler/ir/type.h"

namespace flashflow::ir {

class Graph;
class Node;

struct Use {
  Node* node;  // the using node
  int operand_index;
  friend bool operator==(const Use&, const Use&) = default;
};

enum class ValueKind : uint8_t { kInput, kWeight, kResult };

// Owned by the graph; addresses are stable until the value is erased.
class Value {
 public:
  ValueKind kind() const { return kind_; }
  const Type& type() const { return type_; }
  const TensorType& tensor() const { return type_.tensor(); }
  const std::string& name() const { return name_; }  // inputs and weights: their public name; results: empty
  Node* def() const { return def_; }                 // the defining node; nullptr for inputs and weights
  int result_index() const { return result_index_; }
  const std::vector<Use>& uses() const { return uses_; }  // by nodes; graph outputs are not in it
  bool IsOutput() const;                                  // of the graph
  bool HasUses() const;                                   // by a node or as a graph output

 private:
  friend class Graph;
  Graph* graph_ = nullptr;
  ValueKind kind_ = ValueKind::kResult;
  Type type_;
  std::string name_;
  Node* def_ = nullptr;
  int result_index_ = 0;
  std::vector<Use> uses_;
};

class Node {
 public:
  Op op() const { return op_; }
  const OpDef& def() const { return GetOpDef(op_); }
  absl::Span<Value* const> operands() const { return operands_; }
  Value* operand(int i) const { return operands_[i]; }  // nullptr: an absent optional operand before a given one
  int num_operands() const { return static_cast<int>(operands_.size()); }
  absl::Span<Value* const> results() const { return results_; }
  Value* result(int i = 0) const { return results_[i]; }
  const AttrMap& attrs() const { return attrs_; }  // complete: defaults are filled in
  template <typename T>
  const T& attr(std::string_view key) const {  // precondition: the op table has the attribute with this kind
    return std::get<T>(attrs_.find(std::string(key))->second);
  }
  const std::string& loc() const { return loc_; }  // where it came from: "layers.0.attn (models/llama.py:88)"

 private:
  friend class Graph;
  Op op_;
  std::vector<Value*> operands_;
  std::vector<Value*> results_;
  AttrMap attrs_;
  std::string loc_;
  std::list<std::unique_ptr<Node>>::iterator position_;
};

struct Output {
  std::string name;
  Value* value;
};

inline constexpr size_t kMaxSymbols = 256;

// Told of changes to a graph as they happen: how a proof follows which value stands for which.
class GraphObserver {
 public:
  virtual ~GraphObserver() = default;
  virtual void OnReplaceAllUses(const Value* from, const Value* to) = 0;
  virtual void OnDelete(const Value* value) = 0;  // its address may serve another value from now on
  virtual void OnSwap() = 0;                      // every value is another one now
};

class Graph {
 public:
  explicit Graph(std::string name) : name_(std::move(name)) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  const std::string& name() const { return name_; }
  std::unique_ptr<Graph> Clone() const;
  // The same, and which value of the copy each value became.
  std::unique_ptr<Graph> Clone(absl::flat_hash_map<const Value*, const Value*>* copies) const;
  // Exchanges the two graphs' contents, names included: how a pass replaces a graph that it rebuilt. Values and nodes
  // keep their addresses.
  void Swap(Graph& other);

  // Symbols keep their order of declaration. InvalidArgument unless the name is an identifier, 0 <= min <= max and
  // there are at most kMaxSymbols; AlreadyExists if declared twice with another range.
  absl::Status DeclareSymbol(std::string_view name, SymbolRange range);
  const std::vector<std::pair<std::string, SymbolRange>>& symbols() const { return symbols_; }
  SymbolRanges symbol_ranges() const;

  // Free-form facts a graph carries with it ("context_length" -> 2048, "architecture" -> "llama").
  AttrMap& metadata() { return metadata_; }
  const AttrMap& metadata() const { return metadata_; }

  Value* AddInput(std::string name, Type type);
  Value* AddWeight(std::string name, TensorType type);  // name: the tensor's name in the checkpoint / engine file
  void AddOutput(std::string name, Value* value);

  // Builds a node before `before` (nullptr: at the end). nullptr operands are absent optional ones; trailing ones are
  // dropped. Types are inferred; InvalidArgument as InferTypes says.
  absl::StatusOr<Node*> AddNode(Op op, std::vector<Value*> operands, AttrMap attrs = {}, std::string loc = "",
                                Node* before = nullptr);

  absl::Span<Value* const> inputs() const { return inputs_; }
  absl::Span<Value* const> weights() const { return weights_; }
  const std::vector<Output>& outputs() const { return outputs_; }
  const std::list<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  Value* FindInput(std::string_view name) const;  // nullptr if there is none
  Value* FindWeight(std::string_view name) const;

  // Mutation, for passes. Types are not re-inferred: the verifier finds a use whose type no longer fits.
  void SetOperand(Node* node, int index, Value* value);
  void SetOutput(int index, Value* value);
  void ReplaceAllUsesWith(Value* from, Value* to);  // nodes and outputs
  void SetType(Value* value, Type type);            // inputs and weights only
  void MoveBefore(Node* node, Node* before);
  void Erase(Node* node);           // CHECKs that no result is used
  void EraseInput(Value* input);    // CHECKs that it is unused
  void EraseWeight(Value* weight);  // CHECKs that it is unused

  // At most one at a time; nullptr for none. It must outlive the graph or be taken off.
  void set_observer(GraphObserver* observer) { observer_ = observer; }

 private:
  Value* NewValue(ValueKind kind, Type type, std::string name);
  void DeleteValue(Value* value);
  Node* InsertNode(Op op, std::vector<Value*> operands, AttrMap attrs, std::string loc, absl::Span<const Type> results,
                   Node* before);
  std::string name_;
  std::vector<std::pair<std::string, SymbolRange>> symbols_;
  AttrMap metadata_;
  std::vector<std::unique_ptr<Value>> values_;
  std::vector<Value*> inputs_;
  std::vector<Value*> weights_;
  std::vector<Output> outputs_;
  std::list<std::unique_ptr<Node>> nodes_;
  GraphObserver* observer_ = nullptr;
};

// The numbers values are printed under: inputs first, then weights, then results in program order.
absl::flat_hash_map<const Value*, int> NumberValues(const Graph& graph);

// Same symbols, metadata, inputs, weights, nodes in order, attributes, locations and outputs.
bool StructurallyEqual(const Graph& a, const Graph& b);

}  // namespace flashflow::ir

#endif  // COMPILER_IR_GRAPH_H_
