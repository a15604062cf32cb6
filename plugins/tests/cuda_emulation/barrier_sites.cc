#include "barrier_sites.h"

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "control.h"

namespace reformer::cuda::emulation {
namespace {

// Sites are called by their path below this folder: files of two folders share a name.
constexpr const char* kKernels = "kernels/cuda/";

std::string omitted;
std::set<std::string> met;
// By address of the file's name and line: threads ask at every barrier.
std::map<std::pair<const char*, int>, bool> known;

std::string spell(Site site) {
  const std::string path = site.file;
  const size_t folder = path.rfind(kKernels);
  const size_t start = folder == std::string::npos ? 0 : folder + std::strlen(kKernels);
  return path.substr(start) + ":" + std::to_string(site.line);
}

}  // namespace

bool is_omitted(Site site) {
  const auto found = known.find({site.file, site.line});
  if (found != known.end()) return found->second;
  const std::string name = spell(site);
  met.insert(name);
  return known[{site.file, site.line}] = name == omitted;
}

void omit_barrier(const std::string& name) {
  omitted = name;
  known.clear();
}

std::vector<std::string> met_barriers() { return {met.begin(), met.end()}; }

}  // namespace reformer::cuda::emulation
