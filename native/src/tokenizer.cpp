// The tables; merge.cpp merges by them.
#include "tokenizer.h"

#include <sealift.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "errors.h"
#include "gguf_strings.h"

namespace sealift {
namespace {

uint64_t secret() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

// Both halves of the product of all bits: each bit of either factor reaches the upper half or the lower.
uint64_t mixed(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

template <class Word>
uint64_t load(const char* data) {
  Word word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

// At most eight bytes as a number, different for different bytes of the same size: what is read twice does no harm.
uint64_t up_to_eight(const char* data, size_t size) {
  if (size >= 4) return load<uint32_t>(data) << 32 | load<uint32_t>(data + size - 4);
  if (size >= 2) return load<uint16_t>(data) << 16 | load<uint16_t>(data + size - 2);
  return size == 1 ? load<uint8_t>(data) : 0;
}

bool same(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  if (a.size() > 8) return std::memcmp(a.data(), b.data(), a.size()) == 0;
  return up_to_eight(a.data(), a.size()) == up_to_eight(b.data(), b.size());
}

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

void check_table(const void* texts, int64_t size, int64_t n, int64_t most) {
  if (n < 0 || n > most) refuse("tokenizer: too many strings");
  if (size < 0 || size > kMaxTexts || (!texts && size > 0)) refuse("tokenizer: the size of the strings is out of range");
  if (size / 8 < n) refuse("tokenizer: so many strings do not fit in their bytes");
}

std::string_view next(Strings& strings) {
  std::string_view text;
  if (!strings.next(text)) refuse("a string goes beyond the end");
  return text;
}

// A merge's two parts: what is before the first blank behind the first character, and after it.
size_t blank(std::string_view merge) {
  const size_t at = merge.find(' ', 1);
  if (at == std::string_view::npos || at + 1 == merge.size()) refuse("a merge is not two parts");
  return at;
}

constexpr uint64_t kNoPair = ~uint64_t{0};

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Tokens::Tokens(const void* texts, int64_t size, int32_t n, int32_t most_characters, int32_t& row)
    : secret_(secret()), factor_(secret() | 1) {
  check_table(texts, size, n, kMaxTokens);
  if (n < 1) refuse("tokenizer: no tokens");
  slots_.resize(std::bit_ceil(2 * static_cast<size_t>(n)), {0, SL_NONE});
  texts_.reserve(static_cast<size_t>(size - 8 * int64_t{n}));
  ends_.reserve(static_cast<size_t>(n));
  Strings strings(texts, size);
  for (row = 0; row < n; row++) {
    const std::string_view text = next(strings);
    if (!is_utf8(text)) refuse("a token is no UTF-8");
    if (static_cast<int64_t>(text.size()) > most_characters && characters(text) > most_characters)
      refuse("a token is too long");
    texts_.insert(texts_.end(), text.begin(), text.end());
    ends_.push_back(static_cast<uint32_t>(texts_.size()));
    if (!insert(text, row)) refuse("two tokens have the same text");
  }
  row = SL_NONE;
  if (strings.left() != 0) refuse("tokenizer: there are bytes behind the last token");
}

uint64_t Tokens::hash(std::string_view text) const {
  uint64_t state = secret_ ^ text.size();
  while (text.size() > 8) {
    state = mixed(state ^ load<uint64_t>(text.data()), factor_);
    text.remove_prefix(8);
  }
  return mixed(state ^ up_to_eight(text.data(), text.size()), factor_);
}

std::string_view Tokens::text(int32_t id) const {
  const auto at = static_cast<size_t>(id);
  const uint32_t begin = at == 0 ? 0 : ends_[at - 1];
  return {texts_.data() + begin, ends_[at] - begin};
}

bool Tokens::insert(std::string_view text, int32_t id) {
  const uint64_t hash = this->hash(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & (slots_.size() - 1);
  for (; slots_[at].id != SL_NONE; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].tag == tag && same(this->text(slots_[at].id), text)) return false;
  slots_[at] = {tag, id};
  return true;
}

int32_t Tokens::find(std::string_view text) const {
  const uint64_t hash = this->hash(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & (slots_.size() - 1); slots_[at].id != SL_NONE; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].tag == tag && same(this->text(slots_[at].id), text)) return slots_[at].id;
  return SL_NONE;
}

Merges::Merges(int64_t most)
    : factor_(secret() | 1), slots_(std::bit_ceil(2 * static_cast<size_t>(most) + 2), {kNoPair, 0, 0}) {
  shift_ = 64 - std::countr_zero(slots_.size());
}

size_t Merges::slot(uint64_t pair) const {
  size_t at = pair * factor_ >> shift_;
  while (slots_[at].pair != pair && slots_[at].pair != kNoPair) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void Merges::put(int32_t left, int32_t right, int32_t rank, int32_t id) {
  const uint64_t pair = pair_of(left, right);
  slots_[slot(pair)] = {pair, rank, id};
}

const Merge* Merges::find(int32_t left, int32_t right) const {
  const Merge& found = slots_[slot(pair_of(left, right))];
  return found.pair == kNoPair ? nullptr : &found;
}

int32_t Tokenizer::find(std::string_view text) const {
  const int32_t id = tokens_.find(text);
  return id == SL_NONE || !mergeable_[static_cast<size_t>(id)] ? SL_NONE : id;
}

int32_t Tokenizer::needed(std::string_view text) const {
  const int32_t id = find(text);
  if (id == SL_NONE) refuse("a merge takes or makes a text without a token");
  return id;
}

void Tokenizer::words(const uint8_t* mergeable, const int32_t* bytes, int32_t flags) {
  for (int32_t i = 0; i < 256; i++)
    if (bytes[i] < SL_NONE || bytes[i] >= tokens_.size()) refuse("tokenizer: the token of a byte is out of range");
  if (flags < 0 || flags >= 2 * SL_CHARACTERS) refuse("tokenizer: unknown flags");
  mergeable_.assign(mergeable, mergeable + tokens_.size());
  bytes_.assign(bytes, bytes + 256);
  flags_ = flags;
  merges_ = Merges();
}

void Tokenizer::merges(const void* texts, int64_t size, int32_t n, int32_t& row) {
  if (bytes_.empty()) refuse("tokenizer: how words begin was not said");
  check_table(texts, size, n, kMaxMerges);
  Merges made(n);
  Strings strings(texts, size);
  std::string both;
  int32_t guess = 0;  // most tables list merges in the order of the tokens they make
  for (row = 0; row < n; row++) {
    const std::string_view merge = next(strings);
    const size_t cut = blank(merge);
    const std::string_view left = merge.substr(0, cut), right = merge.substr(cut + 1);
    both.assign(left).append(right);
    const bool guessed = guess < tokens_.size() && mergeable_[static_cast<size_t>(guess)] && same(tokens_.text(guess), both);
    const int32_t whole = guessed ? guess : needed(both);
    made.put(needed(left), needed(right), row, whole);
    guess = whole + 1;
  }
  row = SL_NONE;
  if (strings.left() != 0) refuse("tokenizer: there are bytes behind the last merge");
  merges_ = std::move(made);
}

void Tokenizer::scores(const float* scores, const uint8_t* parts) {
  if (bytes_.empty()) refuse("tokenizer: how words begin was not said");
  std::vector<int32_t> order;
  int64_t work = 0;
  for (int32_t id = 0; id < tokens_.size(); id++) {
    if (!(scores[id] == scores[id])) refuse("a score is not a number");
    if (!parts[id]) continue;
    const auto bytes = static_cast<int64_t>(tokens_.text(id).size());
    order.push_back(id);
    work += bytes * bytes;
    if (work > kMaxSplits) refuse("the tokens are too long to derive merges from");
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  const auto part = [&](std::string_view text) {
    const int32_t id = tokens_.find(text);
    return id == SL_NONE || !parts[id] ? SL_NONE : id;
  };
  struct Split {
    int32_t left, right, whole;
  };
  std::vector<Split> splits;
  for (const int32_t whole : order) {
    const std::string_view text = tokens_.text(whole);
    for (auto cut = static_cast<size_t>(character_bytes(text)); cut < text.size();
         cut += static_cast<size_t>(character_bytes(text.substr(cut)))) {
      const int32_t left = part(text.substr(0, cut)), right = left == SL_NONE ? SL_NONE : part(text.substr(cut));
      if (right != SL_NONE) splits.push_back({left, right, whole});
    }
  }
  if (static_cast<int64_t>(splits.size()) > kMaxMerges) refuse("the tokens are made of one another in too many ways");
  Merges made(static_cast<int64_t>(splits.size()));
  for (size_t rank = 0; rank < splits.size(); rank++)
    made.put(splits[rank].left, splits[rank].right, static_cast<int32_t>(rank), splits[rank].whole);
  merges_ = std::move(made);
}

int64_t Tokenizer::begin_word(std::string_view word, int32_t* ids) const {
  int64_t n = 0;
  while (!word.empty()) {
    const std::string_view first = word.substr(0, flags_ & SL_CHARACTERS ? static_cast<size_t>(character_bytes(word)) : 1);
    word.remove_prefix(first.size());
    if (flags_ & SL_CHARACTERS) {
      const int32_t id = find(first);
      if (id != SL_NONE) {
        ids[n++] = id;
        continue;
      }
    }
    for (const char c : first) {
      const int32_t id = bytes_[static_cast<uint8_t>(c)];
      if (id == SL_NONE) refuse("tokenizer: no token for a byte of the text");
      ids[n++] = id;
    }
  }
  return n;
}

int64_t Tokenizer::encode_word(std::string_view word, int32_t* ids, std::string& spelled) const {
  const int64_t n = begin_word(word, ids);
  if (flags_ & SL_WHOLE_WORDS) {
    spelled.clear();
    for (int64_t i = 0; i < n; i++) spelled += tokens_.text(ids[i]);
    const int32_t id = find(spelled);
    if (id != SL_NONE) {
      ids[0] = id;
      return 1;
    }
  }
  return merge_all(merges_, ids, n);
}

int64_t Tokenizer::encode(std::string_view text, const int32_t* words, int64_t n, int32_t* ids) const {
  if (bytes_.empty()) refuse("tokenizer: how words begin was not said");
  std::string spelled;
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) {
    size_t size = 0;
    int32_t left = words[i];
    for (; left > 0 && size < text.size(); left--) size += static_cast<size_t>(character_bytes(text.substr(size)));
    if (size == 0 || left != 0) refuse("tokenizer: a word is empty, or goes beyond the text");
    count += encode_word(text.substr(0, size), ids + count, spelled);
    text.remove_prefix(size);
  }
  if (!text.empty()) refuse("tokenizer: the words end before the text");
  return count;
}

}  // namespace sealift
