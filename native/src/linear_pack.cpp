// linear_pack.cpp: from GGUF's blocks to panels (linear_layout.h). Runs once per tensor; the values do not change.
#include <algorithm>
#include <cstring>

#include "linear_layout.h"

namespace sealift {
namespace {

// Places 32 codes of one row (lane) into the zeroed code vectors at `out`.
void place_codes(int bits, const uint8_t* q, int lane, int lanes, uint8_t* out) {
  const int vector = 4 * lanes;
  for (int g = 0; g < 8; ++g) {
    for (int j = 0; j < 4; ++j) {
      const int code = q[4 * g + j], at = 4 * lane + j;
      if (bits == 8) {
        out[g * vector + at] = static_cast<uint8_t>(code);
        continue;
      }
      uint8_t& low = out[(g % 4) * vector + at];
      low = static_cast<uint8_t>(low | ((code & 15) << (g < 4 ? 0 : 4)));
      if (bits == 5) {
        uint8_t& high = out[4 * vector + at];
        high = static_cast<uint8_t>(high | ((code >> 4) << g));
      } else if (bits == 6) {
        uint8_t& high = out[(4 + g / 4) * vector + at];
        high = static_cast<uint8_t>(high | ((code >> 4) << (2 * (g % 4))));
      }
    }
  }
}

void put_u16(uint8_t* vector, int lane, uint16_t value) { std::memcpy(vector + 2 * lane, &value, 2); }

// Places one row's scales of block number `block` of `blocks` of a chunk into the chunk's scale region.
void place_scales(const Format& format, const Codes& codes, int64_t block, int64_t blocks, int lane, int lanes, uint8_t* at) {
  if (format.form == Form::FLAT) {
    put_u16(at + block * 2 * lanes, lane, codes.d);
    if (format.has_min) put_u16(at + (blocks + block) * 2 * lanes, lane, codes.m);
    return;
  }
  const bool super6 = format.form == Form::SUPER6;
  put_u16(at, lane, codes.d);
  if (!super6) put_u16(at + 2 * lanes, lane, codes.m);
  at += (super6 ? 2 : 4) * lanes;
  for (int b = 0; b < CHUNK / GROUP; ++b, at += 2 * lanes) {
    at[lane] = super6 ? codes.sc[2 * b] : codes.sc[b];
    at[lanes + lane] = super6 ? codes.sc[2 * b + 1] : codes.mn[b];
  }
}

// Places one row's chunk of `columns` columns; src: its first block.
void place_chunk(const Format& format, const uint8_t* src, int64_t columns, int lane, int lanes, uint8_t* out) {
  const int64_t step = code_bytes(format.bits, lanes), blocks = columns / format.block;
  uint8_t* const scales = out;
  out += scale_bytes(format.form, format.has_min, lanes, columns);
  Codes codes;
  for (int64_t b = 0; b < blocks; ++b, src += format.block_bytes) {
    format.read(src, codes);
    for (int k = 0; k < format.block; k += GROUP, out += step) place_codes(format.bits, codes.q + k, lane, lanes, out);
    place_scales(format, codes, b, blocks, lane, lanes, scales);
  }
}

// The reverse of place_codes.
void take_codes(int bits, const uint8_t* from, int lane, int lanes, uint8_t* q) {
  const int vector = 4 * lanes;
  for (int g = 0; g < 8; ++g) {
    for (int j = 0; j < 4; ++j) {
      const int at = 4 * lane + j;
      int code = bits == 8 ? from[g * vector + at] : (from[(g % 4) * vector + at] >> (g < 4 ? 0 : 4)) & 15;
      if (bits == 5) code |= ((from[4 * vector + at] >> g) & 1) << 4;
      if (bits == 6) code |= ((from[(4 + g / 4) * vector + at] >> (2 * (g % 4))) & 3) << 4;
      q[4 * g + j] = static_cast<uint8_t>(code);
    }
  }
}

uint16_t take_u16(const uint8_t* vector, int lane) {
  uint16_t value;
  std::memcpy(&value, vector + 2 * lane, 2);
  return value;
}

// The reverse of place_scales.
void take_scales(const Format& format, const uint8_t* at, int64_t block, int64_t blocks, int lane, int lanes, Codes& codes) {
  codes.m = 0;
  if (format.form == Form::FLAT) {
    codes.d = take_u16(at + block * 2 * lanes, lane);
    if (format.has_min) codes.m = take_u16(at + (blocks + block) * 2 * lanes, lane);
    return;
  }
  const bool super6 = format.form == Form::SUPER6;
  codes.d = take_u16(at, lane);
  if (!super6) codes.m = take_u16(at + 2 * lanes, lane);
  at += (super6 ? 2 : 4) * lanes;
  for (int b = 0; b < CHUNK / GROUP; ++b, at += 2 * lanes) {
    codes.sc[super6 ? 2 * b : b] = at[lane];
    if (super6) codes.sc[2 * b + 1] = at[lanes + lane];
    else codes.mn[b] = at[lanes + lane];
  }
}

// The reverse of place_chunk, and the values.
void take_chunk(const Format& format, const uint8_t* chunk, int64_t columns, int lane, int lanes, float* out) {
  const int64_t step = code_bytes(format.bits, lanes), blocks = columns / format.block;
  const uint8_t* const scales = chunk;
  chunk += scale_bytes(format.form, format.has_min, lanes, columns);
  Codes codes;
  for (int64_t b = 0; b < blocks; ++b, out += format.block) {
    for (int k = 0; k < format.block; k += GROUP, chunk += step) take_codes(format.bits, chunk, lane, lanes, codes.q + k);
    take_scales(format, scales, b, blocks, lane, lanes, codes);
    block_values(format, codes, out);
  }
}

// Where column k of a row lies in a panel of pairs.
int64_t pair_at(int64_t k, int lane, int lanes) { return k / 2 * 4 * lanes + 4 * lane + k % 2 * 2; }

void place_plain(const uint8_t* src, int64_t cols, int width, int lane, int lanes, uint8_t* out) {
  for (int64_t k = 0; k < cols; ++k) std::memcpy(out + (k * lanes + lane) * width, src + k * width, static_cast<size_t>(width));
}

}  // namespace

const Format PAIRS = {BF16_PAIRS, "pairs", 1, 2, 16, 0, false, Form::PAIRS, nullptr};

void pack_panel(const Format& format, const sl_tensor& tensor, int64_t first_row, int lanes, uint8_t* out) {
  const int64_t cols = tensor.cols, row_bytes = cols / format.block * format.block_bytes;
  const int rows = static_cast<int>(std::min<int64_t>(lanes, tensor.rows - first_row));
  for (int lane = 0; lane < rows; ++lane) {
    const uint8_t* src = static_cast<const uint8_t*>(tensor.data) + (first_row + lane) * row_bytes;
    if (format.form == Form::PAIRS) {
      for (int64_t k = 0; k < cols; ++k) std::memcpy(out + pair_at(k, lane, lanes), src + 2 * k, 2);
      continue;
    }
    if (format.form == Form::FIXED) {
      pack_fixed_row(tensor, src, lane, lanes, out);
      continue;
    }
    if (format.read == nullptr) {
      place_plain(src, cols, format.block_bytes, lane, lanes, out);
      continue;
    }
    uint8_t* chunk = out;
    for (int64_t k = 0; k < cols; k += CHUNK) {
      const int64_t columns = std::min<int64_t>(CHUNK, cols - k);
      place_chunk(format, src + k / format.block * format.block_bytes, columns, lane, lanes, chunk);
      chunk += chunk_bytes(format.bits, format.form, format.has_min, lanes, columns);
    }
  }
}

void unpack_row(const Format& format, const uint8_t* panel, int lane, int lanes, int64_t cols, float* out) {
  if (format.form == Form::FIXED) return unpack_fixed_row(panel, lane, lanes, cols, out);
  if (format.form == Form::PAIRS) {
    for (int64_t k = 0; k < cols; ++k) out[k] = plain_value(SL_BF16, panel + pair_at(k, lane, lanes));
    return;
  }
  if (format.read == nullptr) {
    const int64_t width = format.block_bytes;
    for (int64_t k = 0; k < cols; ++k) out[k] = plain_value(format.type, panel + (k * lanes + lane) * width);
    return;
  }
  for (int64_t k = 0; k < cols; k += CHUNK) {
    const int64_t columns = std::min<int64_t>(CHUNK, cols - k);
    take_chunk(format, panel, columns, lane, lanes, out + k);
    panel += chunk_bytes(format.bits, format.form, format.has_min, lanes, columns);
  }
}

}  // namespace sealift
