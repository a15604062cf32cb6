// The two functions that TensorRT's plugin registry looks for when it loads the library.
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "adapters/tensorrt/attributes.h"
#include "adapters/tensorrt/logger.h"
#include "adapters/tensorrt/operators.h"
#include "adapters/tensorrt/tensorrt_api.h"
#include "reformer_kernels.h"

namespace reformer::tensorrt {
namespace {

static_assert(REFORMER_ABI_VERSION == 2, "write the new number into the marker");

// Says what the library is to those who must not load it: it is read out of the file.
[[gnu::used]] const char kMarker[] =
    "reformer-tensorrt-plugin abi=2 version=" REFORMER_VERSION " cuda=" REFORMER_CUDA_LIST;

template <typename Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() : fields_(field_names(Operator::rules().attributes)) {
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

  nvinfer1::IPluginV3* createPlugin(const char* /*layer_name*/,
                                    const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return catch_errors<nvinfer1::IPluginV3*>(nullptr, [&] {
      const OperatorRules& rules = Operator::rules();
      return new OperatorPlugin<Operator>(
          std::make_shared<const Attributes>(rules.name, rules.attributes, fields, phase));
    });
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return Operator::rules().name; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace
}  // namespace reformer::tensorrt

extern "C" REFORMER_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace reformer::tensorrt;
  static Creator<LSHBuckets> lsh_buckets;
  static Creator<LSHAttention> lsh_attention;
  static Creator<LocalAttention> local_attention;
  static const std::array<nvinfer1::IPluginCreatorInterface*, 3> creators = {
      &lsh_buckets, &lsh_attention, &local_attention};
  count = static_cast<int32_t>(creators.size());
  return creators.data();
}

extern "C" REFORMER_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  reformer::tensorrt::set_logger_finder(finder);
}
