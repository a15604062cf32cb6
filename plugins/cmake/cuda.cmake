# CUDA as a language, with the compiler in REFORMER_NVCC and the architectures of
# REFORMER_CUDA_ARCHITECTURES: machine code for each, and PTX of the last one, which newer GPUs compile
# for themselves.
# Defines reformer_kernels_cuda_objects, and REFORMER_CUDA_LIST: the architectures as text, "80,90".

# What is shipped: the one place that lists it.
set(REFORMER_ALL_CUDA_ARCHITECTURES 80 86 89 90 100 120)

# Sets RESULT to the compute capabilities of this machine's GPUs, such as "80;90"; "" without one.
function(reformer_find_gpus RESULT)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE output ERROR_QUIET RESULT_VARIABLE status)
  set(found "")
  if(status EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${output}")
    list(TRANSFORM found REPLACE "\\." "")
    list(REMOVE_DUPLICATES found)
  endif()
  set(${RESULT} "${found}" PARENT_SCOPE)
endfunction()

string(REPLACE "," ";" REFORMER_CUDA_ARCHITECTURES "${REFORMER_CUDA_ARCHITECTURES}")
if(REFORMER_CUDA_ARCHITECTURES MATCHES "^(auto|native)$")
  reformer_find_gpus(gpus)
  if(gpus)
    set(REFORMER_CUDA_ARCHITECTURES ${gpus})
  elseif(REFORMER_CUDA_ARCHITECTURES STREQUAL "native")
    message(FATAL_ERROR "REFORMER_CUDA_ARCHITECTURES is 'native', and nvidia-smi names no GPU here: "
                        "give numbers such as 80;90, or all")
  else()
    set(REFORMER_CUDA_ARCHITECTURES all)
  endif()
endif()
if(REFORMER_CUDA_ARCHITECTURES STREQUAL "all")
  set(REFORMER_CUDA_ARCHITECTURES ${REFORMER_ALL_CUDA_ARCHITECTURES})
endif()
list(SORT REFORMER_CUDA_ARCHITECTURES COMPARE NATURAL)
list(JOIN REFORMER_CUDA_ARCHITECTURES "," REFORMER_CUDA_LIST)
if(NOT REFORMER_CUDA_LIST MATCHES "^[0-9]+(,[0-9]+)*$")
  message(FATAL_ERROR "REFORMER_CUDA_ARCHITECTURES is '${REFORMER_CUDA_ARCHITECTURES}', expected "
                      "numbers such as 80;90: nothing behind them")
endif()
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
