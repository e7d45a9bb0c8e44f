// The Python module snnfast._CUDA: importing it registers the ops for CUDA tensors; it tells what was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

PYBIND11_MODULE(_CUDA, m) {
  m.doc() = "Compiled CUDA kernels of snnfast";
  m.def("build_info", [] {
    return std::map<std::string, std::string>{{"nvcc", SNN_NVCC}, {"torch headers", SNN_TORCH}, {"architectures", SNN_ARCHS}};
  });
}
