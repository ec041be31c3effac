// Multi-head latent attention over paged latents (kernels/mla.py has the definition): which rows take which form.
#include "mla.h"

#include <cmath>

/// Attention of T rows of one sequence: the last T of its `length` tokens, whose latents are already written.
///
/// q [T, h, N + r], ld_q floats between tokens; pages [P, page_tokens, R + r], page_tokens a power of two; table: the
/// sequence's pages in order; kv_b [h, N + V, R] contiguous -> o [T, h, V], ld_o floats between tokens. What is behind
/// `length` and in pages that are not in the table is not looked at. The first T / 64 * 64 rows are read in chunks of
/// 64 by expanded keys and values; fewer do not pay for the expansion and meet the latents themselves. A call's cuts
/// must lie at multiples of 64 rows from the segment's first: then a row's bits depend on its place in the segment and
/// what stands before it alone.
extern "C" void shiori_mla(const float* q, int64_t ld_q, const float* pages, int64_t page_tokens, const int64_t* table,
                           int64_t length, const float* kv_b, int64_t T, int64_t h, int64_t N, int64_t r, int64_t R,
                           int64_t V, float* o, int64_t ld_o) {
    float scale = 1.0f / std::sqrt(float(N + r));
    mla::Call call{pages, nullptr, page_tokens, table, kv_b, nullptr, nullptr, h, N, r, R, V, ld_q, ld_o, scale};
    int64_t whole = T / mla::CHUNK * mla::CHUNK;
    if (whole) mla::expanded(call, q, whole, length - (T - whole), o);
    if (whole < T) mla::absorbed(call, q + whole * ld_q, T - whole, length, o + whole * ld_o);
}

/// The same over pages of bf16. R + r and N + r are multiples of 16; keys and values: kv_b once more, as mla.h has them.
extern "C" void shiori_mla_rounded(const float* q, int64_t ld_q, const uint16_t* pages, int64_t page_tokens,
                                   const int64_t* table, int64_t length, const float* kv_b, const uint16_t* keys,
                                   const uint16_t* values, int64_t T, int64_t h, int64_t N, int64_t r, int64_t R,
                                   int64_t V, float* o, int64_t ld_o) {
    float scale = 1.0f / std::sqrt(float(N + r));
    mla::Call call{nullptr, pages, page_tokens, table, kv_b, keys, values, h, N, r, R, V, ld_q, ld_o, scale};
    int64_t whole = T / mla::CHUNK * mla::CHUNK;
    if (whole) mla::expanded_rounded(call, q, whole, length - (T - whole), o);
    if (whole < T) mla::absorbed(call, q + whole * ld_q, T - whole, length, o + whole * ld_o);
}
