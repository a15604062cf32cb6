// Entry point: ONNX Runtime calls RegisterCustomOps when the library is registered with a session.
#include <string>

#include "adapters/onnxruntime/backend.h"
#include "adapters/onnxruntime/call.h"
#include "adapters/onnxruntime/linear.h"
#include "adapters/onnxruntime/onnxruntime_api.h"
#include "adapters/onnxruntime/operators.h"
#include "adapters/operators.h"
#include "reformer_kernels.h"

namespace reformer::onnxruntime {
namespace {

// The session keeps pointers to the operators for as long as it lives, so they are never destroyed
// before the library is.
template <typename Op>
void add_types(Ort::CustomOpDomain& domain) {
  static const Op float32(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  static const Op float16(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
  static const Op bfloat16(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
  domain.Add(&float32);
  domain.Add(&float16);
  domain.Add(&bfloat16);
}

// Operators of a provider that a session does not have are never chosen there.
template <typename Backend, typename... Operators>
void add_operators(Ort::CustomOpDomain& domain, OperatorList<Operators...> /*operators*/) {
  (add_types<CustomOp<Backend, Operators>>(domain), ...);
}

Ort::CustomOpDomain make_domain(bool with_linear) {
  Ort::CustomOpDomain domain(kDomain);
  add_operators<CPUBackend>(domain, CUDAOperators());  // all but Linear, which has types of its own
  if (with_linear) add_linear(domain);
#ifdef REFORMER_WITH_CUDA
  add_operators<CUDABackend>(domain, CUDAOperators());
#endif
  return domain;
}

// A session on a GPU would copy what Linear reads and writes, for its kernels are the CPU's: with
// this entry "0" it keeps the function bodies.
constexpr const char* kLinearEntry = "reformer.linear";

// Session options refer to the domain without owning it.
const Ort::CustomOpDomain& choose_domain(Ort::ConstSessionOptions options) {
  static const Ort::CustomOpDomain whole = make_domain(true);
  static const Ort::CustomOpDomain without_linear = make_domain(false);
  return options.GetConfigEntryOrDefault(kLinearEntry, "1") == "0" ? without_linear : whole;
}

}  // namespace
}  // namespace reformer::onnxruntime

extern "C" REFORMER_API OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                  const OrtApiBase* base) {
  namespace ours = reformer::onnxruntime;
  const OrtApi* api = base->GetApi(ours::kApiVersion);
  if (api == nullptr) {
    const std::string message = std::string("reformer operators: ONNX Runtime is ") +
                                base->GetVersionString() + ", expected 1." +
                                std::to_string(ours::kApiVersion) + " or newer";
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  Ort::InitApi(api);
  return ours::catch_errors([&] {
    const auto& domain = ours::choose_domain(Ort::ConstSessionOptions(options));
    Ort::UnownedSessionOptions(options).Add(domain);
  });
}
