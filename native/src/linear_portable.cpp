// linear_portable.cpp: every machine, in plain C++. The slow twin that the other bodies are checked against.
#include <cmath>
#include <cstring>

#include "linear_body.h"
#include "linear_layout.h"

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace sealift {
namespace {

constexpr int LANES = 4;
constexpr int TOKENS[] = {1, 4};
constexpr int TOGETHER = 1;
constexpr int PAIRED = 0;  // not here
constexpr int ASK = 4;  // see linear_avx512_vnni.cpp
constexpr int64_t AHEAD = 4096;

// Vectors of the compiler (gcc and clang), not of a machine: whatever it has for four numbers, SSE2 or NEON, or one by one.
// Bytes: the four columns of a row in one word; column j is (word >> 8 j) & 255, whatever the byte order of the machine.
using Bytes = uint32_t __attribute__((vector_size(16)));
using Floats = float __attribute__((vector_size(16)));
using Signed = int32_t __attribute__((vector_size(16)));
// Integers in float32: exact, because no sum of 32 products of 8 bits reaches 2^24. Every machine multiplies vectors of
// float32; not every one (SSE2) does so with int32.
using Ints = Floats;

INLINE uint32_t load_u16(const uint8_t* p) { return p[0] | static_cast<uint32_t>(p[1]) << 8; }
INLINE uint32_t load_u32(const uint8_t* p) { return load_u16(p) | load_u16(p + 2) << 16; }
INLINE Bytes load_bytes(const uint8_t* p) { return Bytes{load_u32(p), load_u32(p + 4), load_u32(p + 8), load_u32(p + 12)}; }
INLINE Bytes low_nibbles(Bytes b) { return b & 0x0f0f0f0f; }
INLINE Bytes high_nibbles(Bytes b) { return (b >> 4) & 0x0f0f0f0f; }

template <int BITS, int G>
INLINE Bytes with_bits(Bytes low, Bytes high) {
  constexpr int from = BITS == 5 ? G : 2 * (G % 4);
  constexpr uint32_t mask = BITS == 5 ? 0x01010101 : 0x03030303;
  return low | (((high >> from) & mask) << 4);
}

INLINE Floats zero_f() { return Floats{}; }
INLINE Floats broadcast_f(float v) { return Floats{v, v, v, v}; }
INLINE Floats convert(Ints a) { return a; }
INLINE Floats mul(Floats a, Floats b) { return a * b; }
INLINE Floats add(Floats a, Floats b) { return a + b; }
INLINE Floats sub(Floats a, Floats b) { return a - b; }
INLINE Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }

INLINE Ints start(int32_t c) { return broadcast_f(static_cast<float>(c)); }

template <int BITS, int GROUPS>
INLINE Ints dot(Ints sum, const Bytes* w, const int8_t* x) {
  UNROLL
  for (int g = 0; g < GROUPS; ++g) {
    UNROLL
    for (int j = 0; j < 4; ++j) {
      const Signed column = reinterpret_cast<Signed>((w[g] >> (8 * j)) & 255);
      sum += __builtin_convertvector(column, Floats) * broadcast_f(x[4 * g + j]);
    }
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

INLINE float f32_from_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
template <class F>
INLINE Floats each(F f) {
  return Floats{f(0), f(1), f(2), f(3)};
}
INLINE Floats load_f32(const uint8_t* p) { return each([=](int i) { return f32_from_bits(load_u32(p + 4 * i)); }); }
INLINE Floats load_bf16(const uint8_t* p) { return each([=](int i) { return f32_from_bits(load_u16(p + 2 * i) << 16); }); }
INLINE Floats load_f16(const uint8_t* p) {
  return each([=](int i) { return f16_to_f32(static_cast<uint16_t>(load_u16(p + 2 * i))); });
}
INLINE Floats load_u8(const uint8_t* p) { return each([=](int i) { return static_cast<float>(p[i]); }); }
INLINE Floats load_i8(const uint8_t* p) { return each([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); }); }
INLINE Floats load_f32(const float* p, int n) { return each([=](int i) { return i < n ? p[i] : 0.0f; }); }
INLINE void store(float* p, Floats a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a[i];
}

INLINE void quantize(const float* x, float, int8_t* q, float& d, int32_t (&sums)[2]) {
  // As integers, the bits of |x| sort like |x|, and NaN above infinity above every number.
  int32_t largest = 0;
  for (int k = 0; k < GROUP; ++k) {
    int32_t bits;
    std::memcpy(&bits, x + k, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  const QuantScale scale = quant_scale(largest);
  d = scale.d;
  sums[0] = sums[1] = 0;
  for (int k = 0; k < GROUP; ++k) {
    // Zeros and rows that are not finite get q = 0. nearbyint: to nearest, ties to even, as the vector bodies do.
    q[k] = scale.inverse == 0 ? int8_t{0} : static_cast<int8_t>(std::nearbyintf(x[k] * scale.inverse));
    sums[k / 16] += q[k];
  }
}

#include "linear_body.inc"

}  // namespace

const LinearBody* linear_body_portable() { return &BODY; }

}  // namespace sealift
