#include "pybind11/pybind11.h"

PYBIND11_MODULE(extension, m) {
  m.def("cpp_standard", [] { return __cplusplus; });
}
