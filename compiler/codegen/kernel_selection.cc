#include "compiler/codegen/kernel_selection.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow::codegen {
namespace {

using kernels::KernelSpec;
using kernels::OperandSpec;

// Why the kernel cannot run it; empty if it can.
std::string Refusal(const KernelSpec& spec, const OpFacts& facts) {
  if (spec.uses_cache != facts.cache_dtype.has_value()) {
    return spec.uses_cache ? "it wants a KV cache" : "it takes no KV cache";
  }
  if (facts.cache_dtype && !spec.cache_dtypes.Contains(*facts.cache_dtype)) {
    return absl::StrCat("it takes no KV cache of ", DTypeName(*facts.cache_dtype));
  }
  if (facts.inputs.size() > spec.inputs.size() && !spec.variadic) {
    return absl::StrCat("it takes ", spec.inputs.size(), " operands");
  }
  std::optional<DType> common;
  const auto same = [&](DType dtype) {
    if (!common) common = dtype;
    return !spec.same_dtype || *common == dtype;
  };
  for (size_t i = 0; i < std::max(facts.inputs.size(), spec.inputs.size()); ++i) {
    const OperandSpec& operand = spec.inputs[std::min(i, spec.inputs.size() - 1)];
    const OperandFacts given = i < facts.inputs.size() ? facts.inputs[i] : OperandFacts{};
    if (!given.dtype) {
      if (operand.optional) continue;
      return absl::StrCat("it wants operand ", operand.name);
    }
    if (!kernels::AcceptsInput(spec, static_cast<int>(i), *given.dtype)) {
      return absl::StrCat("operand ", operand.name, " is ", DTypeName(*given.dtype));
    }
    if (!same(*given.dtype)) return "its operands differ in dtype";
    const std::string_view layout = kernels::WeightLayout(spec, static_cast<int>(i), *given.dtype);
    if (layout != kernels::kRowMajor && !given.is_weight) {
      return absl::StrCat("operand ", operand.name, " is computed, and it wants a weight in layout ", layout);
    }
  }
  if (facts.outputs.size() != spec.outputs.size()) return absl::StrCat("it has ", spec.outputs.size(), " results");
  for (size_t i = 0; i < facts.outputs.size(); ++i) {
    if (!spec.outputs[i].dtypes.Contains(facts.outputs[i]) || !same(facts.outputs[i])) {
      return absl::StrCat("the result is ", DTypeName(facts.outputs[i]));
    }
  }
  return "";
}

bool SameLayouts(const KernelSpec& a, const KernelSpec& b, const OpFacts& facts) {
  for (size_t i = 0; i < facts.inputs.size(); ++i) {
    const std::optional<DType> dtype = facts.inputs[i].dtype;
    const int operand = static_cast<int>(i);
    if (dtype && kernels::WeightLayout(a, operand, *dtype) != kernels::WeightLayout(b, operand, *dtype)) return false;
  }
  return true;
}

std::string Signature(const OpFacts& facts) {
  return absl::StrCat(facts.op, "(",
                      absl::StrJoin(facts.inputs, ", ",
                                    [](std::string* out, const OperandFacts& operand) {
                                      absl::StrAppend(out, operand.dtype ? DTypeName(*operand.dtype) : "_");
                                    }),
                      ") -> ", absl::StrJoin(facts.outputs, ", ", [](std::string* out, DType dtype) {
                        absl::StrAppend(out, DTypeName(dtype));
                      }));
}

}  // namespace

absl::StatusOr<std::vector<const KernelSpec*>> SelectKernels(const OpFacts& facts, std::string_view device) {
  std::vector<const KernelSpec*> selected;
  std::vector<std::string> refusals;
  for (const KernelSpec* spec : kernels::KernelsForOp(facts.op, device)) {
    std::string refusal = Refusal(*spec, facts);
    if (!refusal.empty()) {
      refusals.push_back(absl::StrCat(spec->id, ": ", refusal));
    } else if (selected.empty() || SameLayouts(*selected[0], *spec, facts)) {
      selected.push_back(spec);
    }
  }
  if (!selected.empty()) return selected;
  return absl::UnimplementedError(
      absl::StrCat("device ", device, " has no kernel for ", Signature(facts),
                   refusals.empty() ? "" : absl::StrCat(" (", absl::StrJoin(refusals, "; "), ")")));
}

}  // namespace flashflow::codegen
