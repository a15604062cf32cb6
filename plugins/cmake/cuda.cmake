# CUDA as a language, with the compiler in REFORMER_NVCC and the architectures of
# REFORMER_CUDA_ARCHITECTURES: machine code for each, and PTX of the last one, which newer GPUs compile
# for themselves.
# Defines reformer_kernels_cuda_objects.

include(${CMAKE_CURRENT_LIST_DIR}/architectures.cmake)
message(STATUS "CUDA kernels for ${REFORMER_CUDA_LIST}, with ${REFORMER_NVCC}")
set(CMAKE_CUDA_ARCHITECTURES ${REFORMER_CUDA_ARCHITECTURES})
list(POP_BACK CMAKE_CUDA_ARCHITECTURES newest)
list(TRANSFORM CMAKE_CUDA_ARCHITECTURES APPEND "-real")
list(APPEND CMAKE_CUDA_ARCHITECTURES ${newest})

set(CMAKE_CUDA_COMPILER ${REFORMER_NVCC})
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
