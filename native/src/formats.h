// formats.h: weight formats of GGUF, read exactly.
//
// A row of a quantized tensor is a run of blocks of 32 or 256 values. Each block is read once, by one function per format,
// into integer codes and scales (Codes); exact values and packed panels are both made from those.
// Refuses: unknown types, columns that do not fill whole blocks, sizes that overflow.
#pragma once
#include <cstdint>

#include "sealift.h"

namespace sealift {

// What a block says, before any rounding. Which fields are used, and the value of weight k, depend on the form:
//   FLAT   value = d * (q[k] - zero) + m                                one d (and m) per 32
//   SUPER  value = (d * sc[k / 32]) * (q[k] - zero) - m * mn[k / 32]     256 values, unsigned 6-bit sc and mn
//   SUPER6 value = (d * int8(sc[k / 16])) * (q[k] - zero)               256 values, signed 8-bit sc
struct Codes {
  uint8_t q[256];    // [block] unsigned codes of `bits` bits
  uint16_t d, m;     // float16 bits; m is 0 where the format has none
  uint8_t sc[16];
  uint8_t mn[8];
};

enum class Form { FLAT, SUPER, SUPER6, FIXED, PAIRS };  // FIXED, PAIRS: of panels only (linear_layout.h)

struct Format {
  int32_t type;          // sl_type
  const char* name;
  int block;             // values in a block: 32 or 256; 1 for plain numbers
  int block_bytes;
  int bits;              // bits of a code: 4, 5, 6 or 8; 0 for plain numbers
  int zero;              // the code that means 0
  bool has_min;
  Form form;
  void (*read)(const uint8_t* src, Codes& out);  // one block; null for plain numbers
};

const Format& format_of(int32_t type);  // throws Error(SL_UNSUPPORTED) on an unknown type

// Bytes of `rows` rows of `cols` values. Throws Error on an unknown type, indivisible cols, negative sizes, overflow.
uint64_t tensor_bytes(int32_t type, int64_t rows, int64_t cols);

// Throws Error unless the tensor has GGUF's own data of exactly the size that its shape and type need.
void check_tensor(const sl_tensor& tensor);

// out[cols]: the exact values of one row. Checks the tensor and the row.
void dequantize_row(const sl_tensor& tensor, int64_t row, float* out);

// out[format.block]: the exact values of one block, and of one number of a plain format.
void block_values(const Format& format, const Codes& codes, float* out);
float plain_value(int32_t type, const uint8_t* number);

float f16_to_f32(uint16_t bits);

}  // namespace sealift
