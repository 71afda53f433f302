// The names and numbers of the engine file format (.ff), shared by its writer and its reader.
//
// A .ff file is a valid safetensors file. Its __metadata__ holds `format`, `version`, `producer`, `sections` (JSON
// text: section name -> {"sha256": hex}), `weights` (JSON text: weight name -> crc32c as 8 hex digits) and
// `header_crc32c` (over the JSON header with this field's own digits as zeros). Sections are U8 tensors named ff.*;
// ff.pad.N are zeros, which let every other tensor start at a multiple of kTensorAlignment in the file. All other
// tensors are weights, row-major; compiler/plan/plan.h says what those of int8 codes are called.
#ifndef RUNTIME_ENGINE_ENGINE_FORMAT_H_
#define RUNTIME_ENGINE_ENGINE_FORMAT_H_

#include <cstdint>
#include <string_view>

namespace flashflow::engine {

inline constexpr std::string_view kFormatName = "flashflow.engine";
inline constexpr std::string_view kFormatVersion = "1";
inline constexpr int64_t kTensorAlignment = 4096;

inline constexpr std::string_view kSectionPrefix = "ff.";
inline constexpr std::string_view kPadPrefix = "ff.pad.";
inline constexpr std::string_view kGraphSection = "ff.graph";          // .ffir text of the rectangular graph
inline constexpr std::string_view kPlanSectionPrefix = "ff.plan.";     // + device kind: a plan as JSON
inline constexpr std::string_view kTokenizerSection = "ff.tokenizer";  // tokenizer.json of the `tokenizers` library
inline constexpr std::string_view kConfigSection = "ff.config";        // JSON: name, architecture, special tokens

// Precedes the 8 digits; quotes inside strings are escaped, so a header has it once.
inline constexpr std::string_view kHeaderCrcField = "\"header_crc32c\":\"";
inline constexpr int kCrcDigits = 8;

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_ENGINE_FORMAT_H_
