#include "refusals.h"

#include "check.h"

namespace reformer::test {

void check_refusal(const std::string& what, const std::string& op, bool refused,
                   const std::string& word) {
  const std::string message = logger.take();
  CHECK(refused, "%s: %s", op.c_str(), what.c_str());
  CHECK(message.rfind(op + ": ", 0) == 0 && message.find(word) != std::string::npos,
        "%s: %s: expected '%s' in the message '%s'", op.c_str(), what.c_str(), word.c_str(),
        message.c_str());
}

Node make_node(const std::string& op) {
  Node node;
  node.op = op;
  if (is_step(node)) node.chunking = {16, 1, 0, 32, 16, 1};
  return node;
}

}  // namespace reformer::test
