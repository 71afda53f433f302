// SHA-256 (FIPS 180-4): names the graph that a plan was made from, and guards the sections of an engine file.
#ifndef COMPILER_PLAN_SHA256_H_
#define COMPILER_PLAN_SHA256_H_

#include <string>
#include <string_view>

namespace flashflow {

// The digest of `data` as 64 lower-case hexadecimal digits.
std::string Sha256Hex(std::string_view data);

}  // namespace flashflow

#endif  // COMPILER_PLAN_SHA256_H_
