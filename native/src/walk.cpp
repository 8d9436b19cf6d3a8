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
  if (batch.sampling)
    for (int32_t i = 0; i < batch.n_outputs; i++)
      check_sampling(batch.sampling[i], plan_.vocab, ("sampling of output " + std::to_string(i) + ": ").c_str());
  walk(batch);
  outputs(batch);
}

void Engine::walk(const sl_batch& batch) {
  using Clock = std::chrono::steady_clock;
  fill_angles(batch.n_rows);
  auto begin = Clock::now();
  for (size_t i = 0; i < plan_.ops.size(); i++) {
    if (batch.n_outputs == 0 && static_cast<int32_t>(i) > plan_.last_attend) break;  // nobody reads what follows
    const sl_op& op = plan_.ops[i];
    if (op.kind == SL_ROPE) rope(i, op, batch.n_rows);
    else run(op, batch);
    const auto end = Clock::now();
    times_[i] += std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count();
    begin = end;
  }
}

void Engine::run(const sl_op& op, const sl_batch& batch) {
  const int64_t rows = plan_.slots[static_cast<size_t>(op.out)].outputs ? batch.n_outputs : batch.n_rows;
  const auto values = [&](auto body) { split(pool_, rows * width(op.out), 1, body); };
  float* out = slot(op.out);
  switch (op.kind) {
    case SL_EMBED: return embed(op, batch);
    case SL_RMS_NORM: return rms_norm(op, rows);
    case SL_LINEAR: return linear(op, rows);
    case SL_ATTEND: return attend(op, batch);
    case SL_GLU:
      return values([&, a = slot(op.a), b = slot(op.b)](int64_t begin, int64_t end) {
        bodies_.glu(op.i[0], a + begin, b + begin, out + begin, end - begin);
      });
    case SL_ADD:
      return values([&, a = slot(op.a), b = slot(op.b)](int64_t begin, int64_t end) {
        bodies_.add(a + begin, b + begin, out + begin, end - begin);
      });
    case SL_SOFTCAP:
      return values([&, a = slot(op.a)](int64_t begin, int64_t end) {
        bodies_.softcap(a + begin, op.f[0], out + begin, end - begin);
      });
    default: return pick(op, batch);
  }
}

void Engine::embed(const sl_op& op, const sl_batch& batch) {
  const sl_tensor& table = tables_[static_cast<size_t>(op.weight)];
  const int64_t w = table.cols;
  float* out = slot(op.out);
  split(pool_, batch.n_rows, w, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float* row = out + r * w;
      dequantize_row(table, batch.tokens[r], row);
      for (int64_t i = 0; i < w; i++) row[i] *= op.f[0];
    }
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

void Engine::linear(const sl_op& op, int64_t rows) {
  if (rows == 0) return;
  const float* bias = op.bias == SL_NONE ? nullptr : vectors_[static_cast<size_t>(op.bias)].data();
  sealift::linear(*linears_[static_cast<size_t>(op.weight)], slot(op.a), width(op.a), rows, slot(op.out),
      width(op.out), bias,
                  linear_scratch_.data(), pool_);
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

// A sequence whose logits are not finite gets SL_NONE for a token; its neighbours are not touched.
void Engine::outputs(const sl_batch& batch) {
  const int64_t vocab = plan_.vocab;
  float* logits = slot(plan_.logits);
  if (batch.logits && batch.n_outputs > 0)
    std::memcpy(batch.logits, logits, static_cast<size_t>(batch.n_outputs * vocab) * sizeof(float));
  if (!batch.sampling) return;
  std::atomic<bool> no_memory{false};
  pool_.run(batch.n_outputs, [&](int64_t i, int worker) {
    Choice choice{SL_NONE, NAN, batch.top_ids ? batch.top_ids + i * SL_MAX_TOP : nullptr,
                  batch.top_logprobs ? batch.top_logprobs + i * SL_MAX_TOP : nullptr};
    const int32_t position = rows_.position[static_cast<size_t>(batch.out_rows[i])] + 1;
    try {
      sample(bodies_, logits + i * vocab, plan_.vocab, batch.sampling[i], position, choice,
             sample_scratch_[static_cast<size_t>(worker)]);
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
    batch.out_tokens[i] = choice.token;
    batch.out_logprobs[i] = choice.logprob;
  });
  if (no_memory) throw std::bad_alloc();
}

}  // namespace sealift
