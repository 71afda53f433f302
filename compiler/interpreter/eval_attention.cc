#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/parallel.h"
#include "compiler/interpreter/strides.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::interpreter {
namespace {

// Where key or value j of the row in hand lies.
using At = std::function<const double*(int64_t j)>;
// What is added to the score of key j: -infinity if it is not seen.
using Bias = std::function<double(int64_t j)>;

constexpr double kUnseen = -std::numeric_limits<double>::infinity();

// out[0, v_dim) = softmax over j in [begin, end) of scale * q . key(j) + bias(j), times value(j). Zeros if no key is
// seen. `bias` may be empty.
void Attend(const double* q, int64_t dim, const At& key, const At& value, int64_t v_dim, int64_t begin, int64_t end,
            double scale, const Bias& bias, double* out) {
  std::fill_n(out, v_dim, 0.0);
  std::vector<int64_t> seen;
  std::vector<double> scores;
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t j = begin; j < end; ++j) {
    const double added = bias ? bias(j) : 0;
    if (added == kUnseen) continue;
    const double* k = key(j);
    double dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += q[d] * k[d];
    seen.push_back(j);
    scores.push_back(dot * scale + added);
    max = std::max(max, scores.back());
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - max);
  for (size_t i = 0; i < seen.size(); ++i) {
    const double* v = value(seen[i]);
    const double share = scores[i] / sum;
    for (int64_t d = 0; d < v_dim; ++d) out[d] += share * v[d];
  }
}

// row_start, kv_len and block_table: three inputs from `first` on.
struct Rows {
  const Tensor& row_start;
  const Tensor& kv_len;
  const Tensor& block_table;

  int64_t count() const { return kv_len.shape[0]; }
  // The slot in row r of token t.
  int64_t Slot(int64_t r, int64_t t) const { return kv_len.ints[r] - (row_start.ints[r + 1] - t); }
  int64_t Page(int64_t r, int64_t slot, int64_t page_size) const {
    return block_table.ints[r * block_table.shape[1] + slot / page_size];
  }
};

Rows RowsFrom(const Evaluation& e, size_t first) { return {e.input(first), e.input(first + 1), e.input(first + 2)}; }

// Rows cover the tokens in order, every row is as long as its new tokens at least, and every page it reaches exists.
absl::Status CheckRows(const Rows& rows, int64_t tokens, const Cache& cache) {
  if (rows.row_start.ints.front() != 0 || rows.row_start.ints.back() != tokens) {
    return absl::InvalidArgumentError(absl::StrCat("row_start: expected to rise from 0 to ", tokens, ", got from ",
                                                   rows.row_start.ints.front(), " to ", rows.row_start.ints.back()));
  }
  for (int64_t r = 0; r < rows.count(); ++r) {
    const int64_t added = rows.row_start.ints[r + 1] - rows.row_start.ints[r];
    const int64_t length = rows.kv_len.ints[r];
    if (added < 0) return absl::InvalidArgumentError(absl::StrCat("row_start falls after row ", r));
    if (length < added || length > rows.block_table.shape[1] * cache.page_size) {
      return absl::InvalidArgumentError(absl::StrCat("kv_len: row ", r, " has length ", length, ", ", added,
                                                     " new tokens and ", rows.block_table.shape[1], " pages of ",
                                                     cache.page_size));
    }
    for (int64_t slot = 0; slot < length; slot += cache.page_size) {
      const int64_t page = rows.Page(r, slot, cache.page_size);
      if (page < 0 || page >= cache.num_pages) {
        return absl::OutOfRangeError(
            absl::StrCat("block_table: row ", r, " names page ", page, " of ", cache.num_pages));
      }
    }
  }
  return absl::OkStatus();
}

// A head's key or value as the cache holds it. Of int8 that is what its codes and their scale stand for; the wide mode
// codes nothing, as it rounds nothing.
void StoreHead(Mode mode, DType dtype, const double* from, int64_t dim, double* to) {
  if (mode == Mode::kWide) {
    std::copy_n(from, dim, to);
  } else if (dtype == DType::kI8) {
    CodeHead(from, dim, to);
  } else {
    for (int64_t d = 0; d < dim; ++d) to[d] = RoundTo(dtype, from[d]);
  }
}

// Stores k and v, [tokens, kv_heads, head_dim], in the layer and slots that the op names.
void Append(Evaluation& e, const Rows& rows, const double* k, const double* v) {
  Cache& cache = *e.cache;
  const int64_t dim = cache.type.head_dim;
  for (int64_t r = 0; r < rows.count(); ++r) {
    for (int64_t t = rows.row_start.ints[r]; t < rows.row_start.ints[r + 1]; ++t) {
      const int64_t slot = rows.Slot(r, t);
      const int64_t page = rows.Page(r, slot, cache.page_size);
      for (int64_t k_or_v = 0; k_or_v < 2; ++k_or_v) {
        const double* token = (k_or_v == 0 ? k : v) + t * cache.type.kv_heads * dim;
        for (int64_t head = 0; head < cache.type.kv_heads; ++head) {
          double* to = cache.Slot(e.attr<int64_t>("layer"), page, k_or_v, head, slot % cache.page_size);
          StoreHead(e.mode, cache.type.dtype, token + head * dim, dim, to);
        }
      }
    }
  }
}

// The op's result from q, [tokens, heads, head_dim], and the cache.
void AttendToCache(Evaluation& e, const Rows& rows, const double* q, int64_t heads) {
  const Cache& cache = *e.cache;
  const int64_t dim = cache.type.head_dim;
  const int64_t layer = e.attr<int64_t>("layer");
  const int64_t window = e.attr<int64_t>("window");
  for (int64_t r = 0; r < rows.count(); ++r) {
    for (int64_t t = rows.row_start.ints[r]; t < rows.row_start.ints[r + 1]; ++t) {
      const int64_t own = rows.Slot(r, t);
      const int64_t begin = window > 0 ? std::max<int64_t>(own - window + 1, 0) : 0;
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t kv_head = head / (heads / cache.type.kv_heads);
        auto at = [&](int64_t k_or_v) {
          return [&, k_or_v](int64_t slot) {
            return cache.Slot(layer, rows.Page(r, slot, cache.page_size), k_or_v, kv_head, slot % cache.page_size);
          };
        };
        const int64_t place = (t * heads + head) * dim;
        Attend(q + place, dim, at(0), at(1), dim, begin, own + 1, e.attr<double>("scale"), /*bias=*/{},
               e.result().floats.data() + place);
      }
    }
  }
}

}  // namespace

void CodeHead(const double* from, int64_t dim, double* to) {
  const double scale = QuantizeRow(Mode::kTyped, from, dim, std::numeric_limits<double>::infinity(), to);
  for (int64_t d = 0; d < dim; ++d) to[d] = Single(Mode::kTyped, to[d] * scale);
}

absl::Status EvalAttention(Evaluation& e) {
  const Tensor& q = e.input(0);
  const Tensor& k = e.input(1);
  const Tensor& v = e.input(2);
  const int64_t heads = q.shape[1];
  const int64_t queries = q.shape[2];
  const int64_t dim = q.shape[3];
  const int64_t kv_heads = k.shape[1];
  const int64_t keys = k.shape[2];
  const int64_t v_dim = v.shape[3];
  const bool causal = e.attr<bool>("causal");
  const int64_t window = e.attr<int64_t>("window");
  const double scale = e.attr<double>("scale");
  const Tensor* mask = e.HasInput(3) ? &e.input(3) : nullptr;
  const Shape mask_strides = mask == nullptr ? Shape(4, 0) : BroadcastStrides(mask->shape, 4);
  ParallelFor(q.shape[0] * heads, queries * keys * (dim + v_dim), [&](int64_t first, int64_t last) {
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t kv_head = bh / heads * kv_heads + bh % heads / (heads / kv_heads);
      const double* k_head = k.floats.data() + kv_head * keys * dim;
      const double* v_head = v.floats.data() + kv_head * keys * v_dim;
      for (int64_t i = 0; i < queries; ++i) {
        const int64_t own = i + keys - queries;  // the key at the query's own position
        const int64_t end = causal ? std::min(own + 1, keys) : keys;
        const int64_t begin = window > 0 ? std::max<int64_t>(own - window + 1, 0) : 0;
        const int64_t mask_row = bh / heads * mask_strides[0] + bh % heads * mask_strides[1] + i * mask_strides[2];
        Bias bias;
        if (mask != nullptr) {
          bias = [mask, mask_row, step = mask_strides[3]](int64_t j) {
            const int64_t at = mask_row + j * step;
            if (mask->dtype != DType::kBool) return mask->floats[at];
            return mask->ints[at] != 0 ? 0.0 : kUnseen;
          };
        }
        Attend(
            q.floats.data() + (bh * queries + i) * dim, dim, [&](int64_t j) { return k_head + j * dim; },
            [&](int64_t j) { return v_head + j * v_dim; }, v_dim, begin, end, scale, bias,
            e.result().floats.data() + (bh * queries + i) * v_dim);
      }
    }
  });
  return absl::OkStatus();
}

absl::Status EvalKvAppend(Evaluation& e) {
  const Rows rows = RowsFrom(e, 3);
  FF_RETURN_IF_ERROR(CheckRows(rows, e.input(1).shape[0], *e.cache));
  Append(e, rows, e.input(1).floats.data(), e.input(2).floats.data());
  return absl::OkStatus();
}

absl::Status EvalPagedAttention(Evaluation& e) {
  const Tensor& q = e.input(1);
  const Rows rows = RowsFrom(e, 2);
  FF_RETURN_IF_ERROR(CheckRows(rows, q.shape[0], *e.cache));
  AttendToCache(e, rows, q.floats.data(), q.shape[1]);
  return absl::OkStatus();
}

absl::Status EvalCachedAttention(Evaluation& e) {
  const Tensor& qkv = e.input(1);
  const Rows rows = RowsFrom(e, 2);
  const int64_t tokens = qkv.shape[0];
  const int64_t heads = e.attr<int64_t>("heads");
  const int64_t kv_heads = e.cache->type.kv_heads;
  const int64_t dim = e.cache->type.head_dim;
  FF_RETURN_IF_ERROR(CheckRows(rows, tokens, *e.cache));
  // The heads from `first` on of every token, turned if the op has angles and they are not values.
  auto part = [&](int64_t first, int64_t count, bool turned) {
    Tensor x = Tensor::Zeros(qkv.dtype, {tokens, count, dim});
    for (int64_t t = 0; t < tokens; ++t) {
      const double* from = qkv.floats.data() + (t * (heads + 2 * kv_heads) + first) * dim;
      std::copy_n(from, count * dim, x.floats.data() + t * count * dim);
    }
    if (!turned || !e.HasInput(5)) return x;
    Tensor y = x;
    Tensor cos = e.input(5);
    Tensor sin = e.input(6);
    cos.shape = sin.shape = {tokens, 1, dim};
    Rotate(x, cos, sin, &y);
    if (e.mode == Mode::kTyped) RoundToDType(&y);
    return y;
  };
  Append(e, rows, part(heads, kv_heads, true).floats.data(), part(heads + kv_heads, kv_heads, false).floats.data());
  AttendToCache(e, rows, part(0, heads, true).floats.data(), heads);
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
