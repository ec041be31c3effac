// The orders of summation, for those who have to reproduce a bit. Products of two bf16 numbers are exact in fp32.
//
// Pairs (VDPBF16PS and its widened form): one chain of fused multiply-adds over the depth, in each pair the second
// number before the first. Tiles (TDPBF16PS): of every 32 numbers of depth the even ones make a chain from zero and
// the odd ones another; their sum is added to what there was. Both take and give subnormal numbers as zeros.
#include "bf16.h"

#include <algorithm>
#include <vector>

#include "pool.h"
#include "tile.h"

namespace bf16 {

namespace {

constexpr int64_t ROWS = 32;  // a task's, when rounding

/// Subnormal numbers are zeros meanwhile, as in the instructions for bf16.
struct Flushing {
#if defined(__x86_64__)
    const unsigned usual = _mm_getcsr();
    Flushing() { _mm_setcsr(usual | 0x8040); }
    ~Flushing() { _mm_setcsr(usual); }
#else
    Flushing() {}
#endif
};

inline float widened(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

#if defined(__AMX_BF16__)

struct alignas(64) Config {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Not the compiler's intrinsics: GCC 12 believes that they read 8 bytes of the configuration, and no memory in a load.
template <int TILE> inline void load_tile(const void* at, int64_t bytes_apart) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(bytes_apart), "i"(TILE) : "memory");
}
template <int TILE> inline void store_tile(void* at, int64_t bytes_apart) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(bytes_apart), "i"(TILE) : "memory");
}
template <int TILE> inline void zero_tile() { asm volatile("tilezero %%tmm%c0" ::"i"(TILE)); }
template <int SUM, int X, int W> inline void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(X), "i"(W));
}

// Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 the panel's halves.
template <bool TWO> inline void load_sums(const float* y, int64_t ld_y) {
    load_tile<0>(y, ld_y * 4), load_tile<1>(y + 16, ld_y * 4);
    if constexpr (TWO) load_tile<2>(y + 16 * ld_y, ld_y * 4), load_tile<3>(y + 16 * ld_y + 16, ld_y * 4);
}

template <bool TWO> inline void store_sums(float* y, int64_t ld_y) {
    store_tile<0>(y, ld_y * 4), store_tile<1>(y + 16, ld_y * 4);
    if constexpr (TWO) store_tile<2>(y + 16 * ld_y, ld_y * 4), store_tile<3>(y + 16 * ld_y + 16, ld_y * 4);
}

template <bool TWO> inline void zero_sums() {
    zero_tile<0>(), zero_tile<1>();
    if constexpr (TWO) zero_tile<2>(), zero_tile<3>();
}

template <bool TWO> inline void add_products(const uint16_t* x, int64_t ld_x, const uint16_t* panel, int64_t depth) {
    for (int64_t k = 0; k < depth; k += DEEP) {
        load_tile<6>(panel + k * PANEL, PANEL * 4), load_tile<4>(x + k, ld_x * 2);
        multiply_tiles<0, 4, 6>();
        load_tile<7>(panel + k * PANEL + PANEL, PANEL * 4);
        multiply_tiles<1, 4, 7>();
        if constexpr (TWO) {
            load_tile<5>(x + 16 * ld_x + k, ld_x * 2);
            multiply_tiles<2, 5, 6>(), multiply_tiles<3, 5, 7>();
        }
    }
}

/// Sixteen rows, or 32 when TWO, of which `rows` are wanted.
template <bool TWO>
void some_rows(const uint16_t* x, int64_t ld_x, int64_t rows, const uint16_t* panel, int64_t depth, float* y,
               int64_t ld_y, bool go_on) {
    constexpr int64_t ALL = TWO ? 32 : 16;
    if (rows == ALL) {
        if (go_on) load_sums<TWO>(y, ld_y);
        else zero_sums<TWO>();
        add_products<TWO>(x, ld_x, panel, depth);
        return store_sums<TWO>(y, ld_y);
    }
    alignas(64) float sums[ALL * PANEL];
    for (int64_t r = 0; go_on && r < rows; r++) std::copy_n(y + r * ld_y, PANEL, sums + r * PANEL);
    if (go_on) load_sums<TWO>(sums, PANEL);
    else zero_sums<TWO>();
    add_products<TWO>(x, ld_x, panel, depth);
    store_sums<TWO>(sums, PANEL);
    for (int64_t r = 0; r < rows; r++) std::copy_n(sums + r * PANEL, PANEL, y + r * ld_y);
}

/// Rows k and k + 1 of a panel, 16 columns from v · 16 on.
struct Two { Vec even, odd; };
inline Two two_rows(const uint16_t* panel, int64_t k, int v) {
    const __m512i both = _mm512_loadu_si512(panel + k * PANEL + v * PANEL), odd = _mm512_set1_epi32(int(0xffff0000));
    return {{_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))}, {_mm512_castsi512_ps(_mm512_and_si512(both, odd))}};
}
inline Two two_rows(const int8_t* panel, int64_t k, int v) {
    return {load_int8(panel + k * PANEL + v * LANES), load_int8(panel + (k + 1) * PANEL + v * LANES)};
}

/// One row by multiply-adds in the order of the tiles, which for one row of x mostly wait for their loads.
template <int COUNT, class T> void one_row(const uint16_t* x, const T* panels, int64_t depth, float* y) {
    Vec sums[COUNT][2];
    clear(sums);
    for (int64_t k = 0; k < depth; k += DEEP) {
        Vec even[COUNT][2], odd[COUNT][2];
        clear(even), clear(odd);
        for (int64_t j = k; j < k + DEEP; j += 2) {
            const Vec first = set1(widened(x[j])), second = set1(widened(x[j + 1]));
            for (int p = 0; p < COUNT; p++)
                for (int v = 0; v < 2; v++) {
                    const Two w = two_rows(panels + p * depth * PANEL, j, v);
                    even[p][v] = fma(first, w.even, even[p][v]);
                    odd[p][v] = fma(second, w.odd, odd[p][v]);
                }
        }
        for (int p = 0; p < COUNT; p++)
            for (int v = 0; v < 2; v++) sums[p][v] = sums[p][v] + (even[p][v] + odd[p][v]);
    }
    for (int p = 0; p < COUNT; p++)
        for (int v = 0; v < 2; v++) store(y + p * PANEL + v * LANES, sums[p][v]);
}

#elif defined(__AVX512BF16__)

template <int COUNT> void one_row(const uint16_t* x, const uint16_t* panels, int64_t depth, float* y) {
    Vec sums[COUNT][2];
    clear(sums);
    for (int64_t k = 0; k < depth; k += 2) {
        int pair;
        std::memcpy(&pair, x + k, 4);
        __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
        for (int p = 0; p < COUNT; p++)
            for (int v = 0; v < 2; v++) {
                const uint16_t* w = panels + (p * depth + k) * PANEL + v * PANEL;
                sums[p][v].v = _mm512_dpbf16_ps(sums[p][v].v, both, (__m512bh)_mm512_loadu_si512(w));
            }
    }
    for (int p = 0; p < COUNT; p++)
        for (int v = 0; v < 2; v++) store(y + p * PANEL + v * LANES, sums[p][v]);
}

template <int COUNT>
void some_rows(const uint16_t* x, int64_t ld_x, const uint16_t* panel, int64_t depth, float* y, int64_t ld_y,
               bool go_on) {
    Vec sums[COUNT][2];
    for (int r = 0; r < COUNT; r++)
        for (int v = 0; v < 2; v++) sums[r][v] = go_on ? load(y + r * ld_y + v * LANES) : zero();
    for (int64_t k = 0; k < depth; k += 2) {
        __m512bh w[2];
        for (int v = 0; v < 2; v++) w[v] = (__m512bh)_mm512_loadu_si512(panel + k * PANEL + v * PANEL);
        for (int r = 0; r < COUNT; r++) {
            int pair;
            std::memcpy(&pair, x + r * ld_x + k, 4);
            for (int v = 0; v < 2; v++)
                sums[r][v].v = _mm512_dpbf16_ps(sums[r][v].v, (__m512bh)_mm512_set1_epi32(pair), w[v]);
        }
    }
    for (int r = 0; r < COUNT; r++)
        for (int v = 0; v < 2; v++) store(y + r * ld_y + v * LANES, sums[r][v]);
}

#else

/// Numbers as fp32, those of a pair the other way round.
void widen_pairs(const uint16_t* x, int64_t n, float* to) {
    for (int64_t k = 0; k < n; k += 2) to[k] = widened(x[k + 1]), to[k + 1] = widened(x[k]);
}

void widen_panel(const uint16_t* panel, int64_t depth, float* to) {
    for (int64_t k = 0; k < depth; k += 2)
        for (int i = 0; i < PANEL; i++) {
            to[k * PANEL + i] = widened(panel[k * PANEL + 2 * i + 1]);
            to[(k + 1) * PANEL + i] = widened(panel[k * PANEL + 2 * i]);
        }
}

template <int COUNT>
void some_rows(const float* x, const float* panel, int64_t depth, float* y, int64_t ld_y, bool go_on) {
    const float* rows[COUNT];
    for (int r = 0; r < COUNT; r++) rows[r] = x + r * depth;
    for (int at = 0; at < PANEL; at += TILE_VECS * LANES) {
        Vec sums[COUNT][TILE_VECS];
        for (int r = 0; r < COUNT; r++)
            for (int v = 0; v < TILE_VECS; v++) sums[r][v] = go_on ? load(y + r * ld_y + at + v * LANES) : zero();
        multiply(rows, panel + at, depth, sums);
        for (int r = 0; r < COUNT; r++)
            for (int v = 0; v < TILE_VECS; v++) store(y + r * ld_y + at + v * LANES, sums[r][v]);
    }
}

#endif

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)

template <class T> void one_row_of(int64_t count, const uint16_t* x, const T* panels, int64_t depth, float* y) {
    switch (count) {
        case 4: return one_row<4>(x, panels, depth, y);
        case 3: return one_row<3>(x, panels, depth, y);
        case 2: return one_row<2>(x, panels, depth, y);
        default: return one_row<1>(x, panels, depth, y);
    }
}

#endif

}  // namespace

#if defined(__AMX_BF16__)

Tiles::Tiles(int64_t rows) {
    static constexpr Config config;
    if (rows > 1) asm volatile("ldtilecfg %0" ::"m"(config));
}
Tiles::~Tiles() { asm volatile("tilerelease"); }

void product(const uint16_t* x, int64_t ld_x, int64_t rows, const uint16_t* panel, int64_t depth, float* y,
             int64_t ld_y, bool go_on) {
    for (int64_t r = 0; r < rows; r += 32) {
        int64_t left = std::min<int64_t>(rows - r, 32);
        auto some = left > 16 ? some_rows<true> : some_rows<false>;
        some(x + r * ld_x, ld_x, left, panel, depth, y + r * ld_y, ld_y, go_on);
    }
}

void product_of_one(const uint16_t* x, const uint16_t* panels, int64_t count, int64_t depth, float* y) {
    const Flushing flushing;
    one_row_of(count, x, panels, depth, y);
}

void product_of_one(const uint16_t* x, const int8_t* panels, int64_t count, int64_t depth, float* y) {
    const Flushing flushing;
    one_row_of(count, x, panels, depth, y);
}

#elif defined(__AVX512BF16__)

Tiles::Tiles(int64_t) {}
Tiles::~Tiles() {}

void product_of_one(const uint16_t* x, const uint16_t* panels, int64_t count, int64_t depth, float* y) {
    one_row_of(count, x, panels, depth, y);
}

void product(const uint16_t* x, int64_t ld_x, int64_t rows, const uint16_t* panel, int64_t depth, float* y,
             int64_t ld_y, bool go_on) {
    in_tiles(rows, [&](auto count, int64_t done) {
        some_rows<count>(x + done * ld_x, ld_x, panel, depth, y + done * ld_y, ld_y, go_on);
    });
}

#else

Tiles::Tiles(int64_t) {}
Tiles::~Tiles() {}

void product(const uint16_t* x, int64_t ld_x, int64_t rows, const uint16_t* panel, int64_t depth, float* y,
             int64_t ld_y, bool go_on) {
    const Flushing flushing;
    thread_local std::vector<float> scratch;
    if (int64_t(scratch.size()) < (PANEL + TILE_ROWS) * depth) scratch.resize((PANEL + TILE_ROWS) * depth);
    float *wide_panel = scratch.data(), *wide_x = wide_panel + PANEL * depth;
    widen_panel(panel, depth, wide_panel);
    in_tiles(rows, [&](auto count, int64_t done) {
        for (int r = 0; r < count; r++) widen_pairs(x + (done + r) * ld_x, depth, wide_x + r * depth);
        some_rows<count>(wide_x, wide_panel, depth, y + done * ld_y, ld_y, go_on);
    });
}

void product_of_one(const uint16_t* x, const uint16_t* panels, int64_t count, int64_t depth, float* y) {
    for (int64_t p = 0; p < count; p++) product(x, depth, 1, panels + p * depth * PANEL, depth, y + p * PANEL, PANEL);
}

#endif

#if !defined(__AMX_BF16__)

void product_of_one(const uint16_t* x, const int8_t* panels, int64_t count, int64_t depth, float* y) {
    thread_local std::vector<uint16_t> pairs;
    if (int64_t(pairs.size()) < depth * PANEL) pairs.resize(depth * PANEL);
    for (int64_t p = 0; p < count; p++) {
        widen_panel(panels + p * depth * PANEL, depth, pairs.data());
        product_of_one(x, pairs.data(), 1, depth, y + p * PANEL);
    }
}

#endif

void widen_panel(const int8_t* panel, int64_t depth, uint16_t* to) {
    for (int64_t k = 0; k < depth; k += 2)
        for (int v = 0; v < PANEL; v += LANES)
            store_whole_pairs(to + k * PANEL + 2 * v, load_int8(panel + k * PANEL + v),
                              load_int8(panel + (k + 1) * PANEL + v));
}

void round_row(const float* x, int64_t n, uint16_t* to) {
    int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) store_rounded(to + i, load(x + i));
    for (int64_t i = whole; i < n; i++) to[i] = rounded(x[i]);
    std::fill(to + n, to + deep(n), uint16_t(0));
}

void round_rows(const float* x, int64_t ld_x, int64_t rows, int64_t n, uint16_t* to) {
    parallel_if_worth(rows * n, int((rows + ROWS - 1) / ROWS), [&](int task) {
        for (int64_t i = task * ROWS; i < std::min(rows, (task + 1) * ROWS); i++)
            round_row(x + i * ld_x, n, to + i * deep(n));
    });
}

}  // namespace bf16
