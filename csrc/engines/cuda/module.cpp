// The Python module snnfast._CUDA. Importing the module registers the ops for CUDA tensors; build_info() tells what was built.
#include "../../python.h"

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return snn::python::dictionary({{"nvcc", SNN_NVCC}, {"torch headers", SNN_TORCH}, {"architectures", SNN_ARCHS}});
}

PyMethodDef functions[] = {{"build_info", build_info, METH_NOARGS, "What the library was built with: a dictionary of strings."}, {}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_CUDA", "Compiled CUDA kernels of snnfast", -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__CUDA() { return PyModule_Create(&module); }
