// Products of numbers rounded to bf16, summed in fp32: half the bytes, and two to sixteen times the rate where the
// processor has instructions for them.
//
// Three forms, chosen when the library is compiled: AMX's tiles, AVX-512's dot products of pairs, fp32 arithmetic of
// what bf16 widens to. The last two have the same bits; AMX sums in another order (bf16.cpp says which). In each, a
// row's bits depend on the row and the matrix alone.
#pragma once

#include <cstdint>

#include "vec.h"

namespace bf16 {

constexpr int64_t DEEP = 32;   // rows and panels are this much deep or a multiple of it, filled up with zeros
constexpr int64_t BESIDE = 16; // x has readable memory, of whatever content, for a multiple of so many rows

inline int64_t deep(int64_t depth) { return (depth + DEEP - 1) / DEEP * DEEP; }

/// Products run in a thread that holds one of these; product_of_one() wants rows = 1, product() does not.
struct Tiles {
    explicit Tiles(int64_t rows = 16);
    ~Tiles();
    Tiles(const Tiles&) = delete;
};

/// y [rows, 32] = x [rows, depth] · panel [depth / 2][32][2], or y += it as if the same sums went on.
void product(const uint16_t* x, int64_t ld_x, int64_t rows, const uint16_t* panel, int64_t depth, float* y,
             int64_t ld_y, bool go_on = false);

/// y [count, 32] = x [depth] · each of `count` <= 4 panels that lie one behind another: bits as product() has them.
void product_of_one(const uint16_t* x, const uint16_t* panels, int64_t count, int64_t depth, float* y);

/// The same for panels of int8 [depth][32]: a byte is a bf16 number.
void product_of_one(const uint16_t* x, const int8_t* panels, int64_t count, int64_t depth, float* y);

/// Such a panel as one of pairs.
void widen_panel(const int8_t* panel, int64_t depth, uint16_t* to);

/// The nearest bf16 of n floats, to even, and zeros behind them up to deep(n). Subnormal floats become zeros.
void round_row(const float* x, int64_t n, uint16_t* to);

/// x [rows, n] -> [rows, deep(n)].
void round_rows(const float* x, int64_t ld_x, int64_t rows, int64_t n, uint16_t* to);

inline uint16_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);  // what is not a number stays none
    if (!(bits & 0x7f800000)) bits &= 0x80000000;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void store_rounded(uint16_t* to, Vec a) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(a.v));
#else
    float x[LANES];
    store(x, a);
    for (int i = 0; i < LANES; i++) to[i] = rounded(x[i]);
#endif
}

/// to [16][2]: the rounded numbers of two rows, alternating.
inline void store_pairs(uint16_t* to, Vec first, Vec second) {
#if defined(__AVX512BF16__)
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first.v));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second.v));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
    float x[LANES], y[LANES];
    store(x, first), store(y, second);
    for (int i = 0; i < LANES; i++) to[2 * i] = rounded(x[i]), to[2 * i + 1] = rounded(y[i]);
#endif
}

/// The same of numbers that bf16 holds.
inline void store_whole_pairs(uint16_t* to, Vec first, Vec second) {
#if defined(__AVX512F__)
    __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first.v), 16);
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_castps_si512(second.v)));
#else
    store_pairs(to, first, second);
#endif
}

}  // namespace bf16
