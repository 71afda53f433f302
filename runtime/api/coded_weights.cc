#include "runtime/api/coded_weights.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "compiler/ir/float_convert.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/quantize_groups.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/engine/convert.h"

namespace flashflow::runtime {
namespace {

// The weight whose codes or scales are named so; nullopt for another name.
std::optional<std::string_view> WeightOf(std::string_view name) {
  for (const std::string_view suffix : {plan::kCodesSuffix, plan::kScalesSuffix}) {
    if (absl::EndsWith(name, suffix)) return absl::StripSuffix(name, suffix);
  }
  return std::nullopt;
}

// Of 4-bit codes and their scales, for a weight of this shape.
std::vector<int64_t> GroupCodesShape(const std::vector<int64_t>& shape) { return {shape[0], shape[1] / 2}; }
std::vector<int64_t> GroupScalesShape(const std::vector<int64_t>& shape) {
  return {shape[0], shape[1] / cpu::kInt4Group, 2};
}

// The codes and scales of one weight at a time: the writer asks for both in turn.
class Coder {
 public:
  Coder(engine::WeightSource source, absl::flat_hash_map<std::string, WeightCoding> coded)
      : source_(std::move(source)), coded_(std::move(coded)) {}

  absl::StatusOr<engine::SourceTensor> Get(std::string_view name) {
    const std::optional<std::string_view> weight = WeightOf(name);
    const auto coded = weight.has_value() ? coded_.find(*weight) : coded_.end();
    if (coded == coded_.end()) return source_(name);
    if (current_ != *weight) {
      if (absl::Status status = Code(*weight, coded->second); !status.ok()) return status;
    }
    if (absl::EndsWith(name, plan::kScalesSuffix)) {
      if (coded->second.groups)
        return engine::SourceTensor{group_scales_.data(), DType::kF16, GroupScalesShape(shape_)};
      return engine::SourceTensor{scales_.data(), DType::kF32, {static_cast<int64_t>(scales_.size())}};
    }
    return engine::SourceTensor{codes_.data(), DType::kI8, coded->second.groups ? GroupCodesShape(shape_) : shape_};
  }

 private:
  absl::Status Code(std::string_view name, WeightCoding coding) {
    current_.clear();
    const absl::StatusOr<engine::SourceTensor> tensor = source_(name);
    if (!tensor.ok()) return tensor.status();
    if (tensor->shape.size() != 2 || !IsFloat(tensor->dtype)) {
      return absl::InvalidArgumentError(absl::StrCat("weight \"", name, "\" is ", DTypeName(tensor->dtype), "[",
                                                     absl::StrJoin(tensor->shape, ", "),
                                                     "]; codes are made of a matrix of floats"));
    }
    shape_ = tensor->shape;
    const auto count = static_cast<size_t>(shape_[0] * shape_[1]);
    std::vector<float> values(count);
    engine::ConvertFloats(tensor->data, tensor->dtype, values.data(), DType::kF32, static_cast<int64_t>(count));
    absl::Status status = coding.groups ? CodeGroups(name, values) : CodeRows(name, coding.transposed, values);
    if (!status.ok()) return status;
    current_ = name;
    return absl::OkStatus();
  }

  absl::Status CodeGroups(std::string_view name, const std::vector<float>& values) {
    if (shape_[1] % cpu::kInt4Group != 0) {
      return absl::InvalidArgumentError(absl::StrCat("weight \"", name, "\" has rows of ", shape_[1],
                                                     "; 4-bit codes are of groups of ", cpu::kInt4Group));
    }
    codes_.resize(values.size() / 2);
    group_scales_.resize(values.size() / cpu::kInt4Group * 2);
    cpu::QuantizeGroups(values.data(), static_cast<int64_t>(values.size()) / cpu::kInt4Group,
                        reinterpret_cast<uint8_t*>(codes_.data()), group_scales_.data(), &pool_);
    for (size_t i = 0; i < group_scales_.size(); ++i) {
      if (!std::isfinite(F16ToDouble(group_scales_[i]))) {
        const size_t row = i * cpu::kInt4Group / 2 / static_cast<size_t>(shape_[1]);
        return absl::InvalidArgumentError(
            absl::StrCat("weight \"", name, "\" has an element that is not finite, or larger than f16 holds, in row ",
                         row, ": it has no 4-bit codes"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CodeRows(std::string_view name, bool transposed, std::vector<float>& values) {
    const size_t count = values.size();
    const int64_t rows = shape_[transposed ? 1 : 0];
    const int64_t k = shape_[transposed ? 0 : 1];
    if (transposed) {
      std::vector<float> turned(count);
      Transpose(values.data(), rows, k, turned.data());
      values = std::move(turned);
    }
    codes_.resize(count);
    scales_.resize(static_cast<size_t>(rows));
    constexpr float kNoClip = std::numeric_limits<float>::infinity();
    cpu::QuantizeRows(values.data(), rows, k, kNoClip, codes_.data(), scales_.data(), &pool_);
    for (size_t row = 0; row < scales_.size(); ++row) {
      if (!std::isfinite(scales_[row])) {
        return absl::InvalidArgumentError(absl::StrCat("weight \"", name, "\" has an element that is not finite, in ",
                                                       transposed ? "column " : "row ", row, ": it has no int8 codes"));
      }
    }
    if (transposed) {
      std::vector<int8_t> turned(count);
      Transpose(codes_.data(), k, rows, turned.data());
      codes_ = std::move(turned);
    }
    return absl::OkStatus();
  }

  // from[k, n] to to[n, k]
  template <typename T>
  void Transpose(const T* from, int64_t n, int64_t k, T* to) {
    cpu::PackTransposed(reinterpret_cast<const std::byte*>(from), n, k, sizeof(T), reinterpret_cast<std::byte*>(to),
                        &pool_);
  }

  const engine::WeightSource source_;
  const absl::flat_hash_map<std::string, WeightCoding> coded_;
  cpu::ThreadPool pool_;
  std::string current_;         // the weight that the rest is of; empty: none
  std::vector<int64_t> shape_;  // of the weight
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint16_t> group_scales_;  // f16
};

}  // namespace

absl::Status CodedWeights::Add(const plan::Plan& plan) {
  absl::flat_hash_set<std::string_view> of_groups;  // names of scales
  for (const plan::Weight& weight : plan.weights) {
    if (weight.dtype == DType::kF16) of_groups.insert(weight.sources.begin(), weight.sources.end());
  }
  for (const plan::Weight& weight : plan.weights) {
    for (const std::string& source : weight.sources) {
      const bool codes = weight.dtype == DType::kI8 && absl::EndsWith(source, plan::kCodesSuffix);
      if (!codes) {
        plain_.insert(source);  // scales too: no weight has their names
        continue;
      }
      const std::string name(absl::StripSuffix(source, plan::kCodesSuffix));
      const bool groups = of_groups.contains(absl::StrCat(name, plan::kScalesSuffix));
      const WeightCoding coding = {.transposed = weight.transposed, .groups = groups};
      if (!coded_.try_emplace(name, coding).second && coded_[name] != coding) {
        return absl::InternalError(absl::StrCat("plans want different codes of weight \"", name, "\""));
      }
    }
  }
  return absl::OkStatus();
}

std::vector<engine::WeightSpec> CodedWeights::Specs(const engine::WeightSpec& weight) const {
  const auto coded = coded_.find(weight.name);
  if (coded == coded_.end()) return {weight};
  const auto& [transposed, groups] = coded->second;
  std::vector<engine::WeightSpec> specs;
  if (plain_.contains(weight.name)) specs.push_back(weight);
  const std::string codes = absl::StrCat(weight.name, plan::kCodesSuffix);
  const std::string scales = absl::StrCat(weight.name, plan::kScalesSuffix);
  if (groups && weight.shape.size() == 2) {
    specs.push_back({codes, DType::kI8, GroupCodesShape(weight.shape)});
    specs.push_back({scales, DType::kF16, GroupScalesShape(weight.shape)});
  } else {
    specs.push_back({codes, DType::kI8, weight.shape});
    specs.push_back({scales, DType::kF32, {weight.shape[transposed ? 1 : 0]}});
  }
  return specs;
}

engine::WeightSource CodedWeights::Source(const engine::WeightSource& source) const {
  return [coder = std::make_shared<Coder>(source, coded_)](std::string_view name) { return coder->Get(name); };
}

}  // namespace flashflow::runtime
