// Plans and tensors that are nearly right, and ways to spoil them.
#pragma once
#include <sealift.h>

#include <memory>
#include <vector>

#include "input.h"

namespace fuzz {

struct Size {
  int32_t type, block, bytes;
};
constexpr Size kTypes[] = {{SL_F32, 1, 4},     {SL_F16, 1, 2},      {SL_BF16, 1, 2},     {SL_Q4_0, 32, 18},
                           {SL_Q4_1, 32, 20},  {SL_Q5_0, 32, 22},   {SL_Q5_1, 32, 24},   {SL_Q8_0, 32, 34},
                           {SL_Q4_K, 256, 144}, {SL_Q5_K, 256, 176}, {SL_Q6_K, 256, 210}};
constexpr int64_t kLargest = 1 << 20;  // bytes of one tensor made here

// Tensors and the memory they point to.
class Tensors {
 public:
  explicit Tensors(Bytes& bytes) : bytes_(bytes) {}

  int32_t add(int64_t rows, int64_t cols, bool plain) {
    Size size = plain ? kTypes[0] : bytes_.of(kTypes);
    if (cols % size.block != 0) size = kTypes[bytes_.below(3)];
    const auto bytes = static_cast<uint64_t>(rows * (cols / size.block) * size.bytes);
    made_.push_back({nullptr, bytes, rows, cols, size.type, 0});
    return static_cast<int32_t>(made_.size()) - 1;
  }

  // One field becomes something else. Where a size is claimed, that much memory is there: it is the caller's part.
  void spoil() {
    if (made_.empty()) return;
    sl_tensor& t = made_[static_cast<size_t>(bytes_.below(static_cast<int>(made_.size())))];
    switch (bytes_.below(6)) {
      case 0: t.rows = bytes_.one_in(2) ? bytes_.odd() : static_cast<int64_t>(bytes_.bits()); break;
      case 1: t.cols = bytes_.one_in(2) ? bytes_.odd() : static_cast<int64_t>(bytes_.bits()); break;
      case 2: t.type = bytes_.one_in(2) ? bytes_.odd() : bytes_.of(kTypes).type; break;
      case 3: t.size = static_cast<uint64_t>(bytes_.odd()); break;
      case 4: spoil_last(t, bytes_.odd()); break;
      default: null_ = bytes_.one_in(8); break;
    }
    if (bytes_.one_in(2)) t.size = honest(t);
  }

  const sl_tensor* fill() {
    for (sl_tensor& t : made_) {
      if (t.size > static_cast<uint64_t>(kLargest)) t.size %= kLargest;  // a claim that memory can follow
      Exact<uint8_t>& data = any(t.size, 0);
      if (bytes_.byte() >= 64) tame(t.type, data);
      t.data = null_ ? nullptr : data.data();
    }
    return made_.data();
  }

  // After fill(): a tensor becomes panels of any bytes, which change values and never what is read.
  void pack(int32_t isa) {
    sl_tensor& t = made_[static_cast<size_t>(bytes_.below(count()))];
    int64_t size = 0;
    if (sl_packed_bytes(&t, isa, &size) != SL_OK || size > kLargest) return;
    t = {any(static_cast<size_t>(size), 64).data(), static_cast<uint64_t>(size), t.rows, t.cols, t.type, isa};
  }

  int32_t count() const { return static_cast<int32_t>(made_.size()); }

 private:
  Exact<uint8_t>& any(size_t size, size_t align) {
    memory_.push_back(std::make_unique<Exact<uint8_t>>(size, align));
    Exact<uint8_t>& data = *memory_.back();
    const bool same = bytes_.one_in(16);
    const uint8_t pattern = bytes_.byte();
    uint32_t state = static_cast<uint32_t>(bytes_.bits() | 1);
    for (size_t i = 0; i < data.size(); i++) {
      state = state * 1664525 + 1013904223;
      data[i] = same ? pattern : static_cast<uint8_t>(state >> 24);
    }
    return data;
  }

  // Ordinary numbers, for what is not finite everywhere stops at the first op. Every float16 of a block format lies at
  // an even place: without these bits of its second byte it is below 1/4.
  static void tame(int32_t type, Exact<uint8_t>& data) {
    if (type != SL_F32) {
      for (size_t i = 1; i < data.size(); i += 2) data[i] &= 0xb3;
      return;
    }
    for (size_t i = 0; i + 4 <= data.size(); i += 4) {
      const float value = static_cast<float>(static_cast<int8_t>(data[i])) / 64;
      std::memcpy(data.data() + i, &value, 4);
    }
  }

  // The last field says how the bytes lie, or is unused.
  static void spoil_last(sl_tensor& t, int32_t value) {
    std::memcpy(reinterpret_cast<char*>(&t + 1) - sizeof value, &value, sizeof value);
  }

  static uint64_t honest(const sl_tensor& t) {
    for (const Size& size : kTypes)
      if (size.type == t.type && t.rows > 0 && t.cols > 0 && t.rows < kLargest && t.cols < kLargest)
        return static_cast<uint64_t>(t.rows * (t.cols / size.block) * size.bytes);
    return t.size;
  }

  Bytes& bytes_;
  std::vector<sl_tensor> made_;
  std::vector<std::unique_ptr<Exact<uint8_t>>> memory_;
  bool null_ = false;
};

// A plan of random ops over slots that exist, most of them right.
class Planner {
 public:
  Planner(Bytes& bytes, Tensors& tensors) : bytes_(bytes), tensors_(tensors) {}

  std::vector<sl_op> run() {
    constexpr int kVocabs[] = {1, 7, 32, 61, 256}, kWidths[] = {1, 8, 33, 64, 96, 256};
    vocab_ = bytes_.of(kVocabs);
    const int width = bytes_.of(kWidths);
    int32_t x = put(SL_EMBED, width, SL_NONE, SL_NONE, SL_NONE, tensors_.add(vocab_, width, false), {}, {1.0f, 0});
    for (int n = bytes_.below(6); n > 0; n--) x = block(x);
    const bool pools = bytes_.one_in(4);
    const Ints how{{pools ? bytes_.below(2) : 0}};
    x = put(pools ? SL_POOL : SL_PICK, widths_[static_cast<size_t>(x)], x, SL_NONE, SL_NONE, SL_NONE, how, {});
    if (!pools) linear(x, vocab_);
    return ops_;
  }

  void spoil() {
    sl_op& op = ops_[static_cast<size_t>(bytes_.below(static_cast<int>(ops_.size())))];
    const int field = bytes_.below(14);
    int32_t words[14];
    static_assert(sizeof words == sizeof op);
    std::memcpy(words, &op, sizeof op);
    if (field < 12) words[field] = bytes_.one_in(2) ? bytes_.odd() : bytes_.from(-1, 20);
    else {
      const float value = bytes_.number();
      std::memcpy(words + field, &value, 4);
    }
    std::memcpy(&op, words, sizeof op);
  }

  std::vector<sl_op>& ops() { return ops_; }
  int vocab() const { return vocab_; }

 private:
  struct Ints { int32_t i[5]; };
  struct Floats { float f[2]; };

  int32_t put(int32_t kind, int width, int32_t a, int32_t b, int32_t c, int32_t weight, Ints i, Floats f,
      int32_t bias = SL_NONE) {
    sl_op op{kind, static_cast<int32_t>(ops_.size()), a, b, c, weight, bias, {}, {}};
    std::memcpy(op.i, i.i, sizeof op.i);
    std::memcpy(op.f, f.f, sizeof op.f);
    ops_.push_back(op);
    widths_.push_back(width);
    return op.out;
  }

  int32_t linear(int32_t x, int width) {
    const int32_t bias = bytes_.one_in(4) ? tensors_.add(1, width, true) : SL_NONE;
    const int32_t weight = tensors_.add(width, widths_[static_cast<size_t>(x)], false);
    return put(SL_LINEAR, width, x, SL_NONE, SL_NONE, weight, {}, {}, bias);
  }

  int32_t block(int32_t x) {
    const int width = widths_[static_cast<size_t>(x)];
    switch (bytes_.below(9)) {
      case 0: return put(SL_RMS_NORM, width, x, SL_NONE, SL_NONE, tensors_.add(1, width, true), {{width}}, {1e-6f, 0});
      case 1: {
        const int ff = bytes_.from(1, 70);
        const int32_t gate = linear(x, ff), up = linear(x, ff);
        return linear(put(SL_GLU, ff, gate, up, SL_NONE, SL_NONE, {{bytes_.below(3)}}, {}), width);
      }
      case 2: return put(SL_SOFTCAP, width, x, SL_NONE, SL_NONE, SL_NONE, {}, {std::abs(bytes_.number()), 0});
      case 3: return put(SL_ADD, width, x, bytes_.below(x + 1), SL_NONE, SL_NONE, {}, {});
      case 4: {
        const int32_t bias = tensors_.add(1, width, true);
        return put(SL_LAYER_NORM, width, x, SL_NONE, SL_NONE, tensors_.add(1, width, true), {}, {1e-6f, 0}, bias);
      }
      case 5: return put(SL_ACTIVATE, width, x, SL_NONE, SL_NONE, SL_NONE, {{bytes_.below(3)}}, {});
      case 6: {
        const int32_t places = tensors_.add(bytes_.from(1, 200), width, false);
        const int32_t place = put(SL_PLACE, width, SL_NONE, SL_NONE, SL_NONE, places, {}, {});
        return put(SL_ADD, width, x, place, SL_NONE, SL_NONE, {}, {});
      }
      case 7: return put(SL_SHIFT, width, x, SL_NONE, SL_NONE, tensors_.add(1, width, true), {}, {});
      default: return bytes_.one_in(3) ? attention_all(x, width) : attention(x, width);
    }
  }

  int32_t attention_all(int32_t x, int width) {
    const int kv = bytes_.from(1, 3), heads = kv * bytes_.from(1, 4), head = bytes_.from(1, 48);
    const int32_t q = linear(x, heads * head), k = linear(x, kv * head), v = linear(x, kv * head);
    return linear(put(SL_ATTEND_ALL, heads * head, q, k, v, SL_NONE, {{heads, kv, head}}, {0.2f, 0}), width);
  }

  int32_t attention(int32_t x, int width) {
    const int kv = bytes_.from(1, 3), heads = kv * bytes_.from(1, 4), head = 2 * bytes_.from(1, 24);
    const int32_t q0 = linear(x, heads * head), k0 = linear(x, kv * head), v = linear(x, kv * head);
    const int rotary = 2 * bytes_.from(1, head / 2);
    const int32_t factors = bytes_.one_in(3) ? tensors_.add(1, rotary / 2, true) : SL_NONE;
    const Ints rope{{head, rotary, bytes_.below(2)}};
    const int32_t q = put(SL_ROPE, heads * head, q0, SL_NONE, SL_NONE, factors, rope, {1e4f, 1});
    const int32_t k = put(SL_ROPE, kv * head, k0, SL_NONE, SL_NONE, factors, rope, {1e4f, 1});
    const int window = bytes_.one_in(2) ? 0 : bytes_.from(1, 90);
    const float cap = bytes_.one_in(2) ? 0 : 5;
    const Ints facts{{layers_++, heads, kv, head, window}};
    const int32_t a = put(SL_ATTEND, heads * head, q, k, v, SL_NONE, facts, {0.2f, cap});
    return linear(a, width);
  }

  Bytes& bytes_;
  Tensors& tensors_;
  std::vector<sl_op> ops_;
  std::vector<int> widths_;
  int vocab_ = 0, layers_ = 0;
};

}  // namespace fuzz
