// The Python module snnfast._C. Importing the module registers the ops; build_info() tells what was built.
#include "kernels.h"
#include "../../python.h"

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return snn::python::dictionary({{"compiler", SNN_COMPILER}, {"torch headers", SNN_TORCH}, {"instruction sets", "x86-64-v4, x86-64-v3, baseline"}});
}

PyObject* isa(PyObject*, PyObject*) { return PyUnicode_FromString(snn::kernels().isa); }

PyObject* isas(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  for (const char* isa : snn::kIsas) {
    if (!names || !snn::supported(isa)) continue;
    PyObject* name = PyUnicode_FromString(isa);
    if (!name || PyList_Append(names, name)) Py_CLEAR(names);
    Py_XDECREF(name);
  }
  return names;
}

PyObject* use_isa(PyObject*, PyObject* isa) {
  const char* name = PyUnicode_AsUTF8AndSize(isa, nullptr);
  if (!name) return nullptr;
  if (!snn::use_isa(name)) return PyErr_Format(PyExc_ValueError, "isa '%s' is not one of isas()", name);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS, "What the library was built with: a dictionary of strings."},
    {"isa", isa, METH_NOARGS, "The instruction set of the CPU kernels in use."},
    {"isas", isas, METH_NOARGS, "The instruction sets that were built and that this processor runs, best first."},
    {"use_isa", use_isa, METH_O, "Chooses the instruction set, for tests and measurements."},
    {},
};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", "Compiled kernels of snnfast", -1, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
