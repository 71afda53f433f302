// A picture as text that Graphviz lays out.
#ifndef TOOLS_VIZ_DOT_H_
#define TOOLS_VIZ_DOT_H_

#include <string>
#include <string_view>

#include "tools/viz/picture.h"

namespace flashflow::tools {

// Both graphs side by side in the DOT language. Of layers that look the same the first is drawn, with their number;
// scalar constants and what is made of weights when they are loaded are left out. Nodes that became one operation share
// a cluster with its number, and colors go by the share of the floor time, of all layers that a node stands for
// together.
std::string PictureToDot(const Picture& picture);

// The text as a quoted string of the DOT language, where \n and the like mean nothing.
std::string DotString(std::string_view text);

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_DOT_H_
