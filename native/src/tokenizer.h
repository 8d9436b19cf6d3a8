// A vocabulary with its merges, and byte pair encoding by them.
//
// A word begins as a token for each of its bytes, or for each of its characters. Of all neighbours whose pair is a merge,
// the one of the lowest rank becomes the token that both spell, the leftmost first, until no pair is left. Merges are
// listed (a pair that is listed twice has the later rank), or follow from scores, as SentencePiece has them.
// Refused, with the row: two tokens of the same text, text that is no UTF-8 or too long, a merge that is not two parts, or
// whose parts or whole no mergeable token spells.
// The tables hash with secrets of their own: nobody can write a vocabulary whose texts or pairs collide.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sealift {

constexpr int64_t kMaxTokens = int64_t{1} << 21, kMaxMerges = int64_t{1} << 22;
constexpr int64_t kMaxTexts = int64_t{1} << 30;  // bytes of all strings of a table, and of a text to encode
constexpr int64_t kMaxSplits = int64_t{1} << 27;  // squares of the tokens' bytes; a vocabulary of 262k needs 2^24

// Token texts, and the ids of texts.
class Tokens {
 public:
  Tokens(const void* texts, int64_t size, int32_t n, int32_t most_characters, int32_t& row);
  int32_t size() const { return static_cast<int32_t>(ends_.size()); }
  int32_t find(std::string_view text) const;  // SL_NONE: no token has it
  std::string_view text(int32_t id) const;
  const char* texts() const { return texts_.data(); }        // of all, one behind the other
  const uint32_t* ends() const { return ends_.data(); }      // [size()] where each ends

 private:
  uint64_t hash(std::string_view text) const;
  size_t slot(std::string_view text, uint64_t hash) const;
  bool insert(std::string_view text, int32_t id);

  const uint64_t secret_, factor_;
  int shift_ = 0;
  std::vector<char> texts_;
  std::vector<uint32_t> ends_;
  std::vector<uint32_t> slots_;  // [a power of two, at least twice size()]
};

// The ids of two neighbours, and of what they become.
struct Merge {
  int32_t left, right, whole;
};

// What pairs of ids become.
class Merges {
 public:
  Merges() : Merges(std::vector<Merge>()) {}
  explicit Merges(std::vector<Merge> merges);  // best first; of twins the last counts
  // nullptr: they do not merge. Of two merges the better one has the lower address.
  const Merge* find(int32_t left, int32_t right) const;

 private:
  size_t slot(int32_t left, int32_t right, uint64_t hash) const;
  uint64_t hash(int32_t left, int32_t right) const;

  uint64_t factor_;
  int shift_;
  std::vector<Merge> merges_;
  std::vector<uint32_t> slots_;  // [a power of two, at least twice as many]
};

class Tokenizer {
 public:
  Tokenizer(const void* texts, int64_t size, int32_t n, int32_t most_characters, int32_t& row)
      : tokens_(texts, size, n, most_characters, row) {}
  const Tokens& tokens() const { return tokens_; }

  // How words begin. mergeable [tokens]: 1 where a token may be made of text, else 0. bytes [256]: the tokens of bytes, or
  // SL_NONE. flags: sl_words.
  void words(const uint8_t* mergeable, const int32_t* bytes, int32_t flags);
  // Merges as they are listed, best first: n strings of two parts with a blank between them.
  void merges(const void* texts, int64_t size, int32_t n, int32_t& row);
  // Every way to split a token in two tokens is a merge, in the order of the wholes' scores [tokens], highest first, and of
  // their ids. parts [tokens]: 1 where a token may be split, or be a part.
  void scores(const float* scores, const uint8_t* parts);

  // words [n]: characters of each, which make up the text. ids [size]. Returns how many there are. Threads may share it.
  int64_t encode(std::string_view text, const int32_t* words, int64_t n, int32_t* ids) const;

 private:
  int32_t mergeable(int32_t id) const;  // SL_NONE: text may not become it, or it is none
  int32_t needed(int32_t id) const;     // refuses those
  int64_t begin_word(std::string_view word, int32_t* ids) const;
  int64_t encode_word(std::string_view word, int32_t* ids, std::string& spelled) const;

  Tokens tokens_;
  Merges merges_;
  std::vector<uint8_t> mergeable_;
  std::vector<int32_t> bytes_;
  int32_t flags_ = 0;
};

// Merges ids[n] in place and returns how many are left. Short ones by looking at all pairs again, long ones by a heap.
int64_t merge_all(const Merges& merges, int32_t* ids, int64_t n);

}  // namespace sealift
