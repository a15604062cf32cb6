# reformer_find_headers(RESULT HEADER ROOT_VARIABLE PACKAGE [FOLDER...])
#
# Sets RESULT to the folder from which HEADER can be included. Looks in this order:
#   1. -D<ROOT_VARIABLE>=<folder>: an unpacked release or source tree; nothing else is tried then
#   2. what the system has installed, then every FOLDER
#   3. the Debian package PACKAGE, unless it is "", unpacked into the build folder by
#      scripts/get_debian_headers.sh
#   4. the official release archive RESULT_ARCHIVE_URL with SHA-256 RESULT_ARCHIVE_SHA256, if those are set
# (3 and 4 are off with -DREFORMER_DOWNLOAD_HEADERS=OFF)
# RESULT is RESULT-NOTFOUND when all fail.
option(REFORMER_DOWNLOAD_HEADERS "Fetch missing headers: Debian packages, official archives" ON)

# Unpacks an archive into DESTINATION when its SHA-256 is the expected one; says so when it is not to be had.
function(reformer_unpack_archive URL SHA256 DESTINATION)
  set(archive ${DESTINATION}.archive)
  file(DOWNLOAD ${URL} ${archive} INACTIVITY_TIMEOUT 30 STATUS status)
  list(GET status 0 code)
  if(code EQUAL 0)
    file(SHA256 ${archive} got)
    if(got STREQUAL SHA256)
      file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${DESTINATION})
    else()
      message(WARNING "${URL}: got SHA-256 ${got}, expected ${SHA256}; not used")
    endif()
  else()
    message(STATUS "${URL}: ${status}")
  endif()
  file(REMOVE ${archive})
endfunction()

function(reformer_find_headers RESULT HEADER ROOT_VARIABLE PACKAGE)
  # Found by an earlier run, and removed from the machine since.
  if(${RESULT} AND NOT EXISTS ${${RESULT}}/${HEADER})
    unset(${RESULT} CACHE)
  endif()
  set(suffixes include include/onnxruntime usr/include usr/include/onnxruntime onnxruntime
      include/onnxruntime/core/session include/${CMAKE_LIBRARY_ARCHITECTURE})
  if(${ROOT_VARIABLE})
    find_path(${RESULT} ${HEADER} PATHS ${${ROOT_VARIABLE}} PATH_SUFFIXES ${suffixes}
              NO_DEFAULT_PATH)
  else()
    find_path(${RESULT} ${HEADER} PATHS ${ARGN} PATH_SUFFIXES ${suffixes})
    if(NOT ${RESULT} AND REFORMER_DOWNLOAD_HEADERS AND NOT PACKAGE STREQUAL "")
      set(unpacked ${CMAKE_BINARY_DIR}/_headers/${PACKAGE})
      execute_process(COMMAND ${PROJECT_SOURCE_DIR}/scripts/get_debian_headers.sh ${PACKAGE}
                              ${unpacked})
      find_path(${RESULT} ${HEADER} PATHS ${unpacked} PATH_SUFFIXES ${suffixes} NO_DEFAULT_PATH)
    endif()
    if(NOT ${RESULT} AND REFORMER_DOWNLOAD_HEADERS AND ${RESULT}_ARCHIVE_URL)
      reformer_unpack_archive(${${RESULT}_ARCHIVE_URL} ${${RESULT}_ARCHIVE_SHA256} ${unpacked})
      file(GLOB folders LIST_DIRECTORIES true ${unpacked}/*)
      find_path(${RESULT} ${HEADER} PATHS ${folders} PATH_SUFFIXES ${suffixes} NO_DEFAULT_PATH)
    endif()
  endif()
  message(STATUS "${HEADER}: ${${RESULT}}")
endfunction()
