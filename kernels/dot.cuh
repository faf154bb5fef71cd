// Products of unpacked weights with activations in eight bits.
#pragma once

#include "formats/sub.cuh"

// One run of 32 elements: the sum of the products, scaled. `x` are the activations' eight words.
template <class F> __device__ inline float dot(const Sub& w, const uint32_t* x, Scale s) {
    int first = 0, second = 0;
    for (int i = 0; i < 4; i++) {
        first = __dp4a((int)w.q[i], (int)x[i], first);
        second = __dp4a((int)w.q[i + 4], (int)x[i + 4], second);
    }
    float y;
    if (F::SCALES == 1) {
        y = w.d[0] * (float)(first + second);
        if (F::MIN) y += w.m[0] * (float)(first_sum(s) + second_sum(s));
    } else {
        y = w.d[0] * (float)first + w.d[1] * (float)second;
        if (F::MIN) y += w.m[0] * (float)first_sum(s) + w.m[1] * (float)second_sum(s);
    }
    return s.d * y;
}
