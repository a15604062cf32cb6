// The creators, and what they make no plugin from: nodes and engines whose fields are not right.
#include <cmath>
#include <iterator>
#include <limits>
#include <string>

#include "check.h"
#include "driver.h"
#include "refusals.h"

namespace reformer::test {
namespace {

using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

void check_creators() {
  int32_t count = 0;
  getCreators(count);
  CHECK(count == static_cast<int32_t>(std::size(kOps)), "%d creators", count);
  for (const char* op : kOps) {
    nvinfer1::IPluginCreatorV3One* creator = find_creator(op);
    CHECK(creator != nullptr, "%s", op);
    const nvinfer1::PluginFieldCollection* fields = creator->getFieldNames();
    const std::vector<std::string> names = attributes_of(make_node(op)).names();
    CHECK(fields->nbFields == static_cast<int32_t>(names.size()), "%s: %d fields", op,
          fields->nbFields);
    for (size_t i = 0; i < names.size(); ++i) {
      CHECK(fields->fields[i].name == names[i], "%s: %s", op, fields->fields[i].name);
    }
  }
}

void refuse_creation(const std::string& op, const std::string& what, const Fields& fields,
                     const std::string& word, TensorRTPhase phase = TensorRTPhase::kBUILD) {
  check_refusal(what, op, create_plugin(op, fields, phase) == nullptr, word);
}

// Nodes of older files have none of these.
bool is_optional(const std::string& name) {
  return name == "self_logit" || name == "dense_threshold" || name == "wraps";
}

void check_missing_attributes(const std::string& op) {
  const Fields all = attributes_of(make_node(op));
  for (const std::string& name : all.names()) {
    Fields fields = all;
    fields.remove(name);
    if (is_optional(name)) {
      CHECK(create_plugin(op, fields, TensorRTPhase::kBUILD) != nullptr, "%s without %s",
            op.c_str(), name.c_str());
    } else {
      refuse_creation(op, "without " + name, fields, name + " is missing");
    }

    fields = all;
    fields.add(name, PluginFieldType::kINT32, 1, std::vector<char>(4, 1));
    refuse_creation(op, "twice " + name, fields, name + " is given twice");

    fields = all;
    fields.set(name, std::string("text"));
    refuse_creation(op, "text as " + name, fields, "attribute " + name + " has 4 values");

    fields.remove(name);
    fields.add(name, PluginFieldType::kINT32, 1, {});
    refuse_creation(op, "no data in " + name, fields, "attribute " + name + " has");
  }
  Fields fields = all;
  fields.set("colour", std::vector<int32_t>{1});
  refuse_creation(op, "another attribute", fields, "attribute colour is unknown");
  refuse_creation(op, "no attributes", Fields(), "is missing");
  auto* creator = find_creator(op);
  check_refusal("null", op,
                creator->createPlugin("layer", nullptr, TensorRTPhase::kBUILD) == nullptr,
                "no attributes");
  const nvinfer1::PluginFieldCollection broken{3, nullptr};
  check_refusal("null fields", op,
                creator->createPlugin("layer", &broken, TensorRTPhase::kBUILD) == nullptr,
                "no attributes");
}

void refuse_value(const std::string& op, const std::string& name, const std::vector<int32_t>& value,
                  const std::string& word) {
  Fields fields = attributes_of(make_node(op));
  fields.set(name, value);
  refuse_creation(op, name + " of another value", fields, word);
}

void check_attribute_values() {
  for (const char* op : kOps) refuse_value(op, "num_heads", {0}, "num_heads is 0");
  for (const char* op :
       {"LSHAttention", "LocalAttention", "LSHAttentionStep", "LocalAttentionStep"}) {
    refuse_value(op, "chunk_length", {0}, "chunk_length is 0");
    refuse_value(op, "num_chunks_before", {-1}, "num_chunks_before is -1");
    refuse_value(op, "num_chunks_after", {-1}, "num_chunks_after is -1");
    refuse_value(op, "is_causal", {2}, "is_causal is 2");
    refuse_value(op, "padding_multiple", {0}, "padding_multiple is 0");
    refuse_value(op, "padding_threshold", {-1}, "padding_threshold is -1");
    refuse_value(op, "chunk_length", {16, 16}, "chunk_length has 2 values");
  }
  for (const char* op : {"LSHAttentionStep", "LocalAttentionStep"}) {
    refuse_value(op, "num_chunks_after", {1}, "num_chunks_after is 1, expected 0 to 0");
    refuse_value(op, "is_causal", {0}, "is_causal is 0, expected 1 to 1");
    refuse_value(op, "padding_threshold", {17}, "padding_threshold is 17, expected 0 to 16");
    refuse_value(op, "padding_multiple", {20}, "expected a multiple of chunk_length 16");
  }
  refuse_value("LSHBucketsStep", "padding_multiple", {0}, "padding_multiple is 0");
  refuse_value("LSHBuckets", "num_buckets", {4, 3}, "num_buckets[1] is 3");
  refuse_value("LSHAttention", "dense_threshold", {-1}, "dense_threshold is -1");
  refuse_value("LocalAttention", "wraps", {2}, "wraps is 2");
  for (const float logit : {-1e9f, std::nanf(""), -HUGE_VALF}) {
    for (const char* op : {"LSHAttention", "LocalAttention"}) {
      Fields fields = attributes_of(make_node(op));
      fields.set("self_logit", logit);
      refuse_creation(op, "self_logit", fields, "self_logit is");
    }
  }
  refuse_value("LSHBuckets", "num_buckets", std::vector<int32_t>(31, 2), "31 factors");
  refuse_value("LSHBuckets", "num_buckets", {65536, 65536}, "the product of num_buckets");
  for (const float epsilon : {0.0f, -1.0f, std::nanf(""), HUGE_VALF}) {
    for (const char* op : {"LSHAttention", "LSHAttentionStep"}) {
      Fields fields = attributes_of(make_node(op));
      fields.set("key_norm_epsilon", epsilon);
      refuse_creation(op, "epsilon", fields, "key_norm_epsilon is");
    }
  }
  // A parser that passes int64 is understood, a value beyond int32 is not.
  Fields fields = attributes_of(make_node("LocalAttention"));
  fields.set("chunk_length", int64_t{16});
  CHECK(create_plugin("LocalAttention", fields, TensorRTPhase::kBUILD) != nullptr, "int64");
  fields.set("chunk_length", std::numeric_limits<int64_t>::max());
  refuse_creation("LocalAttention", "int64", fields, "expected a 32-bit integer");
}

void check_engine_fields(const std::string& op) {
  const Built built = build(make_node(op), {{1, 1}, {1, 37}, {2, 80}});
  const auto refuse = [&](const char* what, const Fields& fields, const std::string& word) {
    refuse_creation(op, what, fields, word, TensorRTPhase::kRUNTIME);
  };
  Fields fields = built.fields;
  fields.set("abi_version", std::vector<int32_t>{1});
  refuse("ABI 1", fields,
         "ABI version 1, this library has " + std::to_string(REFORMER_ABI_VERSION) +
             ": build the engine again");
  fields.remove("abi_version");
  refuse("no ABI", fields, "does not say which ABI");
  fields.set("abi_version", std::string("2"));
  refuse("ABI as text", fields, "does not say which ABI");

  fields = built.fields;
  fields.set("library_version", std::string("0.0.9"));
  refuse("older library", fields, "plugins of version 0.0.9");
  fields.remove("library_version");
  refuse("no version", fields, "version (unknown)");

  fields = built.fields;
  fields.set("workspace_size", int64_t{-1});
  refuse("workspace of -1 bytes", fields, "workspace_size is -1");
  fields.set("workspace_size", std::vector<int32_t>{1});
  refuse("workspace as int32", fields, "expected one int64");

  fields = built.fields;
  fields.remove("num_heads");
  refuse("no num_heads", fields, "num_heads is missing");
  fields.set("num_heads", std::vector<int32_t>{-2});
  refuse("num_heads of -2", fields, "num_heads is -2");

  // What an engine adds is no attribute of a node.
  refuse_creation(op, "engine fields in a node", built.fields, "abi_version is unknown");
}

}  // namespace
}  // namespace reformer::test

int main() {
  using namespace reformer::test;
  record_messages();
  check_creators();
  check_attribute_values();
  for (const char* op : kOps) {
    check_missing_attributes(op);
    check_engine_fields(op);
  }
  return FINISH_TEST();
}
