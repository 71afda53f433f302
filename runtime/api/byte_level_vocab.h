// Token ids back to text, for tokenizers of the byte-level BPE family (GPT-2, Llama 3, SmolLM).
#ifndef RUNTIME_API_BYTE_LEVEL_VOCAB_H_
#define RUNTIME_API_BYTE_LEVEL_VOCAB_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace flashflow::runtime {

class ByteLevelVocab {
 public:
  // Reads a tokenizer.json. Unimplemented for one that is not byte-level BPE, InvalidArgument for one that is damaged.
  static absl::StatusOr<ByteLevelVocab> Parse(std::string_view tokenizer_json);

  // The bytes of these tokens, one after another; special tokens and unknown ids give none. A text cut inside a
  // character is not valid UTF-8.
  std::string Decode(absl::Span<const int32_t> ids) const;

 private:
  std::vector<std::string> bytes_;  // by id
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_BYTE_LEVEL_VOCAB_H_
