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

bool same(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  if (a.size() > 8) return std::memcmp(a.data(), b.data(), a.size()) == 0;
  return up_to_eight(a) == up_to_eight(b);
}

// Whether a text is two others, one behind the other.
bool same(std::string_view whole, std::string_view left, std::string_view right) {
  return whole.size() == left.size() + right.size() && same(whole.substr(0, left.size()), left) &&
         same(whole.substr(left.size()), right);
}

// A slot of a table: 0, or an index and one, below nine bits of its hash that did not choose the slot.
constexpr uint32_t kIndices = (1 << 23) - 1;
static_assert(kMaxTokens < kIndices && kMaxMerges < kIndices);

uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash >> 8) & ~kIndices; }
uint32_t slot_of(uint64_t hash, size_t index) { return tag_of(hash) | (static_cast<uint32_t>(index) + 1); }
int32_t index_of(uint32_t slot) { return static_cast<int32_t>(slot & kIndices) - 1; }
bool tagged(uint32_t slot, uint64_t hash) { return (slot & ~kIndices) == tag_of(hash); }

bool begins_character(char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }  // in UTF-8

int64_t characters(std::string_view text) { return std::count_if(text.begin(), text.end(), begins_character); }

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

}  // namespace

Tokens::Tokens(const void* texts, int64_t size, int32_t n, int32_t most_characters, int32_t& row)
    : secret_(secret()), factor_(secret() | 1) {
  check_table(texts, size, n, kMaxTokens);
  if (n < 1) refuse("tokenizer: no tokens");
  slots_.resize(std::bit_ceil(2 * static_cast<size_t>(n)));
  shift_ = 64 - std::countr_zero(slots_.size());
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
  return mixed(state ^ up_to_eight(text), factor_);
}

std::string_view Tokens::text(int32_t id) const {
  const auto at = static_cast<size_t>(id);
  const uint32_t begin = at == 0 ? 0 : ends_[at - 1];
  return {texts_.data() + begin, ends_[at] - begin};
}

// Where the text is, or would be.
size_t Tokens::slot(std::string_view text, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t at = hash >> shift_;
  while (slots_[at] != 0 && !(tagged(slots_[at], hash) && same(this->text(index_of(slots_[at])), text))) at = (at + 1) & mask;
  return at;
}

bool Tokens::insert(std::string_view text, int32_t id) {
  const uint64_t hash = this->hash(text);
  uint32_t& found = slots_[slot(text, hash)];
  if (found != 0) return false;
  found = slot_of(hash, static_cast<size_t>(id));
  return true;
}

int32_t Tokens::find(std::string_view text) const { return index_of(slots_[slot(text, hash(text))]); }

// In a loop of its own: the processor waits for many slots at a time.
Merges::Merges(std::vector<Merge> merges)
    : factor_(secret() | 1), merges_(std::move(merges)), slots_(std::bit_ceil(2 * merges_.size() + 2)) {
  shift_ = 64 - std::countr_zero(slots_.size());
  for (size_t rank = 0; rank < merges_.size(); rank++) {
    const Merge& merge = merges_[rank];
    const uint64_t hash = this->hash(merge.left, merge.right);
    slots_[slot(merge.left, merge.right, hash)] = slot_of(hash, rank);
  }
}

uint64_t Merges::hash(int32_t left, int32_t right) const {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right)) * factor_;
}

size_t Merges::slot(int32_t left, int32_t right, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t at = hash >> shift_;
  for (; slots_[at] != 0; at = (at + 1) & mask) {
    if (!tagged(slots_[at], hash)) continue;
    const Merge& merge = merges_[static_cast<size_t>(index_of(slots_[at]))];
    if (merge.left == left && merge.right == right) break;
  }
  return at;
}

const Merge* Merges::find(int32_t left, int32_t right) const {
  const uint32_t found = slots_[slot(left, right, hash(left, right))];
  return found == 0 ? nullptr : &merges_[static_cast<size_t>(index_of(found))];
}

int32_t Tokenizer::mergeable(int32_t id) const {
  return id == SL_NONE || !mergeable_[static_cast<size_t>(id)] ? SL_NONE : id;
}

int32_t Tokenizer::needed(int32_t id) const {
  if (mergeable(id) == SL_NONE) refuse("a merge takes or makes a text without a token");
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
  std::vector<Merge> found;
  found.reserve(static_cast<size_t>(n));
  Strings strings(texts, size);
  std::string both;
  int32_t guess = 0;  // most tables list merges in the order of the tokens they make
  for (row = 0; row < n; row++) {
    const std::string_view merge = next(strings);
    const size_t cut = blank(merge);
    const std::string_view left = merge.substr(0, cut), right = merge.substr(cut + 1);
    const bool guessed = guess < tokens_.size() && same(tokens_.text(guess), left, right);
    const int32_t whole = needed(guessed ? guess : tokens_.find(both.assign(left).append(right)));
    found.push_back({needed(tokens_.find(left)), needed(tokens_.find(right)), whole});
    guess = whole + 1;
  }
  row = SL_NONE;
  if (strings.left() != 0) refuse("tokenizer: there are bytes behind the last merge");
  merges_ = Merges(std::move(found));
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
  std::vector<Merge> found;
  for (const int32_t whole : order) {
    const std::string_view text = tokens_.text(whole);
    for (size_t cut = 1; cut < text.size(); cut++) {
      if (!begins_character(text[cut])) continue;
      const int32_t left = part(text.substr(0, cut)), right = left == SL_NONE ? SL_NONE : part(text.substr(cut));
      if (right != SL_NONE) found.push_back({left, right, whole});
    }
  }
  if (static_cast<int64_t>(found.size()) > kMaxMerges) refuse("the tokens are made of one another in too many ways");
  merges_ = Merges(std::move(found));
}

int64_t Tokenizer::begin_word(std::string_view word, int32_t* ids) const {
  int64_t n = 0;
  while (!word.empty()) {
    const std::string_view first = word.substr(0, flags_ & SL_CHARACTERS ? static_cast<size_t>(character_bytes(word)) : 1);
    word.remove_prefix(first.size());
    if (flags_ & SL_CHARACTERS) {
      const int32_t id = mergeable(tokens_.find(first));
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
    const int32_t id = mergeable(tokens_.find(spelled));
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
