// A step: every op of the plan in order over the rows of the batch, then the outputs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "engine.h"
#include "errors.h"
#include "formats.h"

namespace sealift {

float* Engine::slot(int32_t index) const {
  return buffers_[static_cast<size_t>(plan_.slots[static_cast<size_t>(index)].buffer)].data();
}

void Engine::step(const sl_batch& batch) {
  rows_.check(batch);
  if (batch.sampling) check_samplings(batch);
  undrawn_.clear();
  walk(batch);
  for (int32_t i = 0; i < batch.n_outputs; i++)
    undrawn_.push_back(rows_.position[static_cast<size_t>(batch.out_rows[i])] + 1);
  const int64_t values = int64_t{batch.n_outputs} * width(plan_.logits);
  if (batch.logits && values > 0)
    std::memcpy(batch.logits, slot(plan_.logits), static_cast<size_t>(values) * sizeof(float));
  if (batch.sampling) draw(batch);
}

void Engine::choose(const sl_batch& batch) {
  if (undrawn_.empty()) refuse("no step has left logits to choose from");
  if (batch.n_outputs != static_cast<int32_t>(undrawn_.size()))
    refuse("n_outputs is " + std::to_string(batch.n_outputs) + ", the step had " + std::to_string(undrawn_.size()));
  if (!batch.sampling || !batch.out_tokens || !batch.out_logprobs)
    refuse("sampling, out_tokens and out_logprobs must not be null");
  check_samplings(batch);
  draw(batch);
}

void Engine::check_samplings(const sl_batch& batch) const {
  const int64_t values = width(plan_.logits);
  if (values != plan_.vocab)
    refuse("nothing can be sampled from outputs of " + std::to_string(values) + " values for " +
        std::to_string(plan_.vocab) + " tokens");
  for (int32_t i = 0; i < batch.n_outputs; i++)
    check_sampling(batch.sampling[i], plan_.vocab, ("sampling of output " + std::to_string(i) + ": ").c_str());
}

void Engine::walk(const sl_batch& batch) {
  using Clock = std::chrono::steady_clock;
  fill_angles(batch.n_rows);
  auto begin = Clock::now();
  for (size_t i = 0; i < plan_.ops.size(); i += siblings_[i]) {
    if (batch.n_outputs == 0 && static_cast<int32_t>(i) > plan_.last_attend) break;  // nobody reads what follows
    run(i, batch);
    const auto end = Clock::now();
    spend(i, std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count());
    begin = end;
  }
}

// Ops that ran together share the time by the bytes of their weights.
void Engine::spend(size_t at, int64_t ns) {
  const std::vector<Product>& together = products_[at];
  int64_t bytes = 0, left = ns;
  for (const Product& p : together) bytes += p.weight->bytes();
  for (size_t i = 1; i < together.size(); i++) {
    const int64_t own = static_cast<int64_t>(static_cast<double>(ns) * together[i].weight->bytes() / bytes);
    times_[at + i] += own;
    left -= own;
  }
  times_[at] += left;
}

void Engine::run(size_t at, const sl_batch& batch) {
  const sl_op& op = plan_.ops[at];
  const int64_t rows = plan_.slots[static_cast<size_t>(op.out)].outputs ? batch.n_outputs : batch.n_rows;
  const auto values = [&](auto body) { split(pool_, rows * width(op.out), 1, body); };
  float* out = slot(op.out);
  switch (op.kind) {
    case SL_EMBED: return embed(op, batch);
    case SL_RMS_NORM: return rms_norm(op, rows);
    case SL_LINEAR: return linear(at, rows);
    case SL_ROPE: return rope(at, op, rows);
    case SL_ATTEND: return attend(op, batch);
    case SL_GLU:
      return values([&, a = slot(op.a), b = slot(op.b)](int64_t begin, int64_t end) {
        bodies_.glu(op.i[0], a + begin, b + begin, out + begin, end - begin);
      });
    case SL_ADD:
      return values([&, a = slot(op.a), b = slot(op.b)](int64_t begin, int64_t end) {
        bodies_.add(a + begin, b + begin, out + begin, end - begin);
      });
    case SL_LAYER_NORM: return layer_norm(op, rows);
    case SL_ACTIVATE:
      return values([&, a = slot(op.a)](int64_t begin, int64_t end) {
        bodies_.activate(op.i[0], a + begin, out + begin, end - begin);
      });
    case SL_PLACE: return place(op);
    case SL_SHIFT: return split(pool_, rows, width(op.out), [&, a = slot(op.a)](int64_t begin, int64_t end) {
      const int64_t w = width(op.out);
      const float* shift = vectors_[static_cast<size_t>(op.weight)].data();
      for (int64_t r = begin; r < end; r++) bodies_.add(a + r * w, shift, out + r * w, w);
    });
    case SL_ATTEND_ALL: return attend(op, batch);
    case SL_POOL: return pool(op, batch);
    case SL_SOFTCAP:
      return values([&, a = slot(op.a)](int64_t begin, int64_t end) {
        bodies_.softcap(a + begin, op.f[0], out + begin, end - begin);
      });
    default: return pick(op, batch);
  }
}

void Engine::embed(const sl_op& op, const sl_batch& batch) {
  const size_t at = static_cast<size_t>(op.weight);
  const Linear* packed = linears_[at].get();
  const int64_t w = width(op.out);
  float* out = slot(op.out);
  split(pool_, batch.n_rows, w, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float* row = out + r * w;
      if (packed) packed->row(batch.tokens[r], row);
      else dequantize_row(tables_[at], batch.tokens[r], row);
      for (int64_t i = 0; i < w; i++) row[i] *= op.f[0];
    }
  });
}

void Engine::place(const sl_op& op) {
  const size_t at = static_cast<size_t>(op.weight);
  const Linear* packed = linears_[at].get();
  const int64_t w = width(op.out);
  float* out = slot(op.out);
  split(pool_, static_cast<int64_t>(rows_.position.size()), w, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const int32_t position = rows_.position[static_cast<size_t>(r)];
      if (packed) packed->row(position, out + r * w);
      else dequantize_row(tables_[at], position, out + r * w);
    }
  });
}

void Engine::layer_norm(const sl_op& op, int64_t rows) {
  const int64_t w = width(op.out);
  const float *x = slot(op.a), *weight = vectors_[static_cast<size_t>(op.weight)].data();
  const float* bias = vectors_[static_cast<size_t>(op.bias)].data();
  float* out = slot(op.out);
  split(pool_, rows, w, [&](int64_t begin, int64_t end) {
    bodies_.layer_norm(x + begin * w, weight, bias, out + begin * w, w, end - begin, op.f[0]);
  });
}

void Engine::rms_norm(const sl_op& op, int64_t rows) {
  const int64_t group = op.i[0], groups = rows * (width(op.out) / group);
  const float *x = slot(op.a), *w = vectors_[static_cast<size_t>(op.weight)].data();
  float* out = slot(op.out);
  split(pool_, groups, group, [&](int64_t begin, int64_t end) {
    bodies_.rms_norm(x + begin * group, w, out + begin * group, group, end - begin, op.f[0]);
  });
}

void Engine::linear(size_t at, int64_t rows) {
  const sl_op& op = plan_.ops[at];
  sealift::linear(products_[at], slot(op.a), width(op.a), rows, linear_scratch_.data(), pool_);
}

// Angles in double: position times frequency loses no digit that float cosines could show (positions below 2^30).
void Engine::fill_angles(int64_t rows) {
  constexpr int64_t kCosineCost = 16;  // in units of split(): a double cosine and sine take about as long as 16 values
  for (const RopeTable& table : ropes_) {
    const int64_t half = table.rotary / 2;
    split(pool_, rows, half * kCosineCost, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        float* angles = table.angles.data() + r * table.rotary;
        for (int64_t j = 0; j < half; j++) {
          const double angle = rows_.position[static_cast<size_t>(r)] * table.frequencies[static_cast<size_t>(j)];
          angles[j] = static_cast<float>(std::cos(angle));
          angles[half + j] = static_cast<float>(std::sin(angle));
        }
      }
    });
  }
}

void Engine::rope(size_t at, const sl_op& op, int64_t rows) {
  const RopeTable& table = ropes_[static_cast<size_t>(rope_of_op_[at])];
  const int64_t w = width(op.out);
  const float* x = slot(op.a);
  float* out = slot(op.out);
  split(pool_, rows, w, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      bodies_.rope(x + r * w, table.angles.data() + r * table.rotary, out + r * w, static_cast<int32_t>(w / op.i[0]),
          op.i[0],
                   op.i[1], op.i[2]);
  });
}

void Engine::pick(const sl_op& op, const sl_batch& batch) {
  const int64_t w = width(op.out);
  const float* x = slot(op.a);
  float* out = slot(op.out);
  for (int64_t i = 0; i < batch.n_outputs; i++)
    std::memcpy(out + i * w, x + batch.out_rows[i] * w, static_cast<size_t>(w) * sizeof(float));
}

// Rows are summed in double, in their order: the mean of a text is as exact as its values, however long it is.
void Engine::pool(const sl_op& op, const sl_batch& batch) {
  const int64_t w = width(op.out);
  const float* x = slot(op.a);
  float* out = slot(op.out);
  const int32_t* const ends = batch.row_start + 1;
  split(pool_, batch.n_outputs * w, batch.n_rows / std::max(batch.n_outputs, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t seq = std::upper_bound(ends, ends + batch.n_seqs, batch.out_rows[i / w]) - ends;
      const int64_t first = batch.row_start[seq], rows = op.i[0] == 0 ? ends[seq] - first : 1;
      double total = 0;
      for (int64_t r = first; r < first + rows; r++) total += x[r * w + i % w];
      out[i] = static_cast<float>(total / static_cast<double>(rows));
    }
  });
}

// A sequence whose logits are not finite gets SL_NONE for a token; its neighbours are not touched. Logits are used up.
void Engine::draw(const sl_batch& batch) {
  const int64_t vocab = plan_.vocab;
  float* logits = slot(plan_.logits);
  std::atomic<bool> no_memory{false};
  pool_.run(batch.n_outputs, [&](int64_t i, int worker) {
    Choice choice{SL_NONE, NAN, batch.top_ids ? batch.top_ids + i * SL_MAX_TOP : nullptr,
                  batch.top_logprobs ? batch.top_logprobs + i * SL_MAX_TOP : nullptr};
    try {
      sample(bodies_, logits + i * vocab, plan_.vocab, batch.sampling[i], undrawn_[static_cast<size_t>(i)], choice,
             sample_scratch_[static_cast<size_t>(worker)]);
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
    batch.out_tokens[i] = choice.token;
    batch.out_logprobs[i] = choice.logprob;
  });
  undrawn_.clear();
  if (no_memory) throw std::bad_alloc();
}

}  // namespace sealift
