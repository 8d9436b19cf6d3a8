// linear_portable.cpp: every machine, in plain C++. The slow twin that the other bodies are checked against.
#include <cmath>
#include <cstring>

#include "linear_body.h"
#include "linear_layout.h"

#define INLINE inline
#define UNROLL

namespace sealift {
namespace {

constexpr int LANES = 8;
constexpr int TOKENS[] = {1, 4};

// The four columns of a row in one word: column j is (v >> 8 j) & 255, whatever the byte order of the machine.
struct Bytes {
  uint32_t v[LANES];
};
struct Floats {
  float v[LANES];
};
// Integers in float32: exact, because no sum of 32 products of 8 bits reaches 2^24. Every machine multiplies vectors of
// float32; not every one (SSE2) does so with int32.
using Ints = Floats;

template <class Out, class F>
INLINE Out each(F f) {
  Out out;
  for (int i = 0; i < LANES; ++i) out.v[i] = f(i);
  return out;
}

INLINE uint32_t load_u32(const uint8_t* p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
}
INLINE Bytes load_bytes(const uint8_t* p) { return each<Bytes>([=](int i) { return load_u32(p + 4 * i); }); }
INLINE Bytes low_nibbles(const Bytes& b) { return each<Bytes>([&](int i) { return b.v[i] & 0x0f0f0f0f; }); }
INLINE Bytes high_nibbles(const Bytes& b) { return each<Bytes>([&](int i) { return (b.v[i] >> 4) & 0x0f0f0f0f; }); }

template <int BITS, int G>
INLINE Bytes with_bits(const Bytes& low, const Bytes& high) {
  constexpr int from = BITS == 5 ? G : 2 * (G % 4);
  constexpr uint32_t mask = BITS == 5 ? 0x01010101 : 0x03030303;
  return each<Bytes>([&](int i) { return low.v[i] | (((high.v[i] >> from) & mask) << 4); });
}

template <int BITS, int GROUPS>
INLINE Ints dot(int32_t c, const Bytes* w, const int8_t* x) {
  Ints sum = each<Ints>([=](int) { return static_cast<float>(c); });
  for (int g = 0; g < GROUPS; ++g) {
    for (int j = 0; j < 4; ++j) {
      const float value = x[4 * g + j];
      for (int i = 0; i < LANES; ++i) sum.v[i] += static_cast<float>(static_cast<int32_t>((w[g].v[i] >> (8 * j)) & 255)) * value;
    }
  }
  return sum;
}

INLINE Floats zero_f() { return Floats{}; }
INLINE Floats broadcast_f(float v) { return each<Floats>([=](int) { return v; }); }
INLINE Floats convert(const Ints& a) { return a; }
INLINE Floats mul(const Floats& a, const Floats& b) { return each<Floats>([&](int i) { return a.v[i] * b.v[i]; }); }
INLINE Floats add(const Floats& a, const Floats& b) { return each<Floats>([&](int i) { return a.v[i] + b.v[i]; }); }
INLINE Floats sub(const Floats& a, const Floats& b) { return each<Floats>([&](int i) { return a.v[i] - b.v[i]; }); }
INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  return each<Floats>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}

INLINE uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }
INLINE Floats load_f16(const uint8_t* p) { return each<Floats>([=](int i) { return f16_to_f32(load_u16(p + 2 * i)); }); }
INLINE Floats load_u8(const uint8_t* p) { return each<Floats>([=](int i) { return static_cast<float>(p[i]); }); }
INLINE Floats load_i8(const uint8_t* p) {
  return each<Floats>([=](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
}
INLINE Floats load_f32(const uint8_t* p) {
  Floats out;
  std::memcpy(out.v, p, sizeof(out.v));
  return out;
}
INLINE Floats load_bf16(const uint8_t* p) {
  return each<Floats>([=](int i) {
    const uint32_t bits = static_cast<uint32_t>(load_u16(p + 2 * i)) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  });
}
INLINE Floats load_f32(const float* p, int n) { return each<Floats>([=](int i) { return i < n ? p[i] : 0.0f; }); }
INLINE void store(float* p, const Floats& a, int n) { std::memcpy(p, a.v, static_cast<size_t>(n) * 4); }

INLINE void quantize(const float* x, int8_t* q, float& d, int32_t (&sums)[2]) {
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
