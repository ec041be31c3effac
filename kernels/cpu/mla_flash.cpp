// Flash attention over a step of keys: scores, weights under a running maximum, weighted sums.
//
// A step's sum over keys is one chain in the keys' order, a row's mass is summed by lanes (key modulo 16), and a step
// begins at a fixed place of the sequence: a row's bits do not depend on the rows beside it.
#include <algorithm>
#include <cstring>
#include <limits>

#include "mla.h"
#include "tile.h"

namespace mla {

namespace {

constexpr int64_t NEAR = 64;  // keys whose values go over all rows while they are in L1
constexpr float LOWEST = std::numeric_limits<float>::lowest();  // finite: nothing minus nothing must not be NaN

template <int ROWS>
void some_rows(const float* const* x, const float* panel, int64_t depth, float* y, int64_t ld_y, bool go_on) {
    for (int at = 0; at < PANEL; at += TILE_VECS * LANES) {
        Vec sums[ROWS][TILE_VECS];
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < TILE_VECS; v++) sums[r][v] = go_on ? load(y + r * ld_y + at + v * LANES) : zero();
        multiply(x, panel + at, depth, sums);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < TILE_VECS; v++) store(y + r * ld_y + at + v * LANES, sums[r][v]);
    }
}

/// acc += weights · values. The step's sum begins at zero: one chain over a million keys would lose digits.
void add_values(const float* weights, const Group& group, const Keys& keys) {
    thread_local std::vector<float> scratch;
    const State& state = group.state;
    float* sums = room(scratch, CHUNK * state.columns);
    for (int64_t at = 0; at < keys.stop - keys.start; at += NEAR) {
        int64_t count = std::min(NEAR, keys.stop - keys.start - at);
        for (int64_t c = 0; c < state.columns; c += PANEL)
            product(weights + at, STEP, group.rows, keys.v + c * keys.v_keys + at * PANEL, count, sums + c,
                    state.columns, at > 0);
    }
    for (int64_t i = 0; i < group.rows * state.columns; i += LANES)
        store(state.acc + i, load(state.acc + i) + load(sums + i));
}

/// Four words of four rows, the other way round.
void turn_four(const float* const* x, int64_t c, float* panel) {
    using Four = float __attribute__((vector_size(16)));
    Four a, b, d, e;
    std::memcpy(&a, x[0] + c, 16), std::memcpy(&b, x[1] + c, 16);
    std::memcpy(&d, x[2] + c, 16), std::memcpy(&e, x[3] + c, 16);
    Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), de = __builtin_shufflevector(d, e, 0, 4, 1, 5);
    Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7), de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
    Four turned[] = {__builtin_shufflevector(ab, de, 0, 1, 4, 5), __builtin_shufflevector(ab, de, 2, 3, 6, 7),
                     __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5),
                     __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++) std::memcpy(panel + i * PANEL, &turned[i], 16);
}

}  // namespace

void fade(const State& row, float top) {
    Vec factor = exp(set1(*row.peak - top));
    store(row.mass, load(row.mass) * factor);
    for (int64_t c = 0; c < row.columns; c += LANES) store(row.acc + c, load(row.acc + c) * factor);
    *row.peak = top;
}

void product(const float* const* x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on) {
    in_tiles(rows, [&](auto count, int64_t done) {
        some_rows<count>(x + done, panel, depth, y + done * ld_y, ld_y, go_on);
    });
}

void product(const float* x, int64_t ld_x, int64_t rows, const float* panel, int64_t depth, float* y, int64_t ld_y,
             bool go_on) {
    const float* at[CHUNK];
    for (int64_t done = 0; done < rows; done += CHUNK) {
        int64_t count = std::min(CHUNK, rows - done);
        for (int64_t i = 0; i < count; i++) at[i] = x + (done + i) * ld_x;
        product(at, count, panel, depth, y + done * ld_y, ld_y, go_on);
    }
}

void begin(const State& state, int64_t rows) {
    std::fill_n(state.peak, rows, LOWEST);
    std::fill_n(state.mass, rows * LANES, 0.0f);
    std::fill_n(state.acc, rows * state.columns, 0.0f);
}

void weigh(float* scores, int64_t seen, int64_t count, const State& row) {
    auto power = [](Vec x) { return exp(x); };
    weigh_as(scores, seen, round_up(count, LANES), row, power, [&](int64_t k, Vec weight) { store(scores + k, weight); });
}

void attend(const Group& group, const Keys& keys) {
    thread_local std::vector<float> scratch;
    float* scores = room(scratch, CHUNK * STEP);
    int64_t count = keys.stop - keys.start;
    for (int64_t k = 0; k < count; k += PANEL)
        product(group.q, group.apart, group.rows, keys.k + k * group.depth, group.depth, scores + k, STEP);
    for (int64_t i = 0; i < group.rows; i++) {
        int64_t seen = std::clamp<int64_t>(group.seen[i] - keys.start, 0, count);
        weigh(scores + i * STEP, seen, count, group.state.from(i));
    }
    add_values(scores, group, keys);
}

void rows_of(const Call& call, int64_t start, int64_t count, float* copy, const float** x) {
    for (int64_t i = 0; i < count; i++) {
        if (call.pages) {
            x[i] = call.latent(start + i);
            continue;
        }
        const uint16_t* latent = call.rounded_latent(start + i);
        float* row = copy + i * call.width();
        for (int64_t d = 0; d < call.width(); d += LANES) store(row + d, load_bf16(latent + d));
        x[i] = row;
    }
}

void turn(const float* const* x, int64_t count, int64_t width, float* panel) {
    if (count < PANEL) std::fill_n(panel, width * PANEL, 0.0f);
    int64_t fours = width / 4 * 4, quads = count / 4 * 4;
    for (int64_t i = 0; i < quads; i += 4)
        for (int64_t c = 0; c < fours; c += 4) turn_four(x + i, c, panel + c * PANEL + i);
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = i < quads ? fours : 0; c < width; c++) panel[c * PANEL + i] = x[i][c];
}

void transpose(const Call& call, int64_t start, int64_t length, float* panel) {
    int64_t count = std::min<int64_t>(PANEL, length - start);
    const float* x[PANEL];
    rows_of(call, start, count, nullptr, x);
    turn(x, count, call.width(), panel);
}

}  // namespace mla
