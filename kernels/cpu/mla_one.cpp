// A decoded token reads every latent once: a step of latents meets all heads while it lies in L1.
//
// Here the lanes of a sum lie along the latent, and are added up for sixteen sums together, in the order of vec.h's
// sum(): transposing latents into panels would cost more than the few rows are worth.
#include "mla_one.h"

#include <algorithm>

#include "tile.h"

namespace mla {

namespace {

constexpr int64_t NEAR = 32;   // keys of a step; 16 KB at the shipped width
constexpr int64_t AHEAD = 64;  // keys from a latent that is looked at to the one that is asked for
constexpr int HEADS = 4;      // heads that meet a latent together
constexpr int KEYS = 4;

#if defined(__AVX512F__)
constexpr int DOT_ROWS = HEADS, SUM_VECS = 6;
#else
constexpr int DOT_ROWS = 1, SUM_VECS = 1;
#endif

#if defined(__AVX512F__)
template <int LOW, int HIGH> __m512 fold_quarters(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, LOW), _mm512_shuffle_f32x4(a, b, HIGH));
}
template <int LOW, int HIGH> __m512 fold_lanes(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, LOW), _mm512_shuffle_ps(a, b, HIGH));
}

/// Lane i = sum(x[i]).
Vec sums_of(const Vec* x) {
    __m512 by_four[4];
    for (int j = 0; j < 4; j++) {
        __m512 a = fold_quarters<0x44, 0xEE>(x[j].v, x[j + 4].v);
        __m512 b = fold_quarters<0x44, 0xEE>(x[j + 8].v, x[j + 12].v);
        by_four[j] = fold_quarters<0x88, 0xDD>(a, b);
    }
    return {fold_lanes<0x88, 0xDD>(fold_lanes<0x44, 0xEE>(by_four[0], by_four[1]),
                                   fold_lanes<0x44, 0xEE>(by_four[2], by_four[3]))};
}
#elif defined(__AVX2__)
template <int LOW, int HIGH> __m256 fold_lanes(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, LOW), _mm256_shuffle_ps(a, b, HIGH));
}

__m256 eight_sums_of(const Vec* x) {
    __m256 by_four[4];
    for (int j = 0; j < 4; j++) {
        __m256 a = _mm256_add_ps(x[j].lo, x[j].hi), b = _mm256_add_ps(x[j + 4].lo, x[j + 4].hi);
        by_four[j] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    return fold_lanes<0x88, 0xDD>(fold_lanes<0x44, 0xEE>(by_four[0], by_four[1]),
                                  fold_lanes<0x44, 0xEE>(by_four[2], by_four[3]));
}

Vec sums_of(const Vec* x) { return {eight_sums_of(x), eight_sums_of(x + 8)}; }
#else
Vec sums_of(const Vec* x) {
    float sums[LANES];
    for (int i = 0; i < LANES; i++) sums[i] = sum(x[i]);
    return load(sums);
}
#endif

/// The first `left` numbers of p, 16 at most: nothing behind a row's end may be read.
inline Vec load_row(const float* p, int64_t left) { return left >= LANES ? load(p) : load_first(p, int(left)); }

/// sums[r][i] = lanes of q row r · key i; rows behind `rows` stay zero.
template <int ROWS>
void dots(const float* q, int64_t apart, const float* keys, int64_t width, Vec (*sums)[KEYS]) {
    Vec lanes[ROWS][KEYS];
    clear(lanes);
    auto at = [&](int64_t d, int64_t left) __attribute__((always_inline)) {
        Vec k[KEYS];
        for (int i = 0; i < KEYS; i++) k[i] = load_row(keys + i * width + d, left);
        for (int r = 0; r < ROWS; r++) {
            Vec x = load(q + r * apart + d);
            for (int i = 0; i < KEYS; i++) lanes[r][i] = fma(x, k[i], lanes[r][i]);
        }
    };
    int64_t whole = width / LANES * LANES;
    for (int64_t d = 0; d < whole; d += LANES) at(d, LANES);
    if (whole < width) at(whole, width - whole);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < KEYS; i++) sums[r][i] = lanes[r][i];
}

/// Scores [rows][NEAR] of four keys.
void score(const float* q, int64_t apart, int64_t rows, const float* keys, int64_t width, float* scores) {
    Vec sums[HEADS][KEYS];
    clear(sums);
    int64_t row = 0;
    for (; row + DOT_ROWS <= rows; row += DOT_ROWS) dots<DOT_ROWS>(q + row * apart, apart, keys, width, sums + row);
    for (; row < rows; row++) dots<1>(q + row * apart, apart, keys, width, sums + row);
    float all[HEADS * KEYS];
    store(all, sums_of(sums[0]));
    for (int64_t i = 0; i < rows; i++) std::memcpy(scores + i * NEAR, all + i * KEYS, KEYS * sizeof(float));
}

/// acc[row][16 VECS columns] += weights[row] · latents. The step's sum begins at zero: one chain over a whole piece
/// would lose digits.
template <int ROWS, int VECS>
void add_columns(const float* const* weights, const float* latents, int64_t width, int64_t count, float* acc,
                 int64_t columns) {
    Vec sums[ROWS][VECS];
    clear(sums);
    multiply(weights, latents, count, sums, width);
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECS; v++) {
            float* at = acc + r * columns + v * LANES;
            store(at, load(at) + sums[r][v]);
        }
}

/// The columns of a row's end that are fewer than 16.
void add_last(const float* const* weights, int64_t rows, const float* latents, int64_t width, int64_t left,
              int64_t count, float* acc, int64_t columns) {
    for (int64_t r = 0; r < rows; r++) {
        Vec sums = zero();
        for (int64_t i = 0; i < count; i++)
            sums = fma(set1(weights[r][i]), load_first(latents + i * width, int(left)), sums);
        store(acc + r * columns, load(acc + r * columns) + sums);
    }
}

template <int ROWS>
void add(const float* const* weights, const float* latents, const Call& call, int64_t count, const State& state) {
    int64_t c = 0, width = call.width();
    for (; c < call.R && c + SUM_VECS * LANES <= std::min(width, state.columns); c += SUM_VECS * LANES)
        add_columns<ROWS, SUM_VECS>(weights, latents + c, width, count, state.acc + c, state.columns);
    for (; c < call.R && c + LANES <= width; c += LANES)
        add_columns<ROWS, 1>(weights, latents + c, width, count, state.acc + c, state.columns);
    if (c < call.R) add_last(weights, ROWS, latents + c, width, width - c, count, state.acc + c, state.columns);
}

void add(const float* scores, int64_t rows, const Call& call, const float* latents, int64_t count,
         const State& state) {
    const float* weights[HEADS];
    for (int64_t i = 0; i < rows; i++) weights[i] = scores + i * NEAR;
    switch (rows) {
        case 4: return add<4>(weights, latents, call, count, state);
        case 3: return add<3>(weights, latents, call, count, state);
        case 2: return add<2>(weights, latents, call, count, state);
        default: return add<1>(weights, latents, call, count, state);
    }
}

/// A step's latents one after another: where they lie, or a copy where a page is smaller than a step or of bf16.
const float* latents_of(const Call& call, int64_t start, int64_t count) {
    thread_local std::vector<float> scratch;
    if (call.pages && call.page_tokens >= NEAR) return call.latent(start);
    float* copy = room(scratch, NEAR * call.width());
    const float* x[NEAR];
    rows_of(call, start, count, copy, x);
    for (int64_t i = 0; call.pages && i < count; i++) std::copy_n(x[i], call.width(), copy + i * call.width());
    return copy;
}

/// Some heads' rows meet a step's latents. Scores of keys behind `count` may be anything: weigh() replaces them.
void meet(const Call& call, const float* q, int64_t apart, int64_t rows, const float* latents, int64_t count,
          const State& state) {
    float scores[HEADS * NEAR];
    for (int64_t i = 0; i < count; i += KEYS)
        score(q, apart, rows, latents + i * call.width(), call.width(), scores + i);
    for (int64_t i = 0; i < rows; i++) weigh(scores + i * NEAR, count, count, state.from(i));
    add(scores, rows, call, latents, count, state);
}

}  // namespace

void piece_of_one(const Call& call, const float* q, int64_t apart, int64_t from, int64_t to, const State& state) {
    for (int64_t start = from; start < to; start += NEAR) {
        int64_t count = std::min(NEAR, to - start);
        const float* latents = latents_of(call, start, count);
        int64_t next = std::min(start + AHEAD, to), behind = std::min(next + NEAR, to);
        for (int64_t i = next; i < behind; i++) call.ask_for(i);
        for (int64_t head = 0; head < call.h; head += HEADS)
            meet(call, q + head * apart, apart, std::min<int64_t>(HEADS, call.h - head), latents, count,
                 state.from(head));
    }
}

void expand_read(const Call& call, int64_t head, const State& row, float* o) {
    float whole = sum(load(row.mass));
    for (int64_t v = 0; v < call.V; v += LANES) {
        Vec sums[LANES];
        int64_t count = std::min<int64_t>(LANES, call.V - v);
        for (int64_t i = 0; i < LANES; i++) {
            sums[i] = zero();
            const float* b = call.value_rows(head) + (v + i) * call.R;
            for (int64_t c = 0; i < count && c < call.R; c += LANES)
                sums[i] = fma(load(row.acc + c), load_row(b + c, call.R - c), sums[i]);
        }
        store_first(o + v, sums_of(sums) / set1(whole), int(count));
    }
}

}  // namespace mla
