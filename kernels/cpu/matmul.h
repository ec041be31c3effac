// Matrix products with matrices laid out in panels; see matmul.cpp.
#pragma once

#include <cstdint>

struct Panels {
    const void* data;  // [ceil(columns / 32)][depth][32], bf16 (as uint16) or fp32
    int64_t columns, depth;
    int64_t bf16;
};

/// Where a row of a product comes from and where it goes.
struct Rows {
    const float* const* x;  // [count] rows of `depth` floats
    float* const* y;        // [count] where column 0 of each row's result lies
    int64_t count;
};

/// One panel's 32 columns (fewer in the last) for all rows: y = x W, or y += x W. Runs in the calling thread.
void multiply_panel(const Rows& rows, const Panels& w, int64_t panel, bool add);

inline int64_t panels_of(int64_t columns) { return (columns + 31) / 32; }
