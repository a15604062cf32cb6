// A plugin's fields that own their data: what a parser or an engine would hand over.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "adapters/tensorrt/tensorrt_api.h"

namespace reformer::test {

class Fields {
 public:
  Fields() = default;
  // A deep copy, as an engine's file is one.
  explicit Fields(const nvinfer1::PluginFieldCollection& collection);

  // Replaces the field of that name, if there is one.
  void set(const std::string& name, const std::vector<int32_t>& values);
  void set(const std::string& name, int64_t value);
  void set(const std::string& name, float value);
  void set(const std::string& name, const std::string& text);
  void add(const std::string& name, nvinfer1::PluginFieldType type, int32_t length,
           std::vector<char> bytes);
  void remove(const std::string& name);

  std::vector<std::string> names() const;
  // The bytes of a field; empty when it is missing.
  std::vector<char> bytes(const std::string& name) const;
  // Points into this object, until it changes.
  const nvinfer1::PluginFieldCollection* collection();

 private:
  struct Field {
    std::string name;
    nvinfer1::PluginFieldType type;
    int32_t length;
    std::vector<char> bytes;
  };

  std::deque<Field> fields_;
  std::vector<nvinfer1::PluginField> views_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace reformer::test
