// linear.h: y = x . W^T for every weight format, through packed panels (linear_layout.h says how they look).
//
// Invariants, for one weight and one instruction set:
// * Row r of y depends on row r of x alone: the same bits for every n, every position in the batch, every thread count.
// * Each element of y is summed by one task, over k in ascending order.
// * A row of x with a value that is not finite gives nothing finite in that row of y, and changes no other row.
// Integer formats round x to 8 bits per 32 values (scale = largest magnitude / 127); F32, F16 and BF16 do not round x.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "formats.h"
#include "isa.h"
#include "sealift.h"

namespace sealift {

class Pool;
struct LinearBody;  // linear_body.h: the kernels of one instruction set

struct FreeBytes {
  void operator()(uint8_t* p) const;
};

// A weight matrix packed for one instruction set. Made by pack_linear only.
class Linear {
 public:
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t bytes() const { return bytes_; }

 private:
  friend std::unique_ptr<Linear> pack_linear(const sl_tensor&, int, Pool&);
  friend size_t linear_scratch_bytes(const Linear&, int64_t);
  friend void linear(const Linear&, const float*, int64_t, int64_t, float*, int64_t, const float*, void*, Pool&);
  int64_t rows_ = 0, cols_ = 0, bytes_ = 0;
  int64_t panel_bytes_ = 0;
  const Format* format_ = nullptr;
  const LinearBody* body_ = nullptr;
  std::unique_ptr<uint8_t, FreeBytes> data_;  // [panels, panel_bytes_]
};

// isa: a resolved, supported sl_isa. Throws Error on a malformed tensor or an instruction set this machine lacks.
std::unique_ptr<Linear> pack_linear(const sl_tensor& tensor, int isa, Pool& pool);

// Bytes of scratch that linear() needs for n rows; the caller aligns it to 64 bytes.
size_t linear_scratch_bytes(const Linear& weight, int64_t n);

// y[n, rows] (leading dimension y_stride) = x[n, cols] (leading dimension x_stride) . W^T + bias[rows] (may be null).
void linear(const Linear& weight, const float* x, int64_t x_stride, int64_t n, float* y, int64_t y_stride, const float* bias,
            void* scratch, Pool& pool);

}  // namespace sealift
