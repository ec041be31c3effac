// What the forms of MLA attention share: the call, and flash attention of a group of rows over a few hundred keys.
#pragma once

#include <cstdint>
#include <vector>

namespace mla {

constexpr int64_t CHUNK = 64;   // rows looked at together, counted from the call's first row
constexpr int64_t STEP = 256;   // keys between two looks at a row's maximum, counted from the sequence's start

struct Call {
    const float* pages;
    int64_t page_tokens;  // a power of two
    const int64_t* table;
    const float* kv_b;
    int64_t h, N, r, R, V, ld_q, ld_o;
    float scale;

    int64_t width() const { return R + r; }
    int64_t key_width() const { return N + r; }
    const float* key_rows(int64_t head) const { return kv_b + head * (N + V) * R; }
    const float* value_rows(int64_t head) const { return key_rows(head) + N * R; }
    const float* latent(int64_t s) const {
        int64_t page = table[s >> __builtin_ctzll(page_tokens)];
        return pages + (page * page_tokens + (s & (page_tokens - 1))) * width();
    }
};

/// A segment's rows by keys and values expanded from the latents: q, o its first row, length with its last row.
void expanded(const Call& call, const float* q, int64_t T, int64_t length, float* o);

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

void attend(const Group& group, const Keys& keys);

/// One row's scores [count] become weights; its maximum, mass and sum follow. Scores from `seen` on count as -inf.
/// There must be room up to the next multiple of 16.
void weigh(float* scores, int64_t seen, int64_t count, const State& row);

/// y [rows, 32] = x [rows, depth] · panel [depth][32], or with `go_on` the same chains of sums going on from y.
void product(const float* x, int64_t ld_x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on = false);
void product(const float* const* x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on);

/// Latents start .. start + 32 as a panel [R + r][32]; zeros from `length` on.
void transpose(const Call& call, int64_t start, int64_t length, float* panel);

/// Brings a latent on its way into L2: by itself the machine does not look beyond 4 KB.
inline void ask_for(const float* latent, int64_t width) {
    for (int64_t d = 0; d < width; d += 64 / int64_t(sizeof(float))) __builtin_prefetch(latent + d, 0, 2);
}

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/// At least `count` floats that only this use of this thread has; they stay allocated.
inline float* room(std::vector<float>& scratch, int64_t count) {
    if (int64_t(scratch.size()) < count) scratch.resize(count);
    return scratch.data();
}

}  // namespace mla
