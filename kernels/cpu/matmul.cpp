// y = x Wᵀ for a W [columns, depth] laid out in panels of 32 columns: W's rows are the columns of the product.
//
// A bf16 number is half an fp32 one: the shipped weights are kept as they were stored, widened on the way in, and lose
// nothing; a single row's product reads half the memory. Many rows widen a panel once, into a thread's own scratch.
#include "matmul.h"

#include <algorithm>
#include <vector>

#include "bf16.h"
#include "pool.h"
#include "tile.h"

namespace {

constexpr int64_t MANY = 2 * TILE_ROWS;  // rows from which on it pays to widen a panel first

void put(float* y, Vec value, int64_t room, bool add) {
    if (room >= LANES) {
        store(y, add ? load(y) + value : value);
    } else if (room > 0) {
        store_first(y, add ? load_first(y, int(room)) + value : value, int(room));
    }
}

template <int ROWS, class T>
void some_rows(const float* const* x, float* const* y, const T* panel, int64_t depth, int64_t first, int64_t columns,
               bool add) {
    for (int at = 0; at < PANEL; at += TILE_VECS * LANES) {
        Vec sums[ROWS][TILE_VECS];
        clear(sums);
        multiply(x, panel + at, depth, sums);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < TILE_VECS; v++) {
                int64_t column = first + at + v * LANES;
                put(y[r] + column, sums[r][v], columns - column, add);
            }
    }
}

template <class T>
void all_rows(const Rows& rows, const T* panel, const Panels& w, int64_t number, bool add) {
    in_tiles(rows.count, [&](auto count, int64_t done) {
        some_rows<count>(rows.x + done, rows.y + done, panel, w.depth, number * PANEL, w.columns, add);
    });
}

const float* widened(const uint16_t* panel, int64_t count) {
    thread_local std::vector<float> scratch;
    if (int64_t(scratch.size()) < count) scratch.resize(count);
    for (int64_t i = 0; i < count; i += LANES) store(scratch.data() + i, load_bf16(panel + i));
    return scratch.data();
}

/// A single row against several panels at once: enough sums to hide an FMA's latency, streams enough for the memory.
template <int COUNT, class T>
void one_row(const float* x, float* y, const T* panels, const Panels& w, int64_t number, bool add) {
    Vec sums[COUNT][2];
    clear(sums);
    for (int64_t k = 0; k < w.depth; k++) {
        Vec one = set1(x[k]);
        for (int p = 0; p < COUNT; p++)
            for (int v = 0; v < 2; v++)
                sums[p][v] = fma(one, widen(panels + (p * w.depth + k) * PANEL + v * LANES), sums[p][v]);
    }
    for (int p = 0; p < COUNT; p++)
        for (int v = 0; v < 2; v++) {
            int64_t column = (number + p) * PANEL + v * LANES;
            put(y + column, sums[p][v], w.columns - column, add);
        }
}

template <class T>
void one_row_wide(const Rows& rows, const Panels& w, int64_t number, int64_t count, bool add) {
    const T* panels = static_cast<const T*>(w.data) + number * w.depth * PANEL;
    switch (count) {
        case 4: return one_row<4>(rows.x[0], rows.y[0], panels, w, number, add);
        case 3: return one_row<3>(rows.x[0], rows.y[0], panels, w, number, add);
        case 2: return one_row<2>(rows.x[0], rows.y[0], panels, w, number, add);
        default: return one_row<1>(rows.x[0], rows.y[0], panels, w, number, add);
    }
}

void one_panel(const Rows& rows, const Panels& w, int64_t number, bool add) {
    int64_t size = w.depth * PANEL;
    if (w.form == FP32) return all_rows(rows, static_cast<const float*>(w.data) + number * size, w, number, add);
    const uint16_t* panel = static_cast<const uint16_t*>(w.data) + number * size;
    if (rows.count >= MANY) return all_rows(rows, widened(panel, size), w, number, add);
    all_rows(rows, panel, w, number, add);
}

constexpr int64_t NEAR = 64;  // rows whose results of a panel stay in L1

void scale_sums(const float* scales, int64_t rows, int64_t columns, float* y, int64_t ld_y) {
    for (int64_t r = 0; scales && r < rows; r++)
        for (int64_t v = 0; v < columns; v += LANES) store(y + r * ld_y + v, load(y + r * ld_y + v) * load(scales + v));
}

const float* scales_of(const Panels& w, int64_t panel) { return w.form == BYTES ? w.scales + panel * PANEL : nullptr; }

void one_rounded_panel(const uint16_t* x, const Rows& rows, const Panels& w, int64_t panel, bool add) {
    alignas(64) float y[NEAR * PANEL];
    int64_t first = panel * PANEL, deep = bf16::deep(w.depth);
    const uint16_t* pairs = pairs_of(w, panel);
    if (!add && rows.apart && w.columns - first >= PANEL)
        return multiply_panel_of(w, panel, pairs, x, rows.count, rows.y[0] + first, rows.apart);
    for (int64_t done = 0; done < rows.count; done += NEAR) {
        int64_t count = std::min(NEAR, rows.count - done);
        multiply_panel_of(w, panel, pairs, x + done * deep, count, y, PANEL);
        for (int64_t r = 0; r < count; r++)
            for (int64_t v = 0; v < PANEL; v += LANES)
                put(rows.y[done + r] + first + v, load(y + r * PANEL + v), w.columns - first - v, add);
    }
}

/// Memory of this thread that only grows, for rounded rows.
uint16_t* rounded_rows(int64_t rows, int64_t depth) {
    thread_local std::vector<uint16_t> kept;
    int64_t size = (rows + bf16::BESIDE - 1) / bf16::BESIDE * bf16::BESIDE * bf16::deep(depth);
    if (int64_t(kept.size()) < size) kept.resize(size);
    return kept.data();
}

}  // namespace

const uint16_t* pairs_of(const Panels& w, int64_t panel, int which) {
    int64_t size = bf16::deep(w.depth) * PANEL;
    if (w.form == PAIRS) return static_cast<const uint16_t*>(w.data) + panel * size;
    thread_local std::vector<uint16_t> kept[2];
    if (int64_t(kept[which].size()) < size) kept[which].resize(size);
    bf16::widen_panel(static_cast<const int8_t*>(w.data) + panel * size, bf16::deep(w.depth), kept[which].data());
    return kept[which].data();
}

void multiply_panel_of(const Panels& w, int64_t panel, const uint16_t* pairs, const uint16_t* x, int64_t rows, float* y,
                       int64_t ld_y) {
    int64_t deep = bf16::deep(w.depth);
    bf16::product(x, deep, rows, pairs, deep, y, ld_y);
    scale_sums(scales_of(w, panel), rows, PANEL, y, ld_y);
}

void multiply_one(const Panels& w, int64_t first, int64_t count, const uint16_t* x, float* y) {
    int64_t deep = bf16::deep(w.depth), at = first * deep * PANEL;
    if (w.form == BYTES) bf16::product_of_one(x, static_cast<const int8_t*>(w.data) + at, count, deep, y);
    else bf16::product_of_one(x, static_cast<const uint16_t*>(w.data) + at, count, deep, y);
    scale_sums(scales_of(w, first), 1, count * PANEL, y, 0);
}

void multiply_rounded(const uint16_t* x, const Rows& rows, const Panels& w, int64_t first, int64_t count, bool add) {
    int64_t last = std::min(first + count, panels_of(w.columns));
    const bf16::Tiles tiles(rows.count);
    if (rows.count == 1) {
        alignas(64) float y[4 * PANEL];
        multiply_one(w, first, last - first, x, y);
        for (int64_t v = 0; v < (last - first) * PANEL; v += LANES)
            put(rows.y[0] + first * PANEL + v, load(y + v), w.columns - first * PANEL - v, add);
        return;
    }
    for (int64_t panel = first; panel < last; panel++) one_rounded_panel(x, rows, w, panel, add);
}

void multiply_panels(const Rows& rows, const Panels& w, int64_t first, int64_t count, bool add) {
    count = std::min(count, panels_of(w.columns) - first);
    if (rows.count == 1 && w.form == BF16) return one_row_wide<uint16_t>(rows, w, first, count, add);
    if (rows.count == 1) return one_row_wide<float>(rows, w, first, count, add);
    for (int64_t panel = first; panel < first + count; panel++) one_panel(rows, w, panel, add);
}

/// y [rows, columns] = x [rows, depth] Wᵀ, or += with `add`. ld_x, ld_y: floats between rows.
extern "C" void shiori_matmul(const float* x, int64_t ld_x, int64_t rows, const Panels* w, float* y, int64_t ld_y,
                              int64_t add) {
    std::vector<const float*> from(rows);
    std::vector<float*> to(rows);
    for (int64_t i = 0; i < rows; i++) from[i] = x + i * ld_x, to[i] = y + i * ld_y;
    Rows all{from.data(), to.data(), rows, ld_y};
    int64_t group = panels_a_task(rows);
    uint16_t* rounded = w->rounded() ? rounded_rows(rows, w->depth) : nullptr;
    if (rounded) bf16::round_rows(x, ld_x, rows, w->depth, rounded);
    parallel_if_worth(rows * w->depth * w->columns, int(tasks_of(w->columns, rows)), [&](int task) {
        if (rounded) multiply_rounded(rounded, all, *w, task * group, group, add);
        else multiply_panels(all, *w, task * group, group, add);
    });
}

/// Lays w [columns, depth] bf16 out in panels of pairs.
extern "C" void shiori_pack_pairs(const uint16_t* w, int64_t columns, int64_t depth, uint16_t* out) {
    int64_t deep = bf16::deep(depth);
    std::fill_n(out, panels_of(columns) * PANEL * deep, uint16_t(0));
    for (int64_t column = 0; column < columns; column++) {
        uint16_t* to = out + column / PANEL * PANEL * deep + column % PANEL * 2;
        for (int64_t k = 0; k < depth; k++) to[k / 2 * 2 * PANEL + k % 2] = w[column * depth + k];
    }
}

/// Lays w [columns, depth] fp32 out in panels. bf16: keeps the upper halves, which must be all there is of a number.
extern "C" void shiori_pack(const float* w, int64_t columns, int64_t depth, int64_t bf16, void* out) {
    for (int64_t panel = 0; panel < panels_of(columns); panel++)
        for (int64_t k = 0; k < depth; k++)
            for (int64_t i = 0; i < PANEL; i++) {
                int64_t column = panel * PANEL + i, at = (panel * depth + k) * PANEL + i;
                float value = column < columns ? w[column * depth + k] : 0.0f;
                uint32_t bits;
                std::memcpy(&bits, &value, 4);
                if (bf16) static_cast<uint16_t*>(out)[at] = uint16_t(bits >> 16);
                else static_cast<float*>(out)[at] = value;
            }
}

extern "C" void shiori_set_threads(int64_t count) { set_threads(int(count)); }
