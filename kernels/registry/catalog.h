// The kernel catalog: what each kernel computes and wants, as data. It knows no device code, so that the compiler can
// select kernels for a device which the machine does not have.
#ifndef KERNELS_REGISTRY_CATALOG_H_
#define KERNELS_REGISTRY_CATALOG_H_

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"

namespace flashflow::kernels {

// Part of a plan's device key: raised whenever a row or a layout changes its meaning.
inline constexpr int kCatalogVersion = 1;

// How a weight lies in memory. All dims are the logical [N, K] (or any shape, for row_major).
inline constexpr std::string_view kRowMajor = "row_major";
// f32. ceil(N/16) panels of [K][16]; element (n, k) at ((n/16)*K + k)*16 + n%16. Columns past N are zero.
inline constexpr std::string_view kPanel16 = "panel16";
// bf16. ceil(N/16) panels of [K2/2][16][2], K2 = K rounded up to even; element (n, k) at
// ((n/16)*(K2/2) + k/2)*32 + (n%16)*2 + k%2. Columns past N and the row past K are zero.
inline constexpr std::string_view kPanel16Vnni2 = "panel16_vnni2";
// i8. ceil(N/16) panels, of 16 i32 and then [K64/4][16][4], K64 = K rounded up to a multiple of 64; element (n, k) at
// n/16 * (64 + 16*K64) + 64 + k/4*64 + n%16*4 + k%4. The i32 of column n is -128 times the sum of row n, modulo 2^32:
// what sums of rows of x begin with whose codes are stored plus 128. Columns past N and rows past K are zero.
inline constexpr std::string_view kPanel16Int8 = "panel16_int8";
// i8, of two 4-bit codes each, so that K is twice the dim. ceil(N/16) panels of [K/8][16][4], K a multiple of 32; byte
// b of row n at n/16 * 8*K + b/4*64 + n%16*4 + b%4. Bytes of rows past N are zero.
inline constexpr std::string_view kPanel16Int4 = "panel16_int4";
// f16[N, G, 2]: ceil(N/16) panels of [G][2][16]; element (n, g, i) at (n/16*G + g)*32 + i*16 + n%16. Those of rows past
// N are zero.
inline constexpr std::string_view kPanel16Groups = "panel16_groups";

class DTypeSet {
 public:
  constexpr DTypeSet(std::initializer_list<DType> dtypes) {
    for (DType dtype : dtypes) bits_ |= Bit(dtype);
  }
  constexpr bool Contains(DType dtype) const { return (bits_ & Bit(dtype)) != 0; }

 private:
  static constexpr uint32_t Bit(DType dtype) { return uint32_t{1} << static_cast<uint32_t>(dtype); }
  uint32_t bits_ = 0;
};

struct OperandSpec {
  std::string_view name;
  DTypeSet dtypes;
  bool optional = false;  // may be absent (plan index -1, or left out at the end)
};

// The layout in which an operand that is a weight must be given, when it has this dtype. A kernel's operand without a
// rule is row-major.
struct WeightLayoutRule {
  int operand = 0;
  DType dtype = DType::kF32;
  std::string_view layout;
};

// A result that may lie in an operand's memory, when both have one dtype and as many elements: the kernel reads what it
// needs of that operand's elements before it writes there.
struct InPlaceRule {
  int output = 0;
  int input = 0;
};

// One kernel. Operands are those of the IR op in the same order, except that a cache operand and a cache result are
// left out: they are the step's `uses_cache`.
struct KernelSpec {
  std::string_view id = {};
  int32_t version = 1;
  std::string_view device = {};            // "cpu"
  std::vector<std::string_view> ops = {};  // the IR ops that it computes
  std::vector<OperandSpec> inputs = {};
  std::vector<OperandSpec> outputs = {};
  bool variadic = false;    // the last input may be repeated
  bool same_dtype = false;  // all inputs and outputs have one dtype
  bool uses_cache = false;
  // A row of a result has the same bits beside any other rows, however many, and however a sequence is cut into steps.
  bool batch_invariant = false;
  DTypeSet cache_dtypes = {};
  std::vector<WeightLayoutRule> weight_layouts = {};
  std::vector<InPlaceRule> in_place = {};
  // As WorkspaceBytes; nullptr: none.
  absl::StatusOr<DimExpr> (*workspace_bytes)(const AttrMap& attrs, absl::Span<const Dims> inputs) = nullptr;
};

// All kernels, ordered by device, op and preference.
absl::Span<const KernelSpec> Catalog();
const KernelSpec* FindKernel(std::string_view id, int32_t version);  // nullptr if unknown
std::vector<const KernelSpec*> KernelsForOp(std::string_view op, std::string_view device);

// Whether operand `input` (which must be present) may have this dtype, by the spec alone.
bool AcceptsInput(const KernelSpec& spec, int input, DType dtype);
// The layout for operand `input` as a weight of this dtype.
std::string_view WeightLayout(const KernelSpec& spec, int input, DType dtype);

// Whether result `output` may be written over operand `input`.
bool MayOverwrite(const KernelSpec& spec, int output, int input);

// Bytes of working memory that a step of the kernel needs, from the shapes of its inputs (empty for absent ones); 0 if
// none. InvalidArgument for attributes or shapes that the kernel's op does not have.
absl::StatusOr<DimExpr> WorkspaceBytes(const KernelSpec& spec, const AttrMap& attrs, absl::Span<const Dims> inputs);

// Bytes of a weight in `layout`. InvalidArgument for an unknown layout, a shape or dtype that the layout does not
// take, a negative dim, or a size past int64.
absl::StatusOr<int64_t> PackedBytes(std::string_view layout, absl::Span<const int64_t> shape, DType dtype);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CATALOG_H_
