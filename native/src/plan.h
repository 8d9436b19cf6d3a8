// A plan, checked. decode_plan() treats ops, tensors and config as hostile and either throws Error or returns something
// the walker can run without looking again: every slot is written once before it is read, widths and tensor shapes
// meet, batch rows and output rows never mix, every number is in range, cache layers are 0, 1, 2, ... in order.
#pragma once
#include <sealift.h>

#include <cstdint>
#include <vector>

namespace sealift {

// Limits, far above any model and low enough that no product of three of them overflows int64.
constexpr int32_t kMaxOps = 1 << 16, kMaxTensors = 1 << 16;
constexpr int64_t kMaxWidth = 1 << 22;   // values in a row; vocabularies are the widest
constexpr int32_t kMaxHead = 1 << 10, kMaxHeads = 1 << 10;
constexpr int32_t kMaxRows = 1 << 16, kMaxBlocks = 1 << 24, kMaxThreads = 1 << 10;
constexpr int32_t kMaxPosition = 1 << 30;  // also keeps angles exact enough in double

struct Slot {
  int64_t width = 0;       // floats in a row; 0: not written
  bool outputs = false;    // lines are output rows, not batch rows
  int32_t buffer = -1;     // slots that do not live at the same time share buffers
};

struct Plan {
  std::vector<sl_op> ops;
  std::vector<Slot> slots;
  std::vector<int64_t> buffers;  // floats of each, for the config's max_rows and max_outputs
  int32_t logits = 0;            // slot
  int32_t vocab = 0;             // rows of every embedding
  int32_t layers = 0;            // of the cache
  int32_t last_attend = -1;      // op; a step without outputs may stop after it
  std::vector<int32_t> attends;  // ops, of both kinds
  bool whole = false;            // a sequence is computed in one step, from position 0
  int64_t positions = kMaxPosition;  // that every PLACE of the plan has a row for
};

void check_config(const sl_config& config);
void check_counts(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors);
void check_shape(const sl_tensor& tensor, int32_t index);   // type and shape agree; data is not looked at
void check_tensor(const sl_tensor& tensor, int32_t index);  // type, shape and size agree
Plan decode_plan(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors, const sl_config& config);

}  // namespace sealift
