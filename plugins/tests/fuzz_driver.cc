// Runs the fuzz target on a fixed stream of random inputs, for compilers without libFuzzer.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  const int runs = argc > 1 ? std::atoi(argv[1]) : 30000;
  std::mt19937 random(3);
  std::uniform_int_distribution<int> byte(0, 255);
  std::vector<uint8_t> input(160);
  for (int run = 0; run < runs; ++run) {
    // The first runs hold few wrong values, which begin at 220, the last many.
    const int usual = 256 - 256 * run / runs;
    for (uint8_t& value : input) {
      const int drawn = byte(random);
      value = static_cast<uint8_t>(byte(random) < usual ? drawn % 220 : drawn);
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%d inputs\n", runs);
  return 0;
}
