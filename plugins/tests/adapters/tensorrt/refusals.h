// What the tests of refusals share.
#pragma once

#include <string>

#include "host.h"
#include "node.h"

namespace reformer::test {

constexpr const char* kOps[] = {"LSHBuckets",       "LSHAttention",       "LocalAttention",
                                "LSHAttentionStep", "LocalAttentionStep", "LSHBucketsStep"};

// Where the plugins log, once `record_messages` was called.
inline RecordingLogger logger;
inline void record_messages() { setLoggerFinder(&logger); }

// CHECKs that something was refused, with a message that names the operator and has `word` in it.
void check_refusal(const std::string& what, const std::string& op, bool refused,
                   const std::string& word);

// A node that its operator takes.
Node make_node(const std::string& op);

}  // namespace reformer::test
