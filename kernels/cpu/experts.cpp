// The mixture of experts: the router, and what the chosen experts and the one that all rows share add to a row.
#include <algorithm>
#include <utility>
#include <vector>

#include "ops.h"
#include "pool.h"
#include "vec.h"

namespace {

constexpr int64_t ROWS = 32;  // a task's, when routing

/// The rows of one expert, and their inner activations one after another.
struct Visit {
    const Expert* expert;
    std::vector<const float*> x;
    std::vector<float*> y;
    std::vector<float> weight;
    float* hidden;
    int64_t inner() const { return expert->gate.columns; }
};

float* scratch(int64_t size) {
    static thread_local std::vector<float> memory;
    if (int64_t(memory.size()) < size) memory.resize(size);
    return memory.data();
}

/// 32 inner units of one expert, of all its rows: hidden = weight · SiLU(gate) · up.
void inner_units(const Visit& visit, int64_t panel) {
    thread_local std::vector<float> gates;
    thread_local std::vector<float*> gate_rows, up_rows;
    int64_t count = visit.x.size(), first = panel * 32, units = std::min<int64_t>(32, visit.inner() - first);
    if (int64_t(gates.size()) < count * 32) gates.resize(count * 32);
    gate_rows.resize(count), up_rows.resize(count);
    for (int64_t i = 0; i < count; i++) {
        gate_rows[i] = gates.data() + i * 32 - first;  // a product's rows are named by their column 0
        up_rows[i] = visit.hidden + i * visit.inner();
    }
    multiply_panel({visit.x.data(), gate_rows.data(), count}, visit.expert->gate, panel, false);
    multiply_panel({visit.x.data(), up_rows.data(), count}, visit.expert->up, panel, false);
    for (int64_t i = 0; i < count; i++)
        for (int64_t u = 0; u < units; u += LANES) {
            int n = int(std::min<int64_t>(LANES, units - u));
            float* at = up_rows[i] + first + u;
            Vec gate = load_first(gates.data() + i * 32 + u, n);
            store_first(at, gate * sigmoid(gate) * load_first(at, n) * set1(visit.weight[i]), n);
        }
}

void add_outputs(const Visit& visit, int64_t panel) {
    thread_local std::vector<const float*> hidden;
    int64_t count = visit.x.size();
    hidden.resize(count);
    for (int64_t i = 0; i < count; i++) hidden[i] = visit.hidden + i * visit.inner();
    multiply_panel({hidden.data(), visit.y.data(), count}, visit.expert->down, panel, true);
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
    std::vector<Visit> visits;
    int64_t size = 0;
    for (int64_t e = 0; e < count + (shared ? 1 : 0); e++) {
        Visit visit{&experts[e], {}, {}, {}, nullptr};
        auto add = [&](int64_t row, float weight) {
            visit.x.push_back(x + row * ld_x), visit.y.push_back(y + row * ld_y), visit.weight.push_back(weight);
        };
        for (int64_t row = 0; row < rows; row++) {
            if (e == count) add(row, 1.0f);
            else for (int64_t i = 0; i < top_k; i++)
                if (indices[row * top_k + i] == e) add(row, weights[row * top_k + i]);
        }
        if (!visit.x.empty()) size += visit.x.size() * visit.inner(), visits.push_back(std::move(visit));
    }
    if (visits.empty()) return;
    float* hidden = scratch(size);
    std::vector<std::pair<const Visit*, int64_t>> tasks;
    for (auto& visit : visits) {
        visit.hidden = hidden, hidden += visit.x.size() * visit.inner();
        for (int64_t panel = 0; panel < panels_of(visit.inner()); panel++) tasks.emplace_back(&visit, panel);
    }
    parallel_if_worth(size * visits[0].expert->gate.depth * 2, int(tasks.size()), [&](int i) { inner_units(*tasks[i].first, tasks[i].second); });
    parallel_if_worth(size * visits[0].expert->down.columns, int(panels_of(visits[0].expert->down.columns)), [&](int panel) {  // a column is one task's: no races
        for (auto& visit : visits) add_outputs(visit, panel);
    });
}
