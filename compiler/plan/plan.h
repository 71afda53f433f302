// The Plan: what the runtime executes. Schema only; compiler/codegen makes plans, runtime/ reads them.
//
// A plan is a flat list of steps over numbered tensors. It names kernels by id and version and holds no code. It is
// untrusted when it comes from a file: Validate() checks every index, offset, dtype and shape before anything runs.
//
// A step graph's plan has limits, and arena offsets fixed per token bucket. A rectangular graph's plan has symbols of
// any names, inputs and outputs of any dtypes, no KV cache, no limits (all 0) and no buckets: an ArenaLayout is made
// for the symbols' values when they are known.
#ifndef COMPILER_PLAN_PLAN_H_
#define COMPILER_PLAN_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"

namespace flashflow::plan {

inline constexpr int kPlanVersion = 4;
inline constexpr int64_t kArenaAlignment = 256;  // bytes; every arena offset is a multiple

enum class Storage : uint8_t { kInput, kWeight, kArena, kOutput };

struct Tensor {
  std::string name = {};  // inputs, weights and outputs: their public name; arena: empty
  DType dtype = DType::kF32;
  Dims shape = {};
  Storage storage = Storage::kArena;
  int32_t index = -1;  // into inputs / weights / outputs; -1 for the arena
  // The tensor whose elements this one shows under another shape, as a reshape does: dtype, storage, index, offsets and
  // byte count are that tensor's, no step writes this one, and aliases do not chain. -1: a tensor of its own.
  int32_t alias_of = -1;
  // The tensor whose memory this one takes over: the step that writes this one reads that one, for the last time. Both
  // are of one dtype and size in the arena, neither is an alias, and that one has the smaller index. -1: memory of its
  // own. The step's kernel must allow it (kernels/registry:catalog), which whoever binds the kernel checks.
  int32_t in_place_of = -1;
};

// What the engine file holds of a weight that layers and lookups take as codes: `quantize` of the weight (docs/ir.md),
// in place of the weight if nothing else reads it.
inline constexpr std::string_view kCodesSuffix = ".codes";  // i8, of the weight's shape; or of [N, K/2], 4 bits each
// f32, one for each row, or column of a transposed weight; or f16[N, K/32, 2] of groups of 4-bit codes
inline constexpr std::string_view kScalesSuffix = ".scales";

// A weight as its kernel wants it: tensors of the engine file, which holds them row-major, one after the other along
// axis 0 (the weights of merged layers); `layout` is applied at load.
struct Weight {
  std::vector<std::string> sources;  // tensor names in the engine file, at least one
  DType dtype = DType::kF32;         // as the kernel reads it; of a rectangular graph perhaps wider than the sources'
  std::vector<int64_t> shape;
  std::string layout = "row_major";  // or a packing named in kernels/registry:catalog
  bool transposed = false;           // the one source holds shape[1] rows of shape[0]: the axes are exchanged at load
};

struct KernelRef {
  std::string id;  // "cpu.linear.panel16"
  int32_t version = 1;
  friend bool operator==(const KernelRef&, const KernelRef&) = default;
};

struct Step {
  std::string op = {};                  // IR op name, for messages and the roofline
  std::vector<KernelRef> tactics = {};  // at least one, best first; binding any changes no layout, no offset
  std::vector<int32_t> inputs = {};     // tensor indices; -1 for an absent optional operand
  std::vector<int32_t> outputs = {};
  AttrMap attrs = {};
  bool uses_cache = false;  // reads or appends to the KV cache
  int32_t workspace = -1;   // an i8 arena tensor of this step's own, or -1
  std::string loc = {};
};

// Of a step graph: where each arena tensor lies when a step has at most max_tokens tokens.
struct Bucket {
  int64_t max_tokens = 0;
  int64_t arena_bytes = 0;
  std::vector<int64_t> offsets;  // per tensor; -1 for tensors outside the arena
};

struct CacheSpec {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t page_size = 16;  // tokens a page
  DType dtype = DType::kF32;
  // Memory: [layers][pages][2 (k, v)][kv_heads][page_size][head_dim]
};

// Of a step graph.
struct Limits {
  int64_t context_length = 0;  // positions a row may reach
  int64_t max_tokens = 0;      // T of one step
  int64_t max_rows = 0;        // R of one step
  int64_t max_logit_rows = 0;  // L of one step
};

// A step graph's inputs, by name (dtype i32): token_ids[T], positions[T], row_start[R+1], kv_len[R],
// block_table[R, P], logit_rows[L]. Symbols T, R, P, L. Output: logits[L, vocab], f32.
struct Plan {
  int32_t version = kPlanVersion;
  std::string device_key;    // "cpu/1": device kind and kernel-catalogue version
  std::string graph_sha256;  // of the .ffir text it was made from
  std::vector<std::pair<std::string, SymbolRange>> symbols;
  Limits limits;
  CacheSpec cache;
  std::vector<Tensor> tensors;
  std::vector<int32_t> inputs;   // tensor indices
  std::vector<int32_t> outputs;  // tensor indices
  std::vector<Weight> weights;
  std::vector<Step> steps;
  std::vector<Bucket> buckets;  // ascending max_tokens; the last covers limits.max_tokens
};

inline bool IsStepPlan(const Plan& plan) { return plan.limits.max_tokens > 0; }

// Of a rectangular graph: where each arena tensor lies while no symbol is greater than in `most`.
struct ArenaLayout {
  SymbolValues most;
  int64_t arena_bytes = 0;
  std::vector<int64_t> offsets;  // per tensor; -1 for tensors outside the arena
};

// JSON, human-readable: the same plan gives the same bytes. FromJson refuses unknown versions, unknown keys, missing
// keys and wrong kinds by name, and validates. Neither allocates more than a small multiple of the text's size.
// Dimensions are integers or DimExpr text; attributes are plain JSON where that is unambiguous (a float has a '.' or an
// 'e'), otherwise {"dtype": "f32"}, {"dim": "T"}, {"dims": [...]}, {"float": "-inf"}.
std::string ToJson(const Plan& plan);
absl::StatusOr<Plan> FromJson(std::string_view json);

// Every index in range, single writer before readers, buckets ascending and complete, offsets aligned and inside the
// arena for the largest shapes of the bucket, no two live tensors overlapping unless one aliases the other, no tensor
// written in place of one that is still read later; no limits, buckets or use of a cache in a rectangular graph's plan.
absl::Status Validate(const Plan& plan);

// The same rules for the arena of a plan that passed Validate. InvalidArgument also for a symbol without a value.
absl::Status ValidateLayout(const Plan& plan, const ArenaLayout& layout);

// The symbol values at a bucket's upper end: T = max_tokens, R = min(T, max_rows), L = min(T, max_logit_rows),
// P = the block table's width for context_length.
SymbolValues BucketSymbols(const Plan& plan, const Bucket& bucket);

}  // namespace flashflow::plan

#endif  // COMPILER_PLAN_PLAN_H_
