# The emulator: the same csrc/cuda/*.cu through the C++ compiler, into namespace fusedlm::simt.

if(NOT FUSEDLM_SIMT MATCHES "^(OFF|ON|CHECKED)$")
  message(FATAL_ERROR "FUSEDLM_SIMT is '${FUSEDLM_SIMT}', expected OFF, ON or CHECKED")
endif()
file(GLOB simt_runtime_sources CONFIGURE_DEPENDS csrc/cuda/simt/*.cpp)
file(GLOB simt_kernel_files CONFIGURE_DEPENDS csrc/cuda/*.cu)

# A .cu file belongs to one language of CMake; a file that includes it can belong to the other.
set(simt_kernel_sources "")
foreach(file IN LISTS simt_kernel_files)
  get_filename_component(name ${file} NAME_WE)
  set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/simt/${name}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"cuda/${name}.cu\"\n")
  list(APPEND simt_kernel_sources ${wrapper})
endforeach()

# What kernel code is compiled with. CUDA reads memory through types that it was not written by; the
# instrumentation of the checked build calls simt/checked.cpp, not the thread sanitizer's own runtime.
set(simt_kernel_flags -O2 -g1 -ffp-contract=off -fno-math-errno -fno-strict-aliasing -Wno-unknown-pragmas
                      ${fusedlm_warnings})
# -O1, so that the accesses are those of the source.
set(simt_checked_flags -O1 -fsanitize=thread --param=tsan-instrument-func-entry-exit=0 --param=tsan-distinguish-volatile=0)
set(simt_runtime_flags -O3 -g1 -ffp-contract=off -Wno-unknown-pragmas ${fusedlm_warnings})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND simt_runtime_flags -Wno-restrict)  # GCC 12 warns of its own std::string
endif()

# A library of the runtime and one of kernels, as `name`_runtime and `name`_kernels.
function(add_simt_libraries name checked)
  add_library(${name}_runtime OBJECT ${simt_runtime_sources})
  target_compile_options(${name}_runtime PRIVATE ${simt_runtime_flags})
  add_library(${name}_kernels OBJECT ${ARGN})
  target_compile_options(${name}_kernels PRIVATE ${simt_kernel_flags})
  if(checked)
    target_compile_options(${name}_kernels PRIVATE ${simt_checked_flags})
  endif()
  foreach(part runtime kernels)
    target_include_directories(${name}_${part} PRIVATE csrc csrc/include)
    if(with_cuda)
      target_compile_definitions(${name}_${part} PRIVATE FUSEDLM_SIMT_BESIDE_CUDA)
    endif()
    if(checked)
      target_compile_definitions(${name}_${part} PRIVATE FUSEDLM_SIMT_CHECKED)
    endif()
  endforeach()
endfunction()

if(FUSEDLM_SIMT)
  if(FUSEDLM_SIMT STREQUAL "CHECKED")
    add_simt_libraries(fusedlm_simt ON ${simt_kernel_sources})
    target_compile_definitions(fusedlm PRIVATE FUSEDLM_SIMT_CHECKED)
    target_link_libraries(fusedlm PRIVATE ${CMAKE_DL_LIBS})
  else()
    add_simt_libraries(fusedlm_simt OFF ${simt_kernel_sources})
  endif()
  target_sources(fusedlm PRIVATE $<TARGET_OBJECTS:fusedlm_simt_runtime> $<TARGET_OBJECTS:fusedlm_simt_kernels>)
  target_compile_definitions(fusedlm PRIVATE FUSEDLM_SIMT)
endif()

# The emulator's own tests, beside those of the ops; and both once more with every access checked.
function(add_simt_tests)
  file(GLOB simt_test_sources CONFIGURE_DEPENDS tests/cpp/simt/*_test.cpp)
  target_sources(fusedlm_tests PRIVATE ${simt_test_sources})
  set_source_files_properties(${simt_test_sources} PROPERTIES COMPILE_OPTIONS "-Wno-unknown-pragmas;-fno-strict-aliasing")
  target_include_directories(fusedlm_tests PRIVATE tests/cpp)
  if(FUSEDLM_SIMT STREQUAL "CHECKED")
    target_compile_definitions(fusedlm_tests PRIVATE FUSEDLM_SIMT_CHECKED)
    set_property(SOURCE ${simt_test_sources} APPEND PROPERTY COMPILE_OPTIONS -O1 -g1 ${simt_checked_flags})
    return()
  endif()
  # The library again, with the scalar kernels alone.
  add_simt_libraries(fusedlm_checked ON ${simt_kernel_sources} ${simt_test_sources})
  target_include_directories(fusedlm_checked_kernels PRIVATE tests/cpp)
  target_link_libraries(fusedlm_checked_kernels PRIVATE GTest::gtest)
  add_executable(fusedlm_checked_tests ${core_sources} ${test_sources}
                 $<TARGET_OBJECTS:fusedlm_checked_runtime> $<TARGET_OBJECTS:fusedlm_checked_kernels>
                 $<TARGET_OBJECTS:fusedlm_scalar>)
  target_include_directories(fusedlm_checked_tests PRIVATE csrc csrc/include tests/cpp)
  target_compile_definitions(fusedlm_checked_tests PRIVATE FUSEDLM_SIMT FUSEDLM_HAS_SCALAR)
  target_compile_options(fusedlm_checked_tests PRIVATE ${fusedlm_warnings} -Wno-missing-field-initializers)
  target_link_libraries(fusedlm_checked_tests PRIVATE OpenMP::OpenMP_CXX GTest::gtest_main ${CMAKE_DL_LIBS})
  gtest_discover_tests(fusedlm_checked_tests TEST_PREFIX checked. DISCOVERY_TIMEOUT 60
                       PROPERTIES ENVIRONMENT OMP_WAIT_POLICY=passive)
endfunction()
