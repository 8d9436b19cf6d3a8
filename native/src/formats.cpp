// formats.cpp: one section per weight format. Layouts: the GGUF project's ggml-common.h (block_q4_0 ... block_q6_K).
// In every layout below, "f16" is an IEEE half, little endian, and k counts the values of one block.
#include "formats.h"

#include <cstring>
#include <string>

#include "errors.h"

namespace sealift {
namespace {

uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }
uint32_t load_u32(const uint8_t* p) { return load_u16(p) | (static_cast<uint32_t>(load_u16(p + 2)) << 16); }

// Nibbles of 32 values in 16 bytes: value k < 16 is the low half of byte k, value k + 16 its high half.
void read_nibbles32(const uint8_t* qs, uint8_t* q) {
  for (int k = 0; k < 16; ++k) {
    q[k] = qs[k] & 15;
    q[k + 16] = qs[k] >> 4;
  }
}

void add_fifth_bits32(const uint8_t* qh, uint8_t* q) {
  const uint32_t bits = load_u32(qh);
  for (int k = 0; k < 32; ++k) q[k] = static_cast<uint8_t>(q[k] | (((bits >> k) & 1) << 4));
}

// Q4_0, 18 bytes: f16 d; 16 bytes of nibbles.
void read_q4_0(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = 0;
  read_nibbles32(src + 2, out.q);
}

// Q4_1, 20 bytes: f16 d, f16 m; 16 bytes of nibbles.
void read_q4_1(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = load_u16(src + 2);
  read_nibbles32(src + 4, out.q);
}

// Q5_0, 22 bytes: f16 d; u32 with the fifth bit of value k in bit k; 16 bytes of nibbles.
void read_q5_0(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = 0;
  read_nibbles32(src + 6, out.q);
  add_fifth_bits32(src + 2, out.q);
}

// Q5_1, 24 bytes: f16 d, f16 m; u32 fifth bits; 16 bytes of nibbles.
void read_q5_1(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = load_u16(src + 2);
  read_nibbles32(src + 8, out.q);
  add_fifth_bits32(src + 4, out.q);
}

// Q8_0, 34 bytes: f16 d; 32 signed bytes. The code is the byte + 128.
void read_q8_0(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = 0;
  for (int k = 0; k < 32; ++k) out.q[k] = src[2 + k] ^ 0x80;
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: bytes 0-3 hold sc[0..3] and, in their two high bits, the high bits
// of sc[4..7]; bytes 4-7 the same for mn; bytes 8-11 the low four bits of sc[4..7] (low half) and mn[4..7] (high half).
void read_scales_k(const uint8_t* s, Codes& out) {
  for (int j = 0; j < 4; ++j) {
    out.sc[j] = s[j] & 63;
    out.mn[j] = s[j + 4] & 63;
    out.sc[j + 4] = static_cast<uint8_t>((s[j + 8] & 15) | ((s[j] >> 6) << 4));
    out.mn[j + 4] = static_cast<uint8_t>((s[j + 8] >> 4) | ((s[j + 4] >> 6) << 4));
  }
}

// Nibbles of 256 values in 128 bytes: of each 64 values, byte k holds value k (low half) and k + 32 (high half).
void read_nibbles256(const uint8_t* qs, uint8_t* q) {
  for (int c = 0; c < 4; ++c, qs += 32, q += 64) {
    for (int k = 0; k < 32; ++k) {
      q[k] = qs[k] & 15;
      q[k + 32] = qs[k] >> 4;
    }
  }
}

// Q4_K, 144 bytes: f16 d, f16 dmin; 12 bytes of scales; 128 bytes of nibbles.
void read_q4_k(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = load_u16(src + 2);
  read_scales_k(src + 4, out);
  read_nibbles256(src + 16, out.q);
}

// Q5_K, 176 bytes: f16 d, f16 dmin; 12 bytes of scales; 32 bytes, bit b of byte k is the fifth bit of value 32 b + k;
// 128 bytes of nibbles.
void read_q5_k(const uint8_t* src, Codes& out) {
  out.d = load_u16(src);
  out.m = load_u16(src + 2);
  read_scales_k(src + 4, out);
  read_nibbles256(src + 48, out.q);
  for (int k = 0; k < 256; ++k) out.q[k] = static_cast<uint8_t>(out.q[k] | (((src[16 + k % 32] >> (k / 32)) & 1) << 4));
}

// Q6_K, 210 bytes: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16 values), f16 d.
// Of each 128 values, low nibbles: bytes 0-63, low halves first (64 values), then high halves;
// pairs: byte k % 32, bits 2 (k / 32).
void read_q6_k(const uint8_t* src, Codes& out) {
  const uint8_t *low = src, *high = src + 128;
  for (int half = 0; half < 2; ++half, low += 64, high += 32) {
    for (int k = 0; k < 128; ++k) {
      const int nibble = k < 64 ? low[k] & 15 : low[k - 64] >> 4;
      const int pair = (high[k % 32] >> (2 * (k / 32))) & 3;
      out.q[128 * half + k] = static_cast<uint8_t>(nibble | (pair << 4));
    }
  }
  std::memcpy(out.sc, src + 192, 16);
  out.d = load_u16(src + 208);
  out.m = 0;
}

constexpr Format FORMATS[] = {
    {SL_F32, "F32", 1, 4, 0, 0, false, Form::FLAT, nullptr},
    {SL_F16, "F16", 1, 2, 0, 0, false, Form::FLAT, nullptr},
    {SL_BF16, "BF16", 1, 2, 0, 0, false, Form::FLAT, nullptr},
    {SL_Q4_0, "Q4_0", 32, 18, 4, 8, false, Form::FLAT, read_q4_0},
    {SL_Q4_1, "Q4_1", 32, 20, 4, 0, true, Form::FLAT, read_q4_1},
    {SL_Q5_0, "Q5_0", 32, 22, 5, 16, false, Form::FLAT, read_q5_0},
    {SL_Q5_1, "Q5_1", 32, 24, 5, 0, true, Form::FLAT, read_q5_1},
    {SL_Q8_0, "Q8_0", 32, 34, 8, 128, false, Form::FLAT, read_q8_0},
    {SL_Q4_K, "Q4_K", 256, 144, 4, 0, true, Form::SUPER, read_q4_k},
    {SL_Q5_K, "Q5_K", 256, 176, 5, 0, true, Form::SUPER, read_q5_k},
    {SL_Q6_K, "Q6_K", 256, 210, 6, 32, false, Form::SUPER6, read_q6_k},
};

float f32_from_bits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace

float plain_value(int32_t type, const uint8_t* p) {
  if (type == SL_F32) return f32_from_bits(load_u32(p));
  if (type == SL_F16) return f16_to_f32(load_u16(p));
  return f32_from_bits(static_cast<uint32_t>(load_u16(p)) << 16);
}

void block_values(const Format& format, const Codes& c, float* out) {
  const float d = f16_to_f32(c.d), m = f16_to_f32(c.m);
  for (int k = 0; k < format.block; ++k) {
    const float q = static_cast<float>(c.q[k] - format.zero);
    switch (format.form) {
      case Form::FLAT: out[k] = format.has_min ? d * q + m : d * q; break;
      case Form::SUPER: out[k] = (d * static_cast<float>(c.sc[k / 32])) * q - m * static_cast<float>(c.mn[k / 32]); break;
      case Form::FIXED: case Form::PAIRS: break;  // has no blocks
      case Form::SUPER6: out[k] = (d * static_cast<float>(static_cast<int8_t>(c.sc[k / 16]))) * q; break;
    }
  }
}

// IEEE 754 binary16 to binary32: exact; infinities and NaN stay what they are.
float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent == 31) return f32_from_bits(sign | 0x7f800000 | (fraction << 13));
  if (exponent != 0) return f32_from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // subnormal: fraction * 2^-24, or zero
  return sign ? -small : small;
}

const Format& format_of(int32_t type) {
  for (const Format& f : FORMATS) {
    if (f.type == type) return f;
  }
  throw Error(SL_UNSUPPORTED, "weight type " + std::to_string(type) +
                                  " is not supported; expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K");
}

uint64_t tensor_bytes(int32_t type, int64_t rows, int64_t cols) {
  const Format& f = format_of(type);
  const std::string shape = std::string(f.name) + " tensor of " + std::to_string(rows) + " x " + std::to_string(cols);
  if (rows < 0 || cols < 0) throw Error(SL_INVALID, shape + ": a size is negative");
  if (cols % f.block != 0) {
    throw Error(SL_INVALID, shape + ": columns must be a multiple of " + std::to_string(f.block));
  }
  uint64_t row_bytes = 0, bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(cols / f.block), static_cast<uint64_t>(f.block_bytes), &row_bytes) ||
      __builtin_mul_overflow(static_cast<uint64_t>(rows), row_bytes, &bytes) || bytes > (uint64_t{1} << 62)) {
    throw Error(SL_INVALID, shape + ": larger than any memory");
  }
  return bytes;
}

void check_tensor(const sl_tensor& tensor) {
  if (tensor.packed != 0) throw Error(SL_INVALID, "a tensor is given as panels where GGUF's own bytes are needed");
  const uint64_t need = tensor_bytes(tensor.type, tensor.rows, tensor.cols);
  if (tensor.size != need || tensor.data == nullptr) {
    throw Error(SL_INVALID, std::string(format_of(tensor.type).name) + " tensor of " + std::to_string(tensor.rows) + " x " +
                                std::to_string(tensor.cols) + ": found " + std::to_string(tensor.data ? tensor.size : 0) +
                                " bytes, expected " + std::to_string(need));
  }
}

void dequantize_row(const sl_tensor& tensor, int64_t row, float* out) {
  check_tensor(tensor);
  if (row < 0 || row >= tensor.rows) {
    throw Error(SL_INVALID, "row " + std::to_string(row) + " of a tensor of " + std::to_string(tensor.rows) + " rows");
  }
  const Format& f = format_of(tensor.type);
  const int64_t blocks = tensor.cols / f.block;
  const uint8_t* src = static_cast<const uint8_t*>(tensor.data) + row * blocks * f.block_bytes;
  Codes codes;
  for (int64_t b = 0; b < blocks; ++b, src += f.block_bytes, out += f.block) {
    if (f.read == nullptr) {
      *out = plain_value(f.type, src);
    } else {
      f.read(src, codes);
      block_values(f, codes, out);
    }
  }
}

}  // namespace sealift
