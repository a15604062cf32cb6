// The one place that includes ONNX Runtime's headers.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

namespace reformer::onnxruntime {

// The lowest version that has KernelContext_GetScratchBuffer, whose memory is safe to give back
// while a stream still uses it, and KernelInfoGetAllocator. Asking for no more lets one binary load
// into every later release.
constexpr uint32_t kApiVersion = 18;

}  // namespace reformer::onnxruntime
