// Runs the fuzz target without libFuzzer: inputs from a seed, for some seconds. See fuzz.cpp.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace {

uint64_t seed_now;

// Only async-signal-safe calls; a sanitizer's own report follows or came before.
void say_seed() {
  char text[64] = "\nfuzz: died on seed ";
  size_t n = std::strlen(text);
  char digits[20];
  int count = 0;
  for (uint64_t left = seed_now; count == 0 || left > 0; left /= 10)
    digits[count++] = static_cast<char>('0' + left % 10);
  while (count > 0) text[n++] = digits[--count];
  text[n++] = '\n';
  (void)!write(2, text, n);
}

void on_signal(int number) {
  say_seed();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s SECONDS [SEED]\n", argv[0]);
    return 2;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[1]));
  seed_now = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  for (int number : {SIGABRT, SIGALRM}) std::signal(number, on_signal);
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_seed);  // it tells of faults itself
  else std::signal(SIGSEGV, on_signal);
  uint64_t runs = 0;
  std::vector<uint8_t> input;
  do {
    uint64_t state = seed_now * 0x9E3779B97F4A7C15 + 1;  // splitmix64
    const auto next = [&state] {
      uint64_t z = state += 0x9E3779B97F4A7C15;
      z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
      z = (z ^ z >> 27) * 0x94D049BB133111EB;
      return z ^ z >> 31;
    };
    input.resize(next() % 6000 + 16);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(next());
    LLVMFuzzerTestOneInput(input.data(), input.size());
    runs++;
    seed_now++;
  } while (std::chrono::steady_clock::now() < end);
  std::printf("fuzz: %llu inputs, nothing found\n", static_cast<unsigned long long>(runs));
  return 0;
}
