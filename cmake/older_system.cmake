# Links an extension against the libraries of an older system, so that it runs there too: tools/wheel makes such libraries,
# which the linker alone reads. What C++'s library has besides goes in from its static form.

function(fusedlm_link_for_older_system target folder)
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libstdc++.a
                  OUTPUT_VARIABLE static_libstdcxx OUTPUT_STRIP_TRAILING_WHITESPACE)
  target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc/bindings/older_system/glibc.cpp)
  target_link_options(${target} PRIVATE -nodefaultlibs -Wl,--exclude-libs,ALL)
  target_link_libraries(${target} PRIVATE ${folder}/libstdc++.so.6 ${static_libstdcxx} ${folder}/libm.so.6
                                          gcc ${folder}/libgcc_s.so.1 ${folder}/libc.so.6)
  # In the build's folder nothing may lead to the stand-ins.
  set_target_properties(${target} PROPERTIES SKIP_BUILD_RPATH ON)
endfunction()
