// What a fuzz target draws its parameters from.
#pragma once

#include <cstddef>
#include <cstdint>

namespace reformer::test {

// Reads numbers off the fuzzer's bytes; zeros when they run out.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  // Mostly `usual`, so that one wrong thing at a time gets past the first checks.
  int64_t number(int64_t usual) {
    static constexpr int64_t kOdd[] = {0,         -1,        1,         2,         3,
                                       7,         64,        INT32_MAX, INT32_MIN, INT64_MAX,
                                       INT64_MIN, 1LL << 31, 1LL << 32, 1LL << 61, 1LL << 20};
    const uint8_t choice = byte();
    if (choice < 220) return usual;
    return kOdd[choice % (sizeof(kOdd) / sizeof(kOdd[0]))];
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace reformer::test
