// linear_layout.h: how packed weights and packed activations lie in memory. Read by the packer and by every kernel body.
//
// A panel holds L weight rows (L = lanes of the body: 16, 8 or 4), whole and contiguous, padded with zero rows at the end of
// the matrix. k runs along the columns. Integer formats keep their own bits per code, in chunks of 256 columns (the last one
// may be shorter) of scales, then codes, so that a kernel reads memory as one forward stream. The processor's own reading
// ahead carries it as long as a kernel begins at a chunk's first line and leaves less than 512 bytes unread behind it (measured
// on Zen 4: 25 to 30 GB/s, otherwise 10). So scales come first, and d and m, which are read side by side, begin apart.
//   scales  FLAT: per 32 columns f16 d[L]; after all of these, if the format has minima, per 32 columns f16 m[L].
//             SUPER:  f16 d[L], f16 m[L], then per 32 columns u8 sc[L], u8 mn[L].
//             SUPER6: f16 d[L], then per 32 columns i8 sc[L] (first 16), i8 sc[L] (last 16).
//             FIXED:  per 32 columns i8 e[L].
//           Padded to whole vectors of 4L bytes.
//   codes   per 32 columns: group g (0..7) is columns 4g .. 4g+3 of all L rows as one vector of 4L bytes, byte 4 row + column.
//             low nibbles: vectors v = 0..3; low half of a byte is group v, high half group v + 4      (bits 4, 5, 6)
//             fifth bits:  one vector, bit g of a byte belongs to group g                             (bits 5)
//             bit pairs:   two vectors h; bits 2p of a byte belong to group 4h + p                    (bits 6)
//             whole bytes: vectors g = 0..7                                                           (bits 8)
// Plain formats: [cols][L] values of 4 or 2 bytes. Every panel starts at a multiple of 64 bytes.
// Fixed point, what F16 and BF16 become for bodies that have it (linear_fixed.cpp): chunks as above, the last one padded
// with zeros to whole groups of 32 columns.
// Codes: 16 vectors of 4L bytes, each two columns, int16, of all rows; value = code * 2^e.
//
// Pairs, what BF16 becomes for AMX: bf16, codes as of fixed point, no scales.
//
// Activations of a tile of T tokens (they, too, are read once, in order):
//   integer formats, per 32 columns: i8 q[T][32], f32 d[T], i32 c[T] = -zero * sum(q) (SUPER6: [2][T], one per 16 columns),
//     and formats with minima f32 s[T] = d * sum(q)
//     In tiles that the body multiplies in pairs (linear_body.inc) the first 16 q are shifted, and c makes up for it.
//   plain formats: f32 x[cols][T].
//   fixed point, per 32 columns: i16 q[T][32], f32 d[T].
//   pairs, per 32 columns: bf16 high[T][32], bf16 low[T][32]; x = high + low, but for its last bits.
//
// Functions here are static: this header is compiled for every instruction set, and a shared copy could be the wrong one.
#pragma once
#include <cstdint>

#include "formats.h"

namespace sealift {

constexpr int GROUP = 32;   // columns that share an activation scale
constexpr int CHUNK = 256;  // columns of codes that lie together
constexpr int32_t FIXED16 = 1 << 16;  // the type of fixed point panels: no sl_type
extern const Format FIXED;
constexpr int32_t BF16_PAIRS = FIXED16 + 1;  // the type of BF16 panels for AMX
extern const Format PAIRS;
constexpr int FIXED_LEVELS = 8191;    // the largest |q| of x for fixed point

static constexpr int64_t whole_groups(int64_t columns) { return (columns + GROUP - 1) / GROUP * GROUP; }

static constexpr int64_t code_bytes(int bits, int lanes) { return int64_t{GROUP} * lanes * bits / 8; }

static constexpr int64_t scale_bytes(Form form, bool has_min, int lanes, int64_t columns) {
  if (columns == 0 || form == Form::PAIRS) return 0;
  if (form == Form::FIXED) return (columns / GROUP + 3) / 4 * 4 * lanes;
  const int64_t head = form == Form::SUPER ? 4 : form == Form::SUPER6 ? 2 : 0;
  const int64_t each = form == Form::FLAT && has_min ? 4 : 2;
  const int64_t vector = 4 * lanes;
  return (lanes * (head + columns / GROUP * each) + vector - 1) / vector * vector;
}

static constexpr int64_t chunk_bytes(int bits, Form form, bool has_min, int lanes, int64_t columns) {
  return columns / GROUP * code_bytes(bits, lanes) + scale_bytes(form, has_min, lanes, columns);
}

// Bytes of one token's share of a packed tile, per 32 columns of an integer format.
static constexpr int64_t token_bytes(Form form, bool has_min) {
  if (form == Form::PAIRS) return 4 * GROUP;
  return form == Form::FIXED ? 2 * GROUP + 4 : GROUP + (form == Form::SUPER6 || has_min ? 12 : 8);
}

// |q| of the first 16 of 32 activations at most; of the others 127. 120: with a code less 8 added it still is 8 bits, which
// bodies that multiply the first 16 columns of 4-bit codes in pairs need, with one token too: its bits are those of many.
static constexpr float largest_q(int bits, bool in_pairs) { return in_pairs && bits == 4 ? 120 : 127; }

static inline int64_t panel_bytes(const Format& f, int lanes, int64_t cols) {
  const int64_t bytes = f.bits == 0 ? cols * lanes * f.block_bytes
                                    : cols / CHUNK * chunk_bytes(f.bits, f.form, f.has_min, lanes, CHUNK) +
                                          chunk_bytes(f.bits, f.form, f.has_min, lanes, whole_groups(cols % CHUNK));
  return (bytes + 63) / 64 * 64;
}

// What the largest of 32 activations becomes: 127, or less, so that the first 16 stay within `most` (largest_q). The arguments
// are bits of magnitudes. Where the largest is not finite, or 0, this says nothing.
static inline float quant_top(int32_t largest_bits, int32_t first_bits, float most) {
  float largest, first;
  __builtin_memcpy(&largest, &largest_bits, 4);
  __builtin_memcpy(&first, &first_bits, 4);
  const float top = most * (largest / first);
  return top < 127 ? top : 127;
}

// The activation scale of 32 values whose largest magnitude has these bits and becomes `top` (quant_top, or 8191 for fixed
// point). inverse is 0 (and every q must be 0) when all of them are below 2^-110, where top / largest would overflow, and when
// one is not finite: then d is NaN, so the result is too.
struct QuantScale {
  float d, inverse;
};

static inline QuantScale quant_scale(int32_t largest_bits, float top = 127) {
  constexpr int32_t INFINITE = 0x7f800000, SMALL = (127 - 110) << 23;
  if (largest_bits >= INFINITE) return {__builtin_nanf(""), 0};
  if (largest_bits < SMALL) return {0, 0};
  float largest;
  __builtin_memcpy(&largest, &largest_bits, 4);
  return {largest / top, top / largest};
}

// Writes the panel of rows first_row .. first_row + lanes - 1 of a tensor; rows beyond its end become zeros.
// out: panel_bytes() zeroed bytes.
void pack_panel(const Format& format, const sl_tensor& tensor, int64_t first_row, int lanes, uint8_t* out);

// The row `lane` of a panel of fixed point, from one row of an F16 or BF16 tensor, and back: rounded (linear_fixed.cpp).
void pack_fixed_row(const sl_tensor& tensor, const uint8_t* row, int lane, int lanes, uint8_t* panel);
void unpack_fixed_row(const uint8_t* panel, int lane, int lanes, int64_t cols, float* out);

// out[cols]: the values of row `lane` of a panel, to the bit those of the tensor it was made from, but for fixed point.
void unpack_row(const Format& format, const uint8_t* panel, int lane, int lanes, int64_t cols, float* out);

}  // namespace sealift
