#include "compiler/frontend/test_models.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace flashflow::frontend {
namespace {

using Json = nlohmann::json;

Json Ref(const std::string& id) { return {{"ref", id}}; }
Json Dim(const std::string& text) { return {{"dim", text}}; }

class Model {
 public:
  Model(std::string name, const TestModelShape& shape) : shape_(shape) {
    json_ = {{"format", "flashflow.graph"},
             {"version", 1},
             {"producer", {{"flashflow", "0.1.0"}, {"torch", "2.13.0"}}},
             {"name", std::move(name)},
             {"metadata", {{"context_length", shape.context_length}, {"vocab_size", shape.vocabulary}}},
             {"symbols",
              {{{"name", "B"}, {"min", 1}, {"max", 64}}, {{"name", "S"}, {"min", 1}, {"max", shape.context_length}}}},
             {"inputs", Json::array()},
             {"weights", Json::array()},
             {"nodes", Json::array()},
             {"outputs", Json::array()}};
    for (const char* input : {"input_ids", "position_ids"}) {
      json_["inputs"].push_back({{"id", input}, {"name", input}, {"dtype", "i64"}, {"shape", {"B", "S"}}});
    }
  }

  std::string Weight(const std::string& name, Json dims, std::string id = "") {
    if (id.empty()) id = absl::StrCat("p_", name);
    json_["weights"].push_back({{"id", id}, {"name", name}, {"dtype", "f32"}, {"shape", std::move(dims)}});
    return id;
  }

  // The node's id.
  std::string Node(const std::string& target, Json args, Json dims, Json kwargs = Json::object()) {
    std::string id = absl::StrCat("n", json_["nodes"].size());
    json_["nodes"].push_back({{"id", id},
                              {"target", target},
                              {"args", std::move(args)},
                              {"kwargs", std::move(kwargs)},
                              {"dtype", "f32"},
                              {"shape", std::move(dims)},
                              {"module", module_},
                              {"source", absl::StrCat("model.py:", json_["nodes"].size())}});
    return id;
  }
  std::string Tokens(const std::string& target, Json args, int64_t channels, Json kwargs = Json::object()) {
    return Node(target, std::move(args), {"B", "S", channels}, std::move(kwargs));
  }

  void set_module(std::string module) { module_ = std::move(module); }
  const TestModelShape& shape() const { return shape_; }
  int64_t width() const { return shape_.heads * shape_.head_dim; }

  std::string Embedding(const std::string& table, const char* ids, int64_t channels) {
    return Tokens("aten.embedding.default", {Ref(table), Ref(ids)}, channels);
  }
  std::string Linear(const std::string& x, const std::string& name, int64_t in, int64_t out, bool bias) {
    Json args = {Ref(x), Ref(Weight(absl::StrCat(name, ".weight"), {out, in}))};
    if (bias) args.push_back(Ref(Weight(absl::StrCat(name, ".bias"), Json::array({out}))));
    return Tokens("aten.linear.default", std::move(args), out);
  }
  std::string Add(const std::string& a, const std::string& b) {
    return Tokens("aten.add.Tensor", {Ref(a), Ref(b)}, width());
  }
  // [B, S, heads * head_dim] -> [B, heads, S, head_dim]
  std::string SplitHeads(const std::string& x, int64_t heads) {
    const std::string view =
        Node("aten.view.default", {Ref(x), Json::array({Dim("B"), Dim("S"), heads, shape_.head_dim})},
             {"B", "S", heads, shape_.head_dim});
    return Heads("aten.transpose.int", {Ref(view), 1, 2}, heads);
  }
  std::string Heads(const std::string& target, Json args, int64_t heads, Json kwargs = Json::object()) {
    return Node(target, std::move(args), {"B", heads, "S", shape_.head_dim}, std::move(kwargs));
  }
  std::string Attention(const std::string& q, const std::string& k, const std::string& v) {
    Json kwargs = {{"is_causal", true}};
    if (shape_.heads != shape_.kv_heads) kwargs["enable_gqa"] = true;
    const std::string o = Heads("aten.scaled_dot_product_attention.default", {Ref(q), Ref(k), Ref(v), nullptr, 0.0},
                                shape_.heads, std::move(kwargs));
    const std::string t = Node("aten.transpose.int", {Ref(o), 1, 2}, {"B", "S", shape_.heads, shape_.head_dim});
    const std::string c = Node("aten.contiguous.default", {Ref(t)}, {"B", "S", shape_.heads, shape_.head_dim});
    return Tokens("aten.view.default", {Ref(c), Json::array({Dim("B"), Dim("S"), -1})}, width());
  }

  std::string Finish(const std::string& logits) {
    json_["outputs"].push_back({{"id", logits}, {"name", "logits"}});
    return json_.dump(1);
  }
  Json& nodes() { return json_["nodes"]; }

 private:
  const TestModelShape shape_;
  Json json_;
  std::string module_;
};

std::string LayerNorm(Model& m, const std::string& x, const std::string& name) {
  const Json channels = Json::array({m.width()});
  return m.Tokens("aten.layer_norm.default",
                  {Ref(x), channels, Ref(m.Weight(absl::StrCat(name, ".weight"), channels)),
                   Ref(m.Weight(absl::StrCat(name, ".bias"), channels)), 1e-5},
                  m.width());
}

std::string RmsNorm(Model& m, const std::string& x, const std::string& name) {
  const Json channels = Json::array({m.width()});
  return m.Tokens("aten.rms_norm.default",
                  {Ref(x), channels, Ref(m.Weight(absl::StrCat(name, ".weight"), channels)), 1e-5}, m.width());
}

// x * cos + cat(-x[..., half:], x[..., :half]) * sin
std::string Rotate(Model& m, const std::string& x, int64_t heads, const std::string& cos, const std::string& sin) {
  const int64_t half = m.shape().head_dim / 2;
  const Json half_dims = {"B", heads, "S", half};
  const std::string straight = m.Heads("aten.mul.Tensor", {Ref(x), Ref(cos)}, heads);
  const std::string first = m.Node("aten.slice.Tensor", {Ref(x), 3, 0, half}, half_dims);
  const std::string second =
      m.Node("aten.slice.Tensor", {Ref(x), 3, half, std::numeric_limits<int64_t>::max()}, half_dims);
  const std::string negated = m.Node("aten.neg.default", {Ref(second)}, half_dims);
  const std::string rotated = m.Heads("aten.cat.default", {Json::array({Ref(negated), Ref(first)}), -1}, heads);
  const std::string crossed = m.Heads("aten.mul.Tensor", {Ref(rotated), Ref(sin)}, heads);
  return m.Heads("aten.add.Tensor", {Ref(straight), Ref(crossed)}, heads);
}

}  // namespace

std::string Gpt2Json(const TestModelShape& shape) {
  Model m("gpt2-test", shape);
  const int64_t width = m.width();
  m.set_module("wte");
  const std::string wte = m.Weight("wte.weight", {shape.vocabulary, width});
  const std::string wpe = m.Weight("wpe.weight", {shape.context_length, width});
  std::string x = m.Add(m.Embedding(wte, "input_ids", width), m.Embedding(wpe, "position_ids", width));
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string name = absl::StrCat("layers.", layer);
    m.set_module(name);
    const std::string qkv =
        m.Linear(LayerNorm(m, x, absl::StrCat(name, ".ln_1")), absl::StrCat(name, ".qkv"), width, 3 * width, true);
    const std::string split = m.Node("aten.split.Tensor", {Ref(qkv), width, 2}, {});
    Json& node = m.nodes().back();
    node.erase("dtype");
    node.erase("shape");
    node["results"] = Json(3, Json{{"dtype", "f32"}, {"shape", {"B", "S", width}}});
    std::string parts[3];
    for (int i = 0; i < 3; ++i) {
      parts[i] = m.SplitHeads(m.Tokens("getitem", {Ref(split), i}, width), shape.heads);
    }
    std::string y =
        m.Linear(m.Attention(parts[0], parts[1], parts[2]), absl::StrCat(name, ".proj"), width, width, true);
    x = m.Add(x, m.Tokens("aten.dropout.default", {Ref(y), 0.1, false}, width));
    y = m.Linear(LayerNorm(m, x, absl::StrCat(name, ".ln_2")), absl::StrCat(name, ".fc"), width, shape.hidden, true);
    y = m.Tokens("aten.gelu.default", Json::array({Ref(y)}), shape.hidden, {{"approximate", "tanh"}});
    x = m.Add(x, m.Linear(y, absl::StrCat(name, ".out"), shape.hidden, width, true));
  }
  m.set_module("lm_head");
  const std::string head = m.Weight("wte.weight", {shape.vocabulary, width}, "p_lm_head");
  return m.Finish(m.Tokens("aten.linear.default", {Ref(LayerNorm(m, x, "ln_f")), Ref(head)}, shape.vocabulary));
}

std::string LlamaJson(const TestModelShape& shape) {
  Model m("llama-test", shape);
  const int64_t width = m.width();
  const int64_t kv_width = shape.kv_heads * shape.head_dim;
  m.set_module("embed");
  std::string x = m.Embedding(m.Weight("embed.weight", {shape.vocabulary, width}), "input_ids", width);
  std::string angles[2];
  for (int i = 0; i < 2; ++i) {
    const std::string table = m.Weight(i == 0 ? "rope.cos" : "rope.sin", {shape.context_length, shape.head_dim});
    angles[i] = m.Node("aten.unsqueeze.default", {Ref(m.Embedding(table, "position_ids", shape.head_dim)), 1},
                       {"B", 1, "S", shape.head_dim});
  }
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string name = absl::StrCat("layers.", layer);
    m.set_module(name);
    std::string y = RmsNorm(m, x, absl::StrCat(name, ".norm_1"));
    const std::string q = m.SplitHeads(m.Linear(y, absl::StrCat(name, ".q"), width, width, false), shape.heads);
    const std::string k = m.SplitHeads(m.Linear(y, absl::StrCat(name, ".k"), width, kv_width, false), shape.kv_heads);
    const std::string v = m.SplitHeads(m.Linear(y, absl::StrCat(name, ".v"), width, kv_width, false), shape.kv_heads);
    const std::string o = m.Attention(Rotate(m, q, shape.heads, angles[0], angles[1]),
                                      Rotate(m, k, shape.kv_heads, angles[0], angles[1]), v);
    x = m.Add(x, m.Linear(o, absl::StrCat(name, ".o"), width, width, false));
    y = RmsNorm(m, x, absl::StrCat(name, ".norm_2"));
    const std::string gate = m.Tokens(
        "aten.silu.default", Json::array({Ref(m.Linear(y, absl::StrCat(name, ".gate"), width, shape.hidden, false))}),
        shape.hidden);
    const std::string up = m.Linear(y, absl::StrCat(name, ".up"), width, shape.hidden, false);
    y = m.Tokens("aten.mul.Tensor", {Ref(gate), Ref(up)}, shape.hidden);
    x = m.Add(x, m.Linear(y, absl::StrCat(name, ".down"), shape.hidden, width, false));
  }
  m.set_module("lm_head");
  return m.Finish(m.Linear(RmsNorm(m, x, "norm"), "lm_head", width, shape.vocabulary, false));
}

}  // namespace flashflow::frontend
