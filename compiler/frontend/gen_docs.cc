// Writes docs/frontend.md: the prose below and, from the tables, every target that the importer knows.
#include <iostream>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "compiler/frontend/lowering.h"

namespace flashflow::frontend {
namespace {

constexpr std::string_view kIntroduction = R"md(# What models may use

<!-- Generated from the tables: ./bazelw run //compiler/frontend:gen_docs > docs/frontend.md -->

`compiler/frontend` imports the graph that the exporter wrote ([graph_json.md](graph_json.md)) into the IR
([ir.md](ir.md)). Each call of the graph has a target; the tables below hold all that are known. An unknown target, or an
argument that is not supported, is an error with the node, its module, the line of the model's code and what to do. The
dtype and shape that the file declares for each result are checked against what the IR infers.

To be served with a KV cache, a model also has to

- take `input_ids` and `position_ids`, both i64 `[batch, sequence]`, or `input_ids` alone and count positions itself by
  `arange`, and return logits `[batch, sequence, vocabulary]` for every position;
- write attention as `scaled_dot_product_attention(..., is_causal=True)` without a mask, all layers with one number of KV
  heads and one head_dim;
- keep tokens apart otherwise: nothing else may sum, slice or reshape across the batch or the sequence.

Mixed operands are promoted as torch does it: a tensor with dimensions outranks one of shape `[]`, which outranks a
number; the lower ones only raise the category (bool, integer, float). An argument in brackets may be left out; one that
is struck through is accepted and ignored, as it does not change the result.
)md";

std::string Parameters(std::string_view parameters) {
  std::string text;
  for (std::string_view name : absl::StrSplit(parameters, ' ', absl::SkipEmpty())) {
    const char mark = name.back();
    if (mark == '?' || mark == '~') name.remove_suffix(1);
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    mark == '?'   ? absl::StrCat("[", name, "]")
                    : mark == '~' ? absl::StrCat("~~", name, "~~")
                                  : std::string(name));
  }
  return text;
}

std::string Markdown() {
  std::string text(kIntroduction);
  for (const TargetGroup& group : TargetGroups()) {
    absl::StrAppend(&text, "\n## ", group.heading, "\n\n| target | arguments | limits |\n|---|---|---|\n");
    for (const TargetRow& row : group.rows) {
      absl::StrAppend(&text, "| `", row.target, "` | ", Parameters(row.parameters), " | ", row.note, " |\n");
    }
  }
  absl::StrAppend(&text, "\n`getitem` takes one result of a call that has several.\n");
  return text;
}

}  // namespace
}  // namespace flashflow::frontend

int main() {
  std::cout << flashflow::frontend::Markdown();
  return 0;
}
