// Python modules by its stable interface of 3.10 alone, so that one library serves every Python from there on, as it serves every torch from 2.10 on.
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
