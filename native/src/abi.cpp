// The C ABI: turns exceptions into statuses and a sentence per thread, and describes its structs for the binding.
#include <sealift.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "engine.h"
#include "errors.h"
#include "formats.h"
#include "rates.h"
#include "sha256.h"
#include "gf256.h"
#include "gguf_strings.h"
#include "tokenizer.h"

struct sl_engine {
  sealift::Engine engine;
  std::atomic<bool> busy{false};
};

struct sl_tokenizer {
  sealift::Tokenizer tokenizer;
};

namespace {

thread_local char last_error[1024] = "";

int fail(sl_status status, const char* text) {
  std::snprintf(last_error, sizeof last_error, "%s", text);
  return status;
}

template <class F>
int guarded(F f) {
  try {
    last_error[0] = 0;
    f();
    return SL_OK;
  } catch (const sealift::Error& e) {
    return fail(e.status, e.what());
  } catch (const std::bad_alloc&) {
    return fail(SL_NOMEM, "out of memory");
  } catch (const std::exception& e) {
    return fail(SL_INTERNAL, e.what());
  } catch (...) {
    return fail(SL_INTERNAL, "an unknown exception");
  }
}

void need(bool holds, const char* text) {
  if (!holds) sealift::refuse(text);
}

// Refuses a second thread inside an engine instead of racing it.
class Entered {
 public:
  explicit Entered(std::atomic<bool>& busy) : busy_(busy) {
    need(!busy_.exchange(true), "another thread is inside this engine");
  }
  ~Entered() { busy_.store(false); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  std::atomic<bool>& busy_;
};

int resolved(int32_t isa) {
  if (!sealift::isa_supported(isa)) throw sealift::Error(SL_UNSUPPORTED, "this CPU or build lacks the instruction set");
  return isa == SL_ISA_BEST ? sealift::best_isa() : isa;
}

// The tensors with every matrix that is multiplied with given as panels that are nowhere: an engine made of these has all its
// sizes and must not run.
std::vector<sl_tensor> without_panels(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors,
                                      int32_t isa) {
  sealift::check_counts(ops, n_ops, tensors, n_tensors);
  std::vector<sl_tensor> shells(tensors, tensors + n_tensors);
  for (int32_t i = 0; i < n_ops; i++) {
    if (ops[i].kind != SL_LINEAR || ops[i].weight < 0 || ops[i].weight >= n_tensors) continue;
    sl_tensor& shell = shells[static_cast<size_t>(ops[i].weight)];
    sealift::check_shape(shell, ops[i].weight);
    shell.packed = isa;
    shell.size = static_cast<uint64_t>(sealift::packed_bytes(shell, isa));
    shell.data = reinterpret_cast<const void*>(uintptr_t{64});
  }
  return shells;
}

void need_sha256() {
  if (!sealift::sha256_supported()) throw sealift::Error(SL_UNSUPPORTED, "this CPU or build lacks instructions for SHA-256");
}

std::string_view text_of(const void* text, int64_t size) {
  need(size >= 0 && size <= sealift::kMaxTexts && (text || size == 0), "a text is null, or its size out of range");
  return {static_cast<const char*>(text), static_cast<size_t>(size)};
}

#define SIZE(type) text += #type " 0 " + std::to_string(sizeof(type)) + "\n"
#define FIELD(type, name) \
  text += #type "." #name " " + std::to_string(offsetof(type, name)) + " " + std::to_string(sizeof(type::name)) + "\n"

std::string layout() {
  std::string text;
  SIZE(sl_tensor);
  FIELD(sl_tensor, data); FIELD(sl_tensor, size); FIELD(sl_tensor, rows); FIELD(sl_tensor, cols); FIELD(sl_tensor,
  type);
  FIELD(sl_tensor, packed);
  SIZE(sl_op);
  FIELD(sl_op, kind); FIELD(sl_op, out); FIELD(sl_op, a); FIELD(sl_op, b); FIELD(sl_op, c); FIELD(sl_op, weight);
  FIELD(sl_op, bias); FIELD(sl_op, i); FIELD(sl_op, f);
  SIZE(sl_config);
  FIELD(sl_config, threads); FIELD(sl_config, n_blocks); FIELD(sl_config, max_rows); FIELD(sl_config, max_seqs);
  FIELD(sl_config, max_outputs); FIELD(sl_config, isa); FIELD(sl_config, kv_type);
  SIZE(sl_sampling);
  FIELD(sl_sampling, seed); FIELD(sl_sampling, history); FIELD(sl_sampling, mask); FIELD(sl_sampling, bias_ids);
  FIELD(sl_sampling, bias_values); FIELD(sl_sampling, n_history); FIELD(sl_sampling, n_bias); FIELD(sl_sampling, top_k);
  FIELD(sl_sampling, top_logprobs); FIELD(sl_sampling, temperature); FIELD(sl_sampling, top_p); FIELD(sl_sampling,
  min_p);
  FIELD(sl_sampling, typical_p); FIELD(sl_sampling, repeat_penalty); FIELD(sl_sampling, presence_penalty);
  FIELD(sl_sampling, frequency_penalty);
  SIZE(sl_batch);
  FIELD(sl_batch, tokens); FIELD(sl_batch, row_start); FIELD(sl_batch, start_pos); FIELD(sl_batch, blocks);
  FIELD(sl_batch, out_rows); FIELD(sl_batch, sampling); FIELD(sl_batch, out_tokens); FIELD(sl_batch, out_logprobs);
  FIELD(sl_batch, top_ids); FIELD(sl_batch, top_logprobs); FIELD(sl_batch, logits); FIELD(sl_batch, n_rows);
  FIELD(sl_batch, n_seqs); FIELD(sl_batch, n_outputs); FIELD(sl_batch, table_width);
  SIZE(sl_info);
  FIELD(sl_info, weight_bytes); FIELD(sl_info, kv_bytes); FIELD(sl_info, scratch_bytes); FIELD(sl_info,
  bytes_per_block);
  FIELD(sl_info, vocab); FIELD(sl_info, layers); FIELD(sl_info, threads); FIELD(sl_info, isa);
  FIELD(sl_info, width);
  SIZE(sl_rates);
  FIELD(sl_rates, read_bytes); FIELD(sl_rates, integer_ops); FIELD(sl_rates, float_ops); FIELD(sl_rates, bf16_ops);
  FIELD(sl_rates, instruction);
  SIZE(sl_sha256);
  FIELD(sl_sha256, state); FIELD(sl_sha256, length); FIELD(sl_sha256, rest);
  return text;
}

#undef SIZE
#undef FIELD

}  // namespace

extern "C" {

int32_t sl_abi(void) { return SL_ABI; }
const char* sl_last_error(void) { return last_error; }
const char* sl_isa_name(int32_t isa) { return sealift::isa_name(isa); }
int32_t sl_isa_supported(int32_t isa) { return sealift::isa_supported(isa) ? 1 : 0; }

const char* sl_layout(void) {
  static const std::string text = layout();
  return text.c_str();
}

int sl_create(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors, const sl_config* config,
              sl_engine** out) {
  return guarded([&] {
    need(config && out, "sl_create: config and out must not be null");
    *out = nullptr;
    *out = new sl_engine{{ops, n_ops, tensors, n_tensors, *config}, {}};
  });
}

int sl_measure(const sl_op* ops, int32_t n_ops, const sl_tensor* tensors, int32_t n_tensors, const sl_config* config,
               sl_info* out) {
  return guarded([&] {
    need(config && out, "sl_measure: config and out must not be null");
    const std::vector<sl_tensor> shells = without_panels(ops, n_ops, tensors, n_tensors, resolved(config->isa));
    *out = sealift::Engine(ops, n_ops, shells.data(), n_tensors, *config).info();
  });
}

void sl_free(sl_engine* engine) { delete engine; }

int sl_step(sl_engine* engine, const sl_batch* batch) {
  return guarded([&] {
    need(engine && batch, "sl_step: engine and batch must not be null");
    const Entered entered(engine->busy);
    engine->engine.step(*batch);
  });
}

int sl_choose(sl_engine* engine, const sl_batch* batch) {
  return guarded([&] {
    need(engine && batch, "sl_choose: engine and batch must not be null");
    const Entered entered(engine->busy);
    engine->engine.choose(*batch);
  });
}

int sl_get_info(const sl_engine* engine, sl_info* out) {
  return guarded([&] {
    need(engine && out, "sl_get_info: engine and out must not be null");
    *out = engine->engine.info();
  });
}

int sl_op_times(const sl_engine* engine, int64_t* times, int32_t n_ops) {
  return guarded([&] {
    need(engine && times, "sl_op_times: engine and times must not be null");
    const std::vector<int64_t>& spent = engine->engine.op_times();
    need(n_ops == static_cast<int64_t>(spent.size()), "sl_op_times: n_ops is not the number of ops of the plan");
    std::memcpy(times, spent.data(), spent.size() * sizeof(int64_t));
  });
}

int sl_limits(int32_t threads, int64_t bytes, sl_rates* out) {
  return guarded([&] {
    need(out, "sl_limits: out must not be null");
    need(threads >= 1 && threads <= sealift::kMaxThreads, "sl_limits: threads out of range");
    need(bytes >= int64_t{1} << 20 && bytes <= int64_t{1} << 36, "sl_limits: bytes out of range");
    *out = sealift::measure_limits(threads, bytes);
  });
}

int sl_packed_bytes(const sl_tensor* weight, int32_t isa, int64_t* bytes) {
  return guarded([&] {
    need(weight && bytes, "sl_packed_bytes: weight and bytes must not be null");
    sealift::check_shape(*weight, 0);
    *bytes = sealift::packed_bytes(*weight, resolved(isa));
  });
}

int sl_pack(const sl_tensor* weight, int32_t isa, int32_t threads, void* out) {
  return guarded([&] {
    need(weight && out, "sl_pack: weight and out must not be null");
    need(threads >= 1 && threads <= sealift::kMaxThreads, "sl_pack: threads out of range");
    need(reinterpret_cast<uintptr_t>(out) % 64 == 0, "sl_pack: out is not aligned to 64 bytes");
    sealift::check_tensor(*weight, 0);
    sealift::Pool pool(threads);
    sealift::pack_panels(*weight, resolved(isa), pool, static_cast<uint8_t*>(out));
  });
}

int32_t sl_sha256_supported(void) { return sealift::sha256_supported() ? 1 : 0; }

int sl_sha256_begin(sl_sha256* stream) {
  return guarded([&] {
    need(stream, "sl_sha256_begin: stream must not be null");
    need_sha256();
    sealift::sha256_begin(*stream);
  });
}

int sl_sha256_update(sl_sha256* const* streams, int32_t n, const void* data, int64_t size) {
  return guarded([&] {
    need(streams && n >= 1 && n <= SL_MAX_STREAMS, "sl_sha256_update: streams must not be null, n from 1 to SL_MAX_STREAMS");
    need(size >= 0 && (data || size == 0), "sl_sha256_update: size must not be negative, data must not be null");
    for (int32_t i = 0; i < n; i++) {
      need(streams[i], "sl_sha256_update: streams must not be null");
      need(std::find(streams, streams + i, streams[i]) == streams + i, "sl_sha256_update: a stream comes twice");
    }
    need_sha256();
    if (size > 0) sealift::sha256_update(streams, n, static_cast<const uint8_t*>(data), size);
  });
}

int sl_sha256_digest(const sl_sha256* stream, uint8_t* digest) {
  return guarded([&] {
    need(stream && digest, "sl_sha256_digest: stream and digest must not be null");
    need_sha256();
    sealift::sha256_digest(*stream, digest);
  });
}

int sl_sha256_pieces(const void* data, int64_t size, int64_t piece, uint8_t* digests) {
  return guarded([&] {
    need(size >= 0 && piece >= 1, "sl_sha256_pieces: size must not be negative, piece at least 1");
    need((data && digests) || size == 0, "sl_sha256_pieces: data and digests must not be null");
    need_sha256();
    sealift::sha256_pieces(static_cast<const uint8_t*>(data), size, piece, digests);
  });
}

int sl_gf256_combine(const uint8_t* factors, int32_t n_out, int32_t n_in, const void* const* in, void* const* out,
                     int64_t size, int32_t isa) {
  return guarded([&] {
    need(n_out >= 0 && n_out <= SL_MAX_SHARDS, "sl_gf256_combine: n_out from 0 to SL_MAX_SHARDS");
    need(n_in >= 1 && n_in <= SL_MAX_SHARDS, "sl_gf256_combine: n_in from 1 to SL_MAX_SHARDS");
    need(size >= 0, "sl_gf256_combine: size must not be negative");
    const int body = resolved(isa);
    if (n_out == 0 || size == 0) return;
    need(factors && in && out, "sl_gf256_combine: factors, in and out must not be null");
    uint8_t* outputs[SL_MAX_SHARDS] = {};
    const uint8_t* inputs[SL_MAX_SHARDS] = {};
    for (int32_t r = 0; r < n_out; r++) {
      need(out[r], "sl_gf256_combine: an output must not be null");
      outputs[r] = static_cast<uint8_t*>(out[r]);
    }
    for (int32_t k = 0; k < n_in; k++) {
      inputs[k] = static_cast<const uint8_t*>(in[k]);
      for (int32_t r = 0; r < n_out; r++)
        need(inputs[k] || factors[r * n_in + k] == 0, "sl_gf256_combine: an input is null and its factor is not zero");
    }
    sealift::gf256_combine({factors, n_out, n_in, inputs, outputs}, size, body);
  });
}

int sl_strings(const void* data, int64_t size, int64_t count, int64_t* passed, int64_t* end) {
  return guarded([&] {
    need(passed && end, "sl_strings: passed and end must not be null");
    need(size >= 0 && (data || size == 0), "sl_strings: size must not be negative, data must not be null");
    sealift::Strings strings(data, size);
    const char* at = strings.at();
    std::string_view text;
    for (*passed = 0; *passed < count && strings.next(text) && sealift::is_utf8(text); ++*passed) at = strings.at();
    *end = at - static_cast<const char*>(data);
  });
}

int sl_tokenizer_create(const void* texts, int64_t size, int32_t n, int32_t most_characters, int32_t* row,
                        sl_tokenizer** out) {
  return guarded([&] {
    need(row && out, "sl_tokenizer_create: row and out must not be null");
    *row = SL_NONE;
    *out = nullptr;
    *out = new sl_tokenizer{{texts, size, n, most_characters, *row}};
  });
}

void sl_tokenizer_free(sl_tokenizer* tokenizer) { delete tokenizer; }

int sl_tokenizer_texts(const sl_tokenizer* tokenizer, const void** texts, const uint32_t** ends) {
  return guarded([&] {
    need(tokenizer && texts && ends, "sl_tokenizer_texts: tokenizer, texts and ends must not be null");
    *texts = tokenizer->tokenizer.tokens().texts();
    *ends = tokenizer->tokenizer.tokens().ends();
  });
}

int sl_tokenizer_find(const sl_tokenizer* tokenizer, const void* text, int64_t size, int32_t* id) {
  return guarded([&] {
    need(tokenizer && id, "sl_tokenizer_find: tokenizer and id must not be null");
    *id = tokenizer->tokenizer.tokens().find(text_of(text, size));
  });
}

int sl_tokenizer_words(sl_tokenizer* tokenizer, const uint8_t* mergeable, const int32_t* bytes, int32_t flags) {
  return guarded([&] {
    need(tokenizer && mergeable && bytes, "sl_tokenizer_words: tokenizer, mergeable and bytes must not be null");
    tokenizer->tokenizer.words(mergeable, bytes, flags);
  });
}

int sl_tokenizer_merges(sl_tokenizer* tokenizer, const void* merges, int64_t size, int32_t n, int32_t* row) {
  return guarded([&] {
    need(tokenizer && row, "sl_tokenizer_merges: tokenizer and row must not be null");
    *row = SL_NONE;
    tokenizer->tokenizer.merges(merges, size, n, *row);
  });
}

int sl_tokenizer_scores(sl_tokenizer* tokenizer, const float* scores, const uint8_t* parts) {
  return guarded([&] {
    need(tokenizer && scores && parts, "sl_tokenizer_scores: tokenizer, scores and parts must not be null");
    tokenizer->tokenizer.scores(scores, parts);
  });
}

int sl_tokenizer_encode(const sl_tokenizer* tokenizer, const void* text, int64_t size, const int32_t* words, int64_t n,
                        int32_t* ids, int64_t* n_ids) {
  return guarded([&] {
    need(tokenizer && n_ids, "sl_tokenizer_encode: tokenizer and n_ids must not be null");
    need(n >= 0 && ((words && ids) || n == 0), "sl_tokenizer_encode: n must not be negative, words and ids must not be null");
    *n_ids = 0;
    *n_ids = tokenizer->tokenizer.encode(text_of(text, size), words, n, ids);
  });
}

int sl_linear(const sl_tensor* weight, int32_t isa, int32_t threads, const float* x, int32_t n, float* y) {
  return guarded([&] {
    need(weight && x && y && n >= 1 && n <= sealift::kMaxRows,
        "sl_linear: weight, x and y must not be null, n at least 1");
    need(threads >= 1 && threads <= sealift::kMaxThreads, "sl_linear: threads out of range");
    sealift::check_tensor(*weight, 0);
    sealift::Pool pool(threads);
    const auto packed = sealift::pack_linear(*weight, resolved(isa), pool);
    const sealift::Product product[] = {{packed.get(), y, nullptr}};
    const sealift::Memory<uint8_t> scratch(static_cast<int64_t>(sealift::linear_scratch_bytes(product, n)));
    sealift::linear(product, x, weight->cols, n, scratch.data(), pool);
  });
}

int sl_dequantize(const sl_tensor* weight, float* y) {
  return guarded([&] {
    need(weight && y, "sl_dequantize: weight and y must not be null");
    sealift::check_tensor(*weight, 0);
    for (int64_t r = 0; r < weight->rows; r++) sealift::dequantize_row(*weight, r, y + r * weight->cols);
  });
}

int sl_sample(float* logits, int32_t vocab, const sl_sampling* sampling, int32_t position, int32_t* token,
    float* logprob,
              int32_t* top_ids, float* top_logprobs) {
  return guarded([&] {
    need(logits && sampling && token && logprob, "sl_sample: logits, sampling, token and logprob must not be null");
    need(vocab >= 1 && vocab <= sealift::kMaxWidth, "sl_sample: vocab out of range");
    need(position >= 0, "sl_sample: position is negative");
    sealift::check_sampling(*sampling, vocab, "sampling: ");
    sealift::Choice choice{SL_NONE, 0, top_ids, top_logprobs};
    sealift::SampleScratch scratch;
    sealift::sample(sealift::bodies(sealift::best_isa()), logits, vocab, *sampling, position, choice, scratch);
    if (choice.token == SL_NONE) throw sealift::Error(SL_INTERNAL, "sl_sample: the logits are not finite");
    *token = choice.token;
    *logprob = choice.logprob;
  });
}

}  // extern "C"
