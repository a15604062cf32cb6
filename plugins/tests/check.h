// The tests' whole framework: CHECK counts failures and says where; each test is a main().
#pragma once

#include <cstdio>

namespace reformer::test {

inline int failures = 0;
inline int checks = 0;

}  // namespace reformer::test

// CHECK(condition, "format", ...): the message is printed when the condition is false.
#define CHECK(condition, ...)                                              \
  do {                                                                     \
    ++reformer::test::checks;                                              \
    if (!(condition)) {                                                    \
      ++reformer::test::failures;                                          \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
    }                                                                      \
  } while (false)

#define FINISH_TEST()                                                                         \
  (std::printf("%d checks, %d failures\n", reformer::test::checks, reformer::test::failures), \
   reformer::test::failures == 0 ? 0 : 1)
