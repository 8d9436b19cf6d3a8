// Decoding and checking of plans. Errors name the op and say what was found and what was expected.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.h"
#include "formats.h"

namespace sealift {
namespace {

std::string str(int64_t n) { return std::to_string(n); }

// What a kind uses of an sl_op; the rest must be SL_NONE or 0, so that no field is silently ignored.
struct Shape {
  const char* name;
  int inputs, ints, floats;
  bool weight, bias;  // may carry one
};
constexpr Shape kShapes[] = {
    {},
    {"embed", 0, 0, 1, true, false},   {"rms_norm", 1, 1, 1, true, false}, {"linear", 1, 0, 0, true, true},
    {"rope", 1, 3, 2, true, false},    {"attend", 3, 5, 2, false, false},  {"glu", 2, 1, 0, false, false},
    {"add", 2, 0, 0, false, false},    {"softcap", 1, 0, 1, false, false}, {"pick", 1, 0, 0, false, false},
    {"layer_norm", 1, 0, 1, true, true}, {"activate", 1, 1, 0, false, false}, {"place", 0, 0, 0, true, false},
    {"shift", 1, 0, 0, true, false},   {"attend_all", 3, 3, 1, false, false}, {"pool", 1, 1, 0, false, false},
};
constexpr int32_t kLastKind = SL_POOL;

class Decoder {
 public:
  Decoder(const sl_tensor* tensors, int32_t n_tensors, const sl_config& config)
      : tensors_(tensors), n_tensors_(n_tensors), config_(config), read_(static_cast<size_t>(n_tensors)) {}

  Plan run(const sl_op* ops, int32_t n_ops) {
    plan_.ops.assign(ops, ops + n_ops);
    plan_.slots.resize(kMaxOps);
    for (at_ = 0; at_ < n_ops; at_++) decode(plan_.ops[static_cast<size_t>(at_)]);
    check_whole();
    place_buffers();
    return std::move(plan_);
  }

 private:
  void need(bool holds, const std::string& problem) const {
    if (holds) return;
    const int32_t kind = plan_.ops[static_cast<size_t>(at_)].kind;
    const char* name = kind >= SL_EMBED && kind <= kLastKind ? kShapes[kind].name : "unknown";
    refuse("plan op " + str(at_) + " (" + name + "): " + problem);
  }

  void decode(const sl_op& op) {
    need(op.kind >= SL_EMBED && op.kind <= kLastKind, "kind " + str(op.kind) + " is not in the vocabulary");
    check_fields(op);
    const bool outputs = domain(op);
    const int64_t width = infer(op);
    need(op.out >= 0 && op.out < static_cast<int64_t>(plan_.slots.size()),
         "slot " + str(op.out) + " is out of range, expected 0 to " +
             str(static_cast<int64_t>(plan_.slots.size()) - 1));
    Slot& slot = plan_.slots[static_cast<size_t>(op.out)];
    need(slot.width == 0, "slot " + str(op.out) + " is written twice");
    need(width <= kMaxWidth, "a width of " + str(width) + " is above the limit " + str(kMaxWidth));
    slot.width = width;
    slot.outputs = outputs;
  }

  void check_fields(const sl_op& op) const {
    const Shape& shape = kShapes[op.kind];
    const int32_t inputs[] = {op.a, op.b, op.c};
    for (int i = 0; i < 3; i++) {
      if (i >= shape.inputs) {
        need(inputs[i] == SL_NONE, "input " + str(i) + " is unused and must be -1, found " + str(inputs[i]));
        continue;
      }
      need(inputs[i] >= 0 && inputs[i] < static_cast<int64_t>(plan_.slots.size()) && slot(inputs[i]).width > 0,
           "input slot " + str(inputs[i]) + " is read before it is written");
    }
    for (int i = shape.ints; i < 5; i++) need(op.i[i] == 0, "i[" + str(i) + "] is unused and must be 0");
    for (int i = shape.floats; i < 2; i++) need(op.f[i] == 0, "f[" + str(i) + "] is unused and must be 0");
    for (int i = 0; i < shape.floats; i++) {
      const bool zero_is_off = op.kind == SL_ATTEND && i == 1;
      need(std::isfinite(op.f[i]) && (op.f[i] > 0 || (zero_is_off && op.f[i] == 0)),
           "f[" + str(i) + "] is " + std::to_string(op.f[i]) + ", expected a finite number above 0");
    }
    need(shape.weight || op.weight == SL_NONE, "takes no weight");
    need(shape.bias || op.bias == SL_NONE, "takes no bias");
  }

  // Whether the result has output rows; all inputs must agree.
  bool domain(const sl_op& op) const {
    const int32_t inputs[] = {op.a, op.b, op.c};
    const int n = kShapes[op.kind].inputs;
    for (int i = 1; i < n; i++)
      need(slot(inputs[i]).outputs == slot(inputs[0]).outputs, "mixes batch rows with output rows");
    const bool outputs = n > 0 && slot(inputs[0]).outputs;
    const bool picks = op.kind == SL_PICK || op.kind == SL_POOL;
    need(!outputs || (op.kind != SL_ROPE && op.kind != SL_ATTEND && op.kind != SL_ATTEND_ALL && !picks),
         "needs batch rows, found output rows");
    return outputs || picks;
  }

  const Slot& slot(int32_t index) const { return plan_.slots[static_cast<size_t>(index)]; }

  const sl_tensor& tensor(int32_t index) {
    need(index >= 0 && index < n_tensors_, "tensor " + str(index) + " does not exist: there are " + str(n_tensors_));
    read_[static_cast<size_t>(index)] = true;
    return tensors_[index];
  }

  void vector(int32_t index, int64_t length, const char* meaning) {
    const sl_tensor& t = tensor(index);
    need(t.rows == 1 && t.cols == length, "tensor " + str(index) + " is [" + str(t.rows) + ", " + str(t.cols) +
                                              "], expected [1, " + str(length) + "] (" + meaning + ")");
  }

  int64_t infer(const sl_op& op) {
    switch (op.kind) {
      case SL_EMBED: return embed(op);
      case SL_RMS_NORM:
        divides(op.i[0], slot(op.a).width, "group");
        vector(op.weight, op.i[0], "group");
        return slot(op.a).width;
      case SL_LINEAR: return linear(op);
      case SL_ROPE: return rope(op);
      case SL_ATTEND: return attend(op);
      case SL_GLU: activation(op); return same_widths(op);
      case SL_ADD: return same_widths(op);
      case SL_LAYER_NORM:
        vector(op.weight, slot(op.a).width, "width");
        vector(op.bias, slot(op.a).width, "width");
        return slot(op.a).width;
      case SL_ACTIVATE: activation(op); return slot(op.a).width;
      case SL_PLACE: return place(op);
      case SL_SHIFT: vector(op.weight, slot(op.a).width, "width"); return slot(op.a).width;
      case SL_ATTEND_ALL: return attend_all(op);
      case SL_POOL:
        need(op.i[0] == 0 || op.i[0] == 1, "pooling " + str(op.i[0]) + " is neither mean (0) nor first (1)");
        plan_.whole = true;
        return slot(op.a).width;
      default: return slot(op.a).width;  // softcap, pick
    }
  }

  void activation(const sl_op& op) const {
    need(op.i[0] >= 0 && op.i[0] <= 2,
         "activation " + str(op.i[0]) + " is none of silu (0), gelu (1) and gelu with erf (2)");
  }

  void divides(int64_t part, int64_t whole, const char* meaning) const {
    need(part > 0 && whole % part == 0,
         std::string(meaning) + " " + str(part) + " does not divide the width " + str(whole));
  }

  int64_t same_widths(const sl_op& op) const {
    const int64_t a = slot(op.a).width, b = slot(op.b).width;
    need(a == b, "slot " + str(op.a) + " is " + str(a) + " wide, slot " + str(op.b) + " is " + str(b));
    return a;
  }

  int64_t embed(const sl_op& op) {
    const sl_tensor& t = tensor(op.weight);
    need(plan_.vocab == 0 || plan_.vocab == t.rows,
         "vocabulary of " + str(t.rows) + " tokens, an embedding before it has " + str(plan_.vocab));
    need(t.rows <= kMaxWidth, "vocabulary of " + str(t.rows) + " is above the limit " + str(kMaxWidth));
    plan_.vocab = static_cast<int32_t>(t.rows);
    return t.cols;
  }

  int64_t place(const sl_op& op) {
    const sl_tensor& t = tensor(op.weight);
    plan_.positions = std::min(plan_.positions, t.rows);
    return t.cols;
  }

  int64_t linear(const sl_op& op) {
    const sl_tensor& t = tensor(op.weight);
    const int64_t width = slot(op.a).width;
    need(t.cols == width, "tensor " + str(op.weight) + " has " + str(t.cols) + " columns, expected the width " +
                              str(width) + " of slot " + str(op.a));
    if (op.bias != SL_NONE) vector(op.bias, t.rows, "rows of the weight");
    return t.rows;
  }

  int64_t rope(const sl_op& op) {
    const int32_t head = op.i[0], rotary = op.i[1];
    divides(head, slot(op.a).width, "head width");
    need(rotary > 0 && rotary % 2 == 0 && rotary <= head,
         "rotates " + str(rotary) + " values, expected an even number up to the head width " + str(head));
    need(op.i[2] == 0 || op.i[2] == 1, "pairing " + str(op.i[2]) + " is neither adjacent (0) nor halves (1)");
    if (op.weight != SL_NONE) vector(op.weight, rotary / 2, "half the rotated values");
    return slot(op.a).width;
  }

  int64_t attend(const sl_op& op) {
    need(op.i[4] >= 0, "window " + str(op.i[4]) + " is negative");
    need(op.i[0] == plan_.layers,
         "cache layer " + str(op.i[0]) + ", expected " + str(plan_.layers) + " (layers are used once, in order)");
    plan_.layers++;
    return attention(op, op.i[1], op.i[2], op.i[3]);
  }

  int64_t attend_all(const sl_op& op) {
    plan_.whole = true;
    return attention(op, op.i[0], op.i[1], op.i[2]);
  }

  int64_t attention(const sl_op& op, int64_t heads, int64_t kv_heads, int64_t head) {
    need(heads > 0 && heads <= kMaxHeads && kv_heads > 0 && heads % kv_heads == 0,
         str(heads) + " query heads over " + str(kv_heads) +
             " key/value heads: the second must divide the first, at most " + str(kMaxHeads));
    need(head > 0 && head <= kMaxHead, "head width " + str(head) + " is not in 1 to " + str(kMaxHead));
    need(slot(op.a).width == heads * head, "queries are " + str(slot(op.a).width) + " wide, expected " +
        str(heads * head));
    for (int32_t s : {op.b, op.c})
      need(slot(s).width == kv_heads * head,
           "keys or values are " + str(slot(s).width) + " wide, expected " + str(kv_heads * head));
    plan_.attends.push_back(at_);
    plan_.last_attend = at_;
    return heads * head;
  }

  void check_whole() {
    plan_.logits = plan_.ops.back().out;
    const Slot& logits = slot(plan_.logits);
    if (!logits.outputs) refuse("the plan's logits are not picked: no pick comes before its last op");
    if (plan_.vocab == 0) refuse("the plan has no embed op");
    for (int32_t t = 0; t < n_tensors_; t++)
      if (!read_[static_cast<size_t>(t)]) refuse("tensor " + str(t) + " is read by no op of the plan");
  }

  // A buffer is free again after the last op that reads its slot. Inputs are freed after the result is placed, so an op
  // never writes over what it reads.
  void place_buffers() {
    std::vector<size_t> last(plan_.slots.size(), 0);
    for (size_t i = 0; i < plan_.ops.size(); i++) {
      const sl_op& op = plan_.ops[i];
      last[static_cast<size_t>(op.out)] = i;
      for (int32_t s : {op.a, op.b, op.c})
        if (s != SL_NONE) last[static_cast<size_t>(s)] = i;
    }
    last[static_cast<size_t>(plan_.logits)] = plan_.ops.size();
    std::vector<int32_t> idle;
    for (size_t i = 0; i < plan_.ops.size(); i++) {
      const sl_op& op = plan_.ops[i];
      Slot& out = plan_.slots[static_cast<size_t>(op.out)];
      out.buffer = take(idle, out.width * (out.outputs ? config_.max_outputs : config_.max_rows));
      int32_t touched[] = {op.a, op.b, op.c, op.out};
      std::sort(touched, touched + 4);
      const int32_t* end = std::unique(touched, touched + 4);
      for (const int32_t* s = touched; s < end; s++)
        if (*s != SL_NONE && last[static_cast<size_t>(*s)] == i) idle.push_back(slot(*s).buffer);
    }
  }

  // The smallest idle buffer that is large enough, else the largest idle one made larger, else a new one.
  int32_t take(std::vector<int32_t>& idle, int64_t floats) {
    const auto size = [this](int32_t b) { return plan_.buffers[static_cast<size_t>(b)]; };
    auto best = idle.end();
    for (auto b = idle.begin(); b != idle.end(); ++b) {
      if (best == idle.end()) best = b;
      else if (size(*best) >= floats ? size(*b) >= floats && size(*b) < size(*best) : size(*b) > size(*best)) best = b;
    }
    if (best == idle.end()) {
      plan_.buffers.push_back(floats);
      return static_cast<int32_t>(plan_.buffers.size()) - 1;
    }
    const int32_t chosen = *best;
    idle.erase(best);
    plan_.buffers[static_cast<size_t>(chosen)] = std::max(size(chosen), floats);
    return chosen;
  }

  const sl_tensor* tensors_;
  int32_t n_tensors_;
  const sl_config& config_;
  std::vector<bool> read_;
  Plan plan_;
  int32_t at_ = 0;
};

void in_range(const char* name, int32_t value, int32_t most) {
  if (value < 1 || value > most)
    refuse(std::string("config ") + name + " is " + str(value) + ", expected 1 to " + str(most));
}

}  // namespace

void check_config(const sl_config& config) {
  in_range("threads", config.threads, kMaxThreads);
  in_range("n_blocks", config.n_blocks, kMaxBlocks);
  in_range("max_rows", config.max_rows, kMaxRows);
  in_range("max_seqs", config.max_seqs, kMaxRows);
  in_range("max_outputs", config.max_outputs, kMaxRows);
  if (config.kv_type != SL_F16 && config.kv_type != SL_Q8_0)
    refuse("config kv_type is " + str(config.kv_type) + ", expected 1 (F16) or 8 (Q8_0)");
}

void check_shape(const sl_tensor& t, int32_t index) {
  const std::string name = "tensor " + str(index);
  if (t.rows < 1 || t.rows > kMaxWidth || t.cols < 1 || t.cols > kMaxWidth)
    refuse(name + " is [" + str(t.rows) + ", " + str(t.cols) + "], expected 1 to " + str(kMaxWidth) + " each");
  (void)tensor_bytes(t.type, t.rows, t.cols);  // refuses a type and columns that do not go together
}

void check_tensor(const sl_tensor& t, int32_t index) {
  const std::string name = "tensor " + str(index);
  if (t.data == nullptr) refuse(name + " has no data");
  check_shape(t, index);
  const uint64_t bytes = tensor_bytes(t.type, t.rows, t.cols);
  if (t.packed == 0 && t.size != bytes)  // of panels pack_linear knows the size
    refuse(name + " has " + std::to_string(t.size) + " bytes, its type and shape need " + std::to_string(bytes));
}

void check_counts(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors) {
  if (ops == nullptr || n_ops < 1 || n_ops > kMaxOps) refuse("a plan needs 1 to " + str(kMaxOps) + " ops, found " +
      str(n_ops));
  if (n_tensors < 0 || n_tensors > kMaxTensors || (n_tensors > 0 && tensors == nullptr))
    refuse("a plan needs 0 to " + str(kMaxTensors) + " tensors, found " + str(n_tensors));
}

Plan decode_plan(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors,
    const sl_config& config) {
  check_counts(ops, n_ops, tensors, n_tensors);
  check_config(config);
  for (int32_t t = 0; t < n_tensors; t++) check_tensor(tensors[t], t);
  return Decoder(tensors, n_tensors, config).run(ops, n_ops);
}

}  // namespace sealift
