// linear_avx512_vnni.cpp: AMD Zen 4 and later (2022-), Intel Ice Lake, Sapphire Rapids and later servers (2019-).
// Compile with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c.
#include "linear_body.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512VNNI__) && defined(__F16C__)
// gcc 12 warns about its own intrinsics (bug 105593: _mm512_undefined_* reads itself).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "linear_layout.h"

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace sealift {
namespace {

constexpr int LANES = 16;
// 12: eight code vectors, twelve accumulators and three scale vectors leave nine of 32 registers for sums in flight.
constexpr int TOKENS[] = {1, 2, 3, 4, 6, 8, 12};
// One token's eight vpdpbusd wait for each other, four cycles each. Measured on Zen 4, 12 tokens, Q4_K: 62 % of the limit
// one by one, 65 % by two, 67 % by three, no more by four or six.
constexpr int TOGETHER = 3;
// Zen 4 does one 512-bit vpdpbusd or one float multiply a cycle, so a kernel with 8 of them in 10 (with minima 11) reaches
// 80 % (73 %) of the limit at most. Bytes are added in other units too: in pairs a kernel needs 6 in 8 (9).
constexpr int PAIRED = 6;

using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;

INLINE Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
INLINE Bytes low_nibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
INLINE Bytes high_nibbles(Bytes b) { return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15)); }

// Moves the wanted bits of every byte to bit 4 and up; bits that cross into a neighbour byte are masked away.
template <int BITS, int G>
INLINE Bytes with_bits(Bytes low, Bytes high) {
  constexpr int from = BITS == 5 ? G : 2 * (G % 4);
  Bytes moved;
  if constexpr (from <= 4) {
    moved = _mm512_slli_epi16(high, 4 - from);
  } else {
    moved = _mm512_srli_epi16(high, from - 4);
  }
  return _mm512_ternarylogic_epi32(low, moved, _mm512_set1_epi8(BITS == 5 ? 0x10 : 0x30), 0xF8);  // low | (moved & mask)
}

INLINE Ints broadcast_i(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, 4);
  return _mm512_set1_epi32(v);
}

INLINE Ints start(int32_t c) { return _mm512_set1_epi32(c); }

template <int BITS, int GROUPS, int S>
INLINE void dots(Ints (&sum)[S], const Bytes* w, const int8_t* x) {
  UNROLL
  for (int g = 0; g < GROUPS; ++g) {
    UNROLL
    for (int s = 0; s < S; ++s) sum[s] = _mm512_dpbusd_epi32(sum[s], w[g], broadcast_i(x + s * GROUP + 4 * g));
  }
}

// Measured on Zen 4, 12 tokens, Q4_K and Q4_0: 16 of 32 columns in pairs gain 8 to 12 %; 24 columns or all 32 gain less.
INLINE Ints pair_share(const Bytes* w) {
  const Bytes more = _mm512_set1_epi8(120), less = _mm512_set1_epi8(-8);
  Ints sum = _mm512_setzero_si512();
  for (int g = 0; g < 2; ++g) sum = _mm512_dpbusd_epi32(sum, _mm512_add_epi8(w[g + 2], more), _mm512_add_epi8(w[g], less));
  return _mm512_sub_epi32(_mm512_setzero_si512(), sum);
}

template <int S>
INLINE void dots_paired(Ints (&sum)[S], Ints share, const Bytes* w, const int8_t* x) {
  UNROLL
  for (int s = 0; s < S; ++s) sum[s] = _mm512_add_epi32(sum[s], share);
  UNROLL
  for (int g = 0; g < 2; ++g) {
    UNROLL
    for (int s = 0; s < S; ++s) {
      const int8_t* q = x + s * GROUP + 4 * g;
      const Bytes a = _mm512_add_epi8(w[g + 2], broadcast_i(q)), b = _mm512_add_epi8(w[g], broadcast_i(q + 8));
      sum[s] = _mm512_dpbusd_epi32(sum[s], a, b);
    }
  }
}

INLINE Floats zero_f() { return _mm512_setzero_ps(); }
INLINE Floats broadcast_f(float v) { return _mm512_set1_ps(v); }
INLINE Floats convert(Ints v) { return _mm512_cvtepi32_ps(v); }
INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
INLINE Floats load_f32(const uint8_t* p) { return _mm512_loadu_ps(p); }
INLINE Floats load_f16(const uint8_t* p) { return _mm512_cvtph_ps(load_256(p)); }
INLINE Floats load_bf16(const uint8_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
}
INLINE Floats load_u8(const uint8_t* p) { return convert(_mm512_cvtepu8_epi32(load_128(p))); }
INLINE Floats load_i8(const uint8_t* p) { return convert(_mm512_cvtepi8_epi32(load_128(p))); }

INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
INLINE Floats load_f32(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
INLINE void store(float* p, Floats v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }

INLINE void quantize(const float* x, float top, int8_t* q, float& d, int32_t (&sums)[2]) {
  const Floats a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  // As integers, the bits of |x| sort like |x|, and NaN above infinity above every number.
  const __m512i abs = _mm512_set1_epi32(0x7fffffff);
  const Ints bits_a = _mm512_and_si512(_mm512_castps_si512(a), abs), bits_b = _mm512_and_si512(_mm512_castps_si512(b), abs);
  const Ints largest = _mm512_max_epi32(bits_a, bits_b);
  const QuantScale scale = quant_scale(_mm512_reduce_max_epi32(largest), top);
  d = scale.d;
  const Floats inverse = broadcast_f(scale.inverse);
  const __mmask16 live = scale.inverse == 0 ? 0 : 0xffff;  // zeros and rows that are not finite get q = 0
  const Ints qa = _mm512_maskz_cvtps_epi32(live, mul(a, inverse)), qb = _mm512_maskz_cvtps_epi32(live, mul(b, inverse));
  sums[0] = _mm512_reduce_add_epi32(qa);
  sums[1] = _mm512_reduce_add_epi32(qb);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(qa));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtepi32_epi8(qb));
}

#define SEALIFT_FIXED
INLINE Ints add_i(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
INLINE Ints zero_i() { return _mm512_setzero_si512(); }
INLINE Ints dot_pairs(Ints c, Bytes w, const uint8_t* x) {
  return _mm512_dpwssd_epi32(c, w, broadcast_i(reinterpret_cast<const int8_t*>(x)));
}
INLINE Floats power_of_two(const uint8_t* e) {
  const Ints exponent = _mm512_cvtepi8_epi32(load_128(e));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(exponent, _mm512_set1_epi32(127)), 23));
}

INLINE void quantize_fixed(const float* x, int count, int16_t* q, float& d) {
  const __mmask32 given = count == 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
  const Floats a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(given), x);
  const Floats b = _mm512_maskz_loadu_ps(static_cast<__mmask16>(given >> 16), x + 16);
  const __m512i abs = _mm512_set1_epi32(0x7fffffff);  // see quantize()
  const Ints bits_a = _mm512_and_si512(_mm512_castps_si512(a), abs), bits_b = _mm512_and_si512(_mm512_castps_si512(b), abs);
  const QuantScale scale = quant_scale(_mm512_reduce_max_epi32(_mm512_max_epi32(bits_a, bits_b)), FIXED_LEVELS);
  d = scale.d;
  const Floats inverse = broadcast_f(scale.inverse);
  const __mmask16 live = scale.inverse == 0 ? 0 : 0xffff;
  const Ints qa = _mm512_maskz_cvtps_epi32(live, mul(a, inverse)), qb = _mm512_maskz_cvtps_epi32(live, mul(b, inverse));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_cvtepi32_epi16(qa));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + 16), _mm512_cvtepi32_epi16(qb));
}

#include "linear_body.inc"

}  // namespace

const LinearBody* linear_body_avx512_vnni() { return &BODY; }

}  // namespace sealift
#else
namespace sealift {
const LinearBody* linear_body_avx512_vnni() { return nullptr; }
}  // namespace sealift
#endif
