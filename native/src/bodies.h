// The row-wise bodies of the ops, compiled once per instruction set from bodies.inc, and the table that holds them.
// Arithmetic law: every output value is computed in one fixed order that depends on its own row alone. bodies.inc is
// built with -ffp-contract=off and says fma() where it means one, so no compiler decision can differ between two paths.
#pragma once
#include <cstdint>

namespace sealift {

constexpr int kBlock = 32;        // tokens in a cache block: SL_BLOCK
constexpr int kSplit = 8;         // blocks under one maximum; a property of positions, never of the batch
constexpr int kLine = 16;         // floats in 64 bytes: the padding unit of value rows
constexpr int kGroup = 32;       // 8-bit keys and values of a head that share a scale
constexpr int kScores = kSplit * kBlock + kLine;  // floats between two queries' scores; not a power of two: cache sets

// Consecutive rows of one sequence that read the same keys and values together.
struct AttendTile {
  int64_t row, rows;      // in the batch
  int64_t position;       // of the first row
  int64_t keys;           // of the sequence after this step
  const int32_t* table;   // block of positions 32j .. 32j+31
};

// One ATTEND or, if `all`, ATTEND_ALL over one layer of the cache. Per block and head, numbers being IEEE binary16 bits or, if `q8`, int8:
// keys   [width, 32]: transposed, so that 32 scores are one run of multiply-adds without a sum across
// values [32, padded]: padded = width rounded up to kLine; the padding holds zeros
// With q8 their scales follow, float32, one for kGroup numbers of a head: of keys [groups, 32], of values [32, groups].
struct Attend {
  const float* q;         // [rows, heads * width]
  float* out;             // [rows, heads * width]
  uint8_t* keys;          // of block 0; the next block's are `stride` further
  uint8_t* values;
  int64_t stride;         // bytes that one block of all layers takes
  bool q8;
  int32_t heads, kv_heads, width, padded;
  int64_t window;         // tokens; 0: all
  float scale, cap;       // cap 0: none
  bool all;               // rows see later ones too

  int32_t group() const { return heads / kv_heads; }
  int32_t groups() const { return (width + kGroup - 1) / kGroup; }
  int64_t key_bytes() const { return (q8 ? width + 4 * groups() : 2 * width) * kBlock; }      // of one block and head
  int64_t value_bytes() const { return (q8 ? padded + 4 * groups() : 2 * padded) * kBlock; }
  uint8_t* keys_of(int64_t block, int64_t head) const { return keys + block * stride + head * key_bytes(); }
  uint8_t* values_of(int64_t block, int64_t head) const { return values + block * stride + head * value_bytes(); }
  // floats of one partial result: [padded] sums, then max, then weight
  int64_t record() const { return padded + kLine; }
  int64_t first_key(int64_t position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
  // One past the last key that row r of the tile sees.
  int64_t end_key(const AttendTile& tile, int64_t r) const { return all ? tile.keys : tile.position + r + 1; }
  int64_t end_key(const AttendTile& tile) const { return end_key(tile, tile.rows - 1); }
};

struct Bodies {
  // out[g] = x[g] / sqrt(mean(x[g]^2) + eps) * w, for `groups` groups of `width` values
  void (*rms_norm)(const float* x, const float* w, float* out, int64_t width, int64_t groups, float eps);
  // angles: [rotary / 2] cosines, then as many sines
  void (*rope)(const float* x, const float* angles, float* out, int32_t heads, int32_t width, int32_t rotary,
      int32_t pairing);
  // out[r] = (x[r] - mean) / sqrt(mean((x[r] - mean)^2) + eps) * w + b, for `rows` rows of `width` values
  void (*layer_norm)(const float* x, const float* w, const float* b, float* out, int64_t width, int64_t rows, float eps);
  void (*glu)(int32_t act, const float* a, const float* b, float* out, int64_t n);
  void (*activate)(int32_t act, const float* a, float* out, int64_t n);
  void (*add)(const float* a, const float* b, float* out, int64_t n);
  void (*softcap)(const float* a, float cap, float* out, int64_t n);
  void (*to_half)(const float* x, uint16_t* out, int64_t n);
  // Per kGroup values (the last group may be shorter): d = max|x| / 127, q = x / d rounded. d is NaN, and q 0, where a value
  // is not finite. d [groups of n]
  void (*to_q8)(const float* x, int8_t* q, float* d, int64_t n);
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
