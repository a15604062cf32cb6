#include "host.h"

#include <algorithm>
#include <stdexcept>

namespace reformer::test {

void RecordingLogger::log(Severity /*severity*/, const char* message) noexcept {
  messages_ += std::string(message) + "\n";
}

std::string RecordingLogger::take() {
  std::string messages;
  messages.swap(messages_);
  return messages;
}

const nvinfer1::IDimensionExpr* ExprBuilder::constant(int64_t value) {
  return &expressions_.emplace_back(value);
}

// The operators' shapes need neither.
const nvinfer1::IDimensionExpr* ExprBuilder::operation(nvinfer1::DimensionOperation /*op*/,
                                                       const nvinfer1::IDimensionExpr& /*first*/,
                                                       const nvinfer1::IDimensionExpr& /*second*/) {
  throw std::logic_error("no shape of ours is computed");
}

const nvinfer1::IDimensionExpr* ExprBuilder::declareSizeTensor(
    int32_t /*output*/, const nvinfer1::IDimensionExpr& /*opt*/,
    const nvinfer1::IDimensionExpr& /*upper*/) {
  throw std::logic_error("no shape of ours depends on data");
}

nvinfer1::DimsExprs ExprBuilder::shape(const std::vector<int64_t>& dims) {
  nvinfer1::DimsExprs shape{};
  shape.nbDims = static_cast<int32_t>(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) shape.d[i] = constant(dims[i]);
  return shape;
}

nvinfer1::IPluginCreatorV3One* find_creator(const std::string& name) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    // The registry asks for the kind first, as here: the interface has no other way down.
    const std::string kind = creators[i]->getInterfaceInfo().kind;
    if (kind != "PLUGIN CREATOR_V3ONE") continue;
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    if (creator->getPluginName() == name) return creator;
  }
  return nullptr;
}

nvinfer1::Dims dims_from(const std::vector<int64_t>& dims) {
  nvinfer1::Dims result{};
  result.nbDims = static_cast<int32_t>(dims.size());
  std::copy(dims.begin(), dims.end(), result.d);
  return result;
}

}  // namespace reformer::test
