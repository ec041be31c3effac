// The register tile of every matrix product: a few rows of x against 32 columns of a matrix laid out in panels.
//
// A sum over the depth is one chain of fused multiply-adds, first to last, for every element: whatever the tile's
// shape, whatever rows lie beside it, a row's result has the same bits.
#pragma once

#include <type_traits>

#include "vec.h"

constexpr int PANEL = 32;  // columns of a panel, [depth][PANEL]; the last panel of a matrix is filled up with zeros

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, TILE_VECS = 2;  // 24 sums, 2 columns, and broadcasts from memory: 32 registers
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, TILE_VECS = 1;  // a Vec is two registers of sixteen
#else
constexpr int TILE_ROWS = 6, TILE_VECS = 1;
#endif

inline Vec widen(const float* p) { return load(p); }
inline Vec widen(const uint16_t* p) { return load_bf16(p); }

/// sums[r][v] += x[r][0..depth) · panel columns 16 v .. 16 v + 16. ``apart``: elements between two rows of the panel.
template <int ROWS, int VECS, class T>
inline void multiply(const float* const* x, const T* panel, int64_t depth, Vec (&sums)[ROWS][VECS], int64_t apart = PANEL) {
    for (int64_t k = 0; k < depth; k++) {
        Vec columns[VECS];
        for (int v = 0; v < VECS; v++) columns[v] = widen(panel + k * apart + v * LANES);
        for (int r = 0; r < ROWS; r++) {
            Vec one = set1(x[r][k]);
            for (int v = 0; v < VECS; v++) sums[r][v] = fma(one, columns[v], sums[r][v]);
        }
    }
}

template <int ROWS, int VECS>
inline void clear(Vec (&sums)[ROWS][VECS]) {
    for (auto& row : sums)
        for (auto& x : row) x = zero();
}

template <int ROWS, class F>
inline void last_tile(int64_t left, int64_t done, const F& f) {
    if constexpr (ROWS > 0) {
        if (left == ROWS) return f(std::integral_constant<int, ROWS>{}, done);
        last_tile<ROWS - 1>(left, done, f);
    }
}

/// Cuts rows into tiles: f(a tile's number of rows, known to the compiler; the rows before it).
template <class F>
inline void in_tiles(int64_t rows, const F& f) {
    int64_t done = 0;
    for (; done + TILE_ROWS <= rows; done += TILE_ROWS) f(std::integral_constant<int, TILE_ROWS>{}, done);
    last_tile<TILE_ROWS - 1>(rows - done, done, f);
}
