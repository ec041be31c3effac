// What the forms of MLA attention share: the call, and flash attention of a group of rows over a few hundred keys.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "bf16.h"

namespace mla {

constexpr int64_t CHUNK = 64;   // rows looked at together, counted from the call's first row
constexpr int64_t STEP = 256;   // keys between two looks at a row's maximum, counted from the sequence's start

struct Call {
    const float* pages;        // one of the two is null
    const uint16_t* rounded;   // pages of bf16
    int64_t page_tokens;  // a power of two
    const int64_t* table;
    const float* kv_b;
    const uint16_t* keys;      // [h][N][deep(R)] the rows of kv_b that make keys, as bf16, when pages are
    const uint16_t* values;    // [h][ceil(V / 32)][deep(R) / 2][32][2] those that make values
    int64_t h, N, r, R, V, ld_q, ld_o;
    float scale;

    int64_t width() const { return R + r; }
    int64_t key_width() const { return N + r; }
    const float* key_rows(int64_t head) const { return kv_b + head * (N + V) * R; }
    const float* value_rows(int64_t head) const { return key_rows(head) + N * R; }
    /// Where the latent of token s begins, in numbers from the first page's first.
    int64_t place(int64_t s) const {
        int64_t page = table[s >> __builtin_ctzll(page_tokens)];
        return (page * page_tokens + (s & (page_tokens - 1))) * width();
    }
    const float* latent(int64_t s) const { return pages + place(s); }
    const uint16_t* rounded_latent(int64_t s) const { return rounded + place(s); }

    /// Brings a latent on its way into L2: by itself the machine does not look beyond 4 KB.
    void ask_for(int64_t s) const {
        const char* at = pages ? (const char*)latent(s) : (const char*)rounded_latent(s);
        for (int64_t d = 0, bytes = width() * (pages ? 4 : 2); d < bytes; d += 64) __builtin_prefetch(at + d, 0, 2);
    }
};

/// A segment's rows by keys and values expanded from the latents: q, o its first row, length with its last row.
void expanded(const Call& call, const float* q, int64_t T, int64_t length, float* o);

/// The same with products of bf16 numbers, for pages of them.
void expanded_rounded(const Call& call, const float* q, int64_t T, int64_t length, float* o);

/// A segment's last rows, fewer than CHUNK, by queries that meet the latents themselves.
void absorbed(const Call& call, const float* q, int64_t T, int64_t length, float* o);

/// The running softmax of some rows: largest score, sum of weights by lanes, weighted sum of values.
struct State {
    float* peak;  // [rows]
    float* mass;  // [rows, 16]
    float* acc;   // [rows, columns]
    int64_t columns;

    State from(int64_t row) const { return {peak + row, mass + row * 16, acc + row * columns, columns}; }
};

void begin(const State& state, int64_t rows);

/// Rows that go through the keys together.
struct Group {
    int64_t rows;         // <= CHUNK
    const float* q;       // [rows, apart], scaled
    int64_t apart;
    int64_t depth;        // numbers of a query that meet a key
    const int64_t* seen;  // [rows] keys from the sequence's start that a row may see
    State state;
};

/// Keys from `start`, a multiple of STEP, up to `stop`, at most STEP further.
struct Keys {
    int64_t start, stop;
    const float* k;       // [ceil(keys / 32)][depth][32]
    const float* v;       // [columns / 32][v_keys][32]
    int64_t v_keys;
};

/// A row's maximum rises to `top`.
void fade(const State& row, float top);

void attend(const Group& group, const Keys& keys);

/// One row's scores [count] become weights; its maximum, mass and sum follow. Scores from `seen` on count as -inf.
/// There must be room up to the next multiple of 16.
void weigh(float* scores, int64_t seen, int64_t count, const State& row);

/// The same by e^x as `power` has it, each 16 weights handed to `keep`; most: a multiple of 16 for which there is room.
template <class Power, class Keep>
void weigh_as(float* scores, int64_t seen, int64_t most, const State& row, const Power& power, const Keep& keep) {
    for (int64_t k = seen; k < most; k++) scores[k] = -std::numeric_limits<float>::infinity();
    Vec high = set1(*row.peak);
    for (int64_t k = 0; k < most; k += LANES) high = max(load(scores + k), high);
    float top = largest(high);
    if (top != *row.peak) fade(row, top);
    Vec mass = zero(), peak = set1(top);
    for (int64_t k = 0; k < most; k += LANES) {
        Vec weight = power(load(scores + k) - peak);
        keep(k, weight);
        mass = mass + weight;
    }
    store(row.mass, load(row.mass) + mass);
}

/// y [rows, 32] = x [rows, depth] · panel [depth][32], or with `go_on` the same chains of sums going on from y.
void product(const float* x, int64_t ld_x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on = false);
void product(const float* const* x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on);

/// Latents start .. start + 32 as a panel [R + r][32]; zeros from `length` on.
void transpose(const Call& call, int64_t start, int64_t length, float* panel);

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// Latents start .. start + count one by one: where they lie, or widened into `copy` [count][R + r].
void rows_of(const Call& call, int64_t start, int64_t count, float* copy, const float** x);

/// x, `count` <= 32 rows of `width` words of 32 bits, the other way round: panel [width][32], zeros behind the rows.
void turn(const float* const* x, int64_t count, int64_t width, float* panel);

/// At least `count` numbers that only this use of this thread has; they stay allocated.
template <class T> T* room(std::vector<T>& scratch, int64_t count) {
    if (int64_t(scratch.size()) < count) scratch.resize(count);
    return scratch.data();
}

}  // namespace mla
