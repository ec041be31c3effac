// RMS norm by rows; kernels.norm.rms_norm is the definition.
#include <algorithm>

#include "pool.h"
#include "vec.h"

namespace {

constexpr int64_t ROWS = 32;  // a task's

void norm_row(const float* x, int64_t width, const float* weight, float eps, float* y) {
    Vec squares = zero();
    for (int64_t i = 0; i < width; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    Vec scale = set1(1.0f) / sqrt(set1(sum(squares) / float(width) + eps));
    for (int64_t i = 0; i < width; i += LANES) store(y + i, load(x + i) * scale * load(weight + i));
}

}  // namespace

/// x [rows, width] -> y [rows, width], which may be x itself; the width is a multiple of 16.
extern "C" void shiori_rms_norm(const float* x, int64_t ld_x, int64_t rows, int64_t width, const float* weight,
                                float eps, float* y, int64_t ld_y) {
    parallel_if_worth(4 * rows * width, int((rows + ROWS - 1) / ROWS), [&](int task) {
        for (int64_t i = task * ROWS; i < std::min(rows, (task + 1) * ROWS); i++)
            norm_row(x + i * ld_x, width, weight, eps, y + i * ld_y);
    });
}
