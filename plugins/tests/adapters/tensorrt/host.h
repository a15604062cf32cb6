// As much of TensorRT as a plugin meets: the logger, dimension expressions, a resource context, and
// the creators found the way the registry finds them.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "adapters/tensorrt/tensorrt_api.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace reformer::test {

// Keeps what plugins log.
class RecordingLogger final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override;
  nvinfer1::ILogger* findLogger() override { return this; }

  // The messages since the last call, one a line.
  std::string take();

 private:
  std::string messages_;
};

// A dimension that knows its value.
class FixedExpr final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  explicit FixedExpr(int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const override { return true; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class ExprBuilder final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  ExprBuilder() { mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(int64_t value) override;
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override;
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t output,
                                                    const nvinfer1::IDimensionExpr& opt,
                                                    const nvinfer1::IDimensionExpr& upper) override;
  nvinfer1::DimsExprs shape(const std::vector<int64_t>& dims);

 private:
  std::deque<FixedExpr> expressions_;
};

class ResourceContext final : public nvinfer1::IPluginResourceContext {
 public:
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// Null when the library has no such creator.
nvinfer1::IPluginCreatorV3One* find_creator(const std::string& name);

nvinfer1::Dims dims_from(const std::vector<int64_t>& dims);

}  // namespace reformer::test
