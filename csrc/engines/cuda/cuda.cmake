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
# Does this torch have a CUDA library to link to, and of nvcc's CUDA? Where it has none, the CUDA objects are compiled only when asked for.
execute_process(COMMAND "${Python_EXECUTABLE}" -c "import torch; print(torch.version.cuda or '', end='')" OUTPUT_VARIABLE torch_cuda COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "^[0-9]+" torch_cuda_major "${torch_cuda}")
set(link_cuda OFF)
set(nobody_needs_cuda EXCLUDE_FROM_ALL)
if(NOT EXISTS ${torch_dir}/lib/libtorch_cuda.so)
  message(STATUS "snnfast: torch ${torch_version} has no CUDA library, so the CUDA kernels are not built (`make test` compiles them)")
elseif(NOT torch_cuda_major EQUAL CUDAToolkit_VERSION_MAJOR)
  set(why "nvcc is of CUDA ${CUDAToolkit_VERSION}, but torch ${torch_version} of CUDA ${torch_cuda}; the driver that serves torch may not serve these kernels")
  if(SNNFAST_CUDA STREQUAL "1")
    message(FATAL_ERROR "snnfast: ${why}")
  endif()
  message(WARNING "snnfast: ${why}. They are not built.")
else()
  set(link_cuda ON)
  set(nobody_needs_cuda)
endif()

# The units of the CUDA column: those of the time loop once for each dtype, the others whole. units: names; unit(u): what is compiled.
set(units cos qcfs conv softmax layer_norm)
foreach(unit ${units})
  set(unit_${unit} ${PROJECT_SOURCE_DIR}/csrc/engines/cuda/${unit}.cu)
endforeach()
foreach(op iaf_fwd iaf_bwd)
  foreach(dtype f32 f16 bf16 f64)
    set(unit_${op}_${dtype} ${PROJECT_BINARY_DIR}/units/${op}_${dtype}.cu)
    file(CONFIGURE OUTPUT ${unit_${op}_${dtype}} CONTENT "#define SNN_DTYPE ${dtype}\n#include \"${PROJECT_SOURCE_DIR}/csrc/engines/cuda/${op}.cu\"\n")
    list(PREPEND units ${op}_${dtype})
  endforeach()
endforeach()

add_library(kernels_cuda OBJECT ${nobody_needs_cuda})
foreach(unit ${units})
  target_sources(kernels_cuda PRIVATE ${unit_${unit}})
endforeach()
target_include_directories(kernels_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc/engines/cuda)
set_target_properties(kernels_cuda PROPERTIES CUDA_ARCHITECTURES "${archs}")
# Numbers are specified: no contraction. What ptxas says of registers and spills is kept beside each object, for a test to read.
target_compile_options(kernels_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false -Xptxas -v>)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  target_compile_options(kernels_cuda PRIVATE --compress-mode=size)  # a sixth: 33 MB -> 6
endif()
set_target_properties(kernels_cuda PROPERTIES CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${CMAKE_CURRENT_LIST_DIR}/keep_report.py")

# The op files once more, for CUDA: a torch with CUDA links them, and so does the kit.
list(JOIN archs ", " archs_text)
add_library(ops_cuda OBJECT ${nobody_needs_cuda} ${ops} csrc/engines/cuda/module.cpp)
target_compile_definitions(ops_cuda PRIVATE ${stable_torch} Py_LIMITED_API=0x030A0000 SNN_CUDA SNN_ARCHS="${archs_text}" SNN_NVCC="${CMAKE_CUDA_COMPILER_VERSION}")
target_include_directories(ops_cuda SYSTEM PRIVATE ${torch_dir}/include ${CUDAToolkit_INCLUDE_DIRS} ${Python_INCLUDE_DIRS})
# cudart is linked in: the module loads on a machine without a GPU or a driver.
if(link_cuda)
  add_python_module(_CUDA $<TARGET_OBJECTS:ops_cuda> $<TARGET_OBJECTS:kernels_cuda>)
  target_link_libraries(_CUDA PRIVATE ${torch_dir}/lib/libtorch_cpu.so ${torch_dir}/lib/libtorch_cuda.so CUDA::cudart_static)
  set_target_properties(_CUDA PROPERTIES LINKER_LANGUAGE CXX)
endif()

# What travels to a machine with a GPU (`make gpu-kit`): _C and _CUDA, linked without a torch that has CUDA. Of libtorch_cuda.so they need one function,
# which a stub of that name has here and the real library there.
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/units/torch_cuda_stub.c CONTENT "int aoti_torch_get_current_cuda_stream(int device, void** stream) { return 1; }\n")
enable_language(C)
add_library(torch_cuda_stub SHARED EXCLUDE_FROM_ALL ${PROJECT_BINARY_DIR}/units/torch_cuda_stub.c)
target_compile_options(torch_cuda_stub PRIVATE -w -fvisibility=default)
set_target_properties(torch_cuda_stub PROPERTIES OUTPUT_NAME torch_cuda LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/stub)
add_python_module(kit_CUDA EXCLUDE_FROM_ALL $<TARGET_OBJECTS:ops_cuda> $<TARGET_OBJECTS:kernels_cuda>)
target_link_libraries(kit_CUDA PRIVATE ${torch_dir}/lib/libtorch_cpu.so torch_cuda_stub CUDA::cudart_static)
target_link_options(kit_CUDA PRIVATE -s)
set_target_properties(kit_CUDA PROPERTIES LINKER_LANGUAGE CXX OUTPUT_NAME _CUDA LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/kit)
