// Checks a batch before a step touches anything.
#include "batch.h"

#include <algorithm>
#include <string>

#include "errors.h"

namespace sealift {
namespace {

std::string str(int64_t n) { return std::to_string(n); }

void count(const char* name, int32_t value, int32_t least, int32_t most) {
  if (value < least || value > most)
    refuse(std::string("batch ") + name + " is " + str(value) + ", expected " + str(least) + " to " + str(most));
}

int64_t blocks_of(int64_t tokens) { return (tokens + SL_BLOCK - 1) / SL_BLOCK; }

}  // namespace

Rows::Rows(const Plan& plan, const sl_config& config)
    : plan_(plan),
      config_(config),
      written_(static_cast<size_t>(config.n_blocks)),
      writer_(static_cast<size_t>(config.n_blocks)) {
  position.reserve(static_cast<size_t>(config.max_rows));
  pieces.reserve(static_cast<size_t>(config.max_rows));
}

void Rows::check(const sl_batch& batch) {
  check_shape(batch);
  position.resize(static_cast<size_t>(batch.n_rows));
  pieces.clear();
  if (++stamp_ == 0) {  // wrapped: forget old stamps
    std::fill(written_.begin(), written_.end(), 0u);
    stamp_ = 1;
  }
  for (int32_t s = 0; s < batch.n_seqs; s++) check_sequence(batch, s);
  for (int32_t s = 0; s < batch.n_seqs; s++) check_readers(batch, s);
}

void Rows::check_shape(const sl_batch& b) const {
  count("n_rows", b.n_rows, 1, config_.max_rows);
  count("n_seqs", b.n_seqs, 1, std::min(config_.max_seqs, b.n_rows));
  count("n_outputs", b.n_outputs, 0, std::min(config_.max_outputs, b.n_rows));
  count("table_width", b.table_width, 1, kMaxPosition / SL_BLOCK);
  if (!b.tokens || !b.row_start || !b.start_pos || !b.blocks || (b.n_outputs > 0 && !b.out_rows))
    refuse("batch: tokens, row_start, start_pos, blocks and out_rows must not be null");
  if (b.n_outputs > 0 && b.sampling && (!b.out_tokens || !b.out_logprobs))
    refuse("batch: sampling needs out_tokens and out_logprobs");
  for (int32_t r = 0; r < b.n_rows; r++)
    if (b.tokens[r] < 0 || b.tokens[r] >= plan_.vocab)
      refuse("batch row " + str(r) + ": token " + str(b.tokens[r]) + " is not in the vocabulary of " +
          str(plan_.vocab));
  if (b.row_start[0] != 0 || b.row_start[b.n_seqs] != b.n_rows)
    refuse("batch row_start goes from " + str(b.row_start[0]) + " to " + str(b.row_start[b.n_seqs]) +
           ", expected 0 to n_rows = " + str(b.n_rows));
  for (int32_t s = 0; s < b.n_seqs; s++)
    if (b.row_start[s] >= b.row_start[s + 1]) refuse("batch row_start does not ascend at sequence " + str(s));
  for (int32_t i = 0; i < b.n_outputs; i++) {
    const int32_t row = b.out_rows[i], least = i == 0 ? 0 : b.out_rows[i - 1] + 1;
    if (row < least || row >= b.n_rows)
      refuse("batch out_rows[" + str(i) + "] is " + str(row) + ", expected ascending rows below " + str(b.n_rows));
  }
}

// The sequence's own numbers; stamps the blocks it writes.
void Rows::check_sequence(const sl_batch& b, int32_t seq) {
  const std::string name = "batch sequence " + str(seq);
  const int64_t row = b.row_start[seq], start = b.start_pos[seq], end = start + b.row_start[seq + 1] - row;
  if (start < 0) refuse(name + " starts at position " + str(start));
  if (plan_.whole && start != 0)
    refuse(name + " starts at position " + str(start) + ", this plan computes a sequence in one step, from 0");
  if (end > plan_.positions)
    refuse(name + " ends at position " + str(end) + ", the plan has " + str(plan_.positions) + " places");
  if (end > static_cast<int64_t>(b.table_width) * SL_BLOCK)
    refuse(name + " ends at position " + str(end) + ", its table covers " + str(int64_t{b.table_width} * SL_BLOCK));
  const int32_t* table = b.blocks + static_cast<int64_t>(seq) * b.table_width;
  for (int64_t j = 0; j < blocks_of(end); j++)
    if (table[j] < 0 || table[j] >= config_.n_blocks)
      refuse(name + ": block " + str(table[j]) + " for positions from " + str(j * SL_BLOCK) +
          " is not in the pool of " +
             str(config_.n_blocks));
  for (int64_t at = start; at < end;) {
    const int64_t j = at / SL_BLOCK, next = std::min(end, (j + 1) * SL_BLOCK);
    const size_t block = static_cast<size_t>(table[j]);
    if (written_[block] == stamp_) refuse(name + ": block " + str(table[j]) + " is written twice in this step");
    written_[block] = stamp_;
    writer_[block] = static_cast<int64_t>(seq) * b.table_width + j;
    pieces.push_back({row + at - start, next - at, table[j], static_cast<int32_t>(at % SL_BLOCK)});
    at = next;
  }
  for (int64_t at = start; at < end; at++) position[static_cast<size_t>(row + at - start)] = static_cast<int32_t>(at);
}

// No sequence reads a block that another place of the tables writes in this step.
void Rows::check_readers(const sl_batch& b, int32_t seq) const {
  const int64_t end = int64_t{b.start_pos[seq]} + b.row_start[seq + 1] - b.row_start[seq];
  const int64_t first = static_cast<int64_t>(seq) * b.table_width;
  for (int64_t j = 0; j < blocks_of(end); j++) {
    const size_t block = static_cast<size_t>(b.blocks[first + j]);
    if (written_[block] == stamp_ && writer_[block] != first + j)
      refuse("batch sequence " + str(seq) + " reads block " + str(b.blocks[first + j]) +
          ", which this step writes elsewhere");
  }
}

}  // namespace sealift
