#include "compiler/passes/options.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kDTypes[] = {"", "f32", "bf16"};
constexpr std::string_view kInt8[] = {"", "int8"};
constexpr std::string_view kCodes[] = {"", "int8", "int4"};
constexpr int64_t kMaxCount = int64_t{1} << 20;

constexpr OptionDef kOptions[] = {
    {"dtype", &CompileOptions::dtype, 0, 0, kDTypes,
     "dtype of product weights and the KV cache; empty: as the graph says"},
    {"quantize", &CompileOptions::quantize, 0, 0, kCodes,
     "int8: products of layers by int8 codes, with the clips of the graph's metadata; int4: by weights of 4 bits"},
    {"kv_dtype", &CompileOptions::kv_dtype, 0, 0, kInt8, "int8: the KV cache is of codes; empty: of dtype"},
    {"activation_dtype", &CompileOptions::activation_dtype, 0, 0, kDTypes,
     "dtype of what layers hand to each other; empty: f32"},
    {"device", &CompileOptions::device, 0, 0, {}, "device kind whose kernels are selected"},
    {"page_size", &CompileOptions::page_size, 1, 1024, {}, "tokens a KV cache page"},
    {"max_tokens", &CompileOptions::max_tokens, 1, kMaxCount, {}, "tokens of one step"},
    {"max_rows", &CompileOptions::max_rows, 1, kMaxCount, {}, "sequences in one step"},
    {"max_logit_rows", &CompileOptions::max_logit_rows, 1, kMaxCount, {}, "rows of logits of one step"},
    {"consecutive_positions",
     &CompileOptions::consecutive_positions,
     0,
     1,
     {},
     "whether position_ids rises by one along each sequence, as in serving"},
};

absl::StatusOr<const OptionDef*> Find(std::string_view name) {
  for (const OptionDef& def : kOptions) {
    if (def.name == name) return &def;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown option \"", name,
      "\"; known: ", absl::StrJoin(kOptions, ", ", [](std::string* out, const OptionDef& d) { out->append(d.name); })));
}

absl::Status Set(const OptionDef& def, int64_t value, CompileOptions* options) {
  if (value < def.min || value > def.max) {
    return absl::InvalidArgumentError(
        absl::StrCat("option ", def.name, ": expected ", def.min, " to ", def.max, ", got ", value));
  }
  options->*std::get<int64_t CompileOptions::*>(def.field) = value;
  return absl::OkStatus();
}

absl::Status Set(const OptionDef& def, const std::string& value, CompileOptions* options) {
  if (!def.allowed.empty() && std::find(def.allowed.begin(), def.allowed.end(), value) == def.allowed.end()) {
    return absl::InvalidArgumentError(absl::StrCat("option ", def.name, ": expected one of \"",
                                                   absl::StrJoin(def.allowed, "\", \""), "\", got ",
                                                   QuoteString(value)));
  }
  options->*std::get<std::string CompileOptions::*>(def.field) = value;
  return absl::OkStatus();
}

bool IsInt(const OptionDef& def) { return std::holds_alternative<int64_t CompileOptions::*>(def.field); }

}  // namespace

absl::Span<const OptionDef> OptionTable() { return kOptions; }

absl::Status SetOption(std::string_view name, const Attr& value, CompileOptions* options) {
  FF_ASSIGN_OR_RETURN(const OptionDef* def, Find(name));
  if (IsInt(*def)) {
    if (const auto* number = std::get_if<int64_t>(&value)) return Set(*def, *number, options);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    return Set(*def, *text, options);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("option ", name, ": expected ", IsInt(*def) ? "an int" : "a string", ", got ", AttrToString(value)));
}

absl::Status SetOptionFromText(std::string_view name, std::string_view text, CompileOptions* options) {
  FF_ASSIGN_OR_RETURN(const OptionDef* def, Find(name));
  if (!IsInt(*def)) return Set(*def, std::string(text), options);
  int64_t value;
  if (!absl::SimpleAtoi(text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat("option ", name, ": expected an int, got ", QuoteString(text)));
  }
  return Set(*def, value, options);
}

absl::Status CheckOptions(const CompileOptions& options) {
  CompileOptions checked;
  for (const OptionDef& def : kOptions) {
    FF_RETURN_IF_ERROR(IsInt(def) ? Set(def, options.*std::get<int64_t CompileOptions::*>(def.field), &checked)
                                  : Set(def, options.*std::get<std::string CompileOptions::*>(def.field), &checked));
  }
  return absl::OkStatus();
}

}  // namespace flashflow::passes
