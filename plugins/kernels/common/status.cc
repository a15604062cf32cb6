#include "reformer_kernels.h"

const char* reformer_status_text(reformer_status status) noexcept {
  switch (status) {
    case REFORMER_OK:
      return "ok";
    case REFORMER_ERROR_VERSION:
      return "parameters were built against another version of reformer_kernels.h";
    case REFORMER_ERROR_NULL_POINTER:
      return "a required pointer is null";
    case REFORMER_ERROR_DTYPE:
      return "a tensor has a dtype the operator does not take";
    case REFORMER_ERROR_SHAPE:
      return "a tensor's rank or dimensions do not fit";
    case REFORMER_ERROR_ATTRIBUTE:
      return "an attribute is out of range";
    case REFORMER_ERROR_ALIGNMENT:
      return "a tensor's data is not aligned to its element size";
    case REFORMER_ERROR_OVERLAP:
      return "the output shares memory with an input";
    case REFORMER_ERROR_TOO_LARGE:
      return "a size does not fit its integer type";
    case REFORMER_ERROR_WORKSPACE:
      return "the workspace is too small";
    case REFORMER_ERROR_BUCKETS:
      return "a bucket is negative";
    case REFORMER_ERROR_LAUNCH:
      return "the device refused the launch";
    case REFORMER_ERROR_LENGTHS:
      return "a row's tokens do not fit";
    case REFORMER_ERROR_PROCESSOR:
      return "this processor has no instructions for it";
  }
  return "unknown status";
}
