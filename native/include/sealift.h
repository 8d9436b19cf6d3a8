/* sealift.h: the boundary of the native engine, in plain C, so that any language can load it (ours does with ctypes).
 *
 * An engine is one loaded model: a verified plan (DESIGN: "spec -> plan -> walker"), its packed weights and one pool of
 * paged key/value blocks. It knows token ids and block tables only: no text, no files, no network, no clock.
 * The caller owns every pointer it passes. sl_create packs the matrices it is given in GGUF's bytes, and reads two things in
 * place, which must stay as they are until sl_free: panels packed before (sl_pack), and matrices that are only looked up.
 * Every call returns an sl_status; after a non-zero one sl_last_error() is a sentence for this thread.
 * One thread at a time may be inside an engine.
 *
 * Law (batch invariance): the logits of a row depend on its own sequence alone: not on other rows, on how the prompt
 * was cut into steps, on where its blocks lie, or on the number of threads. A plan with ATTEND_ALL or POOL computes each
 * sequence in one step, from position 0: what the blocks hold afterwards is of no use.
 */
#ifndef SEALIFT_H
#define SEALIFT_H
#include <stdint.h>
#if defined(SEALIFT_BUILDING)
#pragma GCC visibility push(default) /* everything declared here is exported, nothing else is */
#endif
#ifdef __cplusplus
extern "C" {
#endif

#define SL_ABI 4
#define SL_BLOCK 32      /* tokens in one key/value block */
#define SL_MAX_TOP 20    /* most alternatives reported for one sampled token */
#define SL_MAX_STREAMS 16 /* most hashes that get bytes in one call */
#define SL_MAX_SHARDS 255 /* inputs, and outputs, of one sum of products in GF(2^8) */
#define SL_NONE (-1)     /* "no slot", "no tensor" */

typedef enum sl_status { SL_OK = 0, SL_INVALID = 1, SL_UNSUPPORTED = 2, SL_NOMEM = 3, SL_INTERNAL = 4 } sl_status;

/* Numbers as in GGUF ("ggml type"). */
typedef enum sl_type {
  SL_F32 = 0, SL_F16 = 1, SL_Q4_0 = 2, SL_Q4_1 = 3, SL_Q5_0 = 6, SL_Q5_1 = 7, SL_Q8_0 = 8,
  SL_Q4_K = 12, SL_Q5_K = 13, SL_Q6_K = 14, SL_BF16 = 30
} sl_type;

/* Instruction sets a kernel body exists for. SL_ISA_BEST lets the dispatch table choose for this CPU. */
typedef enum sl_isa {
  SL_ISA_BEST = 0, SL_ISA_PORTABLE = 1, SL_ISA_AVX2 = 2, SL_ISA_AVX512_VNNI = 3,
  SL_ISA_AVX512_AMX = 4 /* also asks the system for this process's leave to use AMX */
} sl_isa;

/* How words begin: SL_WHOLE_WORDS: one whose first tokens together spell a token is taken as that. SL_CHARACTERS: each
 * character is its token, or where it has none its bytes are; else each byte is its token. */
typedef enum sl_words { SL_WHOLE_WORDS = 1, SL_CHARACTERS = 2 } sl_words;

/* A weight: `rows` rows of `cols` values. A vector has rows == 1. In GGUF's own bytes each row is contiguous. */
typedef struct sl_tensor {
  const void *data;
  uint64_t size;   /* bytes at data; must equal rows * row bytes of (type, cols), or sl_packed_bytes */
  int64_t rows, cols;
  int32_t type;    /* sl_type */
  int32_t packed;  /* 0: GGUF's own bytes; else the sl_isa whose panels these are, 64-byte aligned, for SL_LINEAR only */
} sl_tensor;

/* The vocabulary. A slot is a matrix of float32: one line per row of the batch (or, after PICK, per output row).
 * a, b, c: input slots; out: the slot written (each slot is written once). weight, bias: tensor indices or SL_NONE. */
typedef enum sl_kind {
  SL_EMBED = 1,    /* out[r] = weight[token[r]] * f0                         weight [vocab, width] */
  SL_RMS_NORM = 2, /* per group of i0 values: x / sqrt(mean(x^2) + f0) * w   weight [1, i0]; i0 divides the width of a */
  SL_LINEAR = 3,   /* out = a . weight^T (+ bias)                            weight [out width, width of a], bias [1, out width] */
  SL_ROPE = 4,     /* rotate the first i1 values of every head of i0 values; i2: 0 pairs (2j, 2j+1), 1 pairs (j, j + i1/2);
                      angle(pos, j) = pos * f1 * f0^(-2j/i1) / (weight[j] if given)   weight [1, i1/2] or none; f0 base, f1 scale */
  SL_ATTEND = 5,   /* causal attention of a=q over the cache, after storing b=k and c=v; i0 cache layer, i1 query heads,
                      i2 key/value heads, i3 head width (q, k and v), i4 window in tokens (0: all); f0 score scale,
                      f1 score soft cap (0: none). Query head h reads key/value head h / (i1/i2).
                      Window w: position p sees positions p-w+1 .. p. */
  SL_GLU = 6,      /* out = act(a) * b; i0: 0 silu, 1 gelu (tanh form), 2 gelu (with erf) */
  SL_ADD = 7,      /* out = a + b */
  SL_SOFTCAP = 8,  /* out = f0 * tanh(a / f0) */
  SL_PICK = 9,     /* out = the rows of a that the batch asks outputs for */
  SL_LAYER_NORM = 10, /* over the row: (x - mean) / sqrt(mean((x - mean)^2) + f0) * w + bias
                                                                             weight, bias [1, width of a] */
  SL_ACTIVATE = 11,   /* out = act(a); i0 as in GLU */
  SL_PLACE = 12,      /* out[r] = weight[position of r]                      weight [positions, width] */
  SL_SHIFT = 13,      /* out = a + weight, the same for every row            weight [1, width of a] */
  SL_ATTEND_ALL = 14, /* attention of a=q over b=k and c=v of all rows of its sequence, later ones too; i0 query heads, i1
                         key/value heads, i2 head width; f0 score scale. Keys and values pass through the blocks as float16,
                         whatever kv_type says, and all such ops share one layer's room there */
  SL_POOL = 15        /* one output row for each one asked for: i0 0: the mean of the rows of its sequence, 1: the first */
} sl_kind;

typedef struct sl_op {
  int32_t kind, out, a, b, c, weight, bias; /* unused inputs and tensors: SL_NONE */
  int32_t i[5];                             /* unused: 0 */
  float f[2];                               /* unused: 0 */
} sl_op;

typedef struct sl_config {
  int32_t threads;     /* >= 1 */
  int32_t n_blocks;    /* key/value blocks in the pool */
  int32_t max_rows;    /* most rows in one step */
  int32_t max_seqs;    /* most sequences in one step */
  int32_t max_outputs; /* most output rows in one step */
  int32_t isa;         /* sl_isa */
  int32_t kv_type;     /* SL_F16 or SL_Q8_0: how keys and values are kept. Each is rounded once, when it is stored, and every
                          row, its own included, sees it as stored. Q8_0: per 32 values of a head (the last group of a head
                          may be shorter) 8-bit integers q and one float32 d = max|x| / 127, value q * d: off by at most
                          max|x| / 254, and by nothing else: any finite float32 has a place, where float16 ends at 65504 */
} sl_config;

/* How to choose the token after one output row. Order: bias, mask, penalties, temperature, top_k, typical_p, top_p, min_p,
 * draw. temperature 0: the largest logit (lowest id on a tie). Random numbers: Philox4x32-10 keyed by seed, counter =
 * position of the token being chosen, so that a draw depends on nothing else. */
typedef struct sl_sampling {
  uint64_t seed;
  const int32_t *history;    /* the last repeat_last_n tokens of the sequence */
  const uint32_t *mask;      /* bit set = allowed, (vocab + 31) / 32 words; NULL = all */
  const int32_t *bias_ids;   /* n_bias tokens whose logits get bias_values added */
  const float *bias_values;
  int32_t n_history, n_bias;
  int32_t top_k;             /* <= 0: all */
  int32_t top_logprobs;      /* 0 .. SL_MAX_TOP alternatives reported */
  float temperature, top_p, min_p, typical_p; /* 1, 0, 1: off */
  float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
} sl_sampling;

/* One step. Sequence s owns rows row_start[s] .. row_start[s+1]-1: consecutive tokens at positions start_pos[s], +1, ...;
 * what lies before start_pos[s] is already in its blocks. blocks[s * table_width + j] is the block of positions 32j .. 32j+31.
 * A block written in a step belongs to one sequence of that step. out_rows ascend. */
typedef struct sl_batch {
  const int32_t *tokens;       /* [n_rows]              caller */
  const int32_t *row_start;    /* [n_seqs + 1]          caller */
  const int32_t *start_pos;    /* [n_seqs]              caller */
  const int32_t *blocks;       /* [n_seqs, table_width] caller; unused entries SL_NONE */
  const int32_t *out_rows;     /* [n_outputs]           caller */
  const sl_sampling *sampling; /* [n_outputs] or NULL   caller; NULL: nothing is sampled, as must be where width is not vocab */
  int32_t *out_tokens;         /* [n_outputs]              engine, if sampling; SL_NONE where the logits are not finite */
  float *out_logprobs;         /* [n_outputs]              engine, if sampling: log softmax of the raw logits */
  int32_t *top_ids;            /* [n_outputs, SL_MAX_TOP]  engine, if not NULL; SL_NONE and -infinity past top_logprobs */
  float *top_logprobs;         /* [n_outputs, SL_MAX_TOP]  engine, if not NULL */
  float *logits;               /* [n_outputs, width]       engine, if not NULL: the last slot */
  int32_t n_rows, n_seqs, n_outputs, table_width;
} sl_batch;

typedef struct sl_info {
  int64_t weight_bytes, kv_bytes, scratch_bytes; /* memory this engine holds */
  int64_t bytes_per_block;                       /* key/value memory of one block, all layers */
  int32_t vocab, layers, threads, isa;           /* layers: cache layers; isa: the one chosen */
  int32_t width;                                 /* values of one output row; vocab if they are logits */
} sl_info;

/* What the machine can do at most, per second, on the threads asked for. 0: it has no such instruction. */
typedef struct sl_rates {
  double read_bytes;    /* from memory far larger than the caches */
  double integer_ops;   /* u8 x s8 summed in s32, two operations a product, with the widest instruction it has */
  double float_ops;     /* float32 multiply-adds, two operations each */
  double bf16_ops;      /* bf16 products summed in float32, two operations each */
  char instruction[16]; /* the one behind integer_ops, "" if none */
} sl_rates;

/* SHA-256 (FIPS 180-4) of one stream of bytes. */
typedef struct sl_sha256 {
  uint32_t state[8];
  uint64_t length;  /* bytes so far */
  uint8_t rest[64]; /* the last length % 64 of them: a block that has begun */
} sl_sha256;

typedef struct sl_engine sl_engine;
typedef struct sl_tokenizer sl_tokenizer;

int32_t sl_abi(void);
const char *sl_last_error(void);
/* One line per struct and field, "sl_batch.tokens 0 8" (offset, size) and "sl_batch 0 112": the binding compares. */
const char *sl_layout(void);
const char *sl_isa_name(int32_t isa);
int32_t sl_isa_supported(int32_t isa); /* 1 if this CPU and this build can run it */

/* The last op's out slot holds the logits, or vectors of another width. Checks the plan (kinds, slots, widths, tensor shapes, cache layers) again. */
int sl_create(const sl_op *ops, int32_t n_ops, const sl_tensor *tensors, int32_t n_tensors, const sl_config *config, sl_engine **out);
/* What sl_create would hold, from shapes alone: nothing is packed, nothing of a matrix is read. kv_bytes is of config's
 * n_blocks; bytes_per_block does not depend on it. */
int sl_measure(const sl_op *ops, int32_t n_ops, const sl_tensor *tensors, int32_t n_tensors, const sl_config *config, sl_info *out);
void sl_free(sl_engine *engine);
int sl_step(sl_engine *engine, const sl_batch *batch);
/* The second half of a step that was given no sampling, so that masks may be made while its first half runs: chooses from
 * its logits, once, before the next step. Of batch only n_outputs, sampling, out_tokens, out_logprobs, top_ids and
 * top_logprobs are read; n_outputs is the step's. */
int sl_choose(sl_engine *engine, const sl_batch *batch);
int sl_get_info(const sl_engine *engine, sl_info *out);
/* Nanoseconds spent per op of the plan since sl_create, times[n_ops]. Linear ops that read one slot in a row run together:
 * each gets a share of their time by the bytes of its weight. */
int sl_op_times(const sl_engine *engine, int64_t *times, int32_t n_ops);

/* Measures the machine, which takes about a second; `bytes` (1 MiB to 64 GiB) are allocated and read by all threads together. */
int sl_limits(int32_t threads, int64_t bytes, sl_rates *out);
/* Panels of one matrix, to keep: sl_create reads them in place. Every byte of them may be anything: it changes values,
 * never what is read. They are good for this build only; the caller compares what sl_pack makes of a known matrix. */
int sl_packed_bytes(const sl_tensor *weight, int32_t isa, int64_t *bytes); /* of its shape and type alone, in 64-byte units */
int sl_pack(const sl_tensor *weight, int32_t isa, int32_t threads, void *out); /* out: sl_packed_bytes, 64-byte aligned */

/* Hashes that get the same bytes, side by side: the instructions wait for their own results most of the time, so that two
 * streams take half as long again as one. No engine is needed. One thread at a time may be inside a stream. */
int32_t sl_sha256_supported(void); /* 1 if this CPU has the instructions; else the calls below are refused */
int sl_sha256_begin(sl_sha256 *stream);
int sl_sha256_update(sl_sha256 *const *streams, int32_t n, const void *data, int64_t size); /* [n], all different; n <= SL_MAX_STREAMS */
int sl_sha256_digest(const sl_sha256 *stream, uint8_t *digest); /* [32], of the bytes so far; the stream may go on */
/* Of every `piece` bytes of data, the last piece as short as it is: digests [pieces, 32]. Several pieces side by side. */
int sl_sha256_pieces(const void *data, int64_t size, int64_t piece, uint8_t *digests);

/* In GF(2^8) of polynomial 0x11D, byte by byte: out[r] = sum over k of factors[r, k] x in[k], of `size` bytes each. No engine is
 * needed. n_out from 0, n_in from 1, both to SL_MAX_SHARDS; in[k] may be null where column k is all zeros; outputs may not
 * overlap anything. */
int sl_gf256_combine(const uint8_t *factors, int32_t n_out, int32_t n_in, const void *const *in, void *const *out, int64_t size,
                     int32_t isa);

/* Strings as a GGUF has them, each a u64 length and its bytes: goes past as many of `count` as are whole and UTF-8. passed: how
 * many; end: where the last one ends, in bytes. */
int sl_strings(const void *data, int64_t size, int64_t count, int64_t *passed, int64_t *end);

/* A vocabulary and byte pair encoding by its merges. No engine is needed. Threads may share one once it has its merges. texts [size]: n strings as sl_strings passes them. row: which of them was refused, SL_NONE if none was. */
int sl_tokenizer_create(const void *texts, int64_t size, int32_t n, int32_t most_characters, int32_t *row, sl_tokenizer **out);
void sl_tokenizer_free(sl_tokenizer *tokenizer);
/* The tokens' texts, one behind the other, and where each ends, [n]. They stay until sl_tokenizer_free. */
int sl_tokenizer_texts(const sl_tokenizer *tokenizer, const void **texts, const uint32_t **ends);
int sl_tokenizer_find(const sl_tokenizer *tokenizer, const void *text, int64_t size, int32_t *id); /* SL_NONE: no token */
/* How words begin, which comes first. mergeable [tokens]: 1 where a token may be made of text, else 0. bytes [256]: the
 * tokens of bytes, or SL_NONE: text with such a byte is refused. flags: of sl_words. */
int sl_tokenizer_words(sl_tokenizer *tokenizer, const uint8_t *mergeable, const int32_t *bytes, int32_t flags);
/* Either merges [size], as listed: n strings, best first, each two parts with a blank between them; or every way to split a
 * token in two, by the scores [tokens] of the wholes, highest first. parts [tokens]: 1 where a token may be split, or be a part. */
int sl_tokenizer_merges(sl_tokenizer *tokenizer, const void *merges, int64_t size, int32_t n, int32_t *row);
int sl_tokenizer_scores(sl_tokenizer *tokenizer, const float *scores, const uint8_t *parts);
/* text [size], UTF-8; words [n]: characters of each word, which make up the text; ids [size], of which n_ids are written. */
int sl_tokenizer_encode(const sl_tokenizer *tokenizer, const void *text, int64_t size, const int32_t *words, int64_t n,
                        int32_t *ids, int64_t *n_ids);

/* For tests and the bench: y[n, rows] = x[n, cols] . weight^T through the packed kernel of one instruction set. */
int sl_linear(const sl_tensor *weight, int32_t isa, int32_t threads, const float *x, int32_t n, float *y);
/* y[rows, cols]: the exact values of a tensor. */
int sl_dequantize(const sl_tensor *weight, float *y);
/* Chooses a token from logits[vocab] for the given position, as sl_step would. */
int sl_sample(float *logits, int32_t vocab, const sl_sampling *sampling, int32_t position, int32_t *token, float *logprob,
              int32_t *top_ids, float *top_logprobs);

#ifdef __cplusplus
}
#endif
#if defined(SEALIFT_BUILDING)
#pragma GCC visibility pop
#endif
#endif
