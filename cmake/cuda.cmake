# The CUDA kernels: csrc/cuda/*.cu through nvcc, into namespace fusedlm::cuda.

file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
set(cuda_dependency "")
set(with_cuda OFF)
if(FUSEDLM_CUDA STREQUAL "AUTO")
  # A toolkit without a GPU is common on build machines; there the minutes of nvcc must be asked for.
  include(CheckLanguage)
  check_language(CUDA)
  find_library(cuda_driver NAMES cuda libcuda.so.1)
  find_program(nvidia_smi nvidia-smi)
  if(CMAKE_CUDA_COMPILER AND (cuda_driver OR nvidia_smi))
    set(with_cuda ON)
  endif()
elseif(FUSEDLM_CUDA)
  set(with_cuda ON)
endif()
if(NOT with_cuda)
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(default_architectures ON)
  set(CMAKE_CUDA_ARCHITECTURES 80)
endif()
enable_language(CUDA)
if(default_architectures)
  # Ampere, Ada and Hopper; Blackwell since CUDA 12.8. Code for the first runs on what lies between.
  set(CMAKE_CUDA_ARCHITECTURES 80 90)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    list(APPEND CMAKE_CUDA_ARCHITECTURES 100 120)
  endif()
endif()
find_package(CUDAToolkit REQUIRED)

add_library(fusedlm_cuda OBJECT ${cuda_sources})
target_compile_definitions(fusedlm_cuda PRIVATE FUSEDLM_CUDA)
# The standard by its flag, not by the property that follows from C++'s: CMake before 3.26 does not know it
# of new compilers.
set_property(TARGET fusedlm_cuda PROPERTY CXX_STANDARD)
set_property(TARGET fusedlm PROPERTY CUDA_STANDARD 17)  # compiles no CUDA itself
target_compile_options(fusedlm_cuda PRIVATE -std=c++20 -Xcompiler=-Wall,-Wextra --expt-relaxed-constexpr)
if(FUSEDLM_WERROR)
  target_compile_options(fusedlm_cuda PRIVATE -Werror=all-warnings)
endif()
target_include_directories(fusedlm_cuda PRIVATE csrc csrc/include)
# The targets that link these objects were there before the language was.
set_target_properties(fusedlm PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
target_sources(fusedlm PRIVATE $<TARGET_OBJECTS:fusedlm_cuda>)
target_compile_definitions(fusedlm PRIVATE FUSEDLM_CUDA)
target_link_libraries(fusedlm PUBLIC CUDA::cudart_static)
set(cuda_dependency "find_dependency(CUDAToolkit)\n")
