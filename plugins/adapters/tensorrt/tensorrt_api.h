// TensorRT's headers, at one place. They include cuda_runtime_api.h.
#pragma once

#include <NvInferRuntime.h>
#include <NvInferVersion.h>

// TensorRT-RTX counts its own versions from 1.
#if NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR < 1007 && !defined(TRT_MAJOR_RTX)
#error "the plugins need the headers of TensorRT 10.7 or newer, or of TensorRT-RTX"
#endif
