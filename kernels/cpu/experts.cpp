// The mixture of experts: the router, and what the chosen experts and the one that all rows share add to a row.
#include <algorithm>
#include <utility>
#include <vector>

#include "bf16.h"
#include "ops.h"
#include "pool.h"
#include "vec.h"

namespace {

constexpr int64_t ROWS = 32;  // a task's, when routing

/// The rows of one expert, and their inner activations one after another.
struct Visit {
    const Expert* expert;
    std::vector<int64_t> rows;
    std::vector<const float*> x;
    std::vector<float*> y;
    std::vector<float> weight;
    float* hidden;           // [rows, inner], or where rows are rounded:
    uint16_t* from;          // the rows themselves, rounded [rows, deep(width)]
    uint16_t* rounded;       // hidden, rounded [rows, deep(inner)]

    int64_t count() const { return x.size(); }
    int64_t inner() const { return expert->gate.columns; }
    bool rounds() const { return expert->gate.rounded(); }
    int64_t most() const { return (count() + bf16::BESIDE - 1) / bf16::BESIDE * bf16::BESIDE; }
};

template <class T> T* scratch(int64_t size) {
    static thread_local std::vector<T> memory;
    if (int64_t(memory.size()) < size) memory.resize(size);
    return memory.data();
}

/// The inner units of `panels` panels of one expert, of all its rows: hidden = weight · SiLU(gate) · up.
void inner_units(const Visit& visit, int64_t panel, int64_t panels) {
    thread_local std::vector<float> gates;
    thread_local std::vector<float*> gate_rows, up_rows;
    int64_t count = visit.count(), most = panels * 32, first = panel * 32;
    int64_t units = std::min(most, visit.inner() - first);
    if (int64_t(gates.size()) < count * most) gates.resize(count * most);
    gate_rows.resize(count), up_rows.resize(count);
    for (int64_t i = 0; i < count; i++) {
        gate_rows[i] = gates.data() + i * most - first;  // a product's rows are named by their column 0
        up_rows[i] = visit.hidden + i * visit.inner();
    }
    multiply_panels({visit.x.data(), gate_rows.data(), count}, visit.expert->gate, panel, panels, false);
    multiply_panels({visit.x.data(), up_rows.data(), count}, visit.expert->up, panel, panels, false);
    for (int64_t i = 0; i < count; i++)
        for (int64_t u = 0; u < units; u += LANES) {
            int n = int(std::min<int64_t>(LANES, units - u));
            float* at = up_rows[i] + first + u;
            Vec gate = load_first(gates.data() + i * most + u, n);
            store_first(at, silu(gate) * load_first(at, n) * set1(visit.weight[i]), n);
        }
}

/// The same with rows and results rounded. Units behind the last are zeros, since their weights are.
void rounded_units(const Visit& visit, int64_t panel, int64_t panels) {
    constexpr int64_t NEAR = 64;  // rows
    alignas(64) float gate[NEAR * 32], up[NEAR * 32];  // or a single row's four panels
    const Panels &gates = visit.expert->gate, &ups = visit.expert->up;
    int64_t deep = bf16::deep(gates.depth), inner = bf16::deep(visit.inner());
    int64_t last = std::min(panel + panels, panels_of(visit.inner()));
    const bf16::Tiles tiles(visit.count());
    if (visit.count() == 1) {
        multiply_one(gates, panel, last - panel, visit.from, gate);
        multiply_one(ups, panel, last - panel, visit.from, up);
        for (int64_t u = 0; u < (last - panel) * 32; u += LANES)
            bf16::store_rounded(visit.rounded + panel * 32 + u,
                                silu(load(gate + u)) * load(up + u) * set1(visit.weight[0]));
        return;
    }
    for (int64_t p = panel; p < last; p++) {
        const uint16_t *gate_pairs = pairs_of(gates, p, 0), *up_pairs = pairs_of(ups, p, 1);
        for (int64_t done = 0; done < visit.count(); done += NEAR) {
            int64_t count = std::min(NEAR, visit.count() - done);
            const uint16_t* x = visit.from + done * deep;
            multiply_panel_of(gates, p, gate_pairs, x, count, gate, 32);
            multiply_panel_of(ups, p, up_pairs, x, count, up, 32);
            for (int64_t i = 0; i < count; i++)
                for (int64_t u = 0; u < 32; u += LANES)
                    bf16::store_rounded(visit.rounded + (done + i) * inner + p * 32 + u,
                                        silu(load(gate + i * 32 + u)) * load(up + i * 32 + u) *
                                            set1(visit.weight[done + i]));
        }
    }
}

void add_outputs(const Visit& visit, int64_t panel, int64_t panels) {
    if (visit.rounds())
        return multiply_rounded(visit.rounded, {nullptr, visit.y.data(), visit.count()}, visit.expert->down, panel,
                                panels, true);
    thread_local std::vector<const float*> hidden;
    int64_t count = visit.count();
    hidden.resize(count);
    for (int64_t i = 0; i < count; i++) hidden[i] = visit.hidden + i * visit.inner();
    multiply_panels({hidden.data(), visit.y.data(), count}, visit.expert->down, panel, panels, true);
}

/// The rows of every expert that has some.
std::vector<Visit> visits_of(const float* x, int64_t ld_x, int64_t rows, const int64_t* indices, const float* weights,
                             int64_t top_k, const Expert* experts, int64_t count, int64_t shared, float* y,
                             int64_t ld_y) {
    std::vector<Visit> visits(count + (shared ? 1 : 0));
    auto add = [&](int64_t e, int64_t row, float weight) {
        Visit& visit = visits[e];
        visit.rows.push_back(row), visit.weight.push_back(weight);
        visit.x.push_back(x + row * ld_x), visit.y.push_back(y + row * ld_y);
    };
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = 0; i < top_k; i++) add(indices[row * top_k + i], row, weights[row * top_k + i]);
        if (shared) add(count, row, 1.0f);
    }
    for (size_t e = 0; e < visits.size(); e++) visits[e].expert = experts + e;
    std::erase_if(visits, [](const Visit& visit) { return visit.x.empty(); });
    return visits;
}

/// Memory for what the visits' rows become. Rounded: the rows of x once, then of each visit its own, side by side.
void give_memory(std::vector<Visit>& visits, const float* x, int64_t ld_x, int64_t rows) {
    if (!visits[0].rounds()) {
        int64_t size = 0;
        for (auto& visit : visits) size += visit.count() * visit.inner();
        float* hidden = scratch<float>(size);
        for (auto& visit : visits) visit.hidden = hidden, hidden += visit.count() * visit.inner();
        return;
    }
    int64_t width = visits[0].expert->gate.depth, deep = bf16::deep(width), size = (rows + bf16::BESIDE) * deep;
    for (auto& visit : visits) size += visit.most() * (deep + bf16::deep(visit.inner()));
    uint16_t *all = scratch<uint16_t>(size), *next = all + (rows + bf16::BESIDE) * deep;
    bf16::round_rows(x, ld_x, rows, width, all);
    for (auto& visit : visits) {
        visit.from = visit.count() == rows ? all : next, next += visit.most() * deep;
        visit.rounded = next, next += visit.most() * bf16::deep(visit.inner());
        for (int64_t i = 0; visit.from != all && i < visit.count(); i++)
            std::copy_n(all + visit.rows[i] * deep, deep, visit.from + i * deep);
    }
}

void score(const float* x, int64_t width, const float* router, const float* bias, int64_t experts, bool bias_in_weights,
           float* scores, float* choice) {
    for (int64_t e = 0; e < experts; e++) {
        Vec dot = zero();
        for (int64_t i = 0; i < width; i += LANES) dot = fma(load(x + i), load(router + e * width + i), dot);
        float lanes[LANES];
        store(lanes, sigmoid(set1(sum(dot))));
        choice[e] = lanes[0] + bias[e];
        scores[e] = bias_in_weights ? choice[e] : lanes[0];
    }
}

void choose(const float* scores, float* choice, int64_t experts, int64_t top_k, float scale, bool renormalize,
            int64_t* indices, float* weights) {
    float total = 0.0f;
    for (int64_t i = 0; i < top_k; i++) {
        int64_t best = std::max_element(choice, choice + experts) - choice;  // the first of equals
        indices[i] = best, weights[i] = scores[best], choice[best] = -INFINITY;
        total += scores[best];
    }
    for (int64_t i = 0; i < top_k; i++) weights[i] = (renormalize ? weights[i] / (total + 1e-20f) : weights[i]) * scale;
}

}  // namespace

/// kernels.moe.route: x [rows, width] -> indices and weights [rows, top_k]. router [experts, width], bias [experts]; the
/// width a multiple of 16. The expert with the highest score comes first; of equal ones the lower number.
extern "C" void shiori_route(const float* x, int64_t ld_x, int64_t rows, int64_t width, const float* router,
                             const float* bias, int64_t experts, int64_t top_k, float scale, int64_t renormalize,
                             int64_t bias_in_weights, int64_t* indices, float* weights) {
    parallel(int((rows + ROWS - 1) / ROWS), [&](int task) {
        std::vector<float> scores(2 * experts);
        float* choice = scores.data() + experts;
        for (int64_t i = task * ROWS; i < std::min(rows, (task + 1) * ROWS); i++) {
            score(x + i * ld_x, width, router, bias, experts, bias_in_weights, scores.data(), choice);
            choose(scores.data(), choice, experts, top_k, scale, renormalize, indices + i * top_k, weights + i * top_k);
        }
    });
}

/// y [rows, width] += Σ weight · down( SiLU(gate x) · up x ) over a row's chosen experts in the order of their numbers,
/// then over the shared one (experts[count], weight 1), when `shared`. A dense layer is a shared expert alone.
extern "C" void shiori_experts(const float* x, int64_t ld_x, int64_t rows, const int64_t* indices, const float* weights,
                               int64_t top_k, const Expert* experts, int64_t count, int64_t shared, float* y,
                               int64_t ld_y) {
    auto visits = visits_of(x, ld_x, rows, indices, weights, top_k, experts, count, shared, y, ld_y);
    if (visits.empty()) return;
    give_memory(visits, x, ld_x, rows);
    int64_t size = 0, width = visits[0].expert->down.columns, group = panels_a_task(rows);
    std::vector<std::pair<const Visit*, int64_t>> tasks;
    for (auto& visit : visits) {
        size += visit.count() * visit.inner();
        for (int64_t panel = 0; panel < panels_of(visit.inner()); panel += group) tasks.emplace_back(&visit, panel);
    }
    parallel_if_worth(2 * size * width, int(tasks.size()), [&](int i) {
        auto [visit, panel] = tasks[i];
        if (visit->rounds()) rounded_units(*visit, panel, group);
        else inner_units(*visit, panel, group);
    });
    parallel_if_worth(size * width, int(tasks_of(width, rows)), [&](int task) {  // a column is one task's: no races
        for (auto& visit : visits) add_outputs(visit, task * group, group);
    });
}
