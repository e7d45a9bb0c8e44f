# The CUDA half of the build: kernels with nvcc, the op files once more for the CUDA backend, and the Python module snnfast._CUDA.
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
  message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} does not know C++20; snnfast needs CUDA 12 or newer. SNNFAST_CUDA=0 builds without it.")
endif()

# Machine code for each architecture, and PTX of the last, which newer GPUs compile when they load it.
set(archs ${SNNFAST_CUDA_ARCHS})
list(TRANSFORM archs APPEND -real)
list(GET SNNFAST_CUDA_ARCHS -1 newest)
list(APPEND archs ${newest}-virtual)

# CMake 3.25 does not know this flag of nvcc 13.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

find_package(CUDAToolkit REQUIRED)
add_library(kernels_cuda OBJECT csrc/cuda/iaf_fwd.cu csrc/cuda/iaf_bwd.cu csrc/cuda/cos.cu csrc/cuda/qcfs.cu csrc/cuda/conv.cu csrc/cuda/softmax.cu
            csrc/cuda/layer_norm.cu)
set_target_properties(kernels_cuda PROPERTIES CUDA_ARCHITECTURES "${archs}")
# Numbers are specified: no contraction. What ptxas says of registers and spills is kept beside each object, for a test to read.
target_compile_options(kernels_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false -Xptxas -v>)
set_target_properties(kernels_cuda PROPERTIES CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${CMAKE_CURRENT_LIST_DIR}/keep_report.py")

# The op files for CUDA are compiled whatever torch is there; only a torch with CUDA has something to link them to.
list(JOIN archs ", " archs_text)
add_library(ops_cuda OBJECT ${ops} csrc/cuda/module.cpp)
target_compile_definitions(ops_cuda PRIVATE ${stable_torch} SNN_CUDA SNN_ARCHS="${archs_text}" SNN_NVCC="${CMAKE_CUDA_COMPILER_VERSION}")
target_include_directories(ops_cuda SYSTEM PRIVATE ${torch_dir}/include ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(ops_cuda PRIVATE pybind11::module)
execute_process(COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.version.cuda or '', end='')" OUTPUT_VARIABLE torch_cuda COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "^[0-9]+" torch_cuda_major "${torch_cuda}")
if(EXISTS ${torch_dir}/lib/libtorch_cuda.so AND NOT torch_cuda_major EQUAL CUDAToolkit_VERSION_MAJOR)
  set(why "nvcc is of CUDA ${CUDAToolkit_VERSION}, but torch ${torch_version} of CUDA ${torch_cuda}; the driver that serves torch may not serve these kernels")
  if(SNNFAST_CUDA STREQUAL "1")
    message(FATAL_ERROR "snnfast: ${why}")
  endif()
  message(WARNING "snnfast: ${why}. They are compiled but not linked.")
elseif(EXISTS ${torch_dir}/lib/libtorch_cuda.so)
  pybind11_add_module(_CUDA NO_EXTRAS $<TARGET_OBJECTS:ops_cuda> $<TARGET_OBJECTS:kernels_cuda>)
  # cudart is linked in: the module loads on a machine without a GPU or a driver.
  target_link_libraries(_CUDA PRIVATE ${torch_dir}/lib/libtorch_cpu.so ${torch_dir}/lib/libtorch_cuda.so CUDA::cudart_static)
  set_target_properties(_CUDA PROPERTIES SKIP_BUILD_RPATH ON LINKER_LANGUAGE CXX)
else()
  message(STATUS "snnfast: torch ${torch_version} has no CUDA library, so the CUDA kernels are compiled but not linked")
endif()
