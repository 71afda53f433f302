// The paged KV cache.
#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/kv_append.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/paged_rows.h"
#include "kernels/cpu/rope.h"
#include "kernels/registry/cpu_launch.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels::cpu_launch {
namespace {

// Operands row_start, kv_len, block_table from `first` on, checked against the cache and the number of tokens.
absl::StatusOr<cpu::PagedRows> PagedRowsOf(const LaunchContext& context, size_t first, int64_t tokens) {
  const TensorView& row_start = context.inputs[first];
  const TensorView& kv_len = context.inputs[first + 1];
  const TensorView& block_table = context.inputs[first + 2];
  if (kv_len.rank != 1) return Mismatch("kv_len", kv_len, "rank 1");
  const int64_t rows = kv_len.dims[0];
  FF_RETURN_IF_ERROR(CheckDims("row_start", row_start, {rows + 1}));
  if (block_table.rank != 2 || block_table.dims[0] != rows) {
    return Mismatch("block_table", block_table, absl::StrCat("[", rows, ", pages]"));
  }
  const auto values = [](const TensorView& view) {
    return std::span<const int32_t>(static_cast<const int32_t*>(view.data), static_cast<size_t>(view.NumElements()));
  };
  const cpu::PagedRows paged_rows = {.row_start = values(row_start),
                                     .kv_len = values(kv_len),
                                     .block_table = values(block_table),
                                     .pages_per_row = block_table.dims[1]};
  const std::string wrong = cpu::CheckPagedRows(paged_rows, tokens, context.cache->page_size, context.cache->num_pages);
  if (!wrong.empty()) return absl::OutOfRangeError(wrong);
  return paged_rows;
}

// Of a dtype that the catalog has for it.
cpu::CacheType CacheTypeOf(DType dtype) {
  if (dtype == DType::kI8) return cpu::CacheType::kInt8;
  return dtype == DType::kBF16 ? cpu::CacheType::kBF16 : cpu::CacheType::kF32;
}

absl::StatusOr<cpu::PagedLayer> PagedLayerOf(const CacheView& cache, int64_t layer) {
  if (layer < 0 || layer >= cache.layers) {
    return absl::OutOfRangeError(absl::StrCat("layer ", layer, " of a KV cache of ", cache.layers));
  }
  return cpu::PagedLayer{.data = static_cast<char*>(cache.data) + layer * cache.LayerBytes(),
                         .type = CacheTypeOf(cache.dtype),
                         .pages = cache.num_pages,
                         .kv_heads = cache.kv_heads,
                         .page_size = cache.page_size,
                         .head_dim = cache.head_dim};
}

absl::StatusOr<LaunchFn> BindKvAppend(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  return [layer](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& k = context.inputs[0];
    const TensorView& v = context.inputs[1];
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    if (k.rank != 3) return Mismatch("k", k, "rank 3");
    FF_RETURN_IF_ERROR(CheckDims("k", k, {k.dims[0], cache.kv_heads, cache.head_dim}));
    FF_RETURN_IF_ERROR(CheckDims("v", v, DimsOf(k)));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 2, k.dims[0]));
    const int64_t stride = cache.kv_heads * cache.head_dim;
    cpu::KvAppend({F32(k), stride}, {F32(v), stride}, rows, cache, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindPagedAttention(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(request.attrs, "scale"));
  FF_ASSIGN_OR_RETURN(const int64_t window, GetAttr<int64_t>(request.attrs, "window"));
  if (window < 0) return absl::InvalidArgumentError(absl::StrCat("window is ", window, ", expected 0 or more"));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& q = context.inputs[0];
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    if (cache.head_dim > cpu::kMaxHeadDim) {
      return absl::UnimplementedError(
          absl::StrCat("head_dim ", cache.head_dim, " is above the CPU's limit of ", cpu::kMaxHeadDim));
    }
    if (q.rank != 3 || q.dims[1] % cache.kv_heads != 0 || q.dims[2] != cache.head_dim) {
      return Mismatch("q", q, absl::StrCat("[tokens, a multiple of ", cache.kv_heads, ", ", cache.head_dim, "]"));
    }
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(q)));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 1, q.dims[0]));
    if (q.NumElements() == 0) return absl::OkStatus();
    cpu::PagedAttention(F32(q), q.dims[1] * q.dims[2], q.dims[1], rows, cache, static_cast<float>(scale), window,
                        MutableF32(context.outputs[0]), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCachedAttention(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t layer, GetAttr<int64_t>(request.attrs, "layer"));
  FF_ASSIGN_OR_RETURN(const int64_t heads, GetAttr<int64_t>(request.attrs, "heads"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(request.attrs, "scale"));
  FF_ASSIGN_OR_RETURN(const int64_t window, GetAttr<int64_t>(request.attrs, "window"));
  constexpr int64_t kMostHeads = int64_t{1} << 20;
  if (window < 0) return absl::InvalidArgumentError(absl::StrCat("window is ", window, ", expected 0 or more"));
  if (heads < 1 || heads > kMostHeads) return absl::InvalidArgumentError(absl::StrCat("heads is ", heads));
  return [=](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& qkv = context.inputs[0];
    const TensorView* cos = Optional(context, 4);
    const TensorView* sin = Optional(context, 5);
    FF_ASSIGN_OR_RETURN(const cpu::PagedLayer cache, PagedLayerOf(*context.cache, layer));
    const int64_t dim = cache.head_dim;
    if (dim > cpu::kMaxHeadDim) {
      return absl::UnimplementedError(
          absl::StrCat("head_dim ", dim, " is above the CPU's limit of ", cpu::kMaxHeadDim));
    }
    if (heads % cache.kv_heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(heads, " heads over ", cache.kv_heads, " in the cache"));
    }
    const int64_t width = (heads + 2 * cache.kv_heads) * dim;
    if (qkv.rank != 2 || qkv.dims[1] != width) return Mismatch("qkv", qkv, absl::StrCat("[tokens, ", width, "]"));
    const int64_t tokens = qkv.dims[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], {tokens, heads * dim}));
    FF_ASSIGN_OR_RETURN(const cpu::PagedRows rows, PagedRowsOf(context, 1, tokens));
    if (tokens == 0) return absl::OkStatus();
    const float* q = F32(qkv);
    int64_t q_stride = width;
    const float* k = q + heads * dim;
    const float* v = k + cache.kv_heads * dim;
    if ((cos == nullptr) != (sin == nullptr)) return absl::InvalidArgumentError("cos without sin, or sin without cos");
    if (cos != nullptr) {
      if (dim % 2 != 0) return absl::InvalidArgumentError(absl::StrCat("head_dim ", dim, " is odd, and heads turn"));
      FF_RETURN_IF_ERROR(CheckDims("cos", *cos, {tokens, dim}));
      FF_RETURN_IF_ERROR(CheckDims("sin", *sin, {tokens, dim}));
      // Queries and keys lie side by side: one run turns both.
      const int64_t turned_heads = heads + cache.kv_heads;
      q_stride = turned_heads * dim;
      FF_RETURN_IF_ERROR(CheckWorkspace(context, tokens * q_stride * kF32Bytes));
      auto* turned = static_cast<float*>(context.workspace);
      const std::array<int64_t, 2> dims = {tokens, turned_heads};
      const std::array<int64_t, 2> x_strides = {width, dim};
      const std::array<int64_t, 2> angle_strides = {dim, 0};
      const std::array<int64_t, 2> y_strides = {q_stride, dim};
      cpu::Rope({q, x_strides}, {F32(*cos), angle_strides}, {F32(*sin), angle_strides}, turned, y_strides, dims, dim,
                pool);
      q = turned;
      k = turned + heads * dim;
    }
    cpu::KvAppend({k, q_stride}, {v, width}, rows, cache, pool);
    cpu::PagedAttention(q, q_stride, heads, rows, cache, static_cast<float>(scale), window,
                        MutableF32(context.outputs[0]), pool);
    return absl::OkStatus();
  };
}

constexpr Binding kBindings[] = {
    {"cpu.kv_append", 1, BindKvAppend},
    {"cpu.paged_attention", 1, BindPagedAttention},
    {"cpu.cached_attention", 1, BindCachedAttention},
};

}  // namespace

absl::Span<const Binding> CacheBindings() { return kBindings; }

}  // namespace flashflow::kernels::cpu_launch
