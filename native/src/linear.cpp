// linear.cpp: packing, dispatch and the division of one product among threads.
#include "linear.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "errors.h"
#include "linear_body.h"
#include "linear_layout.h"
#include "pool.h"

namespace sealift {
namespace {

constexpr int64_t HUGE_PAGE = int64_t{2} << 20;

// Weights of one task at most: with one tile of activations (up to 150 kB) they stay in a core's second level cache (1 MB on
// Zen 4, 2 MB on Sapphire Rapids) while all tiles pass over them.
constexpr int64_t GEMM_TASK_BYTES = 384 << 10;
// Small enough that a late thread can be overtaken (about 6 us of reading at 20 GB/s), large enough to pay for a claim.
constexpr int64_t GEMV_TASK_BYTES = 128 << 10;
constexpr int64_t TASKS_PER_THREAD = 6;  // so that the last one to finish is late by a sixth of its share at most
// Values of x up to which the caller quantizes alone: a few microseconds of work, about what waking a thread costs.
// An estimate, not measured.
constexpr int64_t SERIAL_PACK = 16 << 10;

// 64-byte aligned zeros; on huge pages where the system gives them, because decode reads everything once per token.
uint8_t* allocate(int64_t bytes) {
  const int64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
  const int64_t size = (bytes + align - 1) / align * align;
  void* p = std::aligned_alloc(static_cast<size_t>(align), static_cast<size_t>(size));
  if (p == nullptr) throw Error(SL_NOMEM, "no memory for " + std::to_string(bytes) + " bytes of packed weights");
#if defined(__linux__)
  if (align == HUGE_PAGE) (void)madvise(p, static_cast<size_t>(size), MADV_HUGEPAGE);  // advice: failure costs speed only
#endif
  return static_cast<uint8_t*>(p);
}

// How n tokens are cut into tiles: as many of the tallest as fit, then ever smaller ones. The cut cannot be seen in the
// result, because every kernel sums every token in the same order.
struct Tiles {
  const LinearBody& body;
  int64_t n;
  int heights;  // of body.tokens: how many may be used

  int64_t tallest() const { return body.tokens[heights - 1]; }

  int64_t count() const {
    int64_t count = n / tallest();
    for (int64_t left = n % tallest(); left > 0; left -= tallest_within(left)) ++count;
    return count;
  }

  // Tile i covers tokens first .. first + tokens - 1.
  void at(int64_t i, int64_t& first, int& tokens) const {
    const int64_t whole = n / tallest();
    first = std::min(i, whole) * tallest();
    tokens = static_cast<int>(i < whole ? tallest() : tallest_within(n - first));
    for (; i > whole; --i) {
      first += tokens;
      tokens = tallest_within(n - first);
    }
  }

  int tallest_within(int64_t left) const {
    int best = 1;
    for (int i = 0; i < heights; ++i) best = body.tokens[i] <= left ? body.tokens[i] : best;
    return best;
  }
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_panels(const sl_tensor& tensor, int isa, int64_t bytes) {
  if (tensor.packed != isa || tensor.size != static_cast<uint64_t>(bytes) || reinterpret_cast<uintptr_t>(tensor.data) % 64 != 0) {
    throw Error(SL_INVALID, "panels of " + std::to_string(tensor.size) + " bytes for instruction set " +
                                std::to_string(tensor.packed) + ", expected " + std::to_string(bytes) + " bytes for " +
                                std::to_string(isa) + ", aligned to 64");
  }
}

}  // namespace

const LinearBody* linear_body(int isa) {
  switch (isa) {
    case SL_ISA_AVX512_AMX: return linear_body_avx512_amx();    // Intel Sapphire Rapids+ servers
    case SL_ISA_AVX512_VNNI: return linear_body_avx512_vnni();  // AMD Zen 4+, Intel Ice Lake+ servers
    case SL_ISA_AVX2: return linear_body_avx2();                // Intel Haswell+, AMD Excavator and Zen 1-3
    case SL_ISA_PORTABLE: return linear_body_portable();        // anything else
    default: return nullptr;
  }
}

const Format& panel_format(int32_t type, const LinearBody& body) {
  if (body.pairs && type == SL_BF16) return PAIRS;
  return body.fixed && (type == SL_F16 || type == SL_BF16) ? FIXED : format_of(type);
}

void FreeBytes::operator()(uint8_t* p) const { std::free(p); }

int64_t packed_bytes(const sl_tensor& shape, int isa) {
  const LinearBody& body = *linear_body(isa);
  return divide_up(shape.rows, body.lanes) * panel_bytes(panel_format(shape.type, body), body.lanes, shape.cols);
}

void pack_panels(const sl_tensor& tensor, int isa, Pool& pool, uint8_t* out) {
  const LinearBody& body = *linear_body(isa);
  const Format& format = panel_format(tensor.type, body);
  const int lanes = body.lanes;
  const int64_t stride = panel_bytes(format, lanes, tensor.cols);
  check_tensor(tensor);
  pool.run(divide_up(tensor.rows, lanes), [&](int64_t i, int) {
    std::memset(out + i * stride, 0, static_cast<size_t>(stride));
    pack_panel(format, tensor, i * lanes, lanes, out + i * stride);
  });
}

std::unique_ptr<Linear> pack_linear(const sl_tensor& tensor, int isa, Pool& pool) {
  if (tensor.rows < 1 || tensor.cols < 1) throw Error(SL_INVALID, "a weight needs at least one row and one column");
  if (isa == SL_ISA_BEST || !isa_supported(isa)) {
    throw Error(SL_UNSUPPORTED, "instruction set " + std::to_string(isa) + " (" + isa_name(isa) + ") cannot run here");
  }
  auto weight = std::make_unique<Linear>();
  weight->body_ = linear_body(isa);
  const Format& format = panel_format(tensor.type, *weight->body_);
  weight->format_ = &format;
  weight->rows_ = tensor.rows;
  weight->cols_ = tensor.cols;
  weight->panel_bytes_ = panel_bytes(format, weight->body_->lanes, tensor.cols);
  weight->bytes_ = packed_bytes(tensor, isa);
  if (tensor.packed != 0) {
    check_panels(tensor, isa, weight->bytes_);
    weight->data_ = static_cast<const uint8_t*>(tensor.data);
    return weight;
  }
  check_tensor(tensor);
  weight->own_.reset(allocate(weight->bytes_));
  weight->data_ = weight->own_.get();
  pack_panels(tensor, isa, pool, weight->own_.get());
  return weight;
}

// Products of one x: how they share its packed forms and how the work is cut. Nothing here can change a bit of a result.
class Products {
 public:
  Products(std::span<const Product> products, int64_t n)
      : products_(products), tiles_{*products[0].weight->body_, n, heights(products)} {
    n_tiles_ = tiles_.count();
    for (size_t p = 0; p < products.size(); ++p) form_[p] = form_of(*products[p].weight->format_);
  }

  int64_t scratch_bytes() const { return bytes_; }

  void run(const float* x, int64_t x_stride, uint8_t* scratch, Pool& pool) {
    pack(x, x_stride, scratch, pool);
    int64_t panels = 0, tasks = 0;
    for (const Product& product : products_) panels += panels_of(*product.weight);
    for (size_t p = 0; p < products_.size(); ++p) {
      shares_[p] = share(*products_[p].weight, panels, pool.threads());
      shares_[p].first = tasks;
      tasks += shares_[p].runs * shares_[p].cuts;
    }
    pool.run(tasks, [&](int64_t task, int) {
      size_t p = products_.size() - 1;
      while (task < shares_[p].first) --p;
      multiply(p, task - shares_[p].first, scratch);
    });
  }

 private:
  struct XForm {  // one packed form of x
    const Format* format;
    int64_t token, at;  // bytes of a token; where it lies in scratch
  };
  struct Share {  // a task is `run` panels against one of `cuts` runs of tiles
    int64_t first, run, runs, cuts;
  };

  static int heights(std::span<const Product> products) {
    const LinearBody& body = *products[0].weight->body_;
    const auto plain = [](const Product& product) {
      const Format& format = *product.weight->format_;
      return format.bits % 16 == 0 && format.form != Form::PAIRS;
    };
    return std::any_of(products.begin(), products.end(), plain) ? body.n_plain : body.n_tokens;
  }

  int64_t panels_of(const Linear& weight) const { return divide_up(weight.rows_, tiles_.body.lanes); }

  bool alike(const Format& a, const Format& b) const {
    if (a.bits % 16 == 0 || b.bits % 16 == 0) return a.bits == b.bits && a.form == b.form;  // plain, fixed point, pairs
    const bool super6 = a.form == Form::SUPER6;
    if (super6 != (b.form == Form::SUPER6) || a.has_min != b.has_min) return false;
    return largest_q(a.bits, tiles_.body.in_pairs) == largest_q(b.bits, tiles_.body.in_pairs) && (a.has_min || a.zero == b.zero);
  }

  int form_of(const Format& format) {
    for (int i = 0; i < n_forms_; ++i)
      if (alike(*forms_[static_cast<size_t>(i)].format, format)) return i;
    const int64_t cols = products_[0].weight->cols_;
    const int64_t token =
        format.bits == 0 ? cols * 4 : divide_up(cols, GROUP) * token_bytes(format.form, format.has_min);
    forms_[static_cast<size_t>(n_forms_)] = {&format, token, bytes_};
    bytes_ += divide_up(token * tiles_.n, 64) * 64;
    return n_forms_++;
  }

  void pack(const float* x, int64_t x_stride, uint8_t* scratch, Pool& pool) {
    const int64_t cols = products_[0].weight->cols_;
    const auto task = [&](int64_t i, int) {
      const XForm& form = forms_[static_cast<size_t>(i / n_tiles_)];
      int64_t first;
      int tokens;
      tiles_.at(i % n_tiles_, first, tokens);
      tiles_.body.pack_x(form.format->type, x + first * x_stride, x_stride, cols, tokens,
                         scratch + form.at + first * form.token);
    };
    if (tiles_.n * cols > SERIAL_PACK) return pool.run(n_forms_ * n_tiles_, task);
    for (int64_t i = 0; i < n_forms_ * n_tiles_; ++i) task(i, 0);
  }

  // all_panels: of all products together.
  Share share(const Linear& weight, int64_t all_panels, int threads) const {
    const int64_t panels = panels_of(weight), wanted = TASKS_PER_THREAD * threads;
    const int64_t task_bytes = n_tiles_ == 1 ? GEMV_TASK_BYTES : GEMM_TASK_BYTES;
    const int64_t most = std::min(task_bytes / weight.panel_bytes_, divide_up(all_panels, wanted));
    const int64_t run = std::clamp(most, int64_t{1}, panels), runs = divide_up(panels, run);
    const int64_t all_runs = divide_up(all_panels, run);
    return {0, run, runs, std::clamp(divide_up(wanted, all_runs), int64_t{1}, n_tiles_)};
  }

  void multiply(size_t p, int64_t task, const uint8_t* scratch) const {
    const Product& product = products_[p];
    const Linear& weight = *product.weight;
    const Share& share = shares_[p];
    const XForm& form = forms_[static_cast<size_t>(form_[p])];
    const int64_t first_panel = task / share.cuts * share.run;
    const int64_t last_panel = std::min(first_panel + share.run, panels_of(weight));
    const int64_t cut = task % share.cuts, last_tile = (cut + 1) * n_tiles_ / share.cuts;
    for (int64_t t = cut * n_tiles_ / share.cuts; t < last_tile; ++t) {
      int64_t first;
      int tokens;
      tiles_.at(t, first, tokens);
      const TileKernel kernel = tiles_.body.kernel(weight.format_->type, tokens);
      for (int64_t i = first_panel; i < last_panel; ++i) {
        const int64_t row = i * tiles_.body.lanes;
        kernel(Tile{weight.data_ + i * weight.panel_bytes_, scratch + form.at + first * form.token,
                    product.y + first * weight.rows_ + row, product.bias != nullptr ? product.bias + row : nullptr,
                    weight.rows_, weight.cols_, static_cast<int>(std::min<int64_t>(tiles_.body.lanes, weight.rows_ - row))});
      }
    }
  }

  std::span<const Product> products_;
  const Tiles tiles_;
  int64_t n_tiles_ = 0, bytes_ = 0;
  int n_forms_ = 0;
  std::array<XForm, kMaxProducts> forms_{};
  std::array<int, kMaxProducts> form_{};
  std::array<Share, kMaxProducts> shares_{};
};

size_t linear_scratch_bytes(std::span<const Product> products, int64_t n) {
  return static_cast<size_t>(Products(products, n).scratch_bytes());
}

void linear(std::span<const Product> products, const float* x, int64_t x_stride, int64_t n, void* scratch, Pool& pool) {
  if (n > 0) Products(products, n).run(x, x_stride, static_cast<uint8_t*>(scratch), pool);
}

void Linear::row(int64_t row, float* out) const {
  unpack_row(*format_, data_ + row / body_->lanes * panel_bytes_, static_cast<int>(row % body_->lanes), body_->lanes,
             cols_, out);
}

}  // namespace sealift
