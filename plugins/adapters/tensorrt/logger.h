// Where the plugins' messages go: to TensorRT's logger, once it has told us how to find it.
#pragma once

#include <exception>

#include "adapters/tensorrt/tensorrt_api.h"

namespace reformer::tensorrt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// To standard error while there is no logger: a message is never lost.
void log_error(const char* message) noexcept;

// Runs `body`, which returns a Result. An exception is logged and becomes `failure`: none may cross
// TensorRT's interface.
template <typename Result, typename Body>
Result catch_errors(Result failure, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log_error(error.what());
  } catch (...) {
    log_error("reformer plugin: an exception that is no std::exception");
  }
  return failure;
}

}  // namespace reformer::tensorrt
