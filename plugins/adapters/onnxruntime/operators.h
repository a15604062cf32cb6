// The operators as ONNX Runtime sees them, on any backend.
#pragma once

#include <cstddef>
#include <iterator>

#include "adapters/onnxruntime/backend.h"
#include "adapters/onnxruntime/call.h"
#include "adapters/onnxruntime/onnxruntime_api.h"
#include "adapters/operators.h"

namespace reformer::onnxruntime {

// One node: it holds the node's attributes and is shared by concurrent runs, so computing changes
// nothing in it.
template <typename Backend, typename Operator>
class Kernel {
 public:
  explicit Kernel(const Ort::ConstKernelInfo& info)
      : backend_(info),
        params_(read_parameters<Operator>(AttributeReader(Operator::kName, info))) {}

  OrtStatusPtr ComputeV2(OrtKernelContext* ort_context) const {
    return catch_errors([&] {
      const Ort::KernelContext context(ort_context);
      reformer_tensor inputs[std::size(Operator::kInputs)];
      for (size_t i = 0; i < std::size(inputs); ++i) {
        inputs[i] =
            view_tensor(Operator::kName, Operator::kInputs[i].rule.name, context.GetInput(i));
      }
      reformer_tensor outputs[std::size(Operator::kOutputs)];
      for (size_t i = 0; i < std::size(outputs); ++i) {
        outputs[i] = describe_output<Operator>(inputs, i);
      }
      auto params = params_;
      set_tensors<Operator>(inputs, outputs, params);
      run_operator<Operator>(backend_, context, params);
    });
  }

 private:
  Backend backend_;
  typename Operator::Params params_;
};

// An operator for one T.
template <typename Backend, typename Operator>
struct CustomOp : Ort::CustomOpBase<CustomOp<Backend, Operator>, Kernel<Backend, Operator>, true> {
  explicit CustomOp(ONNXTensorElementDataType element_type) : element_type_(element_type) {
    OrtCustomOp::version = kApiVersion;
    OrtCustomOp::InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
      return infer_outputs(context);
    };
    if constexpr (kInPlaceOutputs<Operator> > 0) {
      OrtCustomOp::GetMayInplace = list_in_place_outputs;
      OrtCustomOp::ReleaseMayInplace = [](int* inputs, int* outputs) {
        delete[] inputs;
        delete[] outputs;
      };
    }
  }

  OrtStatusPtr CreateKernelV2(const OrtApi& /*api*/, const OrtKernelInfo* info,
                              void** kernel) const {
    return catch_errors(
        [&] { *kernel = new Kernel<Backend, Operator>(Ort::ConstKernelInfo(info)); });
  }
  const char* GetName() const { return Operator::kName; }
  const char* GetExecutionProviderType() const { return Backend::kProvider; }
  size_t GetInputTypeCount() const { return std::size(Operator::kInputs); }
  size_t GetOutputTypeCount() const { return std::size(Operator::kOutputs); }
  ONNXTensorElementDataType GetInputType(size_t index) const {
    return resolve(Operator::kInputs[index].rule, element_type_);
  }
  ONNXTensorElementDataType GetOutputType(size_t index) const {
    return resolve(Operator::kOutputs[index].rule, element_type_);
  }

 private:
  // Says nothing where an input's rank is unknown.
  static OrtStatusPtr infer_outputs(OrtShapeInferContext* ort_context) {
    return catch_errors([&] {
      Ort::ShapeInferContext context(&Ort::GetApi(), ort_context);
      for (size_t i = 0; i < std::size(Operator::kOutputs); ++i) {
        const TensorRule& rule = Operator::kOutputs[i].rule;
        Ort::ShapeInferContext::Shape shape;
        for (size_t axis = 0; axis < rule.shape.size(); ++axis) {
          const Source source = find_source<Operator>(i, axis);
          const auto input = context.GetInputShape(source.input);
          if (input.size() != Operator::kInputs[source.input].rule.shape.size()) return;
          shape.push_back(input[source.axis]);
        }
        const auto type =
            resolve(rule, read_input_type(ort_context, find_element_input<Operator>()));
        Ort::ThrowOnError(context.SetOutputShape(i, shape, type).release());
      }
    });
  }
  // ONNX Runtime gives both arrays back to ReleaseMayInplace.
  static size_t list_in_place_outputs(int** inputs, int** outputs) {
    constexpr size_t kCount = kInPlaceOutputs<Operator>;
    *inputs = new int[kCount];
    *outputs = new int[kCount];
    for (size_t i = 0; i < kCount; ++i) {
      (*inputs)[i] = Operator::kInPlace[i].input;
      (*outputs)[i] = Operator::kInPlace[i].output;
    }
    return kCount;
  }
  static ONNXTensorElementDataType resolve(const TensorRule& rule, ONNXTensorElementDataType type) {
    switch (rule.element) {
      case Element::kFloat32:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      case Element::kInt32:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
      case Element::kInt8:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
      case Element::kT:
        break;
    }
    return type;
  }

  ONNXTensorElementDataType element_type_;
};

}  // namespace reformer::onnxruntime
