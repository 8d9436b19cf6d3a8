// linear.cpp: packing, dispatch and the division of one product among threads.
#include "linear.h"

#include <algorithm>
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

  int64_t tallest() const { return body.tokens[body.n_tokens - 1]; }

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
    for (int i = 0; i < body.n_tokens; ++i) best = body.tokens[i] <= left ? body.tokens[i] : best;
    return best;
  }
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

const LinearBody* linear_body(int isa) {
  switch (isa) {
    case SL_ISA_AVX512_VNNI: return linear_body_avx512_vnni();  // AMD Zen 4+, Intel Ice Lake+ servers
    case SL_ISA_AVX2: return linear_body_avx2();                // Intel Haswell+, AMD Excavator and Zen 1-3
    case SL_ISA_PORTABLE: return linear_body_portable();        // anything else
    default: return nullptr;
  }
}

void FreeBytes::operator()(uint8_t* p) const { std::free(p); }

std::unique_ptr<Linear> pack_linear(const sl_tensor& tensor, int isa, Pool& pool) {
  const Format& format = format_of(tensor.type);
  check_tensor(tensor);
  if (tensor.rows < 1 || tensor.cols < 1) throw Error(SL_INVALID, "a weight needs at least one row and one column");
  if (isa == SL_ISA_BEST || !isa_supported(isa)) {
    throw Error(SL_UNSUPPORTED, "instruction set " + std::to_string(isa) + " (" + isa_name(isa) + ") cannot run here");
  }
  auto weight = std::make_unique<Linear>();
  weight->body_ = linear_body(isa);
  weight->format_ = &format;
  weight->rows_ = tensor.rows;
  weight->cols_ = tensor.cols;
  const int lanes = weight->body_->lanes;
  const int64_t panels = divide_up(tensor.rows, lanes), stride = panel_bytes(format, lanes, tensor.cols);
  weight->panel_bytes_ = stride;
  weight->bytes_ = panels * stride;
  weight->data_.reset(allocate(weight->bytes_));
  uint8_t* const data = weight->data_.get();
  pool.run(panels, [&](int64_t i, int) {
    std::memset(data + i * stride, 0, static_cast<size_t>(stride));
    pack_panel(format, tensor, i * lanes, lanes, data + i * stride);
  });
  return weight;
}

size_t linear_scratch_bytes(const Linear& weight, int64_t n) {
  const Format& format = *weight.format_;
  const int64_t token = format.bits == 0 ? weight.cols_ * 4 : weight.cols_ / GROUP * token_bytes(format.form);
  return static_cast<size_t>(token * n);
}

void linear(const Linear& weight, const float* x, int64_t x_stride, int64_t n, float* y, int64_t y_stride, const float* bias,
            void* scratch, Pool& pool) {
  if (n == 0) return;
  const LinearBody& body = *weight.body_;
  const int32_t type = weight.format_->type;
  const Tiles tiles{body, n};
  const int64_t n_tiles = tiles.count(), token = static_cast<int64_t>(linear_scratch_bytes(weight, 1));
  uint8_t* const packed = static_cast<uint8_t*>(scratch);

  const auto pack = [&](int64_t i, int) {
    int64_t first;
    int tokens;
    tiles.at(i, first, tokens);
    body.pack_x(type, x + first * x_stride, x_stride, weight.cols_, tokens, packed + first * token);
  };
  if (n * weight.cols_ <= SERIAL_PACK) {
    for (int64_t i = 0; i < n_tiles; ++i) pack(i, 0);
  } else {
    pool.run(n_tiles, pack);
  }

  // A task is a run of panels against a run of tiles.
  const int64_t panels = divide_up(weight.rows_, body.lanes), wanted = TASKS_PER_THREAD * pool.threads();
  const int64_t task_bytes = n_tiles == 1 ? GEMV_TASK_BYTES : GEMM_TASK_BYTES;
  const int64_t run = std::clamp(std::min(task_bytes / weight.panel_bytes_, divide_up(panels, wanted)), int64_t{1}, panels);
  const int64_t runs = divide_up(panels, run);
  const int64_t cuts = std::clamp(divide_up(wanted, runs), int64_t{1}, n_tiles);
  pool.run(runs * cuts, [&](int64_t i, int) {
    const int64_t first_panel = i / cuts * run, last_panel = std::min(first_panel + run, panels);
    const int64_t first_tile = i % cuts * n_tiles / cuts, last_tile = (i % cuts + 1) * n_tiles / cuts;
    for (int64_t t = first_tile; t < last_tile; ++t) {
      int64_t first;
      int tokens;
      tiles.at(t, first, tokens);
      const TileKernel kernel = body.kernel(type, tokens);
      for (int64_t p = first_panel; p < last_panel; ++p) {
        const int64_t row = p * body.lanes;
        kernel(Tile{weight.data_.get() + p * weight.panel_bytes_, packed + first * token, y + first * y_stride + row,
                    bias != nullptr ? bias + row : nullptr, y_stride, weight.cols_,
                    static_cast<int>(std::min<int64_t>(body.lanes, weight.rows_ - row))});
      }
    }
  });
}

}  // namespace sealift
