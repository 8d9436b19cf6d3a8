// One loaded model: plan, packed weights, key/value pool, buffers, threads. Everything a step needs is allocated here,
// once (the sampler's scratch excepted).
#pragma once
#include <sealift.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "batch.h"
#include "bodies.h"
#include "linear.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "sample.h"

namespace sealift {

// Angles depend on a row's position and a rope's numbers: computed once a step for every distinct rope of the plan.
struct RopeTable {
  int32_t rotary, factors;          // factors: tensor or SL_NONE
  float base, scale;
  std::vector<double> frequencies;  // [rotary / 2] radians per position
  Memory<float> angles;             // [max_rows, rotary]: cosines, then sines
};

class Engine {
 public:
  Engine(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors, const sl_config& config);

  void step(const sl_batch& batch);  // throws Error before anything changes if the batch is not valid
  void choose(const sl_batch& batch);  // once after a step without sampling; throws Error if there was none
  sl_info info() const;
  const std::vector<int64_t>& op_times() const { return times_; }

 private:
  // engine.cpp: what is held
  void load_tensors(const sl_tensor* tensors, int32_t n_tensors);
  void hold_vector(const sl_tensor* tensors, int32_t index);
  void hold_table(const sl_tensor* tensors, size_t at);
  void make_cache();
  void make_rope_tables();
  int32_t rope_table(const sl_op& op);
  void make_buffers();
  void make_siblings();
  bool joins(size_t first, size_t next) const;
  std::vector<Product> products_from(size_t first) const;
  void make_attend_scratch();

  // walk.cpp: a step
  void walk(const sl_batch& batch);
  void run(size_t at, const sl_batch& batch);
  void embed(const sl_op& op, const sl_batch& batch);
  void rms_norm(const sl_op& op, int64_t rows);
  void linear(size_t at, int64_t rows);
  void spend(size_t at, int64_t ns);
  void fill_angles(int64_t rows);
  void rope(size_t at, const sl_op& op, int64_t rows);
  void place(const sl_op& op);
  void layer_norm(const sl_op& op, int64_t rows);
  void pick(const sl_op& op, const sl_batch& batch);
  void pool(const sl_op& op, const sl_batch& batch);
  void check_samplings(const sl_batch& batch) const;
  void draw(const sl_batch& batch);
  float* slot(int32_t index) const;
  int64_t width(int32_t index) const { return plan_.slots[static_cast<size_t>(index)].width; }

  // attend.cpp
  void attend(const sl_op& op, const sl_batch& batch);
  void store_keys(const Attend& a, const float* k, const float* v);
  void make_tiles(const Attend& a, const sl_batch& batch);
  void attend_tiles(const Attend& a);
  bool attend_splits(const Attend& a);
  Attend cache_of(const sl_op& op) const;

  sl_config config_;
  Plan plan_;
  int32_t isa_;
  const Bodies& bodies_;
  Pool pool_;
  Rows rows_;
  std::vector<sl_tensor> tables_;                 // per tensor: a matrix only looked up, the caller's; else data null
  std::vector<std::unique_ptr<Linear>> linears_;  // per tensor
  std::vector<std::vector<float>> vectors_;       // per tensor
  std::vector<size_t> siblings_;                  // [ops] ops that run together from this one on; 1 for most
  std::vector<std::vector<Product>> products_;    // [ops] of the linear ops that run together, at the first
  Memory<uint8_t> cache_;                         // [n_blocks, block_bytes_]: a block's keys and values of all layers
  int64_t block_bytes_ = 0;
  std::vector<int64_t> keys_at_, values_at_;      // per cache layer, then the room of ATTEND_ALL: bytes before them in a block
  std::vector<RopeTable> ropes_;
  std::vector<int32_t> rope_of_op_;
  std::vector<Memory<float>> buffers_;
  Memory<uint8_t> linear_scratch_;
  std::vector<Memory<float>> attend_scratch_;     // per worker
  Memory<float> parts_;                           // partial results when splits run in parallel
  std::vector<std::atomic<int32_t>> splits_left_; // per tile and head, when splits run in parallel
  std::vector<AttendTile> tiles_;
  std::vector<SampleScratch> sample_scratch_;     // per worker
  std::vector<int32_t> undrawn_;                  // per output row: the position of the token to choose, until it is
  std::vector<int64_t> times_;                    // [ops] ns
};

// Calls f(begin, end) for ranges of [0, n) on the pool; on the caller alone while n * cost (values touched) is small,
// since waking another thread costs more than the work.
template <class F>
void split(Pool& pool, int64_t n, int64_t cost, const F& f) {
  constexpr int64_t kWorthwhile = 16384;
  if (n <= 0) return;
  const int64_t tasks = std::min<int64_t>({n, n * cost / kWorthwhile, int64_t{pool.threads()} * 8});
  if (tasks <= 1 || pool.threads() == 1) {
    f(int64_t{0}, n);
    return;
  }
  pool.run(tasks, [&](int64_t i, int) { f(n * i / tasks, n * (i + 1) / tasks); });
}

}  // namespace sealift
