#include "gguf_strings.h"

#include <cstring>

namespace sealift {
namespace {

uint8_t byte(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }
bool between(uint8_t value, uint8_t low, uint8_t high) { return low <= value && value <= high; }

// The second byte of two, three or four decides whether a lead byte says too little or too much.
bool second_fits(uint8_t lead, uint8_t second) {
  switch (lead) {
    case 0xE0: return between(second, 0xA0, 0xBF);
    case 0xED: return between(second, 0x80, 0x9F);  // no surrogates
    case 0xF0: return between(second, 0x90, 0xBF);
    case 0xF4: return between(second, 0x80, 0x8F);
    default: return between(second, 0x80, 0xBF);
  }
}

// 0: no character.
size_t sound_bytes(std::string_view text) {
  const uint8_t lead = byte(text, 0);
  if (lead < 0x80) return 1;
  const size_t size = between(lead, 0xC2, 0xDF) ? 2 : between(lead, 0xE0, 0xEF) ? 3 : between(lead, 0xF0, 0xF4) ? 4 : 0;
  if (size == 0 || size > text.size() || !second_fits(lead, byte(text, 1))) return 0;
  for (size_t i = 2; i < size; i++)
    if (!between(byte(text, i), 0x80, 0xBF)) return 0;
  return size;
}

bool eight_ascii(std::string_view text) {
  uint64_t word;
  if (text.size() < sizeof word) return false;
  std::memcpy(&word, text.data(), sizeof word);
  return (word & 0x8080808080808080) == 0;
}

}  // namespace

bool Strings::next(std::string_view& text) {
  uint64_t length;
  if (left() < static_cast<int64_t>(sizeof length)) return false;
  std::memcpy(&length, at_, sizeof length);
  if (length > static_cast<uint64_t>(left()) - sizeof length) return false;
  text = {at_ + sizeof length, static_cast<size_t>(length)};
  at_ = text.data() + length;
  return true;
}

int64_t character_bytes(std::string_view text) {
  const size_t size = sound_bytes(text);
  return size == 0 ? 1 : static_cast<int64_t>(size);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t size = eight_ascii(text) ? 8 : sound_bytes(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

}  // namespace sealift
