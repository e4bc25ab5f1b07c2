# Everything that is compiled here, with sanitizers of GCC or Clang; tools/sanitize builds and runs it.

set(fusedlm_optimised -O3)
if(FUSEDLM_SANITIZE)
  set(fusedlm_optimised -O1)  # a third of the time to compile
  string(REPLACE ";" "," sanitizers "${FUSEDLM_SANITIZE}")
  # A finding ends the program. Accesses are those of the source, and stacks can be read.
  add_compile_options(-fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 ${fusedlm_optimised})
  add_link_options(-fsanitize=${sanitizers})
  if("thread" IN_LIST FUSEDLM_SANITIZE)
    # GCC's OpenMP synchronises by system calls that the sanitizer does not see. LLVM's takes the same calls
    # and tells its tool Archer, which tells the sanitizer; it must be found before the other.
    find_library(fusedlm_llvm_openmp NAMES omp PATHS /usr/lib/llvm-14/lib REQUIRED)
    add_link_options(-Wl,--no-as-needed ${fusedlm_llvm_openmp} -Wl,--as-needed)
  endif()
endif()
