#include "compiler/analysis/cost_model.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "compiler/analysis/loaded_weight.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::analysis {
namespace {

using ir::Node;
using ir::Op;
using ir::Value;

// Operations for an element of a transcendental function, of a norm, of a softmax: what a few polynomial terms or
// passes over a row come to. They matter where nothing else is done.
constexpr double kFunctionFlops = 10;
constexpr double kNormFlops = 8;
constexpr double kSoftmaxFlops = 15;

class Coster {
 public:
  Coster(const Node& node, const Workload& workload) : node_(node), workload_(workload) {}

  absl::StatusOr<OpCost> Run() {
    if (node_.op() == Op::kReshape || IsMadeAtLoad(*node_.results()[0])) return cost_;
    FF_RETURN_IF_ERROR(CountTensors());
    FF_RETURN_IF_ERROR(CountOp());
    return cost_;
  }

 private:
  absl::StatusOr<double> Elements(const Value* value) const {
    double count = 1;
    for (const DimExpr& dim : value->tensor().shape) {
      FF_ASSIGN_OR_RETURN(const int64_t size, dim.Evaluate(workload_.symbols));
      count *= static_cast<double>(size);
    }
    return count;
  }

  absl::StatusOr<double> Bytes(const Value* value) const {
    FF_ASSIGN_OR_RETURN(const double count, Elements(value));
    return count * static_cast<double>(DTypeBytes(value->tensor().dtype));
  }

  // Every tensor once. Tables are read where they are looked up.
  absl::Status CountTensors() {
    const bool lookup = node_.op() == Op::kEmbedding || node_.op() == Op::kGatherRows;
    for (int i = 0; i < node_.num_operands(); ++i) {
      const Value* operand = node_.operand(i);
      if (operand == nullptr || !operand->type().is_tensor()) continue;
      double bytes = 0;
      if (lookup && i == 0) {
        FF_ASSIGN_OR_RETURN(bytes, Elements(node_.result()));
        bytes *= static_cast<double>(DTypeBytes(operand->tensor().dtype));
      } else if (lookup && i == 2) {  // a scale a row
        FF_ASSIGN_OR_RETURN(bytes, Elements(node_.operand(1)));
        bytes *= static_cast<double>(DTypeBytes(operand->tensor().dtype));
      } else if (node_.op() == Op::kSlice) {
        FF_ASSIGN_OR_RETURN(bytes, Bytes(node_.result()));
      } else {
        FF_ASSIGN_OR_RETURN(bytes, Bytes(operand));
      }
      cost_.bytes_read += bytes;
    }
    for (const Value* result : node_.results()) {
      if (!result->type().is_tensor()) continue;
      FF_ASSIGN_OR_RETURN(const double bytes, Bytes(result));
      cost_.bytes_written += bytes;
    }
    return absl::OkStatus();
  }

  absl::Status CountOp() {
    const Value* result = node_.results().back();
    double elements = 0;
    if (result->type().is_tensor()) {
      FF_ASSIGN_OR_RETURN(elements, Elements(result));
    }
    switch (node_.op()) {
      case Op::kExp:
      case Op::kTanh:
      case Op::kSigmoid:
      case Op::kSin:
      case Op::kCos:
      case Op::kGelu:
      case Op::kSilu:
      case Op::kPow:
        cost_.flops = kFunctionFlops * elements;
        return absl::OkStatus();
      case Op::kCast:
      case Op::kConstant:
      case Op::kIota:
      case Op::kTranspose:
      case Op::kExpand:
      case Op::kSlice:
      case Op::kConcat:
      case Op::kEmbedding:
      case Op::kGatherRows:
        return absl::OkStatus();
      case Op::kReduceSum:
      case Op::kReduceMean:
      case Op::kReduceMax: {
        FF_ASSIGN_OR_RETURN(cost_.flops, Elements(node_.operand(0)));
        return absl::OkStatus();
      }
      case Op::kSoftmax:
        cost_.flops = kSoftmaxFlops * elements;
        return absl::OkStatus();
      case Op::kLayerNorm:
      case Op::kRmsNorm:
      case Op::kAddNorm:
        cost_.flops = kNormFlops * elements;
        return absl::OkStatus();
      case Op::kRope:
        cost_.flops = 3 * elements;
        return absl::OkStatus();
      case Op::kMatmul: {
        FF_ASSIGN_OR_RETURN(const int64_t k, node_.operand(0)->tensor().shape.back().Evaluate(workload_.symbols));
        return CountProducts(node_.operand(1), elements * static_cast<double>(k));
      }
      case Op::kLinear:
      case Op::kFusedLinear:
        return CountLinear(elements);
      case Op::kAttention:
        return CountAttention();
      case Op::kKvAppend:
        return CountAppend(node_.operand(1), node_.operand(0));
      case Op::kPagedAttention:
        return CountPagedAttention(node_.operand(1), elements);
      case Op::kCachedAttention: {
        const ir::CacheType& cache = node_.operand(0)->type().cache();
        FF_ASSIGN_OR_RETURN(const double tokens, Tokens(node_.operand(1)));
        cost_.bytes_written += tokens * PositionBytes(cache);
        if (node_.num_operands() > 5) {
          cost_.flops +=
              3 * tokens * static_cast<double>((node_.attr<int64_t>("heads") + cache.kv_heads) * cache.head_dim);
        }
        return CountPagedAttention(node_.operand(1), elements);
      }
      default:
        cost_.flops = elements;
        return absl::OkStatus();
    }
  }

  absl::Status CountProducts(const Value* second, double multiply_adds) {
    cost_.flops += 2 * multiply_adds;
    cost_.dtype = second->tensor().dtype;
    return absl::OkStatus();
  }

  absl::Status CountLinear(double elements) {
    const Value* weight = node_.operand(1);
    FF_ASSIGN_OR_RETURN(const double weights, Elements(weight));
    FF_ASSIGN_OR_RETURN(const double inputs, Elements(node_.operand(0)));
    const int64_t k = weight->tensor().shape[1].constant().value_or(1);
    if (node_.op() == Op::kFusedLinear) {
      if (node_.attr<std::string>("norm") != "none") cost_.flops += kNormFlops * inputs;
      if (node_.attr<std::string>("activation") != "none") cost_.flops += kFunctionFlops * elements;
    }
    return CountProducts(weight, inputs / static_cast<double>(std::max<int64_t>(k, 1)) * weights);
  }

  // Of the rectangular form: every query sees every key, or half of them if it is causal.
  absl::Status CountAttention() {
    FF_ASSIGN_OR_RETURN(const double queries, Elements(node_.operand(0)));
    FF_ASSIGN_OR_RETURN(const int64_t keys, node_.operand(1)->tensor().shape[2].Evaluate(workload_.symbols));
    const double seen = node_.attr<bool>("causal") ? 0.5 * static_cast<double>(keys + 1) : static_cast<double>(keys);
    cost_.flops = kSoftmaxFlops * seen * queries / HeadDim(node_.operand(0));
    return CountProducts(node_.operand(1), 2 * seen * queries);
  }

  static double HeadDim(const Value* heads) {
    return static_cast<double>(std::max<int64_t>(heads->tensor().shape.back().constant().value_or(1), 1));
  }

  // Of keys and values of one position of one layer.
  static double PositionBytes(const ir::CacheType& cache) {
    return 2.0 * static_cast<double>(cache.kv_heads * KvHeadBytes(cache.dtype, cache.head_dim));
  }

  absl::StatusOr<double> Tokens(const Value* value) const {
    FF_ASSIGN_OR_RETURN(const int64_t tokens, value->tensor().shape[0].Evaluate(workload_.symbols));
    return static_cast<double>(tokens);
  }

  absl::Status CountAppend(const Value* k, const Value* cache) {
    FF_ASSIGN_OR_RETURN(const double tokens, Tokens(k));
    cost_.bytes_written += tokens * PositionBytes(cache->type().cache());
    return absl::OkStatus();
  }

  // elements: of the result, [tokens, heads, head_dim].
  absl::Status CountPagedAttention(const Value* tokens_of, double elements) {
    const ir::CacheType& cache = node_.operand(0)->type().cache();
    FF_ASSIGN_OR_RETURN(const double tokens, Tokens(tokens_of));
    FF_ASSIGN_OR_RETURN(const double rows, Tokens(node_.operand(3)));
    const double window = static_cast<double>(node_.attr<int64_t>("window"));
    // The last of a row's tokens sees all positions, each before it one less.
    double seen = std::max(workload_.context - (tokens / std::max(rows, 1.0) - 1) / 2, 1.0);
    double read = workload_.context;
    if (window > 0) {
      seen = std::min(seen, window);
      read = std::min(read, window + tokens / std::max(rows, 1.0) - 1);
    }
    cost_.bytes_read += rows * read * PositionBytes(cache);
    cost_.flops += kSoftmaxFlops * seen * elements / static_cast<double>(cache.head_dim) + 4 * seen * elements;
    // Codes become floats before they are multiplied.
    cost_.dtype = cache.dtype == DType::kI8 ? tokens_of->tensor().dtype : cache.dtype;
    return absl::OkStatus();
  }

  const Node& node_;
  const Workload& workload_;
  OpCost cost_;
};

}  // namespace

absl::StatusOr<OpCost> CostOf(const Node& node, const Workload& workload) { return Coster(node, workload).Run(); }

}  // namespace flashflow::analysis
