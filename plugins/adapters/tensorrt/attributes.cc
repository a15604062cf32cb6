#include "adapters/tensorrt/attributes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "reformer_kernels.h"

namespace reformer::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using Kind = AttributeRule::Kind;

constexpr const char* kAbiField = "abi_version";
constexpr const char* kVersionField = "library_version";
constexpr const char* kWorkspaceField = "workspace_size";
constexpr int32_t kAbiVersion = REFORMER_ABI_VERSION;
constexpr const char* kLibraryVersion = REFORMER_VERSION;

[[noreturn]] void fail(const char* op, const std::string& message) {
  throw std::invalid_argument(std::string(op) + ": " + message);
}

const char* describe(Kind kind) {
  switch (kind) {
    case Kind::kInteger:
      return "one 32-bit integer";
    case Kind::kIntegers:
      return "a list of 32-bit integers";
    case Kind::kFloat:
      return "one float32";
  }
  return "";
}

std::string describe(const PluginField& field) {
  return std::to_string(field.length) + " values of PluginFieldType " +
         std::to_string(static_cast<int32_t>(field.type));
}

// The field called `name`, or null. Names TensorRT gives are 0-terminated.
const PluginField* find_field(const char* op, const nvinfer1::PluginFieldCollection& collection,
                              const char* name) {
  const PluginField* found = nullptr;
  for (int32_t i = 0; i < collection.nbFields; ++i) {
    const PluginField& field = collection.fields[i];
    if (field.name == nullptr || std::strcmp(field.name, name) != 0) continue;
    if (found != nullptr) fail(op, std::string("attribute ") + name + " is given twice");
    found = &field;
  }
  return found;
}

bool is_ours(const char* name) {
  return std::strcmp(name, kAbiField) == 0 || std::strcmp(name, kVersionField) == 0 ||
         std::strcmp(name, kWorkspaceField) == 0;
}

bool is_filled(const PluginField& field) { return field.data != nullptr && field.length > 0; }

bool is_empty_list(const AttributeRule& rule, const PluginField& field) {
  return rule.kind == Kind::kIntegers && field.length == 0;
}

// Parsers have passed integers as int32 up to now; int64 is what ONNX stores.
std::vector<int32_t> read_integers(const PluginField& field) {
  const auto length = static_cast<size_t>(field.length);
  std::vector<int32_t> values(length);
  if (field.type == PluginFieldType::kINT32) {
    if (length > 0) std::memcpy(values.data(), field.data, length * sizeof(int32_t));
    return values;
  }
  for (size_t i = 0; i < length; ++i) {
    int64_t wide = 0;
    std::memcpy(&wide, static_cast<const char*>(field.data) + i * sizeof(wide), sizeof(wide));
    if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
      throw std::invalid_argument(std::to_string(wide) + ", expected a 32-bit integer");
    }
    values[i] = static_cast<int32_t>(wide);
  }
  return values;
}

void check_field(const char* op, const AttributeRule& rule, const PluginField* field) {
  if (field == nullptr) {
    fail(op,
         std::string("attribute ") + rule.name + " is missing, expected " + describe(rule.kind));
  }
  const bool integral =
      field->type == PluginFieldType::kINT32 || field->type == PluginFieldType::kINT64;
  const bool right_type =
      rule.kind == Kind::kFloat ? field->type == PluginFieldType::kFLOAT32 : integral;
  const bool right_length = rule.kind == Kind::kIntegers || field->length == 1;
  const bool filled = is_filled(*field) || is_empty_list(rule, *field);
  if (!filled || !right_type || !right_length) {
    fail(op, std::string("attribute ") + rule.name + " has " + describe(*field) + ", expected " +
                 describe(rule.kind));
  }
}

// An engine keeps what this library's build of it promised: parameters' layout, and how much
// workspace a call needs. Both may change with a release.
void check_origin(const char* op, const nvinfer1::PluginFieldCollection& collection) {
  const std::string rebuild = ": build the engine again, or load the library it was built with";
  const PluginField* abi = find_field(op, collection, kAbiField);
  if (abi == nullptr || !is_filled(*abi) || abi->type != PluginFieldType::kINT32) {
    fail(op, "the engine does not say which ABI its plugins have" + rebuild);
  }
  int32_t got = 0;
  std::memcpy(&got, abi->data, sizeof(got));
  if (got != kAbiVersion) {
    fail(op, "the engine's plugins have ABI version " + std::to_string(got) +
                 ", this library has " + std::to_string(kAbiVersion) + rebuild);
  }
  const PluginField* version = find_field(op, collection, kVersionField);
  const bool text =
      version != nullptr && is_filled(*version) && version->type == PluginFieldType::kCHAR;
  const std::string built_with = text ? std::string(static_cast<const char*>(version->data),
                                                    static_cast<size_t>(version->length))
                                      : "(unknown)";
  if (built_with != kLibraryVersion) {
    fail(op, "the engine was built with plugins of version " + built_with + ", this library is " +
                 kLibraryVersion + rebuild);
  }
}

std::optional<int64_t> read_workspace(const char* op,
                                      const nvinfer1::PluginFieldCollection& collection) {
  const PluginField* field = find_field(op, collection, kWorkspaceField);
  if (field == nullptr) return std::nullopt;
  if (!is_filled(*field) || field->type != PluginFieldType::kINT64 || field->length != 1) {
    fail(op, std::string(kWorkspaceField) + " has " + describe(*field) + ", expected one int64");
  }
  int64_t size = 0;
  std::memcpy(&size, field->data, sizeof(size));
  if (size < 0) {
    fail(op, std::string(kWorkspaceField) + " is " + std::to_string(size) + ", expected bytes");
  }
  return size;
}

void refuse_unknown(const char* op, const std::vector<AttributeRule>& rules,
                    const nvinfer1::PluginFieldCollection& collection, bool serialized) {
  for (int32_t i = 0; i < collection.nbFields; ++i) {
    const char* name = collection.fields[i].name;
    if (name == nullptr) fail(op, "an attribute has no name");
    const bool known = std::any_of(rules.begin(), rules.end(), [&](const AttributeRule& rule) {
      return std::strcmp(rule.name, name) == 0;
    });
    if (!known && !(serialized && is_ours(name)))
      fail(op, std::string("attribute ") + name + " is unknown");
  }
}

}  // namespace

Attributes::Attributes(const char* op, const std::vector<AttributeRule>& rules,
                       const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase)
    : op_(op), from_engine_(phase == nvinfer1::TensorRTPhase::kRUNTIME) {
  if (fields == nullptr || fields->nbFields < 0 ||
      (fields->nbFields > 0 && fields->fields == nullptr)) {
    fail(op, "got no attributes");
  }
  if (from_engine_) {
    check_origin(op, *fields);
    engine_workspace_ = read_workspace(op, *fields);
  }
  refuse_unknown(op, rules, *fields, from_engine_);
  for (const AttributeRule& rule : rules) {
    const PluginField* field = find_field(op, *fields, rule.name);
    if (field == nullptr && !rule.required) continue;
    check_field(op, rule, field);
    Attribute attribute{rule.name, rule.kind, {}, 0};
    if (rule.kind == Kind::kFloat) {
      std::memcpy(&attribute.number, field->data, sizeof(attribute.number));
    } else {
      try {
        attribute.integers = read_integers(*field);
      } catch (const std::invalid_argument& error) {
        fail(op, std::string("attribute ") + rule.name + " is " + error.what());
      }
    }
    attributes_.push_back(std::move(attribute));
  }
  write_timing_cache_id();
}

const Attributes::Attribute* Attributes::find(const char* name) const {
  for (const Attribute& attribute : attributes_) {
    if (std::strcmp(attribute.name, name) == 0) return &attribute;
  }
  return nullptr;
}

const Attributes::Attribute& Attributes::get(const char* name) const {
  const Attribute* attribute = find(name);
  if (attribute != nullptr) return *attribute;
  throw std::logic_error(std::string("no rule names the attribute ") + name);
}

std::vector<PluginField> Attributes::serialize(const int64_t* workspace) const {
  std::vector<PluginField> fields = {{kAbiField, &kAbiVersion, PluginFieldType::kINT32, 1},
                                     {kVersionField, kLibraryVersion, PluginFieldType::kCHAR,
                                      static_cast<int32_t>(std::strlen(kLibraryVersion))}};
  if (workspace != nullptr) {
    fields.emplace_back(kWorkspaceField, workspace, PluginFieldType::kINT64, 1);
  }
  for (const Attribute& attribute : attributes_) {
    if (attribute.kind == Kind::kFloat) {
      fields.emplace_back(attribute.name, &attribute.number, PluginFieldType::kFLOAT32, 1);
    } else {
      fields.emplace_back(attribute.name, attribute.integers.data(), PluginFieldType::kINT32,
                          static_cast<int32_t>(attribute.integers.size()));
    }
  }
  return fields;
}

void Attributes::write_timing_cache_id() {
  timing_cache_id_ = std::string(kLibraryVersion);
  for (const Attribute& attribute : attributes_) {
    timing_cache_id_ += std::string(";") + attribute.name + "=";
    if (attribute.kind == Kind::kFloat) {
      uint32_t bits = 0;  // exact, unlike a printed number
      std::memcpy(&bits, &attribute.number, sizeof(bits));
      timing_cache_id_ += std::to_string(bits);
    }
    for (const int32_t value : attribute.integers) timing_cache_id_ += std::to_string(value) + ",";
  }
}

std::vector<PluginField> field_names(const std::vector<AttributeRule>& rules) {
  std::vector<PluginField> fields;
  for (const AttributeRule& rule : rules) {
    const bool number = rule.kind == Kind::kFloat;
    fields.emplace_back(rule.name, nullptr,
                        number ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32,
                        rule.kind == Kind::kIntegers ? 0 : 1);
  }
  return fields;
}

}  // namespace reformer::tensorrt
