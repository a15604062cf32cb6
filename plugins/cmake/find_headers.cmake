# reformer_find_headers(RESULT HEADER ROOT_VARIABLE PACKAGE)
#
# Sets RESULT to the folder from which HEADER can be included. Looks in this order:
#   1. -D<ROOT_VARIABLE>=<folder>: an unpacked release or source tree; nothing else is tried then
#   2. what the system has installed
#   3. the Debian package PACKAGE, unpacked into the build folder by scripts/get_debian_headers.sh
#      (off with -DREFORMER_DOWNLOAD_HEADERS=OFF)
# RESULT is RESULT-NOTFOUND when all fail.
option(REFORMER_DOWNLOAD_HEADERS "Fetch missing headers as Debian packages with apt" ON)

function(reformer_find_headers RESULT HEADER ROOT_VARIABLE PACKAGE)
  set(suffixes include include/onnxruntime usr/include usr/include/onnxruntime onnxruntime
      include/onnxruntime/core/session)
  if(${ROOT_VARIABLE})
    find_path(${RESULT} ${HEADER} PATHS ${${ROOT_VARIABLE}} PATH_SUFFIXES ${suffixes}
              NO_DEFAULT_PATH)
  else()
    find_path(${RESULT} ${HEADER} PATH_SUFFIXES ${suffixes})
    if(NOT ${RESULT} AND REFORMER_DOWNLOAD_HEADERS)
      set(unpacked ${CMAKE_BINARY_DIR}/_headers/${PACKAGE})
      execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/get_debian_headers.sh ${PACKAGE}
                              ${unpacked})
      find_path(${RESULT} ${HEADER} PATHS ${unpacked} PATH_SUFFIXES ${suffixes} NO_DEFAULT_PATH)
    endif()
  endif()
  message(STATUS "${HEADER}: ${${RESULT}}")
endfunction()
