// Calls of an operator each of which breaks one thing: it gives a status and words, and writes
// nothing.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "check.h"
#include "reformer_kernels.h"

namespace reformer::test {

// What a call's outputs hold before.
constexpr float kUntouched = -7.0f;

inline void expect(reformer_status status, reformer_status expected, const char* error,
                   const char* message) {
  CHECK(status == expected, "status %d, expected %d (%s): %s", status, expected, message, error);
  CHECK(std::strstr(error, message) != nullptr, "message \"%s\" lacks \"%s\"", error, message);
}

template <typename Call>
struct WrongCall {
  reformer_status status;
  const char* message;  // a part of it
  std::function<void(Call&)> spoil;
};

// A Call is correct as it is made, and has `params`, `error` and outputs().
template <typename Call, typename Run>
void check_wrong(const std::vector<WrongCall<Call>>& cases, const Run& run) {
  for (const WrongCall<Call>& wrong : cases) {
    Call call;
    wrong.spoil(call);
    expect(run(&call.params), wrong.status, call.error, wrong.message);
    for (const std::vector<float>* values : call.outputs()) {
      for (const float x : *values) CHECK(x == kUntouched, "touched (%s)", wrong.message);
    }
  }
}

}  // namespace reformer::test
