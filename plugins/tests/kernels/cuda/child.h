// Runs something that may abort in a child process.
#pragma once

#include <functional>

namespace reformer::test {

// Whether `run` returned true in a child process that it did not bring down. What it prints is
// lost.
bool survives(const std::function<bool()>& run);

}  // namespace reformer::test
