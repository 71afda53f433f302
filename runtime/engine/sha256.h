// SHA-256 (FIPS 180-4), for the sections of an engine file and for cache keys.
#ifndef RUNTIME_ENGINE_SHA256_H_
#define RUNTIME_ENGINE_SHA256_H_

#include <string>
#include <string_view>

namespace flashflow::engine {

// The digest of `data` as 64 lower-case hexadecimal digits.
std::string Sha256Hex(std::string_view data);

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_SHA256_H_
