// One step's batch, checked against an engine, and what every layer needs to know about its rows.
#pragma once
#include <sealift.h>

#include <cstdint>
#include <vector>

#include "plan.h"

namespace sealift {

// Consecutive rows whose keys and values go to one cache block.
struct Piece {
  int64_t row, rows;
  int32_t block, offset;  // offset of the first row in the block
};

class Rows {
 public:
  Rows(const Plan& plan, const sl_config& config);

  // Throws Error unless every index in the batch is in range, positions are covered by blocks, and no block that the
  // step writes is used twice. Nothing of the engine has changed by then.
  void check(const sl_batch& batch);

  std::vector<int32_t> position;  // [n_rows]
  std::vector<Piece> pieces;

 private:
  void check_shape(const sl_batch& batch) const;
  void check_sequence(const sl_batch& batch, int32_t seq);
  void check_readers(const sl_batch& batch, int32_t seq) const;

  const Plan& plan_;
  const sl_config& config_;
  uint32_t stamp_ = 0;
  std::vector<uint32_t> written_;     // [n_blocks] stamp of the last step that wrote the block
  std::vector<int64_t> writer_;       // [n_blocks] its place in the tables then: seq * table_width + j
};

}  // namespace sealift
