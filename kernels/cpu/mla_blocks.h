// What mla_prefill.cpp and mla_rounded.cpp share: the keys in blocks, each expanded once for all rows of the call.
//
// Blocks lie at multiples of BLOCK from the sequence's start and rows go in chunks from the call's first row, so a row
// meets the same keys in the same steps wherever the call was cut. A chunk looks no further than its last row's key.
//
// A Reading is what lies in the calling thread's scratch while some rows are read: call, rows, first (the sequence's
// position of row 0), state. Beside it stand reading_of(), prepare(), lay_out(), expand_panel() and attend_chunk().
#pragma once

#include <algorithm>

#include "mla.h"
#include "pool.h"
#include "tile.h"

namespace mla {

constexpr int64_t BLOCK = 512;       // keys expanded at a time, of all heads
constexpr int64_t PANELS = 4;        // of these in one task
constexpr int64_t MOST_ROWS = 1024;  // rows that share an expansion: bounds the scratch, whatever T is
static_assert(BLOCK % STEP == 0 && BLOCK % (PANELS * PANEL) == 0 && MOST_ROWS % CHUNK == 0);

/// Keys start .. stop.
template <class Reading> void expand(const Reading& reading, int64_t start, int64_t stop) {
    int64_t panels = (stop - start + PANEL - 1) / PANEL, parts = (panels + PANELS - 1) / PANELS;
    parallel(int(panels), [&](int panel) { lay_out(reading, start, stop, panel); });
    parallel(int(reading.call.h * parts), [&](int task) {
        int64_t head = task / parts, first = task % parts * PANELS;
        for (int64_t panel = first; panel < std::min(panels, first + PANELS); panel++)
            expand_panel(reading, head, start, panel);
    });
}

template <class Reading> void finish(const Reading& reading, int64_t head, float* o) {
    int64_t V = reading.call.V;
    for (int64_t i = 0; i < reading.rows; i++) {
        State row = reading.state.from(head * reading.rows + i);
        float whole = sum(load(row.mass));
        float* to = o + i * reading.call.ld_o + head * V;
        for (int64_t v = 0; v < V; v++) to[v] = row.acc[v] / whole;
    }
}

template <class Reading> void read_rows(const Reading& reading, const float* q, float* o) {
    int64_t heads = reading.call.h, chunks = reading.rows / CHUNK, length = reading.first + reading.rows;
    begin(reading.state, heads * reading.rows);
    parallel(int(heads), [&](int head) { prepare(reading, q, head); });
    for (int64_t start = 0; start < length; start += BLOCK) {
        expand(reading, start, std::min(start + BLOCK, length));
        parallel(int(heads * chunks), [&](int i) { attend_chunk(reading, start, i / chunks, i % chunks); });
    }
    parallel(int(heads), [&](int head) { finish(reading, head, o); });
}

/// T, a multiple of CHUNK, last rows of `length`. of(call, rows, first) gives a Reading.
template <class Of> void read_in_blocks(const Call& call, const float* q, int64_t T, int64_t length, float* o, Of of) {
    for (int64_t t = 0; t < T; t += MOST_ROWS)
        read_rows(of(call, std::min(MOST_ROWS, T - t), length - T + t), q + t * call.ld_q, o + t * call.ld_o);
}

}  // namespace mla
