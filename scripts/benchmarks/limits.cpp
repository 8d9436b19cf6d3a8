// What this machine can do at most, on the given number of threads: bytes read per second from a buffer far larger than
// its caches, and integer multiply-adds (u8 x s8 into s32, two operations each) with the widest instruction it has.
//   limits THREADS [MEGABYTES_PER_THREAD]   prints JSON; "integer_ops" is null where there is no VNNI
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int PASSES = 15;  // the best one counts: a limit is what the machine can, not what a neighbour leaves

// Seconds of each pass, from the first thread's start to the last one's end. The threads read the clock themselves: one
// that only watches would wake late on a busy machine.
std::vector<double> timed(int threads, const std::function<void(int)> &work) {
  std::barrier gate(threads);
  std::vector<std::thread> crew;
  std::vector<std::array<Clock::time_point, PASSES>> starts(threads), ends(threads);
  for (int t = 0; t < threads; ++t)
    crew.emplace_back([&, t] {
      for (int pass = 0; pass < PASSES; ++pass) {
        gate.arrive_and_wait();  // no pass begins before the one before has ended everywhere
        starts[t][pass] = Clock::now();
        work(t);
        ends[t][pass] = Clock::now();
      }
    });
  for (auto &one : crew) one.join();
  std::vector<double> seconds;
  for (int pass = 0; pass < PASSES; ++pass) {
    Clock::time_point first = starts[0][pass], last = ends[0][pass];
    for (int t = 1; t < threads; ++t) {
      first = std::min(first, starts[t][pass]);
      last = std::max(last, ends[t][pass]);
    }
    seconds.push_back(std::chrono::duration<double>(last - first).count());
  }
  return seconds;
}

double best(const std::vector<double> &seconds) { return *std::min_element(seconds.begin(), seconds.end()); }

volatile std::uint64_t sink;

double read_rate(int threads, std::size_t bytes) {
  std::vector<std::vector<std::uint64_t>> parts(threads);
  const auto read = [&](int t) {
    auto &part = parts[t];
    if (part.empty()) part.assign(bytes / 8, 1);  // each thread touches its own pages first; that pass is never the best
    std::uint64_t sum = 0;
    for (const std::uint64_t value : part) sum += value;
    sink = sum;
  };
  return double(threads) * double(bytes / 8 * 8) / best(timed(threads, read));
}

#if defined(__AVX512VNNI__)
constexpr const char *INSTRUCTION = "avx512-vnni";
using Vector = __m512i;
Vector dot(Vector sum, Vector a, Vector b) { return _mm512_dpbusd_epi32(sum, a, b); }
#elif defined(__AVXVNNI__)
constexpr const char *INSTRUCTION = "avx-vnni";
using Vector = __m256i;
Vector dot(Vector sum, Vector a, Vector b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int CHAINS = 12;        // more independent sums than latency times issue width (5 x 2), within 16 registers
constexpr long ROUNDS = 2000000;  // about 3 ms a pass at 2 TOP/s

double integer_rate(int threads) {
  const auto multiply = [](int) {
    Vector sums[CHAINS] = {};
    Vector a = {}, b = {};
    for (auto &sum : sums) asm volatile("" : "+v"(sum));  // else equal chains are made one
    for (long round = 0; round < ROUNDS; ++round) {
      asm volatile("" : "+v"(a), "+v"(b));  // unknown to the compiler: nothing is hoisted
      for (auto &sum : sums) sum = dot(sum, a, b);
    }
    for (auto &sum : sums) asm volatile("" : : "v"(sum));
  };
  return double(threads) * ROUNDS * CHAINS * sizeof(Vector) * 2 / best(timed(threads, multiply));
}
#endif

}  // namespace

int main(int count, char **words) {
  const int threads = count > 1 ? std::atoi(words[1]) : 0;
  const long megabytes = count > 2 ? std::atol(words[2]) : 256;
  if (threads < 1 || megabytes < 1) {
    std::fprintf(stderr, "usage: limits THREADS [MEGABYTES_PER_THREAD]\n");
    return 2;
  }
  std::printf("{\"read_bytes\": %.0f, ", read_rate(threads, std::size_t(megabytes) << 20));
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  std::printf("\"integer_ops\": %.0f, \"instruction\": \"%s\"}\n", integer_rate(threads), INSTRUCTION);
#else
  std::printf("\"integer_ops\": null, \"instruction\": null}\n");
#endif
}
