// Where the values of a JSON text are, for messages: the JSON library keeps no positions.
#ifndef COMPILER_FRONTEND_JSON_PLACE_H_
#define COMPILER_FRONTEND_JSON_PLACE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace flashflow::frontend {

// "line:column" of a byte, both from 1; of the end of the text for an offset behind it.
std::string PlaceOf(std::string_view text, size_t offset);

// The offset of the value at a path such as nodes[3].args[0], or of the root for an empty one. Of a key that comes
// twice the last value counts, as in the library. Where the path ends in nothing, what it came nearest to.
//
// The text must be valid JSON. Reads it once, with memory for as many levels as it nests.
size_t OffsetOf(std::string_view text, std::string_view path);

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_JSON_PLACE_H_
