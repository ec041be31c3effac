// The inside of a KDA mixer: short convolution, norms, gate, recurrence and gated norm of one sequence's rows.
//
// Token by token in the order of kernels/kda.py kda_recurrence, for one token as for many: no result depends on how a
// sequence is cut into calls. Every sum over K has one accumulator a lane that takes the rows in order.
// A task is a head. It takes the tokens in blocks; for a block it makes q, k, e^g, beta and v, then runs the recurrence
// for one narrow piece of the state's columns after the other, each held in the L1 cache over the whole block.
#include "pool.h"
#include "vec.h"

#include <algorithm>
#include <vector>

namespace {

constexpr int64_t BLOCK = 32;  // tokens
// Vectors of a state's row that are worked on at once: in a block few, so that [K][NARROW] stays in the L1 cache (16 KB
// for K = 128), for a single token whole rows where K allows, because the state comes from memory.
constexpr int NARROW = 2, WIDE = 8;

/// The arguments of shiori_kda, in their order.
struct Mixer {
    const float* raw; int64_t ld_raw;
    const float* gate; int64_t ld_gate;
    const float* beta; int64_t ld_beta;
    const float* z; int64_t ld_z;
    const float *conv, *A_log, *dt_bias, *o_norm;
    float eps;
    int64_t T, H, K, W;
    float *tail, *state, *o;
    int64_t ld_o;

    int64_t width() const { return 3 * H * K; }
    /// The projections of token t, of the tail where t < 0.
    const float* row(int64_t t) const { return t < 0 ? tail + (W - 1 + t) * width() : raw + t * ld_raw; }
};

/// What the recurrence of a block of one head reads and writes: rows of K per token. w = k e^g.
struct Block {
    float *q, *k, *e, *w, *v, *o, *beta, *state;

    explicit Block(int64_t K) {
        thread_local std::vector<float> memory;
        const int64_t rows = BLOCK * K;
        memory.resize(std::max<size_t>(memory.size(), 6 * rows + BLOCK + K * NARROW * LANES + LANES));
        q = (float*)((uintptr_t(memory.data()) + 63) / 64 * 64);  // whole cache lines
        k = q + rows, e = k + rows, w = e + rows, v = w + rows, o = v + rows, beta = o + rows, state = beta + BLOCK;
    }
};

/// Channels c ... c + 15 of token t after the convolution. The first taps may lie in the tail.
inline Vec convolved(const Mixer& m, int64_t t, int64_t c) {
    const int64_t width = m.width(), old = std::max<int64_t>(m.W - 1 - t, 0);
    Vec y = zero();
    for (int64_t tap = 0; tap < old; tap++)
        y = fma(load(m.tail + (t + tap) * width + c), load(m.conv + tap * width + c), y);
    for (int64_t tap = old; tap < m.W; tap++)
        y = fma(load(m.raw + (t - m.W + 1 + tap) * m.ld_raw + c), load(m.conv + tap * width + c), y);
    return y;
}

/// x = scale x / sqrt(squares + 1e-6)
inline void normalise(float* x, int64_t K, Vec squares, float scale) {
    const Vec factor = set1(scale / std::sqrt(sum(squares) + 1e-6f));
    for (int64_t i = 0; i < K; i += LANES) store(x + i, load(x + i) * factor);
}

/// q, k and v of token t, side by side: the processor has three chains to work on where one would wait for itself.
inline void mix(const Mixer& m, int64_t h, int64_t t, float* q, float* k, float* v) {
    const int64_t C = m.H * m.K, c = h * m.K;
    Vec q_squares = zero(), k_squares = zero();
    for (int64_t i = 0; i < m.K; i += LANES) {
        Vec x = convolved(m, t, c + i), y = convolved(m, t, C + c + i), value = convolved(m, t, 2 * C + c + i);
        x = silu(x), y = silu(y), value = silu(value);
        q_squares = fma(x, x, q_squares), k_squares = fma(y, y, k_squares);
        store(q + i, x), store(k + i, y), store(v + i, value);
    }
    normalise(q, m.K, q_squares, 1.0f / std::sqrt(float(m.K)));
    normalise(k, m.K, k_squares, 1.0f);
}

/// e = e^g with g = -exp(A_log) softplus(a + dt_bias), and w = k e. Two loops: one long chain a vector would be slower.
inline void decay(const Mixer& m, int64_t h, int64_t t, const float* k, float* e, float* w) {
    const Vec rate = zero() - exp(set1(m.A_log[h]));
    const float *a = m.gate + t * m.ld_gate + h * m.K, *bias = m.dt_bias + h * m.K;
    for (int64_t i = 0; i < m.K; i += LANES) store(e + i, rate * softplus(load(a + i) + load(bias + i)));
    for (int64_t i = 0; i < m.K; i += LANES) {
        Vec kept = exp(load(e + i));
        store(e + i, kept);
        store(w + i, load(k + i) * kept);
    }
}

/// Makes the block's rows for tokens t ... t + n - 1.
void prepare(const Mixer& m, int64_t h, int64_t t, int64_t n, const Block& b) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i * m.K;
        mix(m, h, t + i, b.q + at, b.k + at, b.v + at);
        decay(m, h, t + i, b.k + at, b.e + at, b.w + at);
        store_first(b.beta + i, sigmoid(set1(m.beta[(t + i) * m.ld_beta + h])), 1);
    }
}

template <int N> struct Columns { Vec x[N]; };

/// u = Sᵀ w
template <int N> inline Columns<N> read(const float* state, int64_t ld, const float* w, int64_t K) {
    Columns<N> u;
    for (int i = 0; i < N; i++) u.x[i] = zero();
    for (int64_t r = 0; r < K; r++)
        for (int i = 0; i < N; i++) u.x[i] = fma(load(state + r * ld + i * LANES), set1(w[r]), u.x[i]);
    return u;
}

/// S' = diag(e) S + k nᵀ and o = S'ᵀ q; with NEXT also u = S'ᵀ w, which saves the next token its first pass.
template <int N, bool NEXT>
inline Columns<N> step(const float* from, int64_t ld_from, float* to, int64_t ld_to, const float* q, const float* k,
                       const float* e, const float* w, const Columns<N>& n, int64_t K, float* out) {
    Columns<N> o, u;
    for (int i = 0; i < N; i++) o.x[i] = u.x[i] = zero();
    for (int64_t r = 0; r < K; r++) {
        const Vec er = set1(e[r]), kr = set1(k[r]), qr = set1(q[r]), wr = NEXT ? set1(w[r]) : qr;
        for (int i = 0; i < N; i++) {
            Vec s = fma(kr, n.x[i], load(from + r * ld_from + i * LANES) * er);
            store(to + r * ld_to + i * LANES, s);
            o.x[i] = fma(s, qr, o.x[i]);
            if constexpr (NEXT) u.x[i] = fma(s, wr, u.x[i]);
        }
    }
    for (int i = 0; i < N; i++) store(out + i * LANES, o.x[i]);
    return u;
}

/// The recurrence of n tokens for N vectors of columns. Between the first and the last token the state is in b.state,
/// because a narrow piece of the whole state's rows, 4 K bytes apart, would share few sets of the cache.
template <int N> void recur(float* state, int64_t K, int64_t column, int64_t n, const Block& b) {
    state += column;
    Columns<N> u = read<N>(state, K, b.w, K), error;
    for (int64_t t = 0; t < n; t++) {
        const int64_t at = t * K;
        const bool first = t == 0, last = t == n - 1;
        const float* from = first ? state : b.state;
        float* to = last ? state : b.state;
        const int64_t ld_from = first ? K : N * LANES, ld_to = last ? K : N * LANES;
        for (int i = 0; i < N; i++)
            error.x[i] = set1(b.beta[t]) * (load(b.v + at + column + i * LANES) - u.x[i]);
        const float *q = b.q + at, *k = b.k + at, *e = b.e + at;
        float* out = b.o + at + column;
        if (last) step<N, false>(from, ld_from, to, ld_to, q, k, e, nullptr, error, K, out);
        else u = step<N, true>(from, ld_from, to, ld_to, q, k, e, b.w + at + K, error, K, out);
    }
}

/// o = rms_norm(o) sigmoid(z) for the block's tokens.
void finish(const Mixer& m, int64_t h, int64_t t, int64_t n, const Block& b) {
    for (int64_t i = 0; i < n; i++) {
        const float *o = b.o + i * m.K, *z = m.z + (t + i) * m.ld_z + h * m.K;
        float* out = m.o + (t + i) * m.ld_o + h * m.K;
        Vec squares = zero();
        for (int64_t j = 0; j < m.K; j += LANES) squares = fma(load(o + j), load(o + j), squares);
        const Vec factor = set1(1.0f / std::sqrt(sum(squares) / float(m.K) + m.eps));
        for (int64_t j = 0; j < m.K; j += LANES)
            store(out + j, load(o + j) * factor * load(m.o_norm + j) * sigmoid(load(z + j)));
    }
}

/// Moves one head's columns of the last W - 1 rows into the tail, oldest first: no row is read after it is written.
void keep_tail(const Mixer& m, int64_t h) {
    for (int64_t i = 0; i < m.W - 1; i++)
        for (int64_t part = 0; part < 3; part++) {
            const int64_t c = (part * m.H + h) * m.K;
            std::memmove(m.tail + i * m.width() + c, m.row(m.T - m.W + 1 + i) + c, m.K * sizeof(float));
        }
}

void head(const Mixer& m, int64_t h) {
    const Block b(m.K);
    float* state = m.state + h * m.K * m.K;
    for (int64_t t = 0; t < m.T; t += BLOCK) {
        const int64_t n = std::min(BLOCK, m.T - t);
        prepare(m, h, t, n, b);
        int64_t c = 0;
        if (n == 1)
            for (; c + WIDE * LANES <= m.K; c += WIDE * LANES) recur<WIDE>(state, m.K, c, n, b);
        for (; c + NARROW * LANES <= m.K; c += NARROW * LANES) recur<NARROW>(state, m.K, c, n, b);
        for (; c < m.K; c += LANES) recur<1>(state, m.K, c, n, b);
        finish(m, h, t, n, b);
    }
    keep_tail(m, h);
}

}  // namespace

/// One sequence's rows through a KDA mixer; C = H K, K a multiple of 16, W >= 1; ld_* are floats between rows.
/// Reads raw [T, 3C], projections q | k | v before the convolution; gate [T, C], the gate's logits before dt_bias;
/// beta [T, H], logits; z [T, C], logits of the output gate; conv [W, 3C], tap W - 1 on the current token; A_log [H];
/// dt_bias [C]; o_norm [K] and its eps. Reads and writes tail [W-1, 3C], the last W - 1 raw rows, oldest first, and
/// state [H, K, K]. Writes o [T, C], normed and gated. Source: kernels/kda.py kda_recurrence, engine/model.py Kda.
extern "C" void shiori_kda(const float* raw, int64_t ld_raw, const float* gate, int64_t ld_gate, const float* beta,
                           int64_t ld_beta, const float* z, int64_t ld_z, const float* conv, const float* A_log,
                           const float* dt_bias, const float* o_norm, float eps, int64_t T, int64_t H, int64_t K,
                           int64_t W, float* tail, float* state, float* o, int64_t ld_o) {
    const Mixer m{raw, ld_raw, gate, ld_gate, beta, ld_beta, z, ld_z, conv, A_log, dt_bias,
                  o_norm, eps, T, H, K, W, tail, state, o, ld_o};
    parallel_if_worth(T * H * K * K * 4, int(H), [&m](int h) { head(m, h); });
}
