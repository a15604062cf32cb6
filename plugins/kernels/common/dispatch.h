// From a dtype known at run time to code compiled for its element type.
#pragma once

#include <cstdint>

#include "reformer_kernels.h"

namespace reformer {

// Returns body(T{}), T being float, or a backend's storage of the half types. The dtype was
// checked.
template <typename Float16, typename BFloat16, typename Body>
auto dispatch_dtype(int32_t dtype, const Body& body) {
  switch (dtype) {
    case REFORMER_FLOAT16:
      return body(Float16{});
    case REFORMER_BFLOAT16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

}  // namespace reformer
