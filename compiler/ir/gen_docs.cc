// Writes docs/ir.md: the prose below and, from the op table, a reference of every op.
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/op_table.h"

namespace flashflow::ir {
namespace {

constexpr std::string_view kIntroduction = R"md(# The IR

<!-- Generated from the op table: ./bazelw run //compiler/ir:gen_docs > docs/ir.md -->

A graph is a typed SSA list of nodes in program order, with named inputs, weights and outputs. Ranks are static;
dimensions are integer polynomials over ranged symbols, kept in canonical form, so that `S*B` and `B*S` are one
dimension. Every op is a row of one table (`compiler/ir/op_table.cc`), which gives the builder, the parser, the printer,
the verifier and this page its operands, attributes and type inference; the interpreter (`compiler/interpreter`) gives it
its meaning.

## Text

```
ffir 1
graph @tiny {
  symbol B [1, 64]
  metadata context_length = 1024
  input %0 "ids" : i64[B, 8]
  weight %1 "wte.weight" : f32[256, 32]
  %2 = embedding(%1, %0) {dtype = f32} : f32[B, 8, 32] loc "wte (tiny.py:4)"
  output "hidden" %2
}
```

`Parse(Print(g))` is structurally equal to `g`. Values may have any name after the `%`; `//` starts a comment; `_` stands
for an absent optional operand before a given one; attributes equal to their default are not printed. Attribute values:
`3`, `1e-05` (a float has a `.` or an `e`, or is `inf` or `nan`), `true`, `"text"`, `[1, 2]`, `f32`, `dim(B*S)`,
`dims(B, S, 64)`.

## Types

Tensors, `f32[B, S, 576]`, of f32, f16, bf16, i8, i32, i64 or bool and at most 6 dimensions; and the paged KV cache of a
model, `cache[layers, kv_heads, head_dim, dtype]`. The cache is a linear resource: each of its values is consumed exactly
once, by a kv_append or as an output, and reads of it come before that. Its page size and memory layout belong to the
plan.

## Two forms of a graph

An imported graph is rectangular, over a batch `B` and a sequence `S`. The kv-cache pass rewrites it into a step graph
over packed tokens, whose inputs are `token_ids[T]`, `positions[T]`, `row_start[R + 1]`, `kv_len[R]`,
`block_table[R, P]`, `logit_rows[L]` (all i32) and the cache. Row r owns the tokens from `row_start[r]` to
`row_start[r + 1]`; `kv_len[r]` is its length with them. Prefill, chunked prefill, decode and any mixture of them are
the same graph at other values.

## Numerics

The interpreter's typed mode computes each op in double, integers exactly, and rounds the result once to its dtype: to
nearest, ties to even. Its wide mode leaves floats unrounded. Integers wrap around at their width in both.

## Ops

`x?` is an optional operand, `xs...` one or more. Elementwise ops broadcast as numpy does: axes aligned at the last,
dimensions equal or 1. Operands of one op have one dtype unless it says otherwise.
)md";

std::string Signature(const OpDef& def) {
  std::vector<std::string> parts;
  for (const OperandDef& operand : def.operands) {
    parts.push_back(absl::StrCat(operand.name, operand.kind == OperandKind::kOptional   ? "?"
                                               : operand.kind == OperandKind::kVariadic ? "..."
                                                                                        : ""));
  }
  return absl::StrCat(def.name, "(", absl::StrJoin(parts, ", "), ")");
}

std::string Attributes(const OpDef& def) {
  if (def.attrs.empty()) return "";
  std::vector<std::string> parts;
  for (const AttrDef& attr : def.attrs) {
    parts.push_back(absl::StrCat(attr.name, ": ", AttrKindName(attr.kind)));
    if (attr.default_value.has_value()) absl::StrAppend(&parts.back(), " = ", AttrToString(*attr.default_value));
  }
  return absl::StrCat(" {", absl::StrJoin(parts, ", "), "}");
}

std::string Reference() {
  std::string text(kIntroduction);
  std::string_view group;
  for (const OpDef& def : OpTable()) {
    if (def.group != group) absl::StrAppend(&text, "\n### ", def.group, "\n\n");
    group = def.group;
    absl::StrAppend(&text, "- `", Signature(def), Attributes(def), "`");
    if (def.effect == Effect::kConsumesCache) absl::StrAppend(&text, " consumes the cache.");
    if (def.effect == Effect::kReadsCache) absl::StrAppend(&text, " reads the cache.");
    absl::StrAppend(&text, "\n  ", def.doc, "\n");
  }
  return text;
}

}  // namespace
}  // namespace flashflow::ir

int main() {
  std::cout << flashflow::ir::Reference();
  return 0;
}
