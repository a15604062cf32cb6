// Scores are to base 2: the device has an instruction for 2^x, not for e^x.
#pragma once

namespace reformer::cuda {

constexpr float kLog2E = 1.44269504f;        // log2(e)
constexpr float kLn2 = 0.693147182f;         // ln(2)
constexpr float kLn2Rest = -1.90465421e-9f;  // ln(2) - kLn2

}  // namespace reformer::cuda
