// The row-wise bodies of the ops, compiled once per instruction set from bodies.inc, and the table that holds them.
// Arithmetic law: every output value is computed in one fixed order that depends on its own row alone. bodies.inc is
// built with -ffp-contract=off and says fma() where it means one, so no compiler decision can differ between two paths.
#pragma once
#include <cstdint>

namespace sealift {

constexpr int kBlock = 32;        // tokens in a cache block: SL_BLOCK
constexpr int kSplit = 8;         // blocks under one maximum; a property of positions, never of the batch
constexpr int kLine = 16;         // floats in 64 bytes: the padding unit of value rows
constexpr int kScores = kSplit * kBlock + kLine;  // floats between two queries' scores; not a power of two: cache sets

// One ATTEND over one layer of the cache. Halves are IEEE binary16 bits.
// keys   [kv_heads, width, 32] per block: transposed, so that 32 scores are one run of multiply-adds without a sum across
// values [kv_heads, 32, padded] per block: padded = width rounded up to kLine; the padding holds zeros
struct Attend {
  const float* q;         // [rows, heads * width]
  float* out;             // [rows, heads * width]
  uint16_t* keys;         // of block 0; the next block's are `stride` further
  uint16_t* values;
  int64_t stride;         // halves that one block of all layers takes
  int32_t heads, kv_heads, width, padded;
  int64_t window;         // tokens; 0: all
  float scale, cap;       // cap 0: none

  int32_t group() const { return heads / kv_heads; }
  uint16_t* keys_of(int64_t block, int64_t head) const { return keys + block * stride + head * width * kBlock; }
  uint16_t* values_of(int64_t block, int64_t head) const { return values + block * stride + head * padded * kBlock; }
  // floats of one partial result: [padded] sums, then max, then weight
  int64_t record() const { return padded + kLine; }
  int64_t first_key(int64_t position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

// Consecutive rows of one sequence that read the same keys and values together.
struct AttendTile {
  int64_t row, rows;      // in the batch
  int64_t position;       // of the first row
  const int32_t* table;   // block of positions 32j .. 32j+31
};

struct Bodies {
  // out[g] = x[g] / sqrt(mean(x[g]^2) + eps) * w, for `groups` groups of `width` values
  void (*rms_norm)(const float* x, const float* w, float* out, int64_t width, int64_t groups, float eps);
  // angles: [rotary / 2] cosines, then as many sines
  void (*rope)(const float* x, const float* angles, float* out, int32_t heads, int32_t width, int32_t rotary,
      int32_t pairing);
  void (*glu)(int32_t act, const float* a, const float* b, float* out, int64_t n);
  void (*add)(const float* a, const float* b, float* out, int64_t n);
  void (*softcap)(const float* a, float cap, float* out, int64_t n);
  void (*to_half)(const float* x, uint16_t* out, int64_t n);
  // Attends to the keys of split `split` (blocks split * kSplit ..) into parts[q], q = row in tile * group + head in group.
  // Rows that see nothing of the split leave their part untouched. scratch: attend_scratch() floats.
  void (*attend_split)(const Attend&, const AttendTile&, int32_t kv_head, int64_t split, float* parts, float* scratch);
  void (*attend_merge)(float* total, const float* part, int32_t padded);         // total += part, as softmax parts
  void (*attend_finish)(const float* total, float* out, int32_t width, int32_t padded);
  float (*max_of)(const float* x, int64_t n);                                    // -inf for n == 0; no NaN among x
  bool (*all_finite)(const float* x, int64_t n);
  // sum of exp((x - max) * scale); the terms go to out unless it is null
  double (*exp_sum)(const float* x, int64_t n, float max, float scale, float* out);
};

// Floats of scratch that attend_split needs for `queries` queries.
inline int64_t attend_scratch(int64_t queries, int64_t padded) {
  return queries * (padded + kScores) + kBlock * padded;
}

const Bodies& bodies(int32_t isa);  // isa: resolved and supported

namespace portable { extern const Bodies kBodies; }
#if defined(__x86_64__)
namespace avx2 { extern const Bodies kBodies; }
namespace avx512 { extern const Bodies kBodies; }
#endif

}  // namespace sealift
