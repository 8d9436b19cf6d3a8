// ATTEND and ATTEND_ALL: stores the step's keys and values, then shares the work out. What each query computes is fixed in attend.inc;
// here is only who computes it, so nothing in this file can change a bit of the result.
#include <algorithm>
#include <cstring>

#include "engine.h"

namespace sealift {
namespace {

constexpr int64_t kQueries = 48;         // queries that share one reading of keys: their scores and sums stay in L2
constexpr int64_t kTasksPerThread = 4;   // fewer tiles and heads than this per thread: share out splits as well
constexpr int64_t kUnitsMax = 1024;      // more tiles and heads than this: never
constexpr int64_t kSerial = 1 << 17;     // multiply-adds (2 to 4 us) that the caller does alone: waking costs as much
constexpr int64_t kParts = 1 << 22;      // floats of room for partial results (16 MiB, of which a step touches what it
                                         // needs); tiles that need more run whole

int64_t tile_rows(int32_t group) { return std::max<int64_t>(1, kQueries / group); }
int64_t tile_queries(int32_t group) { return tile_rows(group) * group; }
int64_t split_of(int64_t key) { return key / (kSplit * kBlock); }

// k, v [width]: one token's, into its block's keys and values of one head.
void store_half(const Bodies& bodies, const Attend& a, const float* k, const float* v, int64_t token, uint8_t* keys,
    uint8_t* values) {
  alignas(64) uint16_t halves[kMaxHead];
  bodies.to_half(v, reinterpret_cast<uint16_t*>(values) + token * a.padded, a.width);
  bodies.to_half(k, halves, a.width);
  uint16_t* column = reinterpret_cast<uint16_t*>(keys) + token;
  for (int32_t d = 0; d < a.width; d++) column[d * kBlock] = halves[d];
}

void store_q8(const Bodies& bodies, const Attend& a, const float* k, const float* v, int64_t token, uint8_t* keys,
    uint8_t* values) {
  alignas(64) int8_t codes[kMaxHead];
  float scales[kMaxHead / kGroup];
  const int32_t groups = a.groups();
  float* value_scales = reinterpret_cast<float*>(values + a.padded * kBlock);
  bodies.to_q8(v, reinterpret_cast<int8_t*>(values) + token * a.padded, value_scales + token * groups, a.width);
  bodies.to_q8(k, codes, scales, a.width);
  for (int32_t d = 0; d < a.width; d++) keys[d * kBlock + token] = static_cast<uint8_t>(codes[d]);
  float* key_scales = reinterpret_cast<float*>(keys + a.width * kBlock) + token;
  for (int32_t g = 0; g < groups; g++) key_scales[g * kBlock] = scales[g];
}

// Adds the parts of one split to the totals of the rows that see it.
void fold(const Bodies& bodies, const Attend& a, const AttendTile& tile, int64_t split, const float* parts,
    float* totals) {
  const int32_t group = a.group();
  for (int64_t r = 0; r < tile.rows; r++) {
    const int64_t first = split_of(a.first_key(tile.position + r));
    if (split < first || split > split_of(a.end_key(tile, r) - 1)) continue;
    for (int64_t i = r * group; i < (r + 1) * group; i++) {
      float* total = totals + i * a.record();
      const float* part = parts + i * a.record();
      if (split == first) std::memcpy(total, part, static_cast<size_t>(a.record()) * sizeof(float));
      else bodies.attend_merge(total, part, a.padded);
    }
  }
}

void finish(const Bodies& bodies, const Attend& a, const AttendTile& tile, int32_t kv_head, const float* totals) {
  const int32_t group = a.group();
  for (int64_t i = 0; i < tile.rows * group; i++) {
    float* out = a.out + (tile.row + i / group) * a.heads * a.width + (kv_head * group + i % group) * a.width;
    bodies.attend_finish(totals + i * a.record(), out, a.width, a.padded);
  }
}

// Multiply-adds of a step, near enough.
int64_t work(const Attend& a, const std::vector<AttendTile>& tiles) {
  int64_t pairs = 0;
  for (const AttendTile& tile : tiles)
    pairs += tile.rows * (a.end_key(tile) - a.first_key(tile.position));
  return pairs * a.heads * a.width * 2;
}

struct Splits {
  int64_t begin, end;
};
Splits splits(const Attend& a, const AttendTile& tile) {
  return {split_of(a.first_key(tile.position)), split_of(a.end_key(tile) - 1) + 1};
}

}  // namespace

Attend Engine::cache_of(const sl_op& op) const {
  const bool all = op.kind == SL_ATTEND_ALL;
  const int32_t* shape = all ? op.i : op.i + 1;  // heads, key/value heads, head width
  const size_t layer = static_cast<size_t>(all ? plan_.layers : op.i[0]);
  const int32_t padded = (shape[2] + kLine - 1) / kLine * kLine;
  return {nullptr, nullptr, cache_.data() + keys_at_[layer], cache_.data() + values_at_[layer], block_bytes_,
          !all && config_.kv_type == SL_Q8_0, shape[0], shape[1], shape[2], padded, all ? 0 : op.i[4], op.f[0],
          all ? 0 : op.f[1], all};
}

void Engine::make_attend_scratch() {
  int64_t scratch = 0;
  for (int32_t at : plan_.attends) {
    const Attend a = cache_of(plan_.ops[static_cast<size_t>(at)]);
    const int64_t queries = tile_queries(a.group());
    scratch = std::max(scratch, attend_scratch(queries, a.padded) + 2 * queries * a.record());
  }
  for (int w = 0; w < pool_.threads(); w++) attend_scratch_.emplace_back(scratch);
  if (pool_.threads() > 1) parts_ = Memory<float>(kParts);
  tiles_.reserve(static_cast<size_t>(config_.max_rows));
  splits_left_ = std::vector<std::atomic<int32_t>>(static_cast<size_t>(kUnitsMax));
}

void Engine::attend(const sl_op& op, const sl_batch& batch) {
  Attend a = cache_of(op);
  a.q = slot(op.a);
  a.out = slot(op.out);
  store_keys(a, slot(op.b), slot(op.c));
  make_tiles(a, batch);
  if (!attend_splits(a)) attend_tiles(a);
}

// k, v [rows, kv_heads * width]. One task per block and head: no two threads write one cache line.
void Engine::store_keys(const Attend& a, const float* k, const float* v) {
  const int64_t row_width = int64_t{a.kv_heads} * a.width;
  const int64_t values = static_cast<int64_t>(rows_.position.size()) * row_width;
  const int64_t cost = values * 4 / static_cast<int64_t>(rows_.pieces.size());
  split(pool_, static_cast<int64_t>(rows_.pieces.size()), cost, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const Piece& piece = rows_.pieces[static_cast<size_t>(p)];
      for (int64_t i = 0; i < piece.rows * a.kv_heads; i++) {
        const int64_t row = i / a.kv_heads, head = i % a.kv_heads, token = piece.offset + row;
        const int64_t from = (piece.row + row) * row_width + head * a.width;
        uint8_t *keys = a.keys_of(piece.block, head), *values = a.values_of(piece.block, head);
        if (a.q8) store_q8(bodies_, a, k + from, v + from, token, keys, values);
        else store_half(bodies_, a, k + from, v + from, token, keys, values);
      }
    }
  });
}

void Engine::make_tiles(const Attend& a, const sl_batch& batch) {
  tiles_.clear();
  const int64_t most = tile_rows(a.group());
  for (int32_t s = 0; s < batch.n_seqs; s++) {
    const int32_t* table = batch.blocks + static_cast<int64_t>(s) * batch.table_width;
    const int64_t end = batch.row_start[s + 1], keys = rows_.position[static_cast<size_t>(end - 1)] + 1;
    for (int64_t row = batch.row_start[s]; row < end; row += most)
      tiles_.push_back({row, std::min(most, end - row), rows_.position[static_cast<size_t>(row)], keys, table});
  }
}

// One task per tile and head, all its splits in order. Later tiles of a prompt see more keys: they go first.
void Engine::attend_tiles(const Attend& a) {
  const int64_t n = static_cast<int64_t>(tiles_.size()), queries = tile_queries(a.group());
  const auto body = [&](int64_t task, int worker) {
    const AttendTile& tile = tiles_[static_cast<size_t>(n - 1 - task / a.kv_heads)];
    const int32_t head = static_cast<int32_t>(task % a.kv_heads);
    float* totals = attend_scratch_[static_cast<size_t>(worker)].data();
    float *parts = totals + queries * a.record(), *scratch = parts + queries * a.record();
    const Splits range = splits(a, tile);
    for (int64_t s = range.begin; s < range.end; s++) {
      bodies_.attend_split(a, tile, head, s, parts, scratch);
      fold(bodies_, a, tile, s, parts, totals);
    }
    finish(bodies_, a, tile, head, totals);
  };
  if (work(a, tiles_) >= kSerial) return pool_.run(n * a.kv_heads, body);
  for (int64_t task = 0; task < n * a.kv_heads; task++) body(task, 0);
}

// Few tiles over long contexts, or one that is much longer than the others: one task per tile, head and split; whoever
// ends the last split of a tile and head adds them up in order, which saves a second barrier. False where that gains
// nothing or the parts do not fit.
bool Engine::attend_splits(const Attend& a) {
  const int64_t units = static_cast<int64_t>(tiles_.size()) * a.kv_heads, threads = pool_.threads();
  if (threads == 1 || units > kUnitsMax) return false;
  int64_t most = 0, rows = 0, all = 0;
  for (const AttendTile& tile : tiles_) {
    const Splits range = splits(a, tile);
    all += (range.end - range.begin) * tile.rows * a.kv_heads;
    most = std::max(most, range.end - range.begin);
    rows = std::max(rows, tile.rows);
  }
  const bool even = units >= kTasksPerThread * threads && 2 * threads * most * rows <= all;
  const int64_t split_floats = rows * a.group() * a.record();  // parts of one tile, head and split
  if (even || most == 1 || split_floats * most * units > parts_.size()) return false;
  for (int64_t unit = 0; unit < units; unit++) splits_left_[static_cast<size_t>(unit)].store(static_cast<int32_t>(most));
  pool_.run(units * most, [&](int64_t task, int worker) {
    const int64_t unit = task / most, split = task % most;
    const AttendTile& tile = tiles_[static_cast<size_t>(unit / a.kv_heads)];
    const int32_t head = static_cast<int32_t>(unit % a.kv_heads);
    const Splits range = splits(a, tile);
    float* const parts = parts_.data() + unit * most * split_floats;
    float* const totals = attend_scratch_[static_cast<size_t>(worker)].data();
    if (range.begin + split < range.end)
      bodies_.attend_split(a, tile, head, range.begin + split, parts + split * split_floats,
          totals + 2 * tile_queries(a.group()) * a.record());
    // Acquire: the last one sees every part. Release: the parts of this split.
    if (splits_left_[static_cast<size_t>(unit)].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    for (int64_t s = range.begin; s < range.end; s++)
      fold(bodies_, a, tile, s, parts + (s - range.begin) * split_floats, totals);
    finish(bodies_, a, tile, head, totals);
  });
  return true;
}

}  // namespace sealift
