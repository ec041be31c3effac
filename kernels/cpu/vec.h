// Sixteen floats at a time, whatever the machine: one AVX-512 register, two of AVX2, four of NEON.
//
// Every operation here rounds each lane by itself as IEEE 754 says, and sums of lanes are taken in one fixed order. So
// the same source compiled for another instruction set gives the same bits. For that the compiler must not fuse or
// reorder by itself (-ffp-contract=off, no -ffast-math): where a product and a sum round once, the source says fma().
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#error "needs AVX2 with FMA, AVX-512 or NEON"
#endif

constexpr int LANES = 16;

#if defined(__AVX512F__)

struct Vec { __m512 v; };
struct Ints { __m512i v; };

inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec load_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline Vec load_int8(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec zero_where_below(Vec value, Vec x, Vec bound) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_NLT_UQ), value.v)};
}
inline Vec times_power_of_two(Vec a, Vec n) {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23)))};
}

#elif defined(__AVX2__)

struct Vec { __m256 lo, hi; };

inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
inline __m256 widen_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline Vec load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline __m256 nearest(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec round(Vec a) { return {nearest(a.lo), nearest(a.hi)}; }
inline Vec zero_where_below(Vec value, Vec x, Vec bound) {
    return {_mm256_and_ps(value.lo, _mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ)),
            _mm256_and_ps(value.hi, _mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ))};
}
inline __m256 add_exponent(__m256 a, __m256 n) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
inline Vec times_power_of_two(Vec a, Vec n) { return {add_exponent(a.lo, n.lo), add_exponent(a.hi, n.hi)}; }

#else  // NEON

struct Vec { float32x4_t x[4]; };

#define EACH(expression) Vec r; for (int i = 0; i < 4; i++) r.x[i] = (expression); return r
inline Vec set1(float x) { EACH(vdupq_n_f32(x)); }
inline Vec load(const float* p) { EACH(vld1q_f32(p + 4 * i)); }
inline void store(float* p, Vec a) { for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.x[i]); }
inline Vec load_bf16(const uint16_t* p) { EACH(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16))); }
inline Vec fma(Vec a, Vec b, Vec c) { EACH(vfmaq_f32(c.x[i], a.x[i], b.x[i])); }
inline Vec operator+(Vec a, Vec b) { EACH(vaddq_f32(a.x[i], b.x[i])); }
inline Vec operator-(Vec a, Vec b) { EACH(vsubq_f32(a.x[i], b.x[i])); }
inline Vec operator*(Vec a, Vec b) { EACH(vmulq_f32(a.x[i], b.x[i])); }
inline Vec operator/(Vec a, Vec b) { EACH(vdivq_f32(a.x[i], b.x[i])); }
// "a > b ? a : b", as x86 has it, also for zeros and what is not a number
inline Vec max(Vec a, Vec b) { EACH(vbslq_f32(vcgtq_f32(a.x[i], b.x[i]), a.x[i], b.x[i])); }
inline Vec min(Vec a, Vec b) { EACH(vbslq_f32(vcltq_f32(a.x[i], b.x[i]), a.x[i], b.x[i])); }
inline Vec sqrt(Vec a) { EACH(vsqrtq_f32(a.x[i])); }
inline Vec round(Vec a) { EACH(vrndnq_f32(a.x[i])); }
inline Vec zero_where_below(Vec value, Vec x, Vec bound) {
    EACH(vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value.x[i]), vcltq_f32(x.x[i], bound.x[i]))));
}
inline Vec times_power_of_two(Vec a, Vec n) {
    EACH(vreinterpretq_f32_s32(
        vaddq_s32(vreinterpretq_s32_f32(a.x[i]), vshlq_n_s32(vcvtnq_s32_f32(n.x[i]), 23))));
}
#undef EACH

#endif

#if !defined(__AVX512F__)
inline Vec load_int8(const int8_t* p) {
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = p[i];
    return load(lanes);
}
#endif

inline Vec zero() { return set1(0.0f); }

/// The first n < 16 floats of p, zeros behind them.
inline Vec load_first(const float* p, int n) {
    float lanes[LANES] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}

inline void store_first(float* p, Vec a, int n) {
    float lanes[LANES];
    store(lanes, a);
    std::memcpy(p, lanes, n * sizeof(float));
}

/// Lanes i and i + 8, then i and i + 4, then 2, then 1.
inline float sum(Vec a) {
    float x[LANES];
    store(x, a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

inline float largest(Vec a) {
    float x[LANES];
    store(x, a);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
}

/// e^x within 1 ulp or so; exactly 0 below -87.3 (where the result would be subnormal), finite above 88.
/// Cody and Waite's reduction by ln 2 in two parts, then a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
inline Vec exp(Vec x) {
    const Vec lowest = set1(-87.33f);
    Vec bounded = min(max(x, lowest), set1(88.37f));
    Vec n = round(bounded * set1(1.44269504088896341f));
    Vec r = fma(n, set1(-0.693359375f), bounded);
    r = fma(n, set1(2.12194440e-4f), r);
    Vec p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, r * r, r + set1(1.0f));
    return zero_where_below(times_power_of_two(p, n), x, lowest);
}

inline Vec sigmoid(Vec x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
inline Vec silu(Vec x) { return x / (set1(1.0f) + exp(zero() - x)); }

/// log(1 + e^x) = max(x, 0) + log1p(y), y = e^-|x|, by log1p(y) = 2 atanh(y / (2 + y)): s <= 1/3, nine terms.
inline Vec softplus(Vec x) {
    Vec y = exp(min(x, zero() - x));
    Vec s = y / (y + set1(2.0f)), square = s * s;
    Vec p = set1(1.0f / 17);
    for (int odd = 15; odd >= 1; odd -= 2) p = fma(p, square, set1(1.0f / odd));
    return max(x, zero()) + (s + s) * p;
}
