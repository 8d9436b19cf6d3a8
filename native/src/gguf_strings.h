// The strings of a GGUF as they lie in the file: each a u64 length and its bytes, one behind the other.
#pragma once
#include <cstdint>
#include <string_view>

namespace sealift {

class Strings {
 public:
  Strings(const void* data, int64_t size) : at_(static_cast<const char*>(data)), end_(at_ + size) {}
  // The next one. Returns false, and stays, where it is not whole.
  bool next(std::string_view& text);
  const char* at() const { return at_; }
  int64_t left() const { return end_ - at_; }

 private:
  const char *at_, *end_;
};

// Bytes of the character at the front of a text that is not empty, 1 where it is none: RFC 3629, section 4.
int64_t character_bytes(std::string_view text);
bool is_utf8(std::string_view text);

}  // namespace sealift
