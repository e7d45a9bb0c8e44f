// Python modules that use only the stable interface of Python 3.10, so that one library serves every Python from 3.10 on. The same library
// serves every torch from 2.10 on.
#pragma once
#include <initializer_list>
#include <utility>

#include <Python.h>

namespace snn::python {

// A dictionary of strings.
inline PyObject* dictionary(std::initializer_list<std::pair<const char*, const char*>> entries) {
  PyObject* dictionary = PyDict_New();
  for (const auto& [key, text] : entries) {
    PyObject* value = dictionary ? PyUnicode_FromString(text) : nullptr;
    if (!value || PyDict_SetItemString(dictionary, key, value)) {
      Py_XDECREF(value);
      Py_XDECREF(dictionary);
      return nullptr;
    }
    Py_DECREF(value);
  }
  return dictionary;
}

}  // namespace snn::python
