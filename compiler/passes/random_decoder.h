// Random rectangular decoder graphs, for tests that hold a pass to its relation.
#ifndef COMPILER_PASSES_RANDOM_DECODER_H_
#define COMPILER_PASSES_RANDOM_DECODER_H_

#include <cstdint>
#include <memory>

#include "compiler/ir/graph.h"

namespace flashflow::passes {

inline constexpr int64_t kDecoderVocabulary = 23;
inline constexpr int64_t kDecoderContext = 40;

// A graph over input_ids and mostly position_ids : i64[B, S] (others count positions themselves) with logits f32[B, S,
// 23] that the kv-cache rewrite accepts: a random chain of linears, norms, elementwise operations, shape changes and at
// least one causal attention, sprinkled with operations that do nothing. The same seed gives the same graph.
std::unique_ptr<ir::Graph> RandomDecoder(uint32_t seed);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_RANDOM_DECODER_H_
