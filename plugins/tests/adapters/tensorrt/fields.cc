#include "fields.h"

#include <algorithm>
#include <cstring>

namespace reformer::test {
namespace {

using nvinfer1::PluginFieldType;

size_t bytes_per_value(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kINT64:
      return 8;
    case PluginFieldType::kCHAR:
      return 1;
    default:
      return 4;
  }
}

std::vector<char> copy_bytes(const void* data, size_t size) {
  std::vector<char> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  return bytes;
}

}  // namespace

Fields::Fields(const nvinfer1::PluginFieldCollection& collection) {
  for (int32_t i = 0; i < collection.nbFields; ++i) {
    const nvinfer1::PluginField& field = collection.fields[i];
    const size_t size = bytes_per_value(field.type) * static_cast<size_t>(field.length);
    add(field.name, field.type, field.length, copy_bytes(field.data, size));
  }
}

void Fields::set(const std::string& name, const std::vector<int32_t>& values) {
  remove(name);
  add(name, PluginFieldType::kINT32, static_cast<int32_t>(values.size()),
      copy_bytes(values.data(), values.size() * sizeof(int32_t)));
}

void Fields::set(const std::string& name, int64_t value) {
  remove(name);
  add(name, PluginFieldType::kINT64, 1, copy_bytes(&value, sizeof(value)));
}

void Fields::set(const std::string& name, float value) {
  remove(name);
  add(name, PluginFieldType::kFLOAT32, 1, copy_bytes(&value, sizeof(value)));
}

void Fields::set(const std::string& name, const std::string& text) {
  remove(name);
  add(name, PluginFieldType::kCHAR, static_cast<int32_t>(text.size()),
      copy_bytes(text.data(), text.size()));
}

void Fields::add(const std::string& name, PluginFieldType type, int32_t length,
                 std::vector<char> bytes) {
  fields_.push_back({name, type, length, std::move(bytes)});
}

void Fields::remove(const std::string& name) {
  const auto named = [&](const Field& field) { return field.name == name; };
  fields_.erase(std::remove_if(fields_.begin(), fields_.end(), named), fields_.end());
}

std::vector<std::string> Fields::names() const {
  std::vector<std::string> names;
  for (const Field& field : fields_) names.push_back(field.name);
  return names;
}

std::vector<char> Fields::bytes(const std::string& name) const {
  for (const Field& field : fields_) {
    if (field.name == name) return field.bytes;
  }
  return {};
}

const nvinfer1::PluginFieldCollection* Fields::collection() {
  views_.clear();
  for (const Field& field : fields_) {
    views_.emplace_back(field.name.c_str(), field.bytes.empty() ? nullptr : field.bytes.data(),
                        field.type, field.length);
  }
  collection_ = {static_cast<int32_t>(views_.size()), views_.data()};
  return &collection_;
}

}  // namespace reformer::test
