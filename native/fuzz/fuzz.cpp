// A fuzz target for the C ABI: plans, tensors, configs, batches and options nobody has checked, decoded from bytes.
//
// Each input builds something that is nearly right and spoils parts of it, so that what is behind the first check is
// reached too. Every array is exactly as large as the header grants the engine: a sanitizer sees what goes beyond it.
// What must hold: no crash, no finding of a sanitizer, no hang, a sentence with every refusal, tokens inside the
// vocabulary, and the same bits when an accepted step is run again.
//
//   libFuzzer (clang):   fuzz [corpus folder] [-max_total_time=60]
//   alone (any compiler): fuzz SECONDS [SEED]      runs seeds SEED, SEED + 1, ...; prints the seed it dies on
#include <sealift.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "input.h"
#include "plans.h"

namespace fuzz {
namespace {

constexpr int kHang = 60;  // seconds for one input; ordinary ones take milliseconds, also under a sanitizer

void checked(int status) {
  need(status >= SL_OK && status <= SL_INTERNAL, "a status that is none");
  need((status == SL_OK) == (sl_last_error()[0] == 0), "a refusal without a sentence, or a sentence without a refusal");
}

// One sampling with the arrays it points to.
struct Options {
  Options(Bytes& bytes, int vocab)
      : history(static_cast<size_t>(bytes.one_in(2) ? 0 : bytes.below(20))),
        mask(static_cast<size_t>((vocab + 31) / 32)),
        bias_ids(static_cast<size_t>(bytes.one_in(2) ? 0 : bytes.below(5))),
        bias_values(bias_ids.size()) {
    for (size_t i = 0; i < history.size(); i++) history[i] = bytes.one_in(50) ? bytes.odd() : bytes.below(vocab);
    for (size_t i = 0; i < mask.size(); i++) mask[i] = static_cast<uint32_t>(bytes.bits());
    for (size_t i = 0; i < bias_ids.size(); i++) {
      bias_ids[i] = bytes.one_in(50) ? bytes.odd() : bytes.below(vocab);
      bias_values[i] = bytes.number();
    }
    constexpr float kTemperatures[] = {0, 1, 0.7f, 1e-7f, 3e38f, 1e-3f}, kParts[] = {1, 0, 0.5f, 0.95f, 1e-6f};
    s.seed = bytes.bits();
    s.history = history.data();
    s.mask = bytes.one_in(3) ? mask.data() : nullptr;
    s.bias_ids = bias_ids.data();
    s.bias_values = bias_values.data();
    s.n_history = static_cast<int32_t>(history.size());
    s.n_bias = static_cast<int32_t>(bias_ids.size());
    s.top_k = bytes.one_in(3) ? bytes.odd() : 0;
    s.top_logprobs = bytes.one_in(20) ? bytes.odd() : bytes.below(SL_MAX_TOP + 1);
    s.temperature = bytes.of(kTemperatures);
    s.top_p = bytes.of(kParts);
    s.min_p = 1 - bytes.of(kParts);
    s.typical_p = bytes.of(kParts);
    s.repeat_penalty = 1;
    float* const any[] = {&s.temperature, &s.top_p, &s.min_p, &s.typical_p, &s.repeat_penalty, &s.presence_penalty,
                          &s.frequency_penalty};
    if (bytes.one_in(3)) *bytes.of(any) = bytes.number();
  }
  Exact<int32_t> history;
  Exact<uint32_t> mask;
  Exact<int32_t> bias_ids;
  Exact<float> bias_values;
  sl_sampling s{};
};

// What a step may write, and a copy to compare with.
struct Answer {
  Answer(size_t outputs, size_t width)
      : tokens(outputs), logprobs(outputs), top_ids(outputs * SL_MAX_TOP), top_logprobs(outputs * SL_MAX_TOP),
        logits(outputs * width) {}
  Exact<int32_t> tokens;
  Exact<float> logprobs;
  Exact<int32_t> top_ids;
  Exact<float> top_logprobs, logits;

  bool operator==(Answer& other) {
    const auto same = [](auto& a, auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0; };
    return same(tokens, other.tokens) && same(logprobs, other.logprobs) && same(top_ids, other.top_ids) &&
           same(top_logprobs, other.top_logprobs) && same(logits, other.logits);
  }
};

void step(Bytes& bytes, sl_engine* engine, const sl_config& config, const sl_info& info) {
  const int vocab = info.vocab;
  const int n_seqs = bytes.from(1, std::min(config.max_seqs, 5));
  const int width = bytes.from(1, 5);
  Exact<int32_t> row_start(static_cast<size_t>(n_seqs) + 1), start_pos(static_cast<size_t>(n_seqs)),
      blocks(static_cast<size_t>(n_seqs * width));
  for (int s = 0; s < n_seqs; s++) {
    const auto at = static_cast<size_t>(s);
    const int room = std::max(1, std::min(config.max_rows / n_seqs, width * SL_BLOCK));
    const int rows = bytes.from(1, room);
    row_start[at + 1] = row_start[at] + rows;
    start_pos[at] = bytes.one_in(2) ? 0 : bytes.below(width * SL_BLOCK - rows + 1);
    for (int j = 0; j < width; j++) blocks[static_cast<size_t>(s * width + j)] = (s * width + j) % config.n_blocks;
  }
  const int n_rows = row_start[static_cast<size_t>(n_seqs)];
  const int n_outputs = bytes.below(std::min(n_rows, config.max_outputs) + 1);
  Exact<int32_t> tokens(static_cast<size_t>(n_rows)), out_rows(static_cast<size_t>(n_outputs));
  for (size_t r = 0; r < tokens.size(); r++) tokens[r] = bytes.byte() % vocab;
  for (int i = 0; i < n_outputs; i++) out_rows[static_cast<size_t>(i)] = n_rows - n_outputs + i;
  for (int n = bytes.one_in(2) ? 0 : bytes.below(3); n > 0; n--) {
    Exact<int32_t>* const any[] = {&row_start, &start_pos, &blocks, &tokens, &out_rows};
    Exact<int32_t>& array = *bytes.of(any);
    if (array.size() == 0) continue;
    const int at = bytes.below(static_cast<int>(array.size()));
    array[static_cast<size_t>(at)] = bytes.one_in(2) ? bytes.odd() : bytes.from(-1, 70);
  }
  std::vector<std::unique_ptr<Options>> options;
  Exact<sl_sampling> sampling(static_cast<size_t>(n_outputs));
  for (size_t i = 0; i < sampling.size(); i++) {
    options.push_back(std::make_unique<Options>(bytes, vocab));
    sampling[i] = options.back()->s;
  }
  const bool sampled = bytes.one_in(info.width == vocab ? 2 : 9), tops = bytes.one_in(2), wanted = !bytes.one_in(4);
  const auto each = static_cast<size_t>(info.width);
  Answer first(sampling.size(), each), again(sampling.size(), each);
  const auto run = [&](Answer& answer, bool halves) {
    sl_batch b{tokens.data(), row_start.data(), start_pos.data(), blocks.data(), out_rows.data(),
               sampled && !halves ? sampling.data() : nullptr, answer.tokens.data(), answer.logprobs.data(),
               tops ? answer.top_ids.data() : nullptr, tops ? answer.top_logprobs.data() : nullptr,
               wanted ? answer.logits.data() : nullptr, n_rows, n_seqs, n_outputs, width};
    int status = sl_step(engine, &b);
    checked(status);
    if (sampled && halves && n_outputs > 0) {
      b.sampling = sampling.data();
      need(sl_choose(engine, &b) == SL_OK, "the second half of an accepted step was refused");
      b.n_outputs = bytes.one_in(2) ? n_outputs : bytes.odd();
      need(sl_choose(engine, &b) != SL_OK, "the second half of a step was taken twice");
    }
    return status;
  };
  if (run(first, false) != SL_OK) return;
  need(run(again, true) == SL_OK && first == again, "an accepted step gave other bits the second time");
  for (size_t i = 0; sampled && i < first.tokens.size(); i++)
    need(first.tokens[i] >= SL_NONE && first.tokens[i] < vocab, "a token outside the vocabulary");
}

void fuzz_engine(Bytes& bytes) {
  Tensors tensors(bytes);
  Planner planner(bytes, tensors);
  planner.run();
  constexpr int32_t kIsas[] = {SL_ISA_BEST, SL_ISA_PORTABLE, SL_ISA_AVX2, SL_ISA_AVX512_VNNI,
                                 SL_ISA_AVX512_AMX};
  sl_config config{};
  config.threads = bytes.from(1, 3);
  config.n_blocks = bytes.from(1, 24);
  config.max_rows = bytes.from(1, 90);
  config.max_seqs = bytes.from(1, 5);
  config.max_outputs = bytes.from(1, 12);
  config.isa = bytes.of(kIsas);
  config.kv_type = bytes.one_in(2) ? SL_Q8_0 : SL_F16;
  if (!bytes.one_in(3))  // two in three plans are spoiled
    for (int n = bytes.below(4); n > 0; n--) planner.spoil();
  if (bytes.one_in(3)) tensors.spoil();
  if (bytes.one_in(12)) {
    int32_t* const any[] = {&config.threads,     &config.n_blocks, &config.max_rows, &config.max_seqs,
                            &config.max_outputs, &config.isa,      &config.kv_type};
    int32_t& field = *bytes.of(any);
    field = bytes.odd();
    if (&field == &config.threads && field > 64) field = 1 << 20;  // a thousand threads are allowed, and slow
  }
  const sl_tensor* given = tensors.fill();
  const auto panels_of = [&] {  // what "best" is here, where the engine chooses
    int32_t isa = config.isa ? config.isa : SL_ISA_AVX512_AMX;
    while (!config.isa && isa > SL_ISA_PORTABLE && !sl_isa_supported(isa)) isa--;
    return isa;
  };
  if (bytes.one_in(3))
    for (int n = bytes.from(1, 6); n > 0; n--) tensors.pack(panels_of());
  std::vector<sl_op>& ops = planner.ops();
  Exact<sl_op> exact(ops.size());
  std::memcpy(exact.data(), ops.data(), ops.size() * sizeof(sl_op));
  sl_engine* engine = nullptr;
  const int32_t n_ops = static_cast<int32_t>(ops.size());
  const int status = sl_create(exact.data(), n_ops, given, tensors.count(), &config, &engine);
  checked(status);
  need((status == SL_OK) == (engine != nullptr), "an engine with a refusal, or none without");
  if (status != SL_OK) return;
  sl_info info;
  need(sl_get_info(engine, &info) == SL_OK && info.vocab >= 1 && info.width >= 1, "no info");
  for (int n = bytes.from(1, 5); n > 0; n--) step(bytes, engine, config, info);
  Exact<int64_t> times(ops.size());
  need(sl_op_times(engine, times.data(), n_ops) == SL_OK, "no times");
  sl_free(engine);
}

void fuzz_sample(Bytes& bytes) {
  constexpr int kVocabs[] = {1, 2, 31, 32, 33, 300, 1500};
  const int vocab = bytes.of(kVocabs);
  Exact<float> logits(static_cast<size_t>(vocab));
  const bool wild = bytes.one_in(3);
  for (size_t i = 0; i < logits.size(); i++)
    logits[i] = wild ? bytes.number() : static_cast<float>(static_cast<int8_t>(bytes.byte())) / 8;
  Options options(bytes, vocab);
  Answer out(1, 1);
  const int status = sl_sample(logits.data(), vocab, &options.s, bytes.one_in(9) ? bytes.odd() : bytes.below(5000),
                               out.tokens.data(), out.logprobs.data(), bytes.one_in(2) ? out.top_ids.data() : nullptr,
                               bytes.one_in(2) ? out.top_logprobs.data() : nullptr);
  checked(status);
  if (status == SL_OK) need(out.tokens[0] >= 0 && out.tokens[0] < vocab, "a token outside the vocabulary");
}

void fuzz_linear(Bytes& bytes) {
  constexpr int kCols[] = {1, 31, 32, 96, 256, 288, 512};
  Tensors tensors(bytes);
  const int cols = bytes.of(kCols), n = bytes.from(1, 40);
  tensors.add(bytes.from(1, 70), cols, false);
  if (bytes.one_in(2)) tensors.spoil();
  const sl_tensor* t = tensors.fill();
  // The header grants x[n, cols] and y[n, rows]; where those are beyond reason the tensor itself must be refused.
  const auto count = [](int64_t a, int64_t b) {
    const bool sane = a > 0 && b > 0 && a < kLargest && b < kLargest && a * b < 16 * kLargest;
    return static_cast<size_t>(sane ? a * b : 1);
  };
  Exact<float> x(count(n, t->cols)), y(count(n, t->rows)), values(count(t->rows, t->cols));
  for (size_t i = 0; i < x.size(); i++) x[i] = bytes.number();
  checked(sl_linear(t, bytes.one_in(20) ? bytes.odd() : bytes.below(4), bytes.from(1, 3), x.data(), n, y.data()));
  checked(sl_dequantize(t, values.data()));
}

// Strings over few characters, so that texts meet; some of the bytes are spoiled.
std::vector<uint8_t> strings(Bytes& bytes, int n, bool merges) {
  constexpr const char* kParts[] = {"a", "b", "c", "ab", "\xc3\xa9", "\xf0\x9f\xa6\x99", "<0x61>", ""};
  std::vector<uint8_t> packed;
  for (int i = 0; i < n; i++) {
    std::string text;
    for (int parts = bytes.below(4); parts >= 0; parts--) text += bytes.of(kParts);
    if (merges && !bytes.one_in(20)) text = text + " " + bytes.of(kParts);
    const uint64_t length = bytes.one_in(300) ? bytes.bits() : text.size();
    for (int shift = 0; shift < 64; shift += 8) packed.push_back(static_cast<uint8_t>(length >> shift));
    packed.insert(packed.end(), text.begin(), text.end());
  }
  if (!packed.empty() && bytes.one_in(9)) packed[static_cast<size_t>(bytes.below(static_cast<int>(packed.size())))] = bytes.byte();
  return packed;
}

void encode(Bytes& bytes, const sl_tokenizer* tokenizer, int n_tokens) {
  Exact<char> text(static_cast<size_t>(bytes.below(bytes.one_in(9) ? 2000 : 80)));
  constexpr char kBytes[] = {'a', 'b', 'c', '\xc3', '\xa9', '\xf0', '\x9f', '\xa6', '\x99'};
  for (size_t i = 0; i < text.size(); i++) text[i] = bytes.of(kBytes);
  const bool one = bytes.one_in(2);  // a word of all
  Exact<int32_t> words(one ? 1 : static_cast<size_t>(bytes.below(20)));
  for (size_t i = 0; i < words.size(); i++) words[i] = bytes.one_in(20) ? bytes.odd() : bytes.below(9);
  if (one && bytes.one_in(2)) {
    int64_t characters = 0;
    for (size_t i = 0; i < text.size(); i++) characters += (static_cast<uint8_t>(text[i]) & 0xC0) != 0x80;
    words[0] = static_cast<int32_t>(characters);
  }
  Exact<int32_t> ids(text.size());
  int64_t count = -1;
  const auto size = static_cast<int64_t>(text.size());
  const int status = sl_tokenizer_encode(tokenizer, text.data(), size, words.data(), static_cast<int64_t>(words.size()),
                                         ids.data(), &count);
  checked(status);
  if (status != SL_OK) return;
  need(count >= 0 && count <= size && (count > 0) == (size > 0), "more ids than bytes, or none");
  for (int64_t i = 0; i < count; i++)
    need(ids[static_cast<size_t>(i)] >= 0 && ids[static_cast<size_t>(i)] < n_tokens, "an id that is no token");
}

void fuzz_tokenizer(Bytes& bytes) {
  const int listed = bytes.from(1, 40);
  const auto given = [](const std::vector<uint8_t>& from) {
    auto exact = std::make_unique<Exact<uint8_t>>(from.size());
    if (!from.empty()) std::memcpy(exact->data(), from.data(), from.size());
    return exact;
  };
  const auto texts = given(strings(bytes, listed, false));
  int64_t passed = -1, end = -1;
  checked(sl_strings(texts->data(), static_cast<int64_t>(texts->size()), bytes.odd(), &passed, &end));
  need(passed >= 0 && end >= 8 * passed && end <= static_cast<int64_t>(texts->size()), "strings that are not there");
  sl_tokenizer* tokenizer = nullptr;
  int32_t row = 0;
  const int32_t n = bytes.one_in(20) ? bytes.odd() : listed;
  const int status =
      sl_tokenizer_create(texts->data(), static_cast<int64_t>(texts->size()), n, bytes.from(0, 30), &row, &tokenizer);
  checked(status);
  need((status == SL_OK) == (tokenizer != nullptr), "a tokenizer with a refusal, or none without");
  need(row >= SL_NONE && (row < n || row == SL_NONE), "a row that is none");
  if (status != SL_OK) return;
  Exact<uint8_t> mergeable(static_cast<size_t>(n));
  Exact<float> scores(static_cast<size_t>(n));
  for (size_t i = 0; i < scores.size(); i++) {
    mergeable[i] = !bytes.one_in(9);
    scores[i] = bytes.one_in(3) ? bytes.number() : static_cast<float>(bytes.below(5));
  }
  Exact<int32_t> starts(256);
  for (size_t i = 0; i < starts.size(); i++) starts[i] = static_cast<int32_t>(i) % n;
  if (bytes.one_in(5)) starts[static_cast<size_t>(bytes.byte())] = bytes.odd();
  for (int rounds = bytes.from(1, 4); rounds > 0; rounds--) {
    if (!bytes.one_in(9)) checked(sl_tokenizer_words(tokenizer, mergeable.data(), starts.data(), bytes.from(-1, 5)));
    const int n_merges = bytes.below(30);
    const auto merges = given(strings(bytes, n_merges, true));
    if (bytes.one_in(2)) checked(sl_tokenizer_scores(tokenizer, scores.data(), mergeable.data()));
    else checked(sl_tokenizer_merges(tokenizer, merges->data(), static_cast<int64_t>(merges->size()), n_merges, &row));
    encode(bytes, tokenizer, n);
  }
  sl_tokenizer_free(tokenizer);
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fuzz;
  alarm(kHang);
  Bytes bytes(data, size);
  switch (bytes.byte() % 8) {
    case 0: fuzz_sample(bytes); break;
    case 1: fuzz_linear(bytes); break;
    case 2: fuzz_tokenizer(bytes); break;
    default: fuzz_engine(bytes); break;
  }
  alarm(0);
  return 0;
}
