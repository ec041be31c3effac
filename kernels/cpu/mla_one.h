// One row of each head against the latents as they lie in their pages, and the values of what was read.
#pragma once

#include "mla.h"

namespace mla {

/// Keys from .. to of one token's queries q [h, apart] (zeros behind R + r), up to four heads at a time.
void piece_of_one(const Call& call, const float* q, int64_t apart, int64_t from, int64_t to, const State& state);

/// o [V] = (acc / mass) · Bᵀ, B [V, R] the head's value rows.
void expand_read(const Call& call, int64_t head, const State& row, float* o);

}  // namespace mla
