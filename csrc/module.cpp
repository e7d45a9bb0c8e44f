// The Python module snnfast._C: importing it registers the ops; it tells what was built.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of snnfast";
  m.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"compiler", SNN_COMPILER}, {"torch headers", SNN_TORCH}, {"instruction sets", "x86-64-v4, x86-64-v3, baseline"}};
  });
  m.def("isa", [] { return std::string(snn::kernels().isa); }, "The instruction set of the CPU kernels in use.");
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const char* isa : snn::kIsas)
      if (snn::supported(isa)) names.push_back(isa);
    return names;
  }, "The instruction sets that were built and that this processor runs, best first.");
  m.def("use_isa", [](const std::string& isa) {
    if (!snn::use_isa(isa.c_str())) throw std::invalid_argument("isa '" + isa + "' is not one of isas()");
  }, pybind11::arg("isa"), "Chooses the instruction set, for tests and measurements.");
}
