// The one exception of the native room: a status of the C ABI and a sentence for the caller.
// It never crosses the ABI: abi.cpp turns it into a return value and sl_last_error().
#pragma once
#include <sealift.h>

#include <stdexcept>
#include <string>

namespace sealift {

struct Error : std::runtime_error {
  sl_status status;
  Error(sl_status s, const std::string& text) : std::runtime_error(text), status(s) {}
};

[[noreturn]] inline void refuse(const std::string& text) { throw Error(SL_INVALID, text); }

}  // namespace sealift
