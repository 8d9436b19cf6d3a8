// Making an engine: weights are packed, vectors dequantized, memory allocated.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include "errors.h"
#include "formats.h"

namespace sealift {
namespace {

int32_t resolve_isa(int32_t isa) {
  if (!isa_supported(isa))
    throw Error(SL_UNSUPPORTED, std::string("instruction set ") + std::to_string(isa) + " (" + isa_name(isa) +
                                    ") is not available on this CPU and build");
  return isa == SL_ISA_BEST ? best_isa() : isa;
}

// Whether it takes single rows out of its weight.
bool looks_up(const sl_op& op) { return op.kind == SL_EMBED || op.kind == SL_PLACE; }

const sl_config& checked(const sl_config& config) {
  check_config(config);
  return config;
}

}  // namespace

Engine::Engine(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors, const sl_config& config)
    : config_(checked(config)),
      plan_(decode_plan(ops, n_ops, tensors, n_tensors, config_)),
      isa_(resolve_isa(config.isa)),
      bodies_(bodies(isa_)),
      pool_(config.threads),
      rows_(plan_, config_) {
  load_tensors(tensors, n_tensors);
  make_cache();
  make_rope_tables();
  make_buffers();
  make_attend_scratch();
  sample_scratch_.resize(static_cast<size_t>(pool_.threads()));
  times_.resize(plan_.ops.size());
}

void Engine::load_tensors(const sl_tensor* tensors, int32_t n_tensors) {
  const size_t n = static_cast<size_t>(n_tensors);
  tables_.resize(n);
  linears_.resize(n);
  vectors_.resize(n);
  for (const sl_op& op : plan_.ops) {
    if (op.weight == SL_NONE || looks_up(op)) continue;
    const size_t at = static_cast<size_t>(op.weight);
    if (op.bias != SL_NONE) hold_vector(tensors, op.bias);
    if (op.kind != SL_LINEAR) hold_vector(tensors, op.weight);
    else if (!linears_[at]) linears_[at] = pack_linear(tensors[at], isa_, pool_);
  }
  for (const sl_op& op : plan_.ops)
    if (looks_up(op)) hold_table(tensors, static_cast<size_t>(op.weight));
}

// A matrix that is also multiplied with (tied) is not held twice: its packed rows give the same values. Of another one few
// rows are ever read, so it stays where it is.
void Engine::hold_table(const sl_tensor* tensors, size_t at) {
  if (linears_[at] || tables_[at].data) return;
  check_tensor(tensors[at]);
  tables_[at] = tensors[at];
}

void Engine::hold_vector(const sl_tensor* tensors, int32_t index) {
  std::vector<float>& vector = vectors_[static_cast<size_t>(index)];
  if (!vector.empty()) return;
  vector.resize(static_cast<size_t>(tensors[index].cols));
  dequantize_row(tensors[index], 0, vector.data());
}

void Engine::make_cache() {
  keys_at_.resize(static_cast<size_t>(plan_.layers) + 1);
  values_at_.resize(keys_at_.size());
  int64_t shared = 0, shared_keys = 0;  // by all ATTEND_ALL: each reads what it has just written
  for (int32_t at : plan_.attends) {
    const sl_op& op = plan_.ops[static_cast<size_t>(at)];
    const Attend a = cache_of(op);
    const int64_t keys = a.kv_heads * a.key_bytes(), values = a.kv_heads * a.value_bytes();
    if (a.all) {
      shared_keys = std::max(shared_keys, keys);
      shared = std::max(shared, values);
      continue;
    }
    const size_t layer = static_cast<size_t>(op.i[0]);
    keys_at_[layer] = block_bytes_;
    values_at_[layer] = block_bytes_ + keys;
    block_bytes_ += keys + values;
  }
  keys_at_.back() = block_bytes_;
  values_at_.back() = block_bytes_ + shared_keys;
  block_bytes_ += shared_keys + shared;
  block_bytes_ = (block_bytes_ + 63) / 64 * 64;  // whole cache lines: two threads may write two blocks
  int64_t bytes = 0;  // numbers of the plan and the config: their product may leave 64 bits
  if (__builtin_mul_overflow(int64_t{config_.n_blocks}, block_bytes_, &bytes)) throw std::bad_alloc();
  cache_ = Memory<uint8_t>(bytes);
  cache_.prefer_huge_pages();
}

void Engine::make_rope_tables() {
  for (const sl_op& op : plan_.ops) rope_of_op_.push_back(op.kind == SL_ROPE ? rope_table(op) : SL_NONE);
}

// The table of a rope op, made if no op before it has the same numbers.
int32_t Engine::rope_table(const sl_op& op) {
  const int32_t rotary = op.i[1], next = static_cast<int32_t>(ropes_.size());
  for (int32_t r = 0; r < next; r++) {
    const RopeTable& table = ropes_[static_cast<size_t>(r)];
    if (table.rotary == rotary && table.factors == op.weight && table.base == op.f[0] && table.scale == op.f[1]) return r;
  }
  std::vector<double> frequencies;
  for (int32_t j = 0; j < rotary / 2; j++) {
    const size_t at = static_cast<size_t>(j);
    const double factor = op.weight == SL_NONE ? 1 : vectors_[static_cast<size_t>(op.weight)][at];
    if (!std::isfinite(factor) || factor == 0)
      refuse("rope factor " + std::to_string(j) + " is " + std::to_string(factor) + ", expected finite and not 0");
    frequencies.push_back(op.f[1] * std::pow(double{op.f[0]}, -2.0 * j / rotary) / factor);
  }
  Memory<float> angles(int64_t{config_.max_rows} * rotary);
  ropes_.push_back({rotary, op.weight, op.f[0], op.f[1], std::move(frequencies), std::move(angles)});
  return next;
}

void Engine::make_buffers() {
  for (int64_t floats : plan_.buffers) buffers_.emplace_back(floats);
  size_t scratch = 0;
  make_siblings();
  products_.resize(plan_.ops.size());
  for (size_t i = 0; i < plan_.ops.size(); i += siblings_[i]) {
    const sl_op& op = plan_.ops[i];
    if (op.kind != SL_LINEAR) continue;
    const bool outputs = plan_.slots[static_cast<size_t>(op.out)].outputs;
    products_[i] = products_from(i);
    scratch = std::max(scratch, linear_scratch_bytes(products_[i], outputs ? config_.max_outputs : config_.max_rows));
  }
  linear_scratch_ = Memory<uint8_t>(static_cast<int64_t>(scratch));
}

// Linear ops in a row that read one slot run as one; so q, k, v and gate, up cost one meeting of the threads each. Their
// outputs must not share a buffer, as they would if nothing read one of them.
void Engine::make_siblings() {
  siblings_.assign(plan_.ops.size(), 1);
  for (size_t i = 0; i < plan_.ops.size(); i += siblings_[i]) {
    if (plan_.ops[i].kind != SL_LINEAR) continue;
    size_t& count = siblings_[i];
    while (i + count < plan_.ops.size() && count < kMaxProducts && joins(i, i + count)) count++;
  }
}

// Whether op `next` can join the linear ops from `first` up to it.
bool Engine::joins(size_t first, size_t next) const {
  const sl_op& op = plan_.ops[next];
  if (op.kind != SL_LINEAR || op.a != plan_.ops[first].a) return false;
  for (size_t i = first; i < next; i++)
    if (slot(plan_.ops[i].out) == slot(op.out)) return false;
  return true;
}

std::vector<Product> Engine::products_from(size_t first) const {
  std::vector<Product> made;
  for (size_t i = first; i < first + siblings_[first]; i++) {
    const sl_op& op = plan_.ops[i];
    const float* bias = op.bias == SL_NONE ? nullptr : vectors_[static_cast<size_t>(op.bias)].data();
    made.push_back({linears_[static_cast<size_t>(op.weight)].get(), slot(op.out), bias});
  }
  return made;
}

sl_info Engine::info() const {
  sl_info info{};
  for (const auto& l : linears_) info.weight_bytes += l ? l->bytes() : 0;
  for (const auto& t : tables_) info.weight_bytes += t.data ? static_cast<int64_t>(t.size) : 0;
  for (const auto& v : vectors_) info.weight_bytes += static_cast<int64_t>(v.size() * sizeof(float));
  info.kv_bytes = cache_.bytes();
  for (const auto& b : buffers_) info.scratch_bytes += b.bytes();
  for (const auto& s : attend_scratch_) info.scratch_bytes += s.bytes();
  for (const auto& r : ropes_) info.scratch_bytes += r.angles.bytes();
  info.scratch_bytes += linear_scratch_.bytes() + parts_.bytes();
  info.bytes_per_block = info.kv_bytes / config_.n_blocks;
  info.vocab = plan_.vocab;
  info.layers = plan_.layers;
  info.threads = config_.threads;
  info.isa = isa_;
  info.width = static_cast<int32_t>(width(plan_.logits));
  return info;
}

}  // namespace sealift
