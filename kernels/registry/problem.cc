#include "kernels/registry/problem.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::kernels {
namespace {

constexpr SizeSpec kFusedLinear[] = {{"m", SizeKind::kBucketed},
                                     {"n"},
                                     {"k"},
                                     {"gated", SizeKind::kFlag},
                                     {"activated", SizeKind::kFlag},
                                     {"residual", SizeKind::kFlag},
                                     {"f32_output", SizeKind::kFlag}};
constexpr SizeSpec kAttention[] = {{"batch", SizeKind::kBucketed},
                                   {"heads"},
                                   {"kv_heads"},
                                   {"q_tokens", SizeKind::kBucketed},
                                   {"kv_tokens", SizeKind::kBucketed},
                                   {"head_dim"},
                                   {"causal", SizeKind::kFlag}};
constexpr SizeSpec kPagedAttention[] = {
    {"rows", SizeKind::kBucketed}, {"heads"}, {"kv_heads"}, {"context", SizeKind::kBucketed}, {"head_dim"}};
constexpr SizeSpec kRows[] = {{"rows", SizeKind::kBucketed}, {"columns"}};

struct OpRow {
  std::string_view op;
  absl::Span<const SizeSpec> sizes;
};
constexpr OpRow kOps[] = {{"linear", kFusedLinear},  {"fused_linear", kFusedLinear},
                          {"attention", kAttention}, {"paged_attention", kPagedAttention},
                          {"layer_norm", kRows},     {"rms_norm", kRows},
                          {"softmax", kRows},        {"quantize", kRows}};

constexpr int64_t kLargestSize = std::numeric_limits<int32_t>::max();

// The power of two at the upper end of the bucket of a size >= 1.
int64_t BucketEnd(int64_t size) {
  int64_t end = 1;
  while (end < size) end *= 2;
  return end;
}

}  // namespace

absl::StatusOr<absl::Span<const SizeSpec>> SizesOf(std::string_view op) {
  for (const OpRow& row : kOps) {
    if (row.op == op) return row.sizes;
  }
  const auto name = [](std::string* out, const OpRow& row) { absl::StrAppend(out, row.op); };
  return absl::NotFoundError(absl::StrCat("op \"", op, "\" has no tactics; ops: ", absl::StrJoin(kOps, ", ", name)));
}

absl::StatusOr<Problem> MakeProblem(std::string_view op, DType dtype, absl::Span<const NamedSize> sizes) {
  FF_ASSIGN_OR_RETURN(const absl::Span<const SizeSpec> specs, SizesOf(op));
  Problem problem = {std::string(op), dtype, std::vector<int64_t>(specs.size(), 0)};
  std::vector<bool> given(specs.size());
  for (const NamedSize& size : sizes) {
    const auto spec = std::ranges::find(specs, size.name, &SizeSpec::name);
    if (spec == specs.end()) {
      const auto name = [](std::string* out, const SizeSpec& s) { absl::StrAppend(out, s.name); };
      return absl::InvalidArgumentError(
          absl::StrCat("\"", size.name, "\" is no size of ", op, "; it has ", absl::StrJoin(specs, ", ", name)));
    }
    const auto i = static_cast<size_t>(spec - specs.begin());
    if (given[i]) return absl::InvalidArgumentError(absl::StrCat(op, ": ", size.name, " is given twice"));
    const bool is_flag = spec->kind == SizeKind::kFlag;
    if (size.value < (is_flag ? 0 : 1) || size.value > (is_flag ? 1 : kLargestSize)) {
      return absl::InvalidArgumentError(
          absl::StrCat(op, ": ", size.name, " is ", size.value, "; expected ", is_flag ? "0 or 1" : "1 to 2147483647"));
    }
    given[i] = true;
    problem.sizes[i] = size.value;
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!given[i] && specs[i].kind != SizeKind::kFlag) {
      return absl::InvalidArgumentError(absl::StrCat(op, ": ", specs[i].name, " is missing"));
    }
  }
  return problem;
}

int64_t SizeOf(const Problem& problem, std::string_view name) {
  const absl::StatusOr<absl::Span<const SizeSpec>> specs = SizesOf(problem.op);
  CHECK_OK(specs.status());
  const auto spec = std::ranges::find(*specs, name, &SizeSpec::name);
  CHECK(spec != specs->end()) << problem.op << " has no " << name;
  return problem.sizes[static_cast<size_t>(spec - specs->begin())];
}

std::string ProblemToText(const Problem& problem) {
  const absl::StatusOr<absl::Span<const SizeSpec>> specs = SizesOf(problem.op);
  CHECK_OK(specs.status());
  std::string text = absl::StrCat(problem.op, "/", DTypeName(problem.dtype), "/");
  for (size_t i = 0; i < specs->size(); ++i) {
    const SizeSpec& spec = (*specs)[i];
    const bool is_flag = spec.kind == SizeKind::kFlag;
    if (is_flag && problem.sizes[i] == 0) continue;
    absl::StrAppend(&text, i == 0 ? "" : ",", spec.name);
    if (!is_flag) absl::StrAppend(&text, "=", problem.sizes[i]);
  }
  return text;
}

absl::StatusOr<Problem> ParseProblem(std::string_view text) {
  const std::vector<std::string_view> parts = absl::StrSplit(text, '/');
  if (parts.size() != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is no problem; expected op/dtype/sizes, as linear/bf16/m=1,n=2304,k=768"));
  }
  const std::optional<DType> dtype = ParseDType(parts[1]);
  if (!dtype) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": \"", parts[1], "\" is no dtype"));
  std::vector<NamedSize> sizes;
  for (std::string_view size : absl::StrSplit(parts[2], ',', absl::SkipEmpty())) {
    const std::pair<std::string_view, std::string_view> named = absl::StrSplit(size, absl::MaxSplits('=', 1));
    int64_t value = 1;  // a flag
    if (size.find('=') != std::string_view::npos && !absl::SimpleAtoi(named.second, &value)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": \"", size, "\" is no size"));
    }
    sizes.push_back({named.first, value});
  }
  return MakeProblem(parts[0], *dtype, sizes);
}

std::string ShapeBucket(const Problem& problem) {
  const absl::StatusOr<absl::Span<const SizeSpec>> specs = SizesOf(problem.op);
  CHECK_OK(specs.status());
  std::string text;
  for (size_t i = 0; i < specs->size(); ++i) {
    const SizeSpec& spec = (*specs)[i];
    const int64_t size = problem.sizes[i];
    if (spec.kind == SizeKind::kFlag && size == 0) continue;
    absl::StrAppend(&text, i == 0 ? "" : ",", spec.name);
    if (spec.kind == SizeKind::kExact) absl::StrAppend(&text, "=", size);
    if (spec.kind != SizeKind::kBucketed) continue;
    const int64_t end = BucketEnd(size);
    absl::StrAppend(&text, "=");
    if (end > 2) absl::StrAppend(&text, end / 2 + 1, "..");
    absl::StrAppend(&text, end);
  }
  return text;
}

ProblemCost CostOfProblem(const Problem& problem, DType activations) {
  const auto size = [&](std::string_view name) { return static_cast<double>(SizeOf(problem, name)); };
  const auto bytes = static_cast<double>(DTypeBytes(activations));
  if (problem.op == "linear" || problem.op == "fused_linear") {
    const double m = size("m"), n = size("n"), k = size("k");
    const double columns = SizeOf(problem, "gated") != 0 ? n / 2 : n;
    const double written = columns * static_cast<double>(SizeOf(problem, "f32_output") != 0 ? 4 : bytes);
    const double residual = SizeOf(problem, "residual") != 0 ? columns * bytes : 0;
    return {n * k * static_cast<double>(DTypeBytes(problem.dtype)) + m * (k * bytes + written + residual),
            2 * m * n * k};
  }
  if (problem.op == "attention") {
    const double q = size("q_tokens"), kv = size("kv_tokens"), heads = size("heads"), dim = size("head_dim");
    // Query i of the last q of kv positions sees all before it and itself.
    const double seen = SizeOf(problem, "causal") != 0 ? q * kv - q * (q - 1) / 2 : q * kv;
    return {size("batch") * dim * bytes * (2 * q * heads + 2 * kv * size("kv_heads")),
            size("batch") * heads * seen * dim * 4};
  }
  if (problem.op == "paged_attention") {
    const double rows = size("rows"), heads = size("heads"), context = size("context"), dim = size("head_dim");
    return {rows * dim * bytes * (2 * heads + 2 * context * size("kv_heads")), rows * heads * context * dim * 4};
  }
  if (problem.op == "quantize") {
    return {size("rows") * (size("columns") * (bytes + 1) + 4), 0};
  }
  // Read and written once; a handful of operations an element, which no device is bound by.
  return {2 * size("rows") * size("columns") * bytes, 0};
}

}  // namespace flashflow::kernels
