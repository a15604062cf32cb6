// The two functions that TensorRT's plugin registry looks for when it loads the library.
#include <array>
#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "adapters/tensorrt/attributes.h"
#include "adapters/tensorrt/logger.h"
#include "adapters/tensorrt/operators.h"
#include "adapters/tensorrt/tensorrt_api.h"
#include "reformer_kernels.h"

namespace reformer::tensorrt {
namespace {

static_assert(REFORMER_ABI_VERSION == 7, "write the new number into the marker");

// Says what the library is to those who must not load it: it is read out of the file.
[[gnu::used]] const char kMarker[] =
    "reformer-tensorrt-plugin abi=7 version=" REFORMER_VERSION " cuda=" REFORMER_CUDA_LIST;

template <typename Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() : fields_(field_names(rules_of<Operator>().attributes)) {
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

  nvinfer1::IPluginV3* createPlugin(const char* /*layer_name*/,
                                    const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return catch_errors<nvinfer1::IPluginV3*>(nullptr, [&] {
      const OperatorRules& rules = rules_of<Operator>();
      return new OperatorPlugin<Operator>(
          std::make_shared<const Attributes>(rules.name, rules.attributes, fields, phase));
    });
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return rules_of<Operator>().name; }
  const char* getPluginVersion() const noexcept override { return kOperatorVersion; }
  const char* getPluginNamespace() const noexcept override { return kDomain; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

template <typename... Operators>
const auto& creators_of(OperatorList<Operators...> /*operators*/) {
  static std::tuple<Creator<Operators>...> creators;
  static const std::array<nvinfer1::IPluginCreatorInterface*, sizeof...(Operators)> pointers = {
      &std::get<Creator<Operators>>(creators)...};
  return pointers;
}

}  // namespace
}  // namespace reformer::tensorrt

extern "C" REFORMER_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  const auto& creators = reformer::tensorrt::creators_of(reformer::PluginOperators());
  count = static_cast<int32_t>(creators.size());
  return creators.data();
}

extern "C" REFORMER_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  reformer::tensorrt::set_logger_finder(finder);
}
