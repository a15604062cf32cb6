#include "adapters/onnxruntime/packed_memory.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

namespace reformer::onnxruntime {
namespace {

// Blocks by the hash of their beginning, where their sizes and scales are; which are compared byte
// by byte. A block's end takes its entry out.
class Pool {
 public:
  std::shared_ptr<const PackedMemory> share(std::unique_ptr<const PackedMemory> packed) {
    const size_t key = hash_beginning(*packed);
    // What may end here ends after the lock, which forget() takes too.
    std::vector<std::shared_ptr<const PackedMemory>> others;
    std::shared_ptr<const PackedMemory> shared(packed.release(), [this, key](const auto* memory) {
      delete memory;
      forget(key);
    });
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto [first, last] = blocks_.equal_range(key);
    for (auto known = first; known != last; ++known) {
      others.push_back(known->second.lock());
      if (others.back() != nullptr && is_same(*others.back(), *shared)) return others.back();
    }
    blocks_.emplace(key, shared);
    return shared;
  }

  size_t size() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return blocks_.size();
  }

 private:
  static size_t hash_beginning(const PackedMemory& packed) {
    constexpr uint64_t kBytes = 1024;
    const auto size = static_cast<size_t>(std::min(packed.size(), kBytes));
    return std::hash<std::string_view>()({static_cast<const char*>(packed.data()), size});
  }

  static bool is_same(const PackedMemory& one, const PackedMemory& other) {
    return one.size() == other.size() &&
           std::memcmp(one.data(), other.data(), static_cast<size_t>(one.size())) == 0;
  }

  void forget(size_t key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto [first, last] = blocks_.equal_range(key);
    for (auto known = first; known != last;) {
      known = known->second.expired() ? blocks_.erase(known) : std::next(known);
    }
  }

  std::mutex mutex_;
  std::multimap<size_t, std::weak_ptr<const PackedMemory>> blocks_;
};

// Never destroyed: sessions may be released when the process ends.
Pool& pool() {
  static Pool* const pool = new Pool;
  return *pool;
}

}  // namespace

std::shared_ptr<const PackedMemory> share_packed(std::unique_ptr<const PackedMemory> packed) {
  return pool().share(std::move(packed));
}

size_t count_shared() { return pool().size(); }

}  // namespace reformer::onnxruntime
