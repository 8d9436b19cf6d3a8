// The machine's own limits. Each rate is that of the best of a few passes: what the machine can do when its neighbours let
// it. The loops for wider instructions carry their target with them, so that this file needs no flags of its own.
#include "rates.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "isa.h"
#include "memory.h"
#include "pool.h"

namespace sealift {
namespace {

constexpr int kPasses = 15;
constexpr int64_t kPiece = 1 << 20;     // bytes a thread reads before it takes the next piece
constexpr int64_t kPiecesPerThread = 8; // of the arithmetic loops
constexpr int kChains = 12;             // more independent sums than latency times issue width (5 x 2), within 16 registers
constexpr int64_t kRounds = 200000;     // of kChains instructions in a piece: about 0.4 ms at 3 GHz

template <class F>
double best_seconds(Pool& pool, int64_t pieces, const F& piece) {
  double best = std::numeric_limits<double>::infinity();
  for (int pass = 0; pass < kPasses; pass++) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(pieces, piece);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double read_rate(Pool& pool, int64_t bytes) {
  const int64_t pieces = std::max<int64_t>(1, bytes / kPiece);
  constexpr int64_t words = kPiece / 8;
  const Memory<uint64_t> memory(pieces * words);
  memory.prefer_huge_pages();
  uint64_t* data = memory.data();
  pool.run(pieces, [&](int64_t i, int) { std::fill_n(data + i * words, words, 1); });  // else all is one page of zeros
  return static_cast<double>(pieces * kPiece) / best_seconds(pool, pieces, [&](int64_t i, int) {
    const uint64_t* part = data + i * words;
    uint64_t sums[8] = {};
    for (int64_t word = 0; word < words; word += 8)
      for (int lane = 0; lane < 8; lane++) sums[lane] += part[word + lane];
    for (uint64_t& sum : sums) asm volatile("" : : "r"(sum));  // used, says this
  });
}

// A loop: kRounds times kChains instructions that depend on nothing but their own chain. The empty asm makes operands
// unknown to the compiler: nothing is hoisted, equal chains stay apart.
struct Loop {
  const char* name;   // of the instruction
  double operations;  // of one instruction: two for each product that is added
  void (*run)();
};

#if defined(__x86_64__)
#define LOOP(NAME, TARGET, VECTOR, ZERO, STEP)                                       \
  __attribute__((target(TARGET))) void NAME() {                                      \
    VECTOR sums[kChains], a = ZERO, b = ZERO;                                        \
    for (VECTOR & sum : sums) sum = ZERO;                                            \
    for (VECTOR & sum : sums) asm volatile("" : "+v"(sum));                          \
    for (int64_t round = 0; round < kRounds; round++) {                              \
      asm volatile("" : "+v"(a), "+v"(b));                                           \
      for (VECTOR & sum : sums) sum = STEP;                                          \
    }                                                                                \
    for (VECTOR & sum : sums) asm volatile("" : : "v"(sum));                         \
  }

LOOP(dots_avx2, "avx2", __m256i, _mm256_setzero_si256(),
     _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), a)))
LOOP(floats_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(a, b, sum))
LOOP(floats_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, sum))
LOOP(dots_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sum, a, b))
LOOP(halves_avx512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
     _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)))
#if defined(__GNUC__) && (defined(__clang__) || __GNUC__ >= 12)
LOOP(dots_avx, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), _mm256_dpbusd_avx_epi32(sum, a, b))
#define HAS_AVX_VNNI 1

// Tiles of 16 by 32 and 32 by 16 bfloat16; one of them stands for kSixteen instructions of the loops above.
constexpr int kSixteen = 16;
__attribute__((target("amx-tile,amx-bf16"))) void halves_amx() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, zeros[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("ldtilecfg %0\n\ttilezero %%tmm4\n\ttilezero %%tmm5" : : "m"(config));
  for (int64_t i = 0; i < kRounds * kChains / kSixteen; i += 4) {
    asm volatile("tdpbf16ps %%tmm5, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm5, %%tmm4, %%tmm1\n\t"
                 "tdpbf16ps %%tmm5, %%tmm4, %%tmm2\n\ttdpbf16ps %%tmm5, %%tmm4, %%tmm3" : :);
  }
  asm volatile("tilerelease");
}
#endif
#undef LOOP

// CPUID leaf 7, subleaf 1: EAX bit 4 AVX-VNNI, bit 5 AVX512-BF16 (Intel SDM, volume 2A); not all compilers know them.
bool feature(int bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> bit & 1);
}

Loop integer_loop() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni")) return {"avx512-vnni", 128, dots_avx512};
#if defined(HAS_AVX_VNNI)
  if (__builtin_cpu_supports("avx2") && feature(4)) return {"avx-vnni", 64, dots_avx};
#endif
  if (__builtin_cpu_supports("avx2")) return {"avx2", 64, dots_avx2};
  return {"", 0, nullptr};
}

Loop float_loop() {
  if (__builtin_cpu_supports("avx512f")) return {"avx512", 32, floats_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"avx2", 16, floats_avx2};
  return {"", 0, nullptr};
}

Loop half_loop() {
#if defined(HAS_AVX_VNNI)
  if (isa_supported(SL_ISA_AVX512_AMX)) return {"amx-bf16", 16 * 16 * 32 * 2.0 / kSixteen, halves_amx};
#endif
  if (__builtin_cpu_supports("avx512f") && feature(5)) return {"avx512-bf16", 64, halves_avx512};
  return {"", 0, nullptr};
}
#else
Loop integer_loop() { return {"", 0, nullptr}; }
Loop float_loop() { return {"", 0, nullptr}; }
Loop half_loop() { return {"", 0, nullptr}; }
#endif

double rate_of(const Loop& loop, Pool& pool) {
  if (!loop.run) return 0;
  const int64_t pieces = pool.threads() * kPiecesPerThread;
  const double seconds = best_seconds(pool, pieces, [&](int64_t, int) { loop.run(); });
  return static_cast<double>(pieces * kRounds * kChains) * loop.operations / seconds;
}

}  // namespace

sl_rates measure_limits(int32_t threads, int64_t bytes) {
  Pool pool(threads);
  const Loop integers = integer_loop();
  sl_rates rates{};
  rates.integer_ops = rate_of(integers, pool);
  rates.float_ops = rate_of(float_loop(), pool);
  rates.bf16_ops = rate_of(half_loop(), pool);
  rates.read_bytes = read_rate(pool, bytes);
  std::snprintf(rates.instruction, sizeof rates.instruction, "%s", integers.name);
  return rates;
}

}  // namespace sealift
