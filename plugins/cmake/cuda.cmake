# CUDA as a language, with the architectures of REFORMER_CUDA_ARCHITECTURES: machine code for each,
# and PTX of the last one, which newer GPUs compile for themselves. Where no compiler is named or on
# the PATH, the one in REFORMER_CUDA_TOOLCHAIN is taken.
# Defines reformer_kernels_cuda_objects, and REFORMER_CUDA_LIST: the architectures as text, "80,90".
list(SORT REFORMER_CUDA_ARCHITECTURES COMPARE NATURAL)
list(JOIN REFORMER_CUDA_ARCHITECTURES "," REFORMER_CUDA_LIST)
if(NOT REFORMER_CUDA_LIST MATCHES "^[0-9]+(,[0-9]+)*$")
  message(FATAL_ERROR "REFORMER_CUDA_ARCHITECTURES is '${REFORMER_CUDA_ARCHITECTURES}', expected "
                      "numbers such as 80;90: nothing behind them")
endif()
set(CMAKE_CUDA_ARCHITECTURES ${REFORMER_CUDA_ARCHITECTURES})
list(POP_BACK CMAKE_CUDA_ARCHITECTURES newest)
list(TRANSFORM CMAKE_CUDA_ARCHITECTURES APPEND "-real")
list(APPEND CMAKE_CUDA_ARCHITECTURES ${newest})

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(REFORMER_NVCC nvcc PATHS ${REFORMER_CUDA_TOOLCHAIN}/cuda/bin)
  if(NOT REFORMER_NVCC)
    message(FATAL_ERROR "No CUDA compiler: put nvcc on the PATH, set CUDACXX, or make one with "
                        "scripts/get_cuda_toolchain.sh and give its folder as "
                        "-DREFORMER_CUDA_TOOLCHAIN=")
  endif()
  set(CMAKE_CUDA_COMPILER ${REFORMER_NVCC})
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

add_library(reformer_kernels_cuda_objects OBJECT ${REFORMER_CUDA_SOURCES})
target_include_directories(reformer_kernels_cuda_objects PUBLIC include ${PROJECT_SOURCE_DIR})
# Kernels call the host's small constexpr functions too.
target_compile_options(reformer_kernels_cuda_objects PRIVATE --expt-relaxed-constexpr)
target_link_libraries(reformer_kernels_cuda_objects PRIVATE reformer_build_flags)
