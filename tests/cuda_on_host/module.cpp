// The Python module _cuda_on_host: importing it registers the CUDA column's ops, compiled for the host, under a dispatch key that nothing else uses.
#include "python.h"

namespace {

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cuda_on_host", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cuda_on_host() {
  PyObject* m = PyModule_Create(&module);
  if (m) PyModule_AddStringConstant(m, "key", "XPU");
  return m;
}
