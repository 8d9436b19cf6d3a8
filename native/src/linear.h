// linear.h: y = x . W^T for every weight format, through packed panels (linear_layout.h says how they look).
//
// Invariants, for one weight and one instruction set:
// * Row r of y depends on row r of x alone: the same bits for every n, every position in the batch, every thread count.
// * Each element of y is summed by one task, over k in ascending order.
// * A row of x with a value that is not finite gives nothing finite in that row of y, and changes no other row.
// Integer formats round x to 8 bits per 32 values (scale = largest magnitude / 127, or less for codes of 4 bits with AVX-512
// VNNI, which multiplies half of them in pairs: quant_top in linear_layout.h). F32, F16 and BF16 do not round x, but for bodies that pack F16 and BF16
// as fixed point (AVX-512): those round x to 14 bits and the weight to 14 to 16 bits, sign included, per 32 values, which
// errs less on average than llama.cpp's x in float16 (F16) and far less than its x in bfloat16 (BF16), at twice
// float32's rate (linear_fixed.cpp; tests/native/test_linear.py). With AMX the bits of formats that are not of 4 bits, F32
// and F16 are those of AVX-512 VNNI; BF16 is multiplied as it is, with 16 bits of x
// (linear_amx.inc).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "formats.h"
#include "isa.h"
#include "sealift.h"

namespace sealift {

class Pool;
struct LinearBody;  // linear_body.h: the kernels of one instruction set

struct FreeBytes {
  void operator()(uint8_t* p) const;
};

// A weight matrix packed for one instruction set, in memory of its own or in the caller's. Made by pack_linear only.
class Linear {
 public:
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t bytes() const { return bytes_; }
  void row(int64_t row, float* out) const;  // out[cols]: the values that are multiplied with: exact, but for fixed point

 private:
  friend std::unique_ptr<Linear> pack_linear(const sl_tensor&, int, Pool&);
  friend class Products;
  int64_t rows_ = 0, cols_ = 0, bytes_ = 0;
  int64_t panel_bytes_ = 0;
  const Format* format_ = nullptr;
  const LinearBody* body_ = nullptr;
  const uint8_t* data_ = nullptr;  // [panels, panel_bytes_]
  std::unique_ptr<uint8_t, FreeBytes> own_;  // null where the panels are the caller's
};

// isa: a resolved, supported sl_isa. Throws Error on a malformed tensor or an instruction set this machine lacks.
// A tensor given as panels is read in place; it must outlive the result.
std::unique_ptr<Linear> pack_linear(const sl_tensor& tensor, int isa, Pool& pool);

// Bytes of all panels of a matrix of this shape and type, and the panels themselves: out[packed_bytes()], 64-byte aligned.
int64_t packed_bytes(const sl_tensor& shape, int isa);
void pack_panels(const sl_tensor& tensor, int isa, Pool& pool, uint8_t* out);

// y[n, rows of the weight] = x[n, cols] . W^T + bias[rows] (may be null).
struct Product {
  const Linear* weight;
  float* y;
  const float* bias;
};

constexpr size_t kMaxProducts = 8;  // in one call of linear()

// Bytes of scratch that linear() needs for n rows; the caller aligns it to 64 bytes.
size_t linear_scratch_bytes(std::span<const Product> products, int64_t n);

// 1 to kMaxProducts products of one x (leading dimension x_stride) with weights packed for one instruction set: x is
// quantized once for all that read it alike, and the threads meet once. The bits are those of one call for each.
void linear(std::span<const Product> products, const float* x, int64_t x_stride, int64_t n, void* scratch, Pool& pool);

}  // namespace sealift
