// The Python module _cuda_on_host: importing it registers the CUDA column's ops, compiled for the host, under a dispatch key that nothing else uses.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_cuda_on_host, m) { m.attr("key") = "XPU"; }
