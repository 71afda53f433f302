#include "compiler/proof/decoder_runs.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::proof {
namespace {

constexpr int64_t kPadding = 0;  // a token of every vocabulary

}  // namespace

using interpreter::Mode;
using interpreter::Tensor;
using interpreter::WeightSource;

Sequences RandomSequences(int count, int64_t longest, int64_t vocabulary, std::mt19937& random) {
  Sequences sequences(static_cast<size_t>(count));
  for (auto& sequence : sequences) {
    sequence.resize(1 + random() % static_cast<uint32_t>(longest));
    for (int64_t& token : sequence) token = static_cast<int64_t>(random() % static_cast<uint32_t>(vocabulary));
  }
  return sequences;
}

interpreter::Values RectangularInputs(const ir::Graph& graph, const Sequences& sequences) {
  size_t length = 0;
  for (const auto& sequence : sequences) length = std::max(length, sequence.size());
  std::vector<int64_t> ids, positions;
  for (const auto& sequence : sequences) {
    for (size_t i = 0; i < length; ++i) {
      ids.push_back(i < sequence.size() ? sequence[i] : kPadding);
      positions.push_back(static_cast<int64_t>(i));
    }
  }
  const interpreter::Shape shape = {static_cast<int64_t>(sequences.size()), static_cast<int64_t>(length)};
  interpreter::Values inputs;
  inputs.emplace("input_ids", Tensor::Ints(shape, std::move(ids), DType::kI64));
  if (graph.FindInput("position_ids") != nullptr) {
    inputs.emplace("position_ids", Tensor::Ints(shape, std::move(positions), DType::kI64));
  }
  return inputs;
}

absl::StatusOr<Logits> RectangularRows(const interpreter::Value& logits, const Sequences& sequences) {
  const auto* tensor = std::get_if<Tensor>(&logits);
  if (tensor == nullptr || tensor->shape.size() != 3 || tensor->floats.empty() ||
      tensor->shape[0] != static_cast<int64_t>(sequences.size())) {
    return absl::InvalidArgumentError("expected logits [batch, sequence, vocabulary]");
  }
  const int64_t length = tensor->shape[1];
  const int64_t vocabulary = tensor->shape[2];
  Logits rows(sequences.size());
  for (size_t s = 0; s < sequences.size(); ++s) {
    const double* sequence = tensor->floats.data() + static_cast<int64_t>(s) * length * vocabulary;
    for (size_t i = 0; i < sequences[s].size(); ++i) {
      const double* row = sequence + static_cast<int64_t>(i) * vocabulary;
      rows[s].emplace_back(row, row + vocabulary);
    }
  }
  return rows;
}

absl::StatusOr<Logits> RunRectangular(const ir::Graph& graph, const WeightSource& weights, const Sequences& sequences,
                                      Mode mode) {
  FF_ASSIGN_OR_RETURN(const interpreter::Values outputs,
                      Interpret(graph, RectangularInputs(graph, sequences), weights, mode));
  return RectangularRows(outputs.begin()->second, sequences);
}

absl::StatusOr<Logits> RunSteps(const ir::Graph& step_graph, const WeightSource& weights, const Sequences& sequences,
                                int64_t page_size, Mode mode, std::mt19937& random) {
  const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
  // Pages for all sequences, dealt from a shuffled pool with a few to spare.
  std::vector<std::vector<int64_t>> pages(sequences.size());
  size_t num_pages = 3;
  for (const auto& sequence : sequences) num_pages += (sequence.size() + page_size - 1) / page_size;
  std::vector<int64_t> pool(num_pages);
  std::iota(pool.begin(), pool.end(), 0);
  std::shuffle(pool.begin(), pool.end(), random);
  size_t width = 1;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const size_t count = (sequences[s].size() + page_size - 1) / page_size;
    pages[s].assign(pool.end() - static_cast<int64_t>(count), pool.end());
    pool.resize(pool.size() - count);
    width = std::max(width, count);
  }
  const ir::CacheType type = step_graph.FindInput("cache")->type().cache();
  interpreter::Cache cache = interpreter::Cache::Empty(type, static_cast<int64_t>(num_pages), page_size);
  Logits logits(sequences.size());
  for (size_t s = 0; s < sequences.size(); ++s) logits[s].resize(sequences[s].size());

  std::vector<size_t> done(sequences.size(), 0);
  while (true) {
    std::vector<size_t> rows;
    for (size_t s = 0; s < sequences.size(); ++s) {
      if (done[s] < sequences[s].size()) rows.push_back(s);
    }
    if (rows.empty()) return logits;
    std::shuffle(rows.begin(), rows.end(), random);
    rows.resize(1 + below(rows.size()));
    std::vector<int64_t> ids, positions, row_start = {0}, kv_len, table;
    std::vector<std::pair<size_t, size_t>> tokens;  // sequence and position of each packed token
    for (size_t s : rows) {
      const size_t left = sequences[s].size() - done[s];
      const size_t chunk = below(2) == 0 ? 1 : 1 + below(left);  // decode or (chunked) prefill
      for (size_t i = 0; i < chunk; ++i, ++done[s]) {
        ids.push_back(sequences[s][done[s]]);
        positions.push_back(static_cast<int64_t>(done[s]));
        tokens.emplace_back(s, done[s]);
      }
      row_start.push_back(static_cast<int64_t>(ids.size()));
      kv_len.push_back(static_cast<int64_t>(done[s]));
      for (size_t p = 0; p < width; ++p) table.push_back(p < pages[s].size() ? pages[s][p] : -1);
    }
    std::vector<int64_t> wanted(tokens.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    std::shuffle(wanted.begin(), wanted.end(), random);
    if (below(8) == 0) wanted.clear();

    const auto index = [](std::vector<int64_t> values, interpreter::Shape shape) {
      return Tensor::Ints(std::move(shape), std::move(values));
    };
    const auto t = static_cast<int64_t>(ids.size());
    const auto r = static_cast<int64_t>(rows.size());
    interpreter::Values inputs;
    inputs.emplace("token_ids", index(ids, {t}));
    inputs.emplace("positions", index(positions, {t}));
    inputs.emplace("row_start", index(row_start, {r + 1}));
    inputs.emplace("kv_len", index(kv_len, {r}));
    inputs.emplace("block_table", index(table, {r, static_cast<int64_t>(width)}));
    inputs.emplace("logit_rows", index(wanted, {static_cast<int64_t>(wanted.size())}));
    inputs.emplace("cache", std::move(cache));
    FF_ASSIGN_OR_RETURN(interpreter::Values outputs, Interpret(step_graph, std::move(inputs), weights, mode));
    cache = std::get<interpreter::Cache>(std::move(outputs.at("cache")));
    const Tensor& values = std::get<Tensor>(outputs.at("logits"));
    const auto vocabulary = static_cast<size_t>(values.shape[1]);
    for (size_t i = 0; i < wanted.size(); ++i) {
      const auto& [s, position] = tokens[static_cast<size_t>(wanted[i])];
      const double* row = values.floats.data() + i * vocabulary;
      logits[s][position].assign(row, row + vocabulary);
    }
  }
}

}  // namespace flashflow::proof
