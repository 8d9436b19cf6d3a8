// gf256_avx2.cpp: Intel Haswell (2013-), AMD Excavator and Zen (2015-). Compile with -mavx2.
// A product is the sum of those of a byte's two halves, and a shuffle looks up 32 of 16 entries at once (Plank, Greenan,
// Miller: "Screaming Fast Galois Field Arithmetic Using Intel SIMD Instructions", FAST 2013). Four outputs at a time
// share an input's halves.
#include "gf256.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include <cstring>

namespace sealift {
namespace {

constexpr int kWidth = 32;  // bytes of a register

struct Tables {
  alignas(32) uint8_t of[256][2][16];  // of a factor: times 0 .. 15, times 0x00 .. 0xf0
};

constexpr Tables tables() {
  Tables made{};
  for (int factor = 0; factor < 256; factor++) {
    for (int half = 0; half < 2; half++) {
      for (int value = 0; value < 16; value++) {
        int product = 0;
        for (int bit = 7; bit >= 0; bit--) {
          product = product << 1 ^ (product & 0x80 ? 0x11d : 0);
          if (value << 4 * half >> bit & 1) product ^= factor;
        }
        made.of[factor][half][value] = static_cast<uint8_t>(product);
      }
    }
  }
  return made;
}

constexpr Tables kTables = tables();

__m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store(uint8_t* p, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }

__m256i table(int factor, int half) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kTables.of[factor][half])));
}

// out[r] += factors[r] x in for N outputs, whole registers only.
template <int N>
void add_products(const int (&factors)[N], const uint8_t* in, uint8_t* const (&out)[N], int64_t size) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i low[N], high[N];
  for (int r = 0; r < N; r++) {
    low[r] = table(factors[r], 0);
    high[r] = table(factors[r], 1);
  }
  for (int64_t i = 0; i < size; i += kWidth) {
    const __m256i bytes = load(in + i), lower = _mm256_and_si256(bytes, mask);
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    for (int r = 0; r < N; r++) {
      const __m256i product = _mm256_xor_si256(_mm256_shuffle_epi8(low[r], lower), _mm256_shuffle_epi8(high[r], upper));
      store(out[r] + i, _mm256_xor_si256(load(out[r] + i), product));
    }
  }
}

template <int N>
void rows(const Gf256& sums, int first, int64_t begin, int64_t size) {
  uint8_t* out[N];
  for (int r = 0; r < N; r++) {
    out[r] = sums.out[first + r] + begin;
    std::memset(out[r], 0, static_cast<size_t>(size));
  }
  for (int k = 0; k < sums.n_in; k++) {
    int factors[N], any = 0;
    for (int r = 0; r < N; r++) any |= factors[r] = sums.factors[(first + r) * sums.n_in + k];
    if (any) add_products<N>(factors, sums.in[k] + begin, out, size);
  }
}

void slice(const Gf256& sums, int64_t begin, int64_t size) {
  const int64_t whole = size / kWidth * kWidth;
  int r = 0;
  for (; r + 4 <= sums.n_out; r += 4) rows<4>(sums, r, begin, whole);
  switch (sums.n_out - r) {
    case 1: rows<1>(sums, r, begin, whole); break;
    case 2: rows<2>(sums, r, begin, whole); break;
    case 3: rows<3>(sums, r, begin, whole); break;
  }
  if (whole < size) kGf256Portable(sums, begin + whole, size - whole);
}

}  // namespace

const Gf256Slice kGf256Avx2 = slice;

}  // namespace sealift

#else
namespace sealift {

const Gf256Slice kGf256Avx2 = nullptr;

}  // namespace sealift
#endif
