// Damaged texts: what a torn write, an editor or an adversary may make of a valid one.
#ifndef COMPILER_FUZZ_DAMAGE_H_
#define COMPILER_FUZZ_DAMAGE_H_

#include <random>
#include <string>
#include <string_view>

namespace flashflow::fuzz {

// The text with one to four edits: a byte changed, a stretch cut, repeated or moved, a word exchanged for another word
// of the text, a number made another, a huge or a negative one, the end torn off. Words are kept whole more often than
// not, so that many texts get past the first check that meets them.
std::string Damage(std::string_view text, std::mt19937_64& random);

}  // namespace flashflow::fuzz

#endif  // COMPILER_FUZZ_DAMAGE_H_
