// MLA attention of few rows: q' = q_nope A meets the latents themselves, values are expanded from what was read.
//
// Keys go in pieces of 2048 from the sequence's start, each a partial softmax of its own task; partials are merged in
// order. Many tasks at once, but a bounded number of partials.
#include <algorithm>

#include "mla.h"
#include "mla_one.h"
#include "pool.h"
#include "tile.h"

namespace mla {

namespace {

constexpr int64_t PIECE = 2048;
constexpr int64_t WAVE = 16;  // partials that are kept before they are merged
constexpr int64_t LITTLE = 1 << 17;  // multiplications: a few microseconds
static_assert(PIECE % STEP == 0);

/// q' [h][T][apart]: of every head the rows' absorbed queries, scaled, and zeros behind them.
struct Queries {
    const Call& call;
    int64_t T, length, apart;
    float* q;

    int64_t rows() const { return call.h * T; }
    int64_t columns() const { return round_up(call.R, PANEL); }
};

/// q'[c] = sum over n of q[n] A[n][c], `VECS` times 16 columns at a time as long as there are as many.
template <int VECS>
int64_t absorb_columns(const Call& call, const float* q, const float* key_rows, int64_t from, float* to) {
    for (; from + VECS * LANES <= call.R; from += VECS * LANES) {
        Vec sums[1][VECS];
        clear(sums);
        multiply(&q, key_rows + from, call.N, sums, call.R);
        for (int v = 0; v < VECS; v++) store(to + from + v * LANES, sums[0][v] * set1(call.scale));
    }
    return from;
}

void absorb_row(const Call& call, const float* q, const float* key_rows, float* to) {
    int64_t c = absorb_columns<6>(call, q, key_rows, 0, to);
    c = absorb_columns<1>(call, q, key_rows, c, to);
    int left = int(call.R - c);
    Vec sums = zero();
    for (int64_t i = 0; left && i < call.N; i++)
        sums = fma(set1(q[i]), load_first(key_rows + i * call.R + c, left), sums);
    store_first(to + c, sums * set1(call.scale), left);
    for (int64_t i = 0; i < call.r; i++) to[call.R + i] = q[call.N + i] * call.scale;
}

void absorb(const Queries& queries, const float* q, int64_t head) {
    const Call& call = queries.call;
    for (int64_t t = 0; t < queries.T; t++) {
        float* to = queries.q + (head * queries.T + t) * queries.apart;
        std::fill_n(to, queries.apart, 0.0f);
        absorb_row(call, q + t * call.ld_q + head * call.key_width(), call.key_rows(head), to);
    }
}

/// Latents start .. stop as panels of keys, and their first R numbers as panels of values [C / 32][STEP][32].
void lay_out(const Queries& queries, int64_t start, int64_t stop, float* k, float* v) {
    thread_local std::vector<float> scratch;
    const Call& call = queries.call;
    float* copy = room(scratch, PANEL * call.width());
    const float* x[PANEL];
    for (int64_t s = start; s < stop; s += PANEL) {
        int64_t next = std::min(s + PANEL, queries.length), behind = std::min(next + PANEL, queries.length);
        for (int64_t i = next; i < behind; i++) call.ask_for(i);
        int64_t count = std::min<int64_t>(PANEL, stop - s);
        rows_of(call, s, count, copy, x);
        turn(x, count, call.width(), k + (s - start) * call.width());
        for (int64_t c = 0; c < queries.columns(); c += PANEL) {
            float* panel = v + c * STEP + (s - start) * PANEL;
            int64_t wide = std::min<int64_t>(PANEL, call.R - c);
            for (int64_t i = 0; i < count; i++, panel += PANEL)
                std::fill(std::copy_n(x[i] + c, wide, panel), panel + PANEL, 0.0f);
        }
    }
}

void step_of_some(const Queries& queries, int64_t start, int64_t stop, const float* k, const float* v,
                  const State& state) {
    int64_t seen[CHUNK];
    for (int64_t row = 0; row < queries.rows(); row += CHUNK) {
        int64_t rows = std::min(CHUNK, queries.rows() - row);
        for (int64_t i = 0; i < rows; i++) seen[i] = queries.length - queries.T + (row + i) % queries.T + 1;
        const float* q = queries.q + row * queries.apart;
        attend({rows, q, queries.apart, queries.call.width(), seen, state.from(row)}, {start, stop, k, v, STEP});
    }
}

void piece_of_some(const Queries& queries, int64_t from, int64_t to, const State& state) {
    thread_local std::vector<float> scratch;
    float* k = room(scratch, STEP * (queries.call.width() + queries.columns()));
    float* v = k + STEP * queries.call.width();
    for (int64_t start = from; start < to; start += STEP) {
        int64_t stop = std::min(start + STEP, to);
        lay_out(queries, start, stop, k, v);
        step_of_some(queries, start, stop, k, v, state);
    }
}

void read_piece(const Queries& queries, int64_t piece, const State& state) {
    int64_t from = piece * PIECE, to = std::min(from + PIECE, queries.length);
    begin(state, queries.rows());
    if (queries.T == 1) piece_of_one(queries.call, queries.q, queries.apart, from, to, state);
    else piece_of_some(queries, from, to, state);
}

void merge(const State& row, const State& part) {
    float peak = std::max(*row.peak, *part.peak);
    Vec fade = exp(set1(*row.peak - peak)), share = exp(set1(*part.peak - peak));
    *row.peak = peak;
    store(row.mass, fma(load(part.mass), share, load(row.mass) * fade));
    for (int64_t c = 0; c < row.columns; c += LANES)
        store(row.acc + c, fma(load(part.acc + c), share, load(row.acc + c) * fade));
}

void read_pieces(const Queries& queries, const State& all, const State& parts) {
    int64_t rows = queries.rows(), pieces = (queries.length + PIECE - 1) / PIECE;
    begin(all, rows);
    for (int64_t first = 0; first < pieces; first += WAVE) {
        int64_t count = std::min(WAVE, pieces - first);
        parallel(int(count), [&](int i) { read_piece(queries, first + i, parts.from(i * rows)); });
        for (int64_t i = 0; i < count; i++)
            for (int64_t row = 0; row < rows; row++) merge(all.from(row), parts.from(i * rows + row));
    }
}

/// For every head; on one thread when that is over before others are awake.
template <class Task> void for_heads(const Queries& queries, const Task& task) {
    if (queries.rows() * (queries.call.N + queries.call.V) * queries.call.R > LITTLE) {
        parallel(int(queries.call.h), task);
    } else {
        for (int head = 0; head < queries.call.h; head++) task(head);
    }
}

State take(float*& at, int64_t rows, int64_t columns) {
    State state{at + rows * (columns + LANES), at + rows * columns, at, columns};
    at += round_up(rows * (columns + LANES + 1), LANES);
    return state;
}

}  // namespace

void absorbed(const Call& call, const float* q, int64_t T, int64_t length, float* o) {
    thread_local std::vector<float> scratch;
    int64_t rows = call.h * T, apart = round_up(call.width(), LANES), columns = round_up(call.R, PANEL);
    int64_t parts = std::min(WAVE, (length + PIECE - 1) / PIECE);
    float* at = room(scratch, rows * apart + (parts + 1) * (rows * (columns + LANES + 1) + LANES));
    Queries queries{call, T, length, apart, at};
    at += rows * apart;
    State all = take(at, rows, columns), partial = take(at, parts * rows, columns);
    for_heads(queries, [&](int head) { absorb(queries, q, head); });
    read_pieces(queries, all, partial);
    for_heads(queries, [&](int head) {
        for (int64_t t = 0; t < T; t++)
            expand_read(call, head, all.from(head * T + t), o + t * call.ld_o + head * call.V);
    });
}

}  // namespace mla
