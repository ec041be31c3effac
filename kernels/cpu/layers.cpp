// A layer's two halves, each in one call: x += mixer(norm(x)), x += ffn(norm(x)). A token has few numbers and many
// operations; called one by one from Python they would cost more than they compute. engine/model.py says what they are.
#include <cstring>
#include <vector>

#include "bf16.h"
#include "ops.h"

namespace {

/// The rows of one sequence in a batch, and where its state lives.
struct Piece {
    int64_t first, count, slot;
    const int64_t* table;  // its pages in order
    int64_t position;      // tokens before these rows
};

struct KdaMixer {
    const float* norm;
    int64_t width;
    Panels inward, f_b, g_b, o_proj;  // inward: q, k, v [3C], f_a, g_a [K], b [H]
    const float *conv, *A_log, *dt_bias, *o_norm;
    int64_t heads, head_dim, taps;
    float eps;
};

struct MlaMixer {
    const float* norm;
    int64_t width;
    Panels inward, o_proj;  // inward: q [h (N + r)], latent [R], shared key part [r]
    const float *latent_norm, *kv_b;
    const uint16_t *keys, *values;  // kv_b once more (mla.h) where pages are of bf16, else null
    int64_t heads, nope, rope, rank, value_dim;
    float eps, latent_eps;
};

struct Ffn {
    const float* norm;
    int64_t width;
    const float *router, *bias;  // null in a dense layer
    const Expert* experts;       // the routed ones, then the shared one
    int64_t count, top_k, renormalize, bias_in_weights;
    float scale, eps;
};

/// Memory of this thread that only grows; ``which`` of several that are in use at once.
float* memory(int which, int64_t size) {
    thread_local std::vector<float> kept[5];
    if (int64_t(kept[which].size()) < size) kept[which].resize(size);
    return kept[which].data();
}

const float* normed(const float* x, int64_t rows, int64_t width, const float* norm, float eps) {
    float* u = memory(0, rows * width);
    shiori_rms_norm(x, width, rows, width, norm, eps, u, width);
    return u;
}

float* product(int which, const float* x, int64_t ld_x, int64_t rows, const Panels& w) {
    float* y = memory(which, rows * w.columns);
    shiori_matmul(x, ld_x, rows, &w, y, w.columns, 0);
    return y;
}

/// Writes a latent at its place in the pages.
void keep(const float* latent, int64_t width, void* pages, int64_t place, bool rounded) {
    if (!rounded) {
        std::memcpy(static_cast<float*>(pages) + place, latent, width * sizeof(float));
        return;
    }
    uint16_t* to = static_cast<uint16_t*>(pages) + place;
    for (int64_t i = 0; i < width; i += LANES) bf16::store_rounded(to + i, load(latent + i));
}

}  // namespace

/// x [rows, width] += the mixer of its norm. states [slots, H, K, K] and tails [slots, taps - 1, 3C]: the pieces' slots
/// are advanced.
extern "C" void shiori_kda_mixer(const KdaMixer* m, float* x, int64_t rows, const Piece* pieces, int64_t count,
                                 float* states, float* tails) {
    int64_t K = m->head_dim, C = m->heads * K, ld = m->inward.columns;
    const float* u = normed(x, rows, m->width, m->norm, m->eps);
    const float* y = product(1, u, m->width, rows, m->inward);
    const float* gate = product(2, y + 3 * C, ld, rows, m->f_b);
    const float* z = product(3, y + 3 * C + K, ld, rows, m->g_b);
    float* o = memory(4, rows * C);
    for (const Piece* p = pieces; p < pieces + count; p++) {
        const float* raw = y + p->first * ld;
        shiori_kda(raw, ld, gate + p->first * C, C, raw + 3 * C + 2 * K, ld, z + p->first * C, C, m->conv, m->A_log,
                   m->dt_bias, m->o_norm, m->eps, p->count, m->heads, K, m->taps,
                   tails + p->slot * (m->taps - 1) * 3 * C, states + p->slot * C * K, o + p->first * C, C);
    }
    shiori_matmul(o, C, rows, &m->o_proj, x, m->width, 1);
}

/// x [rows, width] += the mixer of its norm. The rows' latents are written into pages [P, page_tokens, R + r] (bf16
/// where the mixer has `keys`), then read.
extern "C" void shiori_mla_mixer(const MlaMixer* m, float* x, int64_t rows, const Piece* pieces, int64_t count,
                                 void* pages, int64_t page_tokens) {
    int64_t ld = m->inward.columns, latent = m->rank + m->rope, out = m->heads * m->value_dim;
    const float* u = normed(x, rows, m->width, m->norm, m->eps);
    float* y = product(1, u, m->width, rows, m->inward);
    float *latents = y + ld - latent, *o = memory(2, rows * out);
    shiori_rms_norm(latents, ld, rows, m->rank, m->latent_norm, m->latent_eps, latents, ld);
    for (const Piece* p = pieces; p < pieces + count; p++) {
        for (int64_t i = 0; i < p->count; i++) {
            int64_t at = p->position + i, page = p->table[at / page_tokens];
            int64_t place = (page * page_tokens + at % page_tokens) * latent;
            keep(latents + (p->first + i) * ld, latent, pages, place, m->keys);
        }
        const float* q = y + p->first * ld;
        float* out_row = o + p->first * out;
        if (m->keys)
            shiori_mla_rounded(q, ld, static_cast<const uint16_t*>(pages), page_tokens, p->table,
                               p->position + p->count, m->kv_b, m->keys, m->values, p->count, m->heads, m->nope,
                               m->rope, m->rank, m->value_dim, out_row, out);
        else
            shiori_mla(q, ld, static_cast<const float*>(pages), page_tokens, p->table, p->position + p->count, m->kv_b,
                       p->count, m->heads, m->nope, m->rope, m->rank, m->value_dim, out_row, out);
    }
    shiori_matmul(o, out, rows, &m->o_proj, x, m->width, 1);
}

/// x [rows, width] += the experts of its norm.
extern "C" void shiori_ffn(const Ffn* f, float* x, int64_t rows) {
    const float* z = normed(x, rows, f->width, f->norm, f->eps);
    thread_local std::vector<int64_t> indices;
    indices.resize(rows * f->top_k);
    float* weights = memory(1, rows * f->top_k);
    if (f->router)
        shiori_route(z, f->width, rows, f->width, f->router, f->bias, f->count, f->top_k, f->scale, f->renormalize,
                     f->bias_in_weights, indices.data(), weights);
    shiori_experts(z, f->width, rows, indices.data(), weights, f->top_k, f->experts, f->count, 1, x, f->width);
}
