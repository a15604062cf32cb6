// Entry point: ONNX Runtime calls RegisterCustomOps when the library is registered with a session.
#include <string>

#include "adapters/onnxruntime/backend.h"
#include "adapters/onnxruntime/call.h"
#include "adapters/onnxruntime/onnxruntime_api.h"
#include "adapters/onnxruntime/operators.h"
#include "adapters/operators.h"
#include "reformer_kernels.h"

namespace reformer::onnxruntime {
namespace {

// The session keeps pointers to the operators for as long as it lives, so they are never destroyed
// before the library is.
template <typename Backend, typename Operator>
void add_operator(Ort::CustomOpDomain& domain) {
  using Op = CustomOp<Backend, Operator>;
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
  (add_operator<Backend, Operators>(domain), ...);
}

// Session options refer to the domain without owning it.
const Ort::CustomOpDomain& reformer_domain() {
  static const Ort::CustomOpDomain domain = [] {
    Ort::CustomOpDomain made(kDomain);
    add_operators<CPUBackend>(made, AllOperators());
#ifdef REFORMER_WITH_CUDA
    add_operators<CUDABackend>(made, CUDAOperators());
#endif
    return made;
  }();
  return domain;
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
  return ours::catch_errors(
      [&] { Ort::UnownedSessionOptions(options).Add(ours::reformer_domain()); });
}
