// The library's functions as the files here call them; each is described where it is defined.
#pragma once

#include "matmul.h"

struct Expert {
    Panels gate, up;  // [inner, width]
    Panels down;      // [width, inner]
};

extern "C" {
void shiori_rms_norm(const float* x, int64_t ld_x, int64_t rows, int64_t width, const float* weight, float eps,
                     float* y, int64_t ld_y);
void shiori_matmul(const float* x, int64_t ld_x, int64_t rows, const Panels* w, float* y, int64_t ld_y, int64_t add);
void shiori_route(const float* x, int64_t ld_x, int64_t rows, int64_t width, const float* router, const float* bias,
                  int64_t experts, int64_t top_k, float scale, int64_t renormalize, int64_t bias_in_weights,
                  int64_t* indices, float* weights);
void shiori_experts(const float* x, int64_t ld_x, int64_t rows, const int64_t* indices, const float* weights,
                    int64_t top_k, const Expert* experts, int64_t count, int64_t shared, float* y, int64_t ld_y);
void shiori_kda(const float* raw, int64_t ld_raw, const float* gate, int64_t ld_gate, const float* beta,
                int64_t ld_beta, const float* z, int64_t ld_z, const float* conv, const float* A_log,
                const float* dt_bias, const float* o_norm, float eps, int64_t T, int64_t H, int64_t K, int64_t W,
                float* tail, float* state, float* o, int64_t ld_o);
void shiori_mla(const float* q, int64_t ld_q, const float* pages, int64_t page_tokens, const int64_t* table,
                int64_t length, const float* kv_b, int64_t T, int64_t h, int64_t N, int64_t r, int64_t R, int64_t V,
                float* o, int64_t ld_o);
void shiori_mla_rounded(const float* q, int64_t ld_q, const uint16_t* pages, int64_t page_tokens,
                        const int64_t* table, int64_t length, const float* kv_b, const uint16_t* keys,
                        const uint16_t* values, int64_t T, int64_t h, int64_t N, int64_t r, int64_t R, int64_t V,
                        float* o, int64_t ld_o);
}
