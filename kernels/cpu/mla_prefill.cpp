// MLA attention of many rows: a block's keys and values are expanded from the latents once for all rows of the call.
//
// Blocks lie at multiples of BLOCK from the sequence's start and rows go in chunks from the call's first row, so a row
// meets the same keys in the same steps wherever the call was cut. A chunk looks no further than its last row's key.
#include <algorithm>
#include <cstring>

#include "mla.h"
#include "pool.h"
#include "tile.h"

namespace mla {

namespace {

constexpr int64_t BLOCK = 512;       // keys expanded at a time, of all heads
constexpr int64_t PART = 128;        // of these in one task
constexpr int64_t MOST_ROWS = 1024;  // rows that share an expansion: bounds the scratch, whatever T is
static_assert(BLOCK % STEP == 0 && MOST_ROWS % CHUNK == 0);

/// Everything that lies in the calling thread's scratch while some rows are read. C: V rounded up to whole panels.
struct Reading {
    const Call& call;
    int64_t rows, first;  // the sequence's position of row 0
    float* q;             // [h, rows, N + r], scaled
    float* expand_v;      // [h][C / 32][R][32]
    float* latents;       // [BLOCK / 32][R + r][32]
    float* k;             // [h][BLOCK / 32][N + r][32]
    float* v;             // [h][C / 32][BLOCK][32]
    State state;          // [h, rows]

    int64_t columns() const { return state.columns; }
    int64_t length() const { return first + rows; }
    int64_t chunks() const { return (rows + CHUNK - 1) / CHUNK; }
};

void scale_queries(const Reading& reading, const float* q, int64_t head) {
    int64_t width = reading.call.key_width();
    for (int64_t i = 0; i < reading.rows; i++) {
        const float* from = q + i * reading.call.ld_q + head * width;
        float* to = reading.q + (head * reading.rows + i) * width;
        for (int64_t d = 0; d < width; d++) to[d] = from[d] * reading.call.scale;
    }
}

void lay_out_values(const Reading& reading, int64_t head) {
    int64_t R = reading.call.R, V = reading.call.V;
    const float* rows = reading.call.value_rows(head);
    float* panels = reading.expand_v + head * reading.columns() * R;
    for (int64_t v = 0; v < reading.columns(); v++)
        for (int64_t c = 0; c < R; c++)
            panels[(v / PANEL * R + c) * PANEL + v % PANEL] = v < V ? rows[v * R + c] : 0.0f;
}

/// Keys [N + r][32] of one head: the expanded part, then what all heads share.
void expand_keys(const Reading& reading, int64_t head, int64_t panel) {
    const Call& call = reading.call;
    const float* latents = reading.latents + panel * call.width() * PANEL;
    float* k = reading.k + (head * (BLOCK / PANEL) + panel) * call.key_width() * PANEL;
    product(call.key_rows(head), call.R, call.N, latents, call.R, k, PANEL);
    std::memcpy(k + call.N * PANEL, latents + call.R * PANEL, call.r * PANEL * sizeof(float));
}

void expand_values(const Reading& reading, int64_t head, int64_t start, int64_t panel) {
    const Call& call = reading.call;
    int64_t key = start + panel * PANEL, count = std::min<int64_t>(PANEL, reading.length() - key);
    const float* latents[PANEL];
    for (int64_t i = 0; i < count; i++) latents[i] = call.latent(key + i);
    for (int64_t c = 0; c < reading.columns(); c += PANEL) {
        float* v = reading.v + (head * reading.columns() + c) * BLOCK + panel * PANEL * PANEL;
        product(latents, count, reading.expand_v + (head * reading.columns() + c) * call.R, call.R, v, PANEL, false);
    }
}

void expand(const Reading& reading, int64_t start, int64_t stop) {
    int64_t parts = (stop - start + PART - 1) / PART, panels = (stop - start + PANEL - 1) / PANEL;
    parallel(int(panels), [&](int panel) {
        transpose(reading.call, start + panel * PANEL, stop, reading.latents + panel * reading.call.width() * PANEL);
    });
    parallel(int(reading.call.h * parts), [&](int task) {
        int64_t head = task / parts, from = task % parts * (PART / PANEL);
        for (int64_t panel = from; panel < std::min(panels, from + PART / PANEL); panel++) {
            expand_keys(reading, head, panel);
            expand_values(reading, head, start, panel);
        }
    });
}

void attend_chunk(const Reading& reading, int64_t start, int64_t head, int64_t chunk) {
    int64_t row = chunk * CHUNK, rows = std::min(CHUNK, reading.rows - row), width = reading.call.key_width();
    int64_t seen[CHUNK], at = head * reading.rows + row, stop = std::min(start + BLOCK, reading.first + row + rows);
    for (int64_t i = 0; i < rows; i++) seen[i] = reading.first + row + i + 1;
    Group group{rows, reading.q + at * width, width, width, seen, reading.state.from(at)};
    const float* k = reading.k + head * width * BLOCK;
    const float* v = reading.v + head * reading.columns() * BLOCK;
    for (int64_t key = start; key < stop; key += STEP)
        attend(group, {key, std::min(key + STEP, stop), k + (key - start) * width, v + (key - start) * PANEL, BLOCK});
}

void finish(const Reading& reading, int64_t head, float* o) {
    int64_t V = reading.call.V;
    for (int64_t i = 0; i < reading.rows; i++) {
        State row = reading.state.from(head * reading.rows + i);
        float whole = sum(load(row.mass));
        float* to = o + i * reading.call.ld_o + head * V;
        for (int64_t v = 0; v < V; v++) to[v] = row.acc[v] / whole;
    }
}

/// Lays the scratch out in one allocation of the calling thread.
Reading reading_of(const Call& call, int64_t rows, int64_t first) {
    thread_local std::vector<float> scratch;
    int64_t h = call.h, columns = round_up(call.V, PANEL), width = call.key_width();
    int64_t sizes[] = {h * rows * width, h * columns * call.R, BLOCK * call.width(), h * BLOCK * width,
                       h * BLOCK * columns, h * rows * columns, h * rows * LANES, h * rows};
    int64_t all = 0;
    for (int64_t size : sizes) all += round_up(size, LANES);
    float* at[8];
    float* next = room(scratch, all);
    for (int i = 0; i < 8; i++) at[i] = next, next += round_up(sizes[i], LANES);
    return {call, rows, first, at[0], at[1], at[2], at[3], at[4], {at[7], at[6], at[5], columns}};
}

void some_rows(const Call& call, const float* q, int64_t rows, int64_t first, float* o) {
    Reading reading = reading_of(call, rows, first);
    begin(reading.state, call.h * rows);
    parallel(int(call.h), [&](int head) {
        scale_queries(reading, q, head);
        lay_out_values(reading, head);
    });
    for (int64_t start = 0; start < reading.length(); start += BLOCK) {
        expand(reading, start, std::min(start + BLOCK, reading.length()));
        parallel(int(call.h * reading.chunks()),
                 [&](int task) { attend_chunk(reading, start, task / reading.chunks(), task % reading.chunks()); });
    }
    parallel(int(call.h), [&](int head) { finish(reading, head, o); });
}

}  // namespace

void expanded(const Call& call, const float* q, int64_t T, int64_t length, float* o) {
    for (int64_t t = 0; t < T; t += MOST_ROWS)
        some_rows(call, q + t * call.ld_q, std::min(MOST_ROWS, T - t), length - T + t, o + t * call.ld_o);
}

}  // namespace mla
