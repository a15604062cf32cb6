# reformer_finish_library(NAME)
#
# What the shared libraries have in common: they export what exports.map beside them lists, have the C++
# library linked in where it is there to be (a process may hold another release of it), and are installed.
# Not libgcc: its unwinder is one for the process, and a newer compiler's would need a newer C library.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LINK_OPTIONS -static-libstdc++)
check_cxx_source_compiles("#include <string>
int main(int count, char** texts) { return std::string(texts[0]).size() == count; }"
                          REFORMER_HAS_STATIC_LIBSTDCXX)
unset(CMAKE_REQUIRED_LINK_OPTIONS)

function(reformer_finish_library NAME)
  set(map ${CMAKE_CURRENT_SOURCE_DIR}/exports.map)
  if(UNIX AND NOT APPLE)
    target_link_options(${NAME} PRIVATE -Wl,--version-script=${map} -Wl,-z,defs
                        -Wl,--gc-sections)
    set_target_properties(${NAME} PROPERTIES LINK_DEPENDS ${map})
  endif()
  if(REFORMER_HAS_STATIC_LIBSTDCXX AND NOT REFORMER_SANITIZE)
    target_link_options(${NAME} PRIVATE -static-libstdc++)
  endif()
  add_dependencies(reformer_libraries ${NAME})
  install(TARGETS ${NAME} LIBRARY DESTINATION . RUNTIME DESTINATION .)
endfunction()
