// Small models as the Python exporter writes them, for tests of the importer and of everything after it.
#ifndef COMPILER_FRONTEND_TEST_MODELS_H_
#define COMPILER_FRONTEND_TEST_MODELS_H_

#include <cstdint>
#include <string>

namespace flashflow::frontend {

struct TestModelShape {
  int64_t layers = 2;
  int64_t heads = 4;
  int64_t kv_heads = 4;
  int64_t head_dim = 8;
  int64_t hidden = 48;  // of the MLP
  int64_t vocabulary = 61;
  int64_t context_length = 64;
};

// LayerNorm, learned positions, one QKV projection that is split, GELU, biases, the head tied to the embedding.
std::string Gpt2Json(const TestModelShape& shape);

// RMSNorm, rotary embeddings from tables, grouped KV heads, SwiGLU, no biases, a head of its own.
std::string LlamaJson(const TestModelShape& shape);

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_TEST_MODELS_H_
