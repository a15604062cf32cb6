// The one place that includes ONNX Runtime's headers.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace reformer::onnxruntime {

// The lowest version that has KernelContext_ParallelFor and shape inference for custom operators.
// Asking for no more lets one binary load into every later release.
constexpr uint32_t kApiVersion = 17;

}  // namespace reformer::onnxruntime
