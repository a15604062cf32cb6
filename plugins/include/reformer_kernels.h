/**
 * Reformer kernels: the C interface.
 *
 * Nine operators: LSHBuckets, LSHAttention, LocalAttention, ResidualNorm, FinalNorm, the steps of
 * the attentions and of LSHBuckets, and Linear, which has CPU kernels only.
 * Every backend (CPU here, CUDA beside it) takes the same structs.
 *
 * Rules that hold for every function:
 *   - it never allocates memory, never throws, keeps no state, and may be called from any number of
 *     threads at once;
 *   - it checks every argument before it touches data; wrong input gives a status and, when the
 *     caller passed an error buffer, one line saying what, got, expected;
 *   - results do not depend on the number of workers.
 *
 * The reformer_cuda_* functions take device memory and only enqueue work on the stream: they never
 * synchronise and never use the default stream behind the caller's back, so a call can be captured
 * in a CUDA graph. They cannot look at data, so a negative bucket is not an error there: it sorts
 * behind the others. Head sizes up to REFORMER_CUDA_MAX_HEAD_SIZE. Steps with Q > 1, prompts, are
 * the one exception: they read the lengths back, wait for the stream, and cannot be captured.
 *
 * Letters in shapes: B batch, L length (tokens), H heads, D head size, R num_hashes, N hidden size,
 * Q new tokens, P tokens that a cache has room for.
 * T is float32, float16 or bfloat16, the same for all T tensors of one call; arithmetic is float32.
 */
#ifndef REFORMER_KERNELS_H_
#define REFORMER_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define REFORMER_NOEXCEPT noexcept
extern "C" {
#else
#define REFORMER_NOEXCEPT
#endif

#if defined(_WIN32)
#define REFORMER_API __declspec(dllexport)
#else
#define REFORMER_API __attribute__((visibility("default")))
#endif

/** Changes whenever a struct or the meaning of a field changes. */
#define REFORMER_ABI_VERSION 7u

/** self_logit is no larger than this either way, so that it outweighs -1e9. */
#define REFORMER_MAX_SELF_LOGIT 1e8f

/** num_buckets is a product of even factors that fits in int32: at most 30 of them. */
#define REFORMER_MAX_BUCKET_FACTORS 30

#define REFORMER_MAX_RANK 4

/** Columns of the rotations in a word of LSHBucketsStep's records. */
#define REFORMER_RECORD_COLUMNS 15

/** The CUDA kernels take heads of up to this many elements. */
#define REFORMER_CUDA_MAX_HEAD_SIZE 256

/** More workers than this are refused. */
#define REFORMER_MAX_WORKERS 1024

typedef enum reformer_status {
  REFORMER_OK = 0,
  REFORMER_ERROR_VERSION = 1,      /**< built against another ABI version of this header */
  REFORMER_ERROR_NULL_POINTER = 2, /**< a required pointer is null */
  REFORMER_ERROR_DTYPE = 3,        /**< a tensor has a dtype the operator does not take */
  REFORMER_ERROR_SHAPE = 4,        /**< a rank or dimension does not fit the other tensors */
  REFORMER_ERROR_ATTRIBUTE = 5,    /**< an attribute, or a weight, is out of range */
  REFORMER_ERROR_ALIGNMENT = 6,    /**< a data pointer is not aligned to its element size */
  REFORMER_ERROR_OVERLAP = 7,      /**< the output's memory overlaps an input's */
  REFORMER_ERROR_TOO_LARGE = 8,    /**< a size does not fit the integer type that holds it */
  REFORMER_ERROR_WORKSPACE = 9,    /**< the workspace is too small */
  REFORMER_ERROR_BUCKETS = 10,     /**< a bucket is negative */
  REFORMER_ERROR_LAUNCH = 11,      /**< the device refused the launch (CUDA only) */
  REFORMER_ERROR_LENGTHS = 12,     /**< a row's tokens do not fit its cache, or are no step */
  REFORMER_ERROR_PROCESSOR = 13    /**< this processor has no instructions for it (Linear only) */
} reformer_status;

typedef enum reformer_dtype {
  REFORMER_FLOAT32 = 0,
  REFORMER_FLOAT16 = 1,
  REFORMER_BFLOAT16 = 2,
  REFORMER_INT32 = 3,
  REFORMER_INT8 = 4
} reformer_dtype;

/** A dense row-major tensor. Inputs are only read. */
typedef struct reformer_tensor {
  void* data;    /**< aligned to the element size; may be null when a dimension is 0 */
  int32_t dtype; /**< a reformer_dtype */
  int32_t rank;  /**< 1..REFORMER_MAX_RANK */
  int64_t dims[REFORMER_MAX_RANK];
} reformer_tensor;

/** One share of the work: runs item `index` of a parallel_for. */
typedef void (*reformer_task)(void* argument, int64_t index);

/**
 * Calls task(argument, i) exactly once for every i in [0, total), on any threads, and returns when
 * all are done. `context` is the host's.
 */
typedef void (*reformer_parallel_for)(void* context, int64_t total, reformer_task task,
                                      void* argument);

/** What Linear does to its sums. */
typedef enum reformer_activation {
  REFORMER_NO_ACTIVATION = 0,
  REFORMER_RELU = 1,
  REFORMER_GELU = 2 /**< x times the normal distribution's function */
} reformer_activation;

/** Where a call runs, and on what memory. */
typedef struct reformer_execution {
  void* workspace; /**< of any alignment; needs no initialisation; host memory for the CPU, device
                      memory for CUDA */
  uint64_t workspace_size; /**< bytes; at least what the operator's *_workspace function says */
  reformer_parallel_for parallel_for; /**< the host's thread pool; null runs in this thread; CUDA
                                         ignores it */
  void* parallel_context;
  int32_t num_workers; /**< 1..REFORMER_MAX_WORKERS; the workspace grows with it; 1 for CUDA */
  void* stream;        /**< cudaStream_t for CUDA; ignored by the CPU */
  char* error;         /**< null, or room for a message that is always 0-terminated */
  uint64_t error_size; /**< bytes */
} reformer_execution;

/**
 * How positions are cut into chunks, and which keys a query sees.
 *
 * Virtual padding: Lp = L when L <= padding_threshold, else L rounded up to padding_multiple.
 * Positions L..Lp-1 are masked, sort behind everything and hold zero vectors; no memory has them.
 * Lp <= chunk_length, or in LSH attention dense_threshold: one dense block of the L positions,
 * without rounds. Otherwise Lp must be a multiple of chunk_length, and chunk c attends to chunks
 * c - before .. c + after, modulo the number of chunks of all rounds together; a chunk listed twice
 * counts twice. Local attention with wraps 0 has no chunks beyond either end instead.
 *
 * Logits: -1e9 for a masked key and, when causal, for a key behind the query; self_logit for the
 * query's own position, whatever the mask says, unless it is infinity. Every logsumexp is rounded
 * to float32 and then subtracted, as HF eager does: a row that sees nothing adds up its listed
 * values.
 */
typedef struct reformer_chunking {
  int64_t chunk_length;      /**< C >= 1, tokens */
  int64_t num_chunks_before; /**< >= 0 */
  int64_t num_chunks_after;  /**< >= 0 */
  int64_t padding_multiple;  /**< M >= 1, tokens: see padding_threshold */
  int64_t padding_threshold; /**< >= 0; longer inputs are virtually padded to a multiple of M */
  int32_t is_causal;         /**< 0 or 1 */
} reformer_chunking;

/**
 * Random-rotation hashing. With x in float32 and y = x . rotations[h, :, r, :] split by the factors
 * f_i: a_i = argmax(y_i, -y_i), the lowest index on ties; bucket = sum_i a_i * prod_{j<i} f_j. A
 * masked token gets bucket prod f_i.
 */
typedef struct reformer_lsh_buckets_params {
  uint32_t struct_size; /**< sizeof(reformer_lsh_buckets_params) */
  uint32_t abi_version; /**< REFORMER_ABI_VERSION */
  int32_t num_heads;    /**< H */
  int32_t num_factors;  /**< 0..REFORMER_MAX_BUCKET_FACTORS; 0: the one factor 2 S */
  int32_t num_buckets[REFORMER_MAX_BUCKET_FACTORS]; /**< even factors f_i >= 2 */
  reformer_tensor query_key;                        /**< T [B, L, H*D] */
  reformer_tensor rotations;      /**< float32 [H, D, R, S], S = sum(f_i) / 2 >= 1 */
  reformer_tensor attention_mask; /**< int32 [B, L], 0 masks a token */
  reformer_tensor buckets;        /**< output, int32 [B, H, R, L] */
  reformer_execution execution;
} reformer_lsh_buckets_params;

/** Chunked attention over positions sorted by bucket, combined over the rounds of hashing. */
typedef struct reformer_lsh_attention_params {
  uint32_t struct_size;    /**< sizeof(reformer_lsh_attention_params) */
  uint32_t abi_version;    /**< REFORMER_ABI_VERSION */
  int32_t num_heads;       /**< H */
  float key_norm_epsilon;  /**< > 0: k = x / (sqrt(mean(x^2) + key_norm_epsilon) * sqrt(D)) */
  float self_logit;        /**< finite, up to REFORMER_MAX_SELF_LOGIT in size */
  int64_t dense_threshold; /**< >= 0, tokens: see reformer_chunking */
  reformer_chunking chunking;
  reformer_tensor query_key;      /**< T [B, L, H*D] */
  reformer_tensor value;          /**< T [B, L, H*D] */
  reformer_tensor buckets;        /**< int32 [B, H, R, L], any values >= 0 */
  reformer_tensor attention_mask; /**< int32 [B, L], 0 masks a token */
  reformer_tensor output;         /**< T [B, L, H*D], must not overlap an input */
  reformer_execution execution;
} reformer_lsh_attention_params;

/** Chunked attention over positions in their own order. */
typedef struct reformer_local_attention_params {
  uint32_t struct_size; /**< sizeof(reformer_local_attention_params) */
  uint32_t abi_version; /**< REFORMER_ABI_VERSION */
  int32_t num_heads;    /**< H */
  float self_logit;     /**< as of LSHAttention, or infinity: a position's own key is as any */
  int32_t wraps;        /**< 0 or 1 */
  reformer_chunking chunking;
  reformer_tensor query;          /**< T [B, L, H*D] */
  reformer_tensor key;            /**< T [B, L, H*D] */
  reformer_tensor value;          /**< T [B, L, H*D] */
  reformer_tensor attention_mask; /**< int32 [B, L], 0 masks a token */
  reformer_tensor output;         /**< T [B, L, H*D], must not overlap an input */
  reformer_execution execution;
} reformer_local_attention_params;

/**
 * A residual addition and the layer norm of its result: with x = stream + update in float32,
 * stream_out = x and normed = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias
 * over the last dimension, in float32, rounded once to T.
 *
 * Without stream_out it is FinalNorm: a row of x is other_stream's and behind it that sum, and only
 * normed is written.
 *
 * stream_out may be stream itself, and ResidualNorm's normed may be update itself (the same data
 * pointer): every row is read before it is written. Otherwise no output may overlap an input or the
 * other output.
 */
typedef struct reformer_residual_norm_params {
  uint32_t struct_size;         /**< sizeof(reformer_residual_norm_params) */
  uint32_t abi_version;         /**< REFORMER_ABI_VERSION */
  float epsilon;                /**< >= 0 */
  reformer_tensor other_stream; /**< float32 [B, L, N]; rank 0 with stream_out */
  reformer_tensor stream;       /**< float32 [B, L, N], N >= 1 */
  reformer_tensor update;       /**< T [B, L, N] */
  reformer_tensor scale;        /**< float32 [N], or [2 N] without stream_out */
  reformer_tensor bias;         /**< float32, as scale */
  reformer_tensor stream_out;   /**< output, float32 [B, L, N]; rank 0: none */
  reformer_tensor normed;       /**< output, T [B, L, N], or [B, L, 2 N] without stream_out */
  reformer_execution execution;
} reformer_residual_norm_params;

/**
 * LSHAttention of a prompt, or of one new token against what was cached. Row b of the batch is a
 * sequence of its own: it holds lengths[b] tokens and gets new_lengths[b] more, and its output is
 * the last rows of LSHAttention over those tokens, all unmasked, and over no others. new_lengths[b]
 * is 0, 1, or up to Q where lengths[b] is 0. Outputs behind a row's new tokens are 0.
 *
 * A present tensor that is its past tensor (the same data pointer) gets the new tokens only, else
 * all of the past is copied. A call that is refused has written nothing to them.
 *
 * chunking: is_causal 1, num_chunks_after 0, padding_multiple a multiple of chunk_length, and
 * padding_threshold at most dense_threshold.
 *
 * On CUDA all tensors are device memory, the lengths too. With Q = 1 nobody looks at these before
 * the kernels do: a row whose lengths do not fit rests.
 */
typedef struct reformer_lsh_attention_step_params {
  uint32_t struct_size;   /**< sizeof(reformer_lsh_attention_step_params) */
  uint32_t abi_version;   /**< REFORMER_ABI_VERSION */
  int32_t num_heads;      /**< H */
  float key_norm_epsilon; /**< as of LSHAttention, like the next two */
  float self_logit;
  int64_t dense_threshold;
  reformer_chunking chunking;
  reformer_tensor query_key;         /**< T [B, Q, H*D], of the new tokens */
  reformer_tensor value;             /**< T [B, Q, H*D] */
  reformer_tensor new_buckets;       /**< int32 [B, H, R, Q], >= 0 */
  reformer_tensor past_query_key;    /**< T [B, P, H*D], of the tokens held, then anything */
  reformer_tensor past_value;        /**< T [B, P, H*D] */
  reformer_tensor past_buckets;      /**< int32 [B, H, R, P] */
  reformer_tensor lengths;           /**< int32 [B], tokens held */
  reformer_tensor new_lengths;       /**< int32 [B], new tokens */
  reformer_tensor output;            /**< T [B, Q, H*D], must not overlap an input */
  reformer_tensor present_query_key; /**< output, T [B, P, H*D]; may be past_query_key */
  reformer_tensor present_value;     /**< output, T [B, P, H*D]; may be past_value */
  reformer_tensor present_buckets;   /**< output, int32 [B, H, R, P]; may be past_buckets */
  reformer_execution execution;
} reformer_lsh_attention_step_params;

/**
 * LocalAttention likewise. The caches are rings of P = (num_chunks_before + 1) * chunk_length
 * tokens, position p at p modulo P: all that the last token can see. lengths counts every token
 * so far. padding_threshold is at most chunk_length.
 */
typedef struct reformer_local_attention_step_params {
  uint32_t struct_size; /**< sizeof(reformer_local_attention_step_params) */
  uint32_t abi_version; /**< REFORMER_ABI_VERSION */
  int32_t num_heads;    /**< H */
  float self_logit;     /**< as of LocalAttention, like the next */
  int32_t wraps;
  reformer_chunking chunking;
  reformer_tensor query;         /**< T [B, Q, H*D], of the new tokens */
  reformer_tensor key;           /**< T [B, Q, H*D] */
  reformer_tensor value;         /**< T [B, Q, H*D] */
  reformer_tensor past_key;      /**< T [B, P, H*D] */
  reformer_tensor past_value;    /**< T [B, P, H*D] */
  reformer_tensor lengths;       /**< int32 [B], tokens so far */
  reformer_tensor new_lengths;   /**< int32 [B], new tokens */
  reformer_tensor output;        /**< T [B, Q, H*D], must not overlap an input */
  reformer_tensor present_key;   /**< output, T [B, P, H*D]; may be past_key */
  reformer_tensor present_value; /**< output, T [B, P, H*D]; may be past_value */
  reformer_execution execution;
} reformer_local_attention_step_params;

/**
 * LSHBuckets of all tokens of a sequence, whose number of buckets grows with its length: of L
 * tokens by the first ceil(L / padding_multiple) columns of the rotations, or all S, as one factor.
 * A new token may give all tokens other buckets, so what is cached of a token are its records:
 * which columns the argmax of (y, -y) moves to when the columns up to there are all. Column s has
 * the bits 2 (s % 15) and the next one of word s / 15: 1 where it moves to y_s, 2 where it moves to
 * -y_s, 0 where it stays. Rows and lengths are as of LSHAttentionStep; on CUDA nobody looks at the
 * lengths before the kernels do, whatever Q is, and a row whose lengths do not fit rests.
 */
typedef struct reformer_lsh_buckets_step_params {
  uint32_t struct_size;         /**< sizeof(reformer_lsh_buckets_step_params) */
  uint32_t abi_version;         /**< REFORMER_ABI_VERSION */
  int32_t num_heads;            /**< H */
  int64_t padding_multiple;     /**< >= 1, tokens for one more column */
  reformer_tensor query_key;    /**< T [B, Q, H*D], of the new tokens */
  reformer_tensor rotations;    /**< float32 [H, D, R, S], S >= 1; or [1, D, R, S], of all heads */
  reformer_tensor past_records; /**< int32 [B, H, R*W, P], W = ceil(S / 15), of the tokens held */
  reformer_tensor lengths;      /**< int32 [B], tokens held */
  reformer_tensor new_lengths;  /**< int32 [B], new tokens */
  reformer_tensor new_buckets;  /**< output, int32 [B, H, R, Q]; 0 behind the new tokens */
  reformer_tensor buckets;      /**< output, int32 [B, H, R, P], of all tokens of a row that gets
                                   new ones; 0 elsewhere */
  reformer_tensor present_records; /**< output, int32 [B, H, R*W, P]; may be past_records */
  reformer_execution execution;
} reformer_lsh_buckets_step_params;

/**
 * A matrix product with constant weights, its bias and its activation, in float32 and rounded once
 * to T. A row's result depends on no other row.
 *
 * An int8 weight is weight[n] * scales[n], and each row of x is rounded to int8 too: a = max |x|;
 * u = a / 127, or 1 where that is 0; q = x / u rounded to the nearest even, from -127 to 127; sums
 * of q * weight are exact in int32; y = activation(sum * (u * scales[n]) + bias). A row with an
 * infinity or a NaN is all NaN. With a bfloat16 weight x is rounded to bfloat16, and the products
 * are summed in float32, as the processor's instructions do it. A float32 weight takes T float32
 * only; products are added one after another, with one rounding each.
 */
typedef struct reformer_linear_params {
  uint32_t struct_size;   /**< sizeof(reformer_linear_params) */
  uint32_t abi_version;   /**< REFORMER_ABI_VERSION */
  int32_t activation;     /**< a reformer_activation */
  reformer_tensor x;      /**< T [M, K], K >= 1 */
  reformer_tensor weight; /**< int8 [N, K], none of them -128, bfloat16 or float32 */
  reformer_tensor scales; /**< float32 [N]; rank 0 for a weight of floats */
  reformer_tensor bias;   /**< T [N]; rank 0: none */
  reformer_tensor y;      /**< output, T [M, N], must not overlap an input */
  void* packed;           /**< what reformer_cpu_linear_pack wrote, at a multiple of 64 bytes: then
                             weight, scales and bias need no data; null packs them in every call */
  uint64_t packed_size;   /**< bytes */
  reformer_execution execution;
} reformer_linear_params;

/** What this library is. Set struct_size before the call. */
typedef struct reformer_library {
  uint32_t struct_size;   /**< sizeof(reformer_library) */
  uint32_t abi_version;   /**< out: REFORMER_ABI_VERSION it was built with */
  const char* version;    /**< out: release, such as "0.1.0" */
  const char* cpu_target; /**< out: instruction set the CPU kernels use here, such as "AVX3" */
  const char* cuda_architectures; /**< out: such as "80,86,90"; null when built without CUDA */
  const char* int8_products;      /**< out: what Linear multiplies int8 with here, such as "AMX";
                                     null when this processor has nothing for it */
  const char* bfloat16_products;  /**< out: likewise; null too where float32 is as fast */
  const char* float32_products;   /**< out: likewise; null too where the host's may be as fast */
} reformer_library;

REFORMER_API reformer_status reformer_library_info(reformer_library* library) REFORMER_NOEXCEPT;

/** A fixed English text for a status; never null. */
REFORMER_API const char* reformer_status_text(reformer_status status) REFORMER_NOEXCEPT;

/**
 * Bytes of workspace a call with these parameters needs. Looks at shapes, attributes and
 * num_workers only: data, workspace and parallel_for may still be null.
 */
REFORMER_API reformer_status reformer_cpu_lsh_buckets_workspace(
    const reformer_lsh_buckets_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_lsh_attention_workspace(
    const reformer_lsh_attention_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_local_attention_workspace(
    const reformer_local_attention_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_residual_norm_workspace(
    const reformer_residual_norm_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_lsh_attention_step_workspace(
    const reformer_lsh_attention_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_local_attention_step_workspace(
    const reformer_local_attention_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_lsh_buckets_step_workspace(
    const reformer_lsh_buckets_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;

/** Run an operator on host memory. */
REFORMER_API reformer_status reformer_cpu_lsh_buckets(const reformer_lsh_buckets_params* params)
    REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_lsh_attention(const reformer_lsh_attention_params* params)
    REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cpu_local_attention(const reformer_local_attention_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_residual_norm(const reformer_residual_norm_params* params)
    REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cpu_lsh_attention_step(const reformer_lsh_attention_step_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_local_attention_step(
    const reformer_local_attention_step_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cpu_lsh_buckets_step(const reformer_lsh_buckets_step_params* params) REFORMER_NOEXCEPT;

/**
 * Bytes that reformer_cpu_linear_pack writes for these parameters; x and y are not looked at but
 * for x's dtype and K.
 */
REFORMER_API reformer_status reformer_cpu_linear_packed_size(const reformer_linear_params* params,
                                                             uint64_t* size) REFORMER_NOEXCEPT;
/** Writes weight, scales and bias to `packed`, of packed_size bytes, as this processor reads them.
 */
REFORMER_API reformer_status reformer_cpu_linear_pack(const reformer_linear_params* params)
    REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_linear_workspace(const reformer_linear_params* params,
                                                           uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cpu_linear(const reformer_linear_params* params)
    REFORMER_NOEXCEPT;

/**
 * Bytes of device workspace; the same rules as for the CPU. Absent from a library built without
 * CUDA: see reformer_library.cuda_architectures.
 */
REFORMER_API reformer_status reformer_cuda_lsh_buckets_workspace(
    const reformer_lsh_buckets_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_lsh_attention_workspace(
    const reformer_lsh_attention_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_local_attention_workspace(
    const reformer_local_attention_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_residual_norm_workspace(
    const reformer_residual_norm_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_lsh_attention_step_workspace(
    const reformer_lsh_attention_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_local_attention_step_workspace(
    const reformer_local_attention_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_lsh_buckets_step_workspace(
    const reformer_lsh_buckets_step_params* params, uint64_t* size) REFORMER_NOEXCEPT;

/** Enqueue an operator on device memory, on execution.stream. */
REFORMER_API reformer_status reformer_cuda_lsh_buckets(const reformer_lsh_buckets_params* params)
    REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cuda_lsh_attention(const reformer_lsh_attention_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cuda_local_attention(const reformer_local_attention_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cuda_residual_norm(const reformer_residual_norm_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_lsh_attention_step(
    const reformer_lsh_attention_step_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status reformer_cuda_local_attention_step(
    const reformer_local_attention_step_params* params) REFORMER_NOEXCEPT;
REFORMER_API reformer_status
reformer_cuda_lsh_buckets_step(const reformer_lsh_buckets_step_params* params) REFORMER_NOEXCEPT;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* REFORMER_KERNELS_H_ */
