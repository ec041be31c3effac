// Matrix products with matrices laid out in panels; see matmul.cpp.
#pragma once

#include <cstdint>

enum Form : int64_t {
    FP32 = 0,
    BF16 = 1,   // stored as bf16, widened on the way in: rows of x are fp32
    PAIRS = 2,  // [depth / 2][32][2] bf16, the depth filled up with zeros to a multiple of 32: rows of x are rounded (bf16.h)
    BYTES = 3,  // [depth filled up as for pairs][32] int8, and a scale for every column: rows of x are rounded
};

struct Panels {
    const void* data;  // [ceil(columns / 32)][depth][32], bf16 (as uint16) or fp32
    int64_t columns, depth;
    int64_t form;
    const float* scales;  // of bytes: [ceil(columns / 32) · 32]

    bool rounded() const { return form == PAIRS || form == BYTES; }
};

/// Where a row of a product comes from and where it goes.
struct Rows {
    const float* const* x;  // [count] rows of `depth` floats
    float* const* y;        // [count] where column 0 of each row's result lies
    int64_t count;
    int64_t apart = 0;      // floats from each row's result to the next one's, where that is always the same
};

inline int64_t panels_of(int64_t columns) { return (columns + 31) / 32; }

/// So many panels make a task of a call with so many rows: for a single row several, read side by side.
inline int64_t panels_a_task(int64_t rows) { return rows == 1 ? 4 : 1; }
inline int64_t tasks_of(int64_t columns, int64_t rows) {
    return (panels_of(columns) + panels_a_task(rows) - 1) / panels_a_task(rows);
}

/// The columns of the panels first ... first + count - 1 (those that there are; count <= 4) for all rows: y = x W, or
/// y += x W. Runs in the calling thread.
void multiply_panels(const Rows& rows, const Panels& w, int64_t first, int64_t count, bool add);

/// The same by rounded rows: x [count, depth] filled up as bf16.h says; rows.x is not looked at.
void multiply_rounded(const uint16_t* x, const Rows& rows, const Panels& w, int64_t first, int64_t count, bool add);

/// A panel of pairs: where it lies, or widened from bytes into this thread's memory, ``which`` of two.
const uint16_t* pairs_of(const Panels& w, int64_t panel, int which = 0);

/// y [rows, 32] = x times that panel, which pairs_of() gave: every sum times its column's scale.
void multiply_panel_of(const Panels& w, int64_t panel, const uint16_t* pairs, const uint16_t* x, int64_t rows, float* y,
                       int64_t ld_y);

/// y [count, 32] = a single row x times `count` <= 4 panels from `first` on.
void multiply_one(const Panels& w, int64_t first, int64_t count, const uint16_t* x, float* y);
