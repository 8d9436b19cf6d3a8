// linear_body.h: what one instruction set offers, as plain data, so that code compiled for it never mixes with the rest.
#pragma once
#include <cstdint>

namespace sealift {

struct Format;

// One call of a kernel: T tokens against one panel.
struct Tile {
  const uint8_t* panel;  // linear_layout.h
  const uint8_t* x;      // packed activations of T tokens
  float* y;              // y[t * y_stride + r], t < T, r < rows
  const float* bias;     // bias[r], or null
  int64_t y_stride, cols;
  int rows;              // rows of this panel that exist: 1 .. lanes
};

using TileKernel = void (*)(const Tile&);

struct LinearBody {
  int lanes;             // rows in a panel
  bool fixed;            // F16 and BF16 become fixed point
  bool pairs;            // and BF16 pairs instead
  bool in_pairs;         // 4-bit codes are multiplied in pairs where tokens are many (linear_body.inc)
  const int* tokens;     // tile heights a kernel exists for: ascending, tokens[0] == 1
  int n_tokens, n_plain;  // how many heights integer formats have, and how many (of the lowest) F32, F16, fixed point
  TileKernel (*kernel)(int32_t type, int tokens);
  // Packs `tokens` rows of x (leading dimension x_stride) for a weight of this type.
  void (*pack_x)(int32_t type, const float* x, int64_t x_stride, int64_t cols, int tokens, uint8_t* out);
};

// Each body's own file. Null where the compiler was not given the flags, or the machine is another kind.
const LinearBody* linear_body_portable();
const LinearBody* linear_body_avx2();
const LinearBody* linear_body_avx512_vnni();
const LinearBody* linear_body_avx512_amx();

// What a tensor of this type is packed as for a body: its own format, or fixed point.
const Format& panel_format(int32_t type, const LinearBody& body);

// The dispatch table. Null: no such body in this build.
const LinearBody* linear_body(int isa);

}  // namespace sealift
