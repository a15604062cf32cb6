#include "child.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace reformer::test {
namespace {

[[noreturn]] void run_in_child(const std::function<bool()>& run) {
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  const int nowhere = open("/dev/null", O_WRONLY);
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  _exit(run() ? EXIT_SUCCESS : EXIT_FAILURE);
}

}  // namespace

bool survives(const std::function<bool()>& run) {
  std::fflush(nullptr);  // or the child's copy of what is buffered would appear again
  const pid_t child = fork();
  if (child == 0) run_in_child(run);
  int status = 0;
  pid_t ended = -1;
  do {
    ended = child < 0 ? -1 : waitpid(child, &status, 0);
  } while (ended < 0 && errno == EINTR);
  if (ended < 0) {
    std::perror("no child process");
    std::abort();
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}

}  // namespace reformer::test
