// What a compilation is asked for, settable by name.
#ifndef COMPILER_PASSES_OPTIONS_H_
#define COMPILER_PASSES_OPTIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"

namespace flashflow::passes {

struct CompileOptions {
  // "f32" or "bf16": weights of products and the KV cache. Empty: what the graph's metadata says, else f32.
  std::string dtype = {};
  // "int8": products of int8 codes, by quantize-int8. "int4": of weights of 4-bit codes, by quantize-int4, and the rest
  // as int8. Empty: none.
  std::string quantize = {};
  // "int8": keys and values of the KV cache are codes, with a scale a head and token. Empty: as `dtype`.
  std::string kv_dtype = {};
  // "f32" or "bf16": what layers hand to each other, by assign-types. Empty: f32.
  std::string activation_dtype = {};
  std::string device = "cpu";
  int64_t page_size = 16;       // tokens a KV cache page
  int64_t max_tokens = 512;     // tokens of one step
  int64_t max_rows = 64;        // sequences in one step
  int64_t max_logit_rows = 64;  // rows of logits of one step
  // 1: the input "position_ids" rises by one along each sequence, as it does wherever a step graph runs; passes may
  // decide masks by that. 0: nothing is known of it, as of the inputs of a graph that runs as it is.
  int64_t consecutive_positions = 1;
};

// One option as the command line and Python see it.
struct OptionDef {
  std::string_view name;
  std::variant<std::string CompileOptions::*, int64_t CompileOptions::*> field;
  int64_t min = 0, max = 0;                    // of an int
  absl::Span<const std::string_view> allowed;  // of a string; empty: any
  std::string_view doc;
};
absl::Span<const OptionDef> OptionTable();

// InvalidArgument for an unknown name (and lists the known ones), a value of another kind, or one out of range.
absl::Status SetOption(std::string_view name, const Attr& value, CompileOptions* options);
// The same from text: "64", "bf16".
absl::Status SetOptionFromText(std::string_view name, std::string_view text, CompileOptions* options);
// Every field against the table: for options that were filled in directly.
absl::Status CheckOptions(const CompileOptions& options);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_OPTIONS_H_
