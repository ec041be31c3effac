// mla_prefill.cpp with products of bf16 numbers: queries, keys, weights and values are rounded, all sums are fp32.
//
// The same blocks, chunks and steps, so a row's bits are as independent of the call; the sum over keys goes on from
// step to step, since each product (bf16.h) adds sums of its own.
#include "mla_blocks.h"

namespace mla {

namespace {

using bf16::deep;
using Words = const float*;  // rows of bf16 taken as words of two

constexpr int64_t NEAR = 32;         // rows whose scores of a step are in L1 together with their weights
constexpr int64_t PAIR = 2 * PANEL;  // numbers of two rows of a panel
static_assert(STEP % bf16::DEEP == 0);

/// C: V rounded up to whole panels.
struct Reading {
    const Call& call;
    int64_t rows, first;  // the sequence's position of row 0
    uint16_t* q;          // [h, rows, deep(N + r)], scaled
    uint16_t* latents;    // [BLOCK][deep(R)] without the shared key part
    uint16_t* turned;     // [BLOCK / 32][deep(R) / 2][32][2]
    uint16_t* k;          // [h][BLOCK / 32][deep(N + r) / 2][32][2]
    uint16_t* v;          // [h][C / 32][BLOCK / 2][32][2]
    State state;          // [h, rows]

    int64_t columns() const { return state.columns; }
    int64_t depth() const { return deep(call.key_width()); }
    uint16_t* key_panel(int64_t head, int64_t panel) const {
        return k + (head * (BLOCK / PANEL) + panel) * depth() * PANEL;
    }
    uint16_t* value_panel(int64_t head, int64_t c) const { return v + (head * columns() + c) * BLOCK; }
};

void prepare(const Reading& reading, const float* q, int64_t head) {
    int64_t width = reading.call.key_width();
    Vec scale = set1(reading.call.scale);
    for (int64_t i = 0; i < reading.rows; i++) {
        const float* from = q + i * reading.call.ld_q + head * width;
        uint16_t* to = reading.q + (head * reading.rows + i) * reading.depth();
        for (int64_t d = 0; d < width; d += LANES) bf16::store_rounded(to + d, load(from + d) * scale);
        std::fill(to + width, to + reading.depth(), uint16_t(0));
    }
}

/// The latents of a panel's keys in rows and in pairs, and of every head's keys the part that all heads share.
void lay_out(const Reading& reading, int64_t start, int64_t stop, int64_t panel) {
    const Call& call = reading.call;
    int64_t first = start + panel * PANEL, count = std::min<int64_t>(PANEL, stop - first), deep_R = deep(call.R);
    uint16_t* rows = reading.latents + panel * PANEL * deep_R;
    const float *words[PANEL], *shared[PANEL];
    if (count < PANEL || deep_R > call.R) std::fill_n(rows, PANEL * deep_R, uint16_t(0));
    for (int64_t i = 0; i < count; i++) {
        const uint16_t* latent = call.rounded_latent(first + i);
        std::copy_n(latent, call.R, rows + i * deep_R);
        words[i] = (Words)(rows + i * deep_R), shared[i] = (Words)(latent + call.R);
    }
    turn(words, count, deep_R / 2, (float*)(reading.turned + panel * PANEL * deep_R));
    uint16_t* to = reading.key_panel(0, panel) + call.N / 2 * PAIR;
    int64_t rest = reading.depth() - call.N;
    std::fill_n(to, rest * PANEL, uint16_t(0));
    turn(shared, count, call.r / 2, (float*)to);
    for (int64_t head = 1; head < call.h; head++)
        std::copy_n(to, rest * PANEL, reading.key_panel(head, panel) + call.N / 2 * PAIR);
}

/// Rows of a product, two by two, as a panel's rows.
void store_rows(const float* y, int64_t rows, uint16_t* panel) {
    for (int64_t i = 0; i < rows; i += 2)
        for (int64_t at = 0; at < PANEL; at += LANES)
            bf16::store_pairs(panel + i * PANEL + 2 * at, load(y + i * PANEL + at), load(y + (i + 1) * PANEL + at));
}

void expand_keys(const Reading& reading, int64_t head, int64_t panel) {
    const Call& call = reading.call;
    alignas(64) float y[PANEL * PANEL];
    const uint16_t* turned = reading.turned + panel * PANEL * deep(call.R);
    for (int64_t n = 0; n < call.N; n += PANEL) {
        int64_t count = std::min<int64_t>(PANEL, call.N - n);
        const uint16_t* rows = call.keys + (head * call.N + n) * deep(call.R);
        bf16::product(rows, deep(call.R), count, turned, deep(call.R), y, PANEL);
        store_rows(y, count, reading.key_panel(head, panel) + n * PANEL);
    }
}

void expand_values(const Reading& reading, int64_t head, int64_t panel) {
    const Call& call = reading.call;
    alignas(64) float y[PANEL * PANEL];
    const uint16_t* latents = reading.latents + panel * PANEL * deep(call.R);
    for (int64_t c = 0; c < reading.columns(); c += PANEL) {
        const uint16_t* weights = call.values + (head * reading.columns() + c) * deep(call.R);
        bf16::product(latents, deep(call.R), PANEL, weights, deep(call.R), y, PANEL);
        store_rows(y, PANEL, reading.value_panel(head, c) + panel * PANEL * PANEL);
    }
}

void expand_panel(const Reading& reading, int64_t head, int64_t, int64_t panel) {
    const bf16::Tiles tiles;
    expand_keys(reading, head, panel);
    expand_values(reading, head, panel);
}

/// Rows that go through the keys together.
struct Rows {
    int64_t first;      // the sequence's position of the first
    const uint16_t* q;  // [NEAR, deep(N + r)]
    State state;
};

/// e^x for x <= 0 within some 4e-6, a thousandth of what rounding the result to bf16 costs; exactly 0 below -87.3.
Vec exp_to_round(Vec x) {
    const Vec lowest = set1(-87.33f), rate = set1(1.44269504088896341f);
    Vec bounded = max(x, lowest), n = round(bounded * rate), r = fma(bounded, rate, zero() - n);
    Vec p = set1(1.3333558e-3f);  // 2^r by its series: ln(2)^k / k!
    for (float c : {9.6181291e-3f, 5.5504109e-2f, 0.24022651f, 0.69314718f, 1.0f}) p = fma(p, r, set1(c));
    return zero_where_below(times_power_of_two(p, n), x, lowest);
}

/// weigh() of one row, its weights rounded into `to` instead, with zeros up to a multiple of 32.
void weigh_rounded(float* scores, int64_t seen, int64_t count, const State& row, uint16_t* to) {
    auto keep = [&](int64_t k, Vec weight) { bf16::store_rounded(to + k, weight); };
    weigh_as(scores, seen, round_up(count, bf16::DEEP), row, exp_to_round, keep);
}

/// Keys start .. stop of a block that begins at `block`.
void attend(const Reading& reading, const Rows& rows, int64_t head, int64_t block, int64_t start, int64_t stop) {
    thread_local std::vector<float> scratch;
    thread_local std::vector<uint16_t> rounded;
    float* scores = room(scratch, NEAR * STEP);
    uint16_t* weights = room(rounded, NEAR * STEP);
    int64_t count = stop - start, depth = reading.depth();
    for (int64_t k = 0; k < count; k += PANEL)
        bf16::product(rows.q, depth, NEAR, reading.key_panel(head, (start - block + k) / PANEL), depth, scores + k, STEP);
    for (int64_t i = 0; i < NEAR; i++) {
        int64_t seen = std::clamp<int64_t>(rows.first + i + 1 - start, 0, count);
        weigh_rounded(scores + i * STEP, seen, count, rows.state.from(i), weights + i * STEP);
    }
    for (int64_t c = 0; c < reading.columns(); c += PANEL)
        bf16::product(weights, STEP, NEAR, reading.value_panel(head, c) + (start - block) * PANEL,
                      round_up(count, bf16::DEEP), rows.state.acc + c, reading.columns(), true);
}

void attend_chunk(const Reading& reading, int64_t block, int64_t head, int64_t chunk) {
    const bf16::Tiles tiles;
    int64_t row = chunk * CHUNK, at = head * reading.rows + row, first = reading.first + row;
    int64_t stop = std::min(block + BLOCK, first + CHUNK);
    for (int64_t key = block; key < stop; key += STEP)
        for (int64_t i = 0; i < CHUNK; i += NEAR) {
            Rows rows{first + i, reading.q + (at + i) * reading.depth(), reading.state.from(at + i)};
            attend(reading, rows, head, block, key, std::min(key + STEP, stop));
        }
}

Reading reading_of(const Call& call, int64_t rows, int64_t first) {
    thread_local std::vector<float> floats;
    thread_local std::vector<uint16_t> halves;
    int64_t h = call.h, columns = round_up(call.V, PANEL), depth = deep(call.key_width());
    float* acc = room(floats, h * rows * (columns + LANES + 1));
    int64_t sizes[] = {h * rows * depth, BLOCK * deep(call.R), BLOCK * deep(call.R), h * BLOCK * depth,
                       h * BLOCK * columns};
    int64_t all = 0;
    for (int64_t size : sizes) all += size;
    uint16_t *next = room(halves, all), *at[5];
    for (int i = 0; i < 5; i++) at[i] = next, next += sizes[i];
    float* mass = acc + h * rows * columns;
    return {call, rows, first, at[0], at[1], at[2], at[3], at[4], {mass + h * rows * LANES, mass, acc, columns}};
}

}  // namespace

void expanded_rounded(const Call& call, const float* q, int64_t T, int64_t length, float* o) {
    read_in_blocks(call, q, T, length, o, reading_of);
}

}  // namespace mla
