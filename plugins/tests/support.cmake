# What the C++ tests share: operands, references, comparisons.
find_package(Threads REQUIRED)

add_library(reformer_test_support STATIC
  tests/compare.cc tests/draw.cc tests/operands.cc tests/reference.cc)
target_include_directories(reformer_test_support PUBLIC tests)
target_link_libraries(reformer_test_support
  PUBLIC reformer_kernels_cpu Threads::Threads
  PRIVATE reformer_build_flags)
