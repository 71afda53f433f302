// What reads and writes the paged KV cache, and attention without it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cuda/testing/host_kernels.h"

namespace flashflow::cuda::testing {
namespace {

bool Present(const PagedRows& rows) {
  return rows.row_start != nullptr && rows.kv_len != nullptr && rows.block_table != nullptr && rows.rows >= 1 &&
         rows.pages_per_row >= 1;
}

bool Holds(const HostMemory& memory, const PagedRows& rows) {
  return memory.Holds(rows.row_start, (int64_t{rows.rows} + 1) * 4) &&
         memory.Holds(rows.kv_len, int64_t{rows.rows} * 4) &&
         memory.Holds(rows.block_table, int64_t{rows.rows} * rows.pages_per_row * 4);
}

// One layer's cache: [pages][2][kv_heads][page_size][head_dim].
struct Cache {
  const HostMemory& memory;
  const void* data;
  Dtype dtype;
  PagedRows rows;
  int kv_heads, page_size, head_dim;

  // The element at which k (v) of a head begins, in a row's slot; -1 where that is outside of the memory.
  int64_t At(int row, int slot, int v, int kv_head) const {
    if (slot < 0 || slot / page_size >= rows.pages_per_row) return -1;
    const int64_t page = rows.block_table[int64_t{row} * rows.pages_per_row + slot / page_size];
    const int64_t at = (((page * 2 + v) * kv_heads + kv_head) * page_size + slot % page_size) * head_dim;
    const char* begin = static_cast<const char*>(data) + at * ElementBytes(dtype);
    return page >= 0 && memory.Holds(begin, int64_t{head_dim} * ElementBytes(dtype)) ? at : -1;
  }
};

// Where a head's codes and their scale lie, in a row's slot.
struct CodedHead {
  int8_t* codes = nullptr;
  float* scale = nullptr;
};

// One layer's cache of int8 codes.
struct CodedCache {
  const HostMemory& memory;
  void* data;
  PagedRows rows;
  int kv_heads, page_size, head_dim;

  // Nulls where that is outside of the memory.
  CodedHead At(int row, int slot, int v, int kv_head) const {
    if (slot < 0 || slot / page_size >= rows.pages_per_row) return {};
    const int64_t page = rows.block_table[int64_t{row} * rows.pages_per_row + slot / page_size];
    const int64_t head_bytes = int64_t{page_size} * (head_dim + 4);
    if (page < 0) return {};
    int8_t* head = static_cast<int8_t*>(data) + ((page * 2 + v) * kv_heads + kv_head) * head_bytes;
    if (!memory.Holds(head, head_bytes)) return {};
    return {head + int64_t{slot % page_size} * head_dim,
            reinterpret_cast<float*>(head + int64_t{page_size} * head_dim) + slot % page_size};
  }
};

// One query over its keys and values, all of them elements of arrays.
struct Query {
  Dtype dtype;
  const void* q;
  int64_t q_at;
  const void *k, *v;
  std::vector<int64_t> k_at, v_at;
  int head_dim;
  float scale;

  void Attend(void* o, int64_t o_at) const {
    std::vector<double> weights(k_at.size());
    double most = -INFINITY, sum = 0;
    for (size_t j = 0; j < k_at.size(); ++j) {
      double score = 0;
      for (int i = 0; i < head_dim; ++i) score += double{Load(dtype, q, q_at + i)} * Load(dtype, k, k_at[j] + i);
      weights[j] = score * scale;
      most = std::max(most, weights[j]);
    }
    for (double& weight : weights) {
      weight = std::exp(weight - most);
      sum += weight;
    }
    for (int i = 0; i < head_dim; ++i) {
      double value = 0;
      for (size_t j = 0; j < v_at.size(); ++j) value += weights[j] / sum * Load(dtype, v, v_at[j] + i);
      Store(dtype, o, o_at + i, static_cast<float>(value));
    }
  }
};

}  // namespace

cudaError_t Refuse(const RopeAppendArgs& args) {
  if (args.tokens < 0 || args.heads < 0 || args.kv_heads < 1 || args.head_dim < 1 || args.page_size < 1 ||
      args.k.data == nullptr || args.v.data == nullptr || args.cache == nullptr || !Present(args.rows) ||
      (args.cos != nullptr) != (args.sin != nullptr) ||
      (args.heads > 0 && (args.q.data == nullptr || args.q_out.data == nullptr))) {
    return cudaErrorInvalidValue;
  }
  const bool taken = args.dtype != Dtype::kS8 && args.head_dim % 2 == 0 &&
                     (args.angle_dtype == Dtype::kF32 || args.angle_dtype == args.dtype);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

namespace {

// `coded`: the cache is of int8 codes.
cudaError_t Append(const HostMemory& memory, const RopeAppendArgs& args, bool coded) {
  const int64_t dim = args.head_dim;
  const auto holds = [&](const TokenHeads& part, int heads) {
    return heads == 0 || memory.HoldsRows(part.data, args.dtype, args.tokens, heads * dim, part.stride);
  };
  if (!holds(args.q, args.heads) || !holds(args.q_out, args.heads) || !holds(args.k, args.kv_heads) ||
      !holds(args.v, args.kv_heads) || !Holds(memory, args.rows) ||
      (args.cos != nullptr && (!memory.HoldsRows(args.cos, args.angle_dtype, args.tokens, dim, dim) ||
                               !memory.HoldsRows(args.sin, args.angle_dtype, args.tokens, dim, dim)))) {
    return cudaErrorIllegalAddress;
  }
  // One head of one token of `part`.
  const auto turned = [&](const TokenHeads& part, int64_t token, int head, bool turn) {
    std::vector<float> y(dim);
    const int64_t at = token * part.stride + head * dim;
    for (int64_t i = 0; i < dim; ++i) {
      const float x = Load(args.dtype, part.data, at + i);
      if (!turn || args.cos == nullptr) {
        y[i] = x;
        continue;
      }
      const double cos = Load(args.angle_dtype, args.cos, token * dim + i);
      const double sin = Load(args.angle_dtype, args.sin, token * dim + i);
      const int64_t partner = i < dim / 2 ? i + dim / 2 : i - dim / 2;
      const double other = Load(args.dtype, part.data, at + partner);
      y[i] = static_cast<float>(x * cos + (i < dim / 2 ? -other : other) * sin);
    }
    return y;
  };
  const auto store = [&](const std::vector<float>& values, void* to, int64_t at) {
    for (int64_t i = 0; i < dim; ++i) Store(args.dtype, to, at + i, values[i]);
  };
  for (int64_t token = 0; token < args.tokens; ++token) {
    for (int head = 0; head < args.heads; ++head) {
      store(turned(args.q, token, head, true), args.q_out.data, token * args.q_out.stride + head * dim);
    }
  }
  const Cache cache = {memory, args.cache, args.dtype, args.rows, args.kv_heads, args.page_size, args.head_dim};
  const CodedCache coded_cache = {memory, args.cache, args.rows, args.kv_heads, args.page_size, args.head_dim};
  for (int row = 0; row < args.rows.rows; ++row) {
    const int begin = args.rows.row_start[row], end = args.rows.row_start[row + 1];
    if (begin < 0 || begin > end || end > args.tokens) return cudaErrorIllegalAddress;
    for (int token = begin; token < end; ++token) {
      const int slot = args.rows.kv_len[row] - (end - token);
      for (int head = 0; head < args.kv_heads; ++head) {
        for (const int v : {0, 1}) {
          std::vector<float> values = turned(v == 0 ? args.k : args.v, token, head, v == 0);
          if (!coded) {
            const int64_t at = cache.At(row, slot, v, head);
            if (at < 0) return cudaErrorIllegalAddress;
            store(values, args.cache, at);
            continue;
          }
          const CodedHead to = coded_cache.At(row, slot, v, head);
          if (to.codes == nullptr) return cudaErrorIllegalAddress;
          for (float& value : values) value = Rounded(args.dtype, value);
          QuantizeRow(values, INFINITY, to.codes, to.scale);
        }
      }
    }
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t Compute(const HostMemory& memory, const RopeAppendArgs& args) {
  return Append(memory, args, /*coded=*/false);
}

cudaError_t Refuse(const Int8AppendArgs& args) {
  if (cudaError_t error = Refuse(static_cast<const RopeAppendArgs&>(args))) return error;
  const bool taken = args.head_dim <= 256 && args.page_size % 4 == 0 && Aligned(args.cache, 4);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t Compute(const HostMemory& memory, const Int8AppendArgs& args) {
  return Append(memory, args, /*coded=*/true);
}

cudaError_t Refuse(const PagedAttentionArgs& args) {
  if (args.q == nullptr || args.o == nullptr || args.cache == nullptr || !Present(args.rows) ||
      args.max_row_tokens < 1 || args.kv_heads < 1 || args.heads < 1 || args.heads % args.kv_heads != 0 ||
      args.tokens < 0 || args.page_size < 1 || args.head_dim < 1 || !(args.scale > 0) || args.window < 0) {
    return cudaErrorInvalidValue;
  }
  const bool taken = args.dtype != Dtype::kS8 && args.head_dim % 8 == 0 && args.head_dim <= 256 &&
                     args.q_stride * ElementBytes(args.dtype) % 16 == 0 && Aligned(args.q, 16) && Aligned(args.o, 16) &&
                     Aligned(args.cache, 16);
  return taken ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t RefusePagedPrefill(const PagedAttentionArgs& args) {
  if (cudaError_t error = Refuse(args)) return error;
  return args.dtype == Dtype::kF32 || args.head_dim > 128 ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t Compute(const HostMemory& memory, const PagedAttentionArgs& args) {
  if (!Holds(memory, args.rows)) return cudaErrorIllegalAddress;
  const int64_t tokens = args.tokens != 0 ? args.tokens : args.rows.row_start[args.rows.rows];
  const int64_t width = int64_t{args.heads} * args.head_dim;
  if (!memory.HoldsRows(args.q, args.dtype, tokens, width, args.q_stride) ||
      !memory.HoldsRows(args.o, args.dtype, tokens, width, width)) {
    return cudaErrorIllegalAddress;
  }
  const Cache cache = {memory, args.cache, args.dtype, args.rows, args.kv_heads, args.page_size, args.head_dim};
  for (int row = 0; row < args.rows.rows; ++row) {
    const int begin = args.rows.row_start[row], end = args.rows.row_start[row + 1];
    if (begin < 0 || begin > end || end > tokens) return cudaErrorIllegalAddress;
    if (end - begin > args.max_row_tokens) return cudaErrorInvalidValue;  // the grid would not have covered it
    for (int token = begin; token < end; ++token) {
      const int own = args.rows.kv_len[row] - (end - token);
      const int first = args.window > 0 ? std::max(0, own - args.window + 1) : 0;
      for (int head = 0; head < args.heads; ++head) {
        const int kv_head = head / (args.heads / args.kv_heads);
        Query query = {.dtype = args.dtype,
                       .q = args.q,
                       .q_at = token * args.q_stride + int64_t{head} * args.head_dim,
                       .k = args.cache,
                       .v = args.cache,
                       .k_at = {},
                       .v_at = {},
                       .head_dim = args.head_dim,
                       .scale = args.scale};
        for (int slot = first; slot <= own; ++slot) {
          query.k_at.push_back(cache.At(row, slot, 0, kv_head));
          query.v_at.push_back(cache.At(row, slot, 1, kv_head));
          if (query.k_at.back() < 0 || query.v_at.back() < 0) return cudaErrorIllegalAddress;
        }
        query.Attend(args.o, token * width + int64_t{head} * args.head_dim);
      }
    }
  }
  return cudaSuccess;
}

cudaError_t Refuse(const Int8AttentionArgs& args) {
  if (cudaError_t error = Refuse(static_cast<const PagedAttentionArgs&>(args))) return error;
  return args.page_size % 4 == 0 ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t Compute(const HostMemory& memory, const Int8AttentionArgs& args) {
  if (!Holds(memory, args.rows)) return cudaErrorIllegalAddress;
  const int64_t tokens = args.rows.row_start[args.rows.rows], dim = args.head_dim, width = args.heads * dim;
  if (!memory.HoldsRows(args.q, args.dtype, tokens, width, args.q_stride) ||
      !memory.HoldsRows(args.o, args.dtype, tokens, width, width)) {
    return cudaErrorIllegalAddress;
  }
  const CodedCache cache = {memory,       const_cast<void*>(args.cache), args.rows, args.kv_heads, args.page_size,
                            args.head_dim};
  for (int row = 0; row < args.rows.rows; ++row) {
    const int begin = args.rows.row_start[row], end = args.rows.row_start[row + 1];
    if (begin < 0 || begin > end || end > tokens) return cudaErrorIllegalAddress;
    if (end - begin > args.max_row_tokens) return cudaErrorInvalidValue;  // the grid would not have covered it
    for (int token = begin; token < end; ++token) {
      const int own = args.rows.kv_len[row] - (end - token);
      const int first = args.window > 0 ? std::max(0, own - args.window + 1) : 0;
      for (int head = 0; head < args.heads; ++head) {
        // All that the query sees, as floats.
        std::vector<float> q, kv[2], o(dim);
        std::vector<int64_t> at;
        for (int64_t i = 0; i < dim; ++i) q.push_back(Load(args.dtype, args.q, token * args.q_stride + head * dim + i));
        for (int slot = first; slot <= own; ++slot) {
          at.push_back((slot - first) * dim);
          for (const int v : {0, 1}) {
            const CodedHead from = cache.At(row, slot, v, head / (args.heads / args.kv_heads));
            if (from.codes == nullptr) return cudaErrorIllegalAddress;
            for (int64_t i = 0; i < dim; ++i) kv[v].push_back(static_cast<float>(from.codes[i]) * *from.scale);
          }
        }
        const Query query = {.dtype = Dtype::kF32,
                             .q = q.data(),
                             .q_at = 0,
                             .k = kv[0].data(),
                             .v = kv[1].data(),
                             .k_at = at,
                             .v_at = at,
                             .head_dim = args.head_dim,
                             .scale = args.scale};
        query.Attend(o.data(), 0);
        for (int64_t i = 0; i < dim; ++i) Store(args.dtype, args.o, token * width + head * dim + i, o[i]);
      }
    }
  }
  return cudaSuccess;
}

namespace {

// The second launch that a PagedDecode stands for. Queries are turned into the place of the result, where attention
// reads a head before it writes it.
PagedAttentionArgs AttendOf(const PagedDecodeArgs& args) {
  const RopeAppendArgs& from = args.append;
  const bool turned = from.cos != nullptr;
  PagedAttentionArgs attend;
  attend.dtype = from.dtype;
  attend.q = turned ? args.o : from.q.data;
  attend.q_stride = turned ? int64_t{from.heads} * from.head_dim : from.q.stride;
  attend.o = args.o;
  attend.cache = from.cache;
  attend.rows = from.rows;
  attend.heads = from.heads;
  attend.kv_heads = from.kv_heads;
  attend.head_dim = from.head_dim;
  attend.page_size = from.page_size;
  attend.scale = args.scale;
  attend.window = args.window;
  return attend;
}

RopeAppendArgs AppendOf(const PagedDecodeArgs& args) {
  RopeAppendArgs append = args.append;
  append.q_out = {args.o, int64_t{append.heads} * append.head_dim};
  if (append.cos == nullptr) append.heads = 0;
  return append;
}

}  // namespace

cudaError_t Refuse(const PagedDecodeArgs& args) {
  const RopeAppendArgs& from = args.append;
  if (from.q.data == nullptr) return cudaErrorInvalidValue;
  if (cudaError_t error = Refuse(AppendOf(args))) return error;
  if (cudaError_t error = Refuse(AttendOf(args))) return error;
  bool aligned = true;
  for (const void* pointer : {static_cast<const void*>(from.q.data), static_cast<const void*>(from.k.data),
                              static_cast<const void*>(from.v.data), from.cos, from.sin}) {
    aligned = aligned && Aligned(pointer, 16);
  }
  for (const int64_t stride : {from.q.stride, from.k.stride, from.v.stride}) {
    aligned = aligned && stride * ElementBytes(from.dtype) % 16 == 0;
  }
  const int dim = from.head_dim;
  const bool taken =
      from.dtype != Dtype::kF32 && (dim == 64 || dim == 80 || dim == 96 || dim == 128) && from.page_size % 16 == 0;
  return taken && aligned ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t Compute(const HostMemory& memory, const PagedDecodeArgs& args) {
  if (cudaError_t error = Compute(memory, AppendOf(args))) return error;
  return Compute(memory, AttendOf(args));
}

cudaError_t Refuse(const AttentionArgs& args) {
  bool aligned = args.dtype != Dtype::kS8;
  for (const AttentionTensor* tensor : {&args.q, &args.k, &args.v, &args.o}) {
    if (tensor->data == nullptr) return cudaErrorInvalidValue;
    const int step = 16 / ElementBytes(args.dtype);
    aligned = aligned && Aligned(tensor->data, 16) && tensor->batch_stride % step == 0 &&
              tensor->token_stride % step == 0 && tensor->head_stride % step == 0;
  }
  if (args.batch < 1 || args.kv_heads < 1 || args.heads < 1 || args.heads % args.kv_heads != 0 || args.q_tokens < 1 ||
      args.kv_tokens < 1 || args.head_dim < 1 || !(args.scale > 0) || args.window < 0 ||
      (args.causal && args.kv_tokens < args.q_tokens) || (!args.causal && args.window != 0) ||
      (args.q_start == nullptr) != (args.kv_start == nullptr)) {
    return cudaErrorInvalidValue;
  }
  return aligned && args.head_dim % 8 == 0 && args.head_dim <= 256 ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t Compute(const HostMemory& memory, const AttentionArgs& args) {
  const bool ragged = args.q_start != nullptr;
  const int64_t starts = (int64_t{args.batch} + 1) * 4;
  if (ragged && (!memory.Holds(args.q_start, starts) || !memory.Holds(args.kv_start, starts))) {
    return cudaErrorIllegalAddress;
  }
  // The element at which a head of a batch row's token begins; -1 where that is outside of the memory.
  const auto at = [&](const AttentionTensor& tensor, int64_t row, const int32_t* start, int64_t token, int64_t head) {
    const int64_t element = (ragged ? start[row] * tensor.token_stride : row * tensor.batch_stride) +
                            token * tensor.token_stride + head * tensor.head_stride;
    const char* begin = static_cast<const char*>(tensor.data) + element * ElementBytes(args.dtype);
    return memory.Holds(begin, int64_t{args.head_dim} * ElementBytes(args.dtype)) ? element : -1;
  };
  for (int64_t row = 0; row < args.batch; ++row) {
    const int64_t q_tokens = ragged ? args.q_start[row + 1] - args.q_start[row] : args.q_tokens;
    const int64_t kv_tokens = ragged ? args.kv_start[row + 1] - args.kv_start[row] : args.kv_tokens;
    if (q_tokens > args.q_tokens || kv_tokens > args.kv_tokens) return cudaErrorInvalidValue;
    for (int64_t token = 0; token < q_tokens; ++token) {
      const int64_t last = args.causal ? token + kv_tokens - q_tokens : kv_tokens - 1;
      const int64_t first = args.window > 0 ? std::max<int64_t>(0, last - args.window + 1) : 0;
      for (int64_t head = 0; head < args.heads; ++head) {
        const int64_t kv_head = head / (args.heads / args.kv_heads);
        Query query = {.dtype = args.dtype,
                       .q = args.q.data,
                       .q_at = at(args.q, row, args.q_start, token, head),
                       .k = args.k.data,
                       .v = args.v.data,
                       .k_at = {},
                       .v_at = {},
                       .head_dim = args.head_dim,
                       .scale = args.scale};
        bool held = query.q_at >= 0;
        for (int64_t key = first; key <= last; ++key) {
          query.k_at.push_back(at(args.k, row, args.kv_start, key, kv_head));
          query.v_at.push_back(at(args.v, row, args.kv_start, key, kv_head));
          held = held && query.k_at.back() >= 0 && query.v_at.back() >= 0;
        }
        const int64_t o_at = at(args.o, row, args.q_start, token, head);
        if (!held || o_at < 0) return cudaErrorIllegalAddress;
        query.Attend(args.o.data, o_at);
      }
    }
  }
  return cudaSuccess;
}

}  // namespace flashflow::cuda::testing
