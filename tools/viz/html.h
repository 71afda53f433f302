// A picture as one page that opens without a network.
#ifndef TOOLS_VIZ_HTML_H_
#define TOOLS_VIZ_HTML_H_

#include <string>

#include "tools/viz/picture.h"

namespace flashflow::tools {

// HTML with its style, its script and the picture inside: a row for each operation after, beside the operations before
// that became it, by layer.
std::string PictureToHtml(const Picture& picture);

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_HTML_H_
