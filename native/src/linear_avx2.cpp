// linear_avx2.cpp: Intel Haswell and later (2013-), AMD Excavator (2015-) and Zen 1-3 (2017-).
// Compile with -mavx2 -mfma -mf16c.
#include "linear_body.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#include "linear_layout.h"

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace sealift {
namespace {

constexpr int LANES = 8;
// 16 registers: the eight code vectors alone fill half, so they are re-read from the first level cache.
constexpr int TOKENS[] = {1, 2, 4};
constexpr int TOGETHER = 1;
constexpr int PAIRED = 0;  // not here
constexpr int ASK = 4;  // see linear_avx512_vnni.cpp
constexpr int64_t AHEAD = 4096;

using Bytes = __m256i;
using Ints = __m256i;
using Floats = __m256;

INLINE Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
INLINE Bytes low_nibbles(Bytes b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
INLINE Bytes high_nibbles(Bytes b) { return _mm256_and_si256(_mm256_srli_epi16(b, 4), _mm256_set1_epi8(15)); }

// Moves the wanted bits of every byte to bit 4 and up; bits that cross into a neighbour byte are masked away.
template <int BITS, int G>
INLINE Bytes with_bits(Bytes low, Bytes high) {
  constexpr int from = BITS == 5 ? G : 2 * (G % 4);
  Bytes moved;
  if constexpr (from <= 4) {
    moved = _mm256_slli_epi16(high, 4 - from);
  } else {
    moved = _mm256_srli_epi16(high, from - 4);
  }
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(BITS == 5 ? 0x10 : 0x30)));
}

INLINE Ints broadcast_i(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, 4);
  return _mm256_set1_epi32(v);
}

// vpmaddubsw adds two products u8 * s8 into a saturating int16. With |x| <= 127 the sum of n such pairs is at most
// n * 2 * (2^BITS - 1) * 127, so 8 (4 bits), 4 (5 bits) or 2 (6 bits) of them can be added before widening to int32.
// 8-bit codes would saturate at once: they go back to signed (code - 128), the sign moves to x, and the pair stays below
// 2 * 128 * 127 = 32512. Their zero point is gone then, and with it the correction c.
INLINE Ints start(int32_t c) { return _mm256_set1_epi32(c); }

template <int BITS, int GROUPS>
INLINE Ints dot(Ints sum, const Bytes* w, const int8_t* x) {
  constexpr int safe = BITS == 4 ? 8 : BITS == 5 ? 4 : BITS == 6 ? 2 : 1;
  constexpr int run = safe < GROUPS ? safe : GROUPS;
  if constexpr (BITS == 8) sum = _mm256_setzero_si256();
  UNROLL
  for (int g = 0; g < GROUPS; g += run) {
    Ints pairs = _mm256_setzero_si256();
    UNROLL
    for (int i = g; i < g + run; ++i) {
      Ints product;
      if constexpr (BITS == 8) {
        const Bytes code = _mm256_xor_si256(w[i], _mm256_set1_epi8(static_cast<char>(0x80)));
        product = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(broadcast_i(x + 4 * i), code));
      } else {
        product = _mm256_maddubs_epi16(w[i], broadcast_i(x + 4 * i));
      }
      pairs = _mm256_add_epi16(pairs, product);
    }
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  return sum;
}

INLINE Ints pair_share(const Bytes*) { return start(0); }
template <int S>
INLINE void dots_paired(Ints (&)[S], Ints, const Bytes*, const int8_t*) {}

template <int BITS, int GROUPS, int S>
INLINE void dots(Ints (&sum)[S], const Bytes* w, const int8_t* x) {
  for (int s = 0; s < S; ++s) sum[s] = dot<BITS, GROUPS>(sum[s], w, x + s * GROUP);
}

INLINE Floats zero_f() { return _mm256_setzero_ps(); }
INLINE Floats broadcast_f(float v) { return _mm256_set1_ps(v); }
INLINE Floats convert(Ints v) { return _mm256_cvtepi32_ps(v); }
INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
INLINE __m128i load_64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
INLINE Floats load_f32(const uint8_t* p) { return _mm256_castsi256_ps(load_bytes(p)); }
INLINE Floats load_f16(const uint8_t* p) { return _mm256_cvtph_ps(load_128(p)); }
INLINE Floats load_bf16(const uint8_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}
INLINE Floats load_u8(const uint8_t* p) { return convert(_mm256_cvtepu8_epi32(load_64(p))); }
INLINE Floats load_i8(const uint8_t* p) { return convert(_mm256_cvtepi8_epi32(load_64(p))); }

INLINE Ints first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE Floats load_f32(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
INLINE void store(float* p, Floats v, int n) { _mm256_maskstore_ps(p, first(n), v); }

INLINE int32_t fold(Ints v, bool max) {
  __m128i a = _mm256_castsi256_si128(v), b = _mm256_extracti128_si256(v, 1);
  a = max ? _mm_max_epi32(a, b) : _mm_add_epi32(a, b);
  b = _mm_shuffle_epi32(a, 0x4e);
  a = max ? _mm_max_epi32(a, b) : _mm_add_epi32(a, b);
  b = _mm_shuffle_epi32(a, 0xb1);
  return _mm_cvtsi128_si32(max ? _mm_max_epi32(a, b) : _mm_add_epi32(a, b));
}

INLINE void quantize(const float* x, float, int8_t* q, float& d, int32_t (&sums)[2]) {
  // As integers, the bits of |x| sort like |x|, and NaN above infinity above every number.
  Ints largest = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    const Ints bits = _mm256_castps_si256(_mm256_loadu_ps(x + 8 * i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
  }
  const QuantScale scale = quant_scale(fold(largest, true));
  d = scale.d;
  // Zeros and rows that are not finite get q = 0.
  const Ints live = _mm256_set1_epi32(scale.inverse == 0 ? 0 : -1);
  Ints v[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_and_si256(live, _mm256_cvtps_epi32(mul(_mm256_loadu_ps(x + 8 * i), broadcast_f(scale.inverse))));
  }
  sums[0] = fold(_mm256_add_epi32(v[0], v[1]), false);
  sums[1] = fold(_mm256_add_epi32(v[2], v[3]), false);
  const Ints packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  // The packs work within 128-bit halves and leave the 4-byte pieces in order 0 2 4 6 1 3 5 7.
  const Ints ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), ordered);
}

#include "linear_body.inc"

}  // namespace

const LinearBody* linear_body_avx2() { return &BODY; }

}  // namespace sealift
#else
namespace sealift {
const LinearBody* linear_body_avx2() { return nullptr; }
}  // namespace sealift
#endif
