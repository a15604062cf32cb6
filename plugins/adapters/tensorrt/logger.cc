#include "adapters/tensorrt/logger.h"

#include <atomic>
#include <cstdio>

namespace reformer::tensorrt {
namespace {

// TensorRT hands the finder over once a process, outside of any object of ours.
std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log_error(const char* message) noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = finder == nullptr ? nullptr : finder->findLogger();
  if (logger == nullptr) {
    std::fprintf(stderr, "[reformer] %s\n", message);
    return;
  }
  logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

}  // namespace reformer::tensorrt
