// A node's attributes, as TensorRT's fields bring them: checked, kept, and written into an engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapters/operators.h"
#include "adapters/tensorrt/tensorrt_api.h"

namespace reformer::tensorrt {

// An attribute that a node has; one that is not required may be missing from older nodes.
struct AttributeRule {
  enum class Kind { kInteger, kIntegers, kFloat };
  const char* name;
  Kind kind;
  bool required = true;
};

// A reader of attributes that only lists what it is asked for.
struct AttributeLister {
  using Kind = AttributeRule::Kind;
  std::vector<AttributeRule>& rules;

  template <typename Int>
  void integer(const char* name, Int& /*value*/) const {
    rules.push_back({name, Kind::kInteger});
  }
  template <size_t N>
  void integers(const char* name, int32_t (& /*values*/)[N], int32_t& /*count*/) const {
    rules.push_back({name, Kind::kIntegers});
  }
  void number(const char* name, float& /*value*/) const { rules.push_back({name, Kind::kFloat}); }
  template <typename Int>
  void integer_or(const char* name, Int& /*value*/) const {
    rules.push_back({name, Kind::kInteger, false});
  }
  void number_or(const char* name, float& /*value*/) const {
    rules.push_back({name, Kind::kFloat, false});
  }
};

// Immutable, so that a plugin and its clones share one: the serialised fields point into it.
class Attributes {
 public:
  // Throws std::invalid_argument when a field is missing, unknown, given twice, or of another type
  // or length. At run time the fields come from an engine: what `serialize` gave.
  Attributes(const char* op, const std::vector<AttributeRule>& rules,
             const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase);
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;

  // As read_parameters asks.
  template <typename Int>
  void integer(const char* name, Int& value) const {
    value = get(name).integers.front();
  }
  template <size_t N>
  void integers(const char* name, int32_t (&values)[N], int32_t& count) const {
    copy_factors(op_, name, get(name).integers, values, count);
  }
  void number(const char* name, float& value) const { value = get(name).number; }
  template <typename Int>
  void integer_or(const char* name, Int& value) const {
    if (find(name) != nullptr) integer(name, value);
  }
  void number_or(const char* name, float& value) const {
    if (find(name) != nullptr) number(name, value);
  }

  // Bytes of workspace the engine gives each call; known when it came with the fields.
  std::optional<int64_t> engine_workspace() const { return engine_workspace_; }

  // Whether they come from an engine, and not from a network that is being built.
  bool from_engine() const { return from_engine_; }

  // What goes into an engine: which library wrote it, the attributes, and the workspace unless it
  // is null. The fields point into this object, into `workspace` and into constants.
  std::vector<nvinfer1::PluginField> serialize(const int64_t* workspace) const;

  // Equal for two plugins exactly when they do the same work.
  const char* timing_cache_id() const { return timing_cache_id_.c_str(); }

 private:
  struct Attribute {
    const char* name;
    AttributeRule::Kind kind;
    std::vector<int32_t> integers;
    float number = 0;
  };

  const Attribute* find(const char* name) const;  // or null
  const Attribute& get(const char* name) const;
  void write_timing_cache_id();

  const char* op_;
  std::vector<Attribute> attributes_;
  std::optional<int64_t> engine_workspace_;
  bool from_engine_;
  std::string timing_cache_id_;
};

// What getFieldNames of a creator says: the attributes that the ONNX parser shall pass on.
std::vector<nvinfer1::PluginField> field_names(const std::vector<AttributeRule>& rules);

}  // namespace reformer::tensorrt
