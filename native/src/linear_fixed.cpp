// linear_fixed.cpp: F16 and BF16 matrices as panels of fixed point (linear_layout.h), for bodies that multiply 16-bit
// integers faster than float32. Runs once per tensor.
//
// Per row and 32 columns: code = w / 2^e rounded to even, with the least e for which |code| < 2^15 and sum |code| <= BUDGET.
// With 32 x of at most 8191 the sum of products then stays below 2^31, whatever their signs. 32 equal weights get 13 bits,
// normally distributed ones mostly 14, a few large among small 15: off by half a step, 2^-13 to 2^-16 of the largest, and the
// larger values of F16 and nearly all of BF16 by nothing. e is not below -126: weights below 2^-126 may become zero. A group
// with a value that is not finite is marked by NOT_FINITE: whatever is multiplied with it gives NaN.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "linear_layout.h"

namespace sealift {
namespace {

constexpr int MOST_BITS = 15;
constexpr int64_t BUDGET = INT32_MAX / FIXED_LEVELS;
constexpr int LEAST = -126;
constexpr int8_t NOT_FINITE = -128;  // read as an exponent: that of -infinity

// codes[GROUP] = w[GROUP] / 2^exponent; returns the sum of their magnitudes.
int64_t codes_of(const float* w, int exponent, int16_t* codes) {
  const double inverse = std::ldexp(1.0, -exponent);
  int64_t sum = 0;
  for (int k = 0; k < GROUP; ++k) {
    codes[k] = static_cast<int16_t>(std::nearbyint(w[k] * inverse));
    sum += std::abs(int{codes[k]});
  }
  return sum;
}

// codes[GROUP] of w[GROUP]; returns the exponent of the step.
int8_t fixed_codes(const float* w, int16_t* codes) {
  float largest = 0;
  for (int k = 0; k < GROUP; ++k) {
    if (!std::isfinite(w[k])) {
      std::fill(codes, codes + GROUP, int16_t{0});
      return NOT_FINITE;
    }
    largest = std::max(largest, std::fabs(w[k]));
  }
  int exponent = 0;
  std::frexp(largest, &exponent);  // largest = [0.5, 1) * 2^exponent
  exponent = std::max(exponent - MOST_BITS, LEAST);
  while (codes_of(w, exponent, codes) > BUDGET) ++exponent;  // twice at most: 32 * 8191 is within it
  return static_cast<int8_t>(exponent);
}

}  // namespace

const Format FIXED = {FIXED16, "fixed", 1, 2, 16, 0, false, Form::FIXED, nullptr};

void pack_fixed_row(const sl_tensor& tensor, const uint8_t* src, int lane, int lanes, uint8_t* out) {
  for (int64_t k = 0; k < tensor.cols; k += CHUNK) {
    const int64_t columns = whole_groups(std::min<int64_t>(CHUNK, tensor.cols - k));
    uint8_t* exponents = out;
    out += scale_bytes(Form::FIXED, false, lanes, columns);
    for (int64_t g = 0; g < columns; g += GROUP, exponents += lanes) {
      float w[GROUP] = {};
      int16_t codes[GROUP];
      for (int64_t i = 0; i < GROUP && k + g + i < tensor.cols; ++i) w[i] = plain_value(tensor.type, src + 2 * (k + g + i));
      exponents[lane] = static_cast<uint8_t>(fixed_codes(w, codes));
      for (int pair = 0; pair < GROUP / 2; ++pair, out += 4 * lanes) std::memcpy(out + 4 * lane, codes + 2 * pair, 4);
    }
  }
}

void unpack_fixed_row(const uint8_t* panel, int lane, int lanes, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; k += CHUNK) {
    const int64_t columns = whole_groups(std::min<int64_t>(CHUNK, cols - k));
    const uint8_t* exponents = panel;
    panel += scale_bytes(Form::FIXED, false, lanes, columns);
    for (int64_t i = 0; i < std::min<int64_t>(CHUNK, cols - k); ++i) {
      const auto exponent = static_cast<int8_t>(exponents[i / GROUP * lanes + lane]);
      int16_t code;
      std::memcpy(&code, panel + i / 2 * 4 * lanes + 4 * lane + 2 * (i % 2), 2);
      out[k + i] = exponent == NOT_FINITE ? NAN : std::ldexp(static_cast<float>(code), exponent);
    }
    panel += columns / GROUP * code_bytes(FIXED.bits, lanes);
  }
}

}  // namespace sealift
