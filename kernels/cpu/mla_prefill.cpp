// MLA attention of many rows: a block's keys and values are expanded from the latents once for all rows of the call.
#include <cstring>

#include "mla_blocks.h"

namespace mla {

namespace {

/// C: V rounded up to whole panels.
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

void prepare(const Reading& reading, const float* q, int64_t head) {
    scale_queries(reading, q, head);
    lay_out_values(reading, head);
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

void lay_out(const Reading& reading, int64_t start, int64_t stop, int64_t panel) {
    transpose(reading.call, start + panel * PANEL, stop, reading.latents + panel * reading.call.width() * PANEL);
}

void expand_panel(const Reading& reading, int64_t head, int64_t start, int64_t panel) {
    expand_keys(reading, head, panel);
    expand_values(reading, head, start, panel);
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

}  // namespace

void expanded(const Call& call, const float* q, int64_t T, int64_t length, float* o) {
    read_in_blocks(call, q, T, length, o, reading_of);
}

}  // namespace mla
