# Makes REFORMER_CUDA_ARCHITECTURES a sorted list of numbers, whatever of numbers, "all", "native" or "auto"
# it was, and REFORMER_CUDA_LIST the same as text, "80,90".

# What is shipped: the one place that lists it.
set(REFORMER_ALL_CUDA_ARCHITECTURES 75 80 86 89 90 100 120)

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
