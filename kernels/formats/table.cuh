// All formats: X(type, stem) for each. Kernels are made from this table; `src/quant/table.rs` has the same rows.
#pragma once

#include "codebook.cuh"
#include "floats.cuh"
#include "kquants.cuh"
#include "legacy.cuh"

#define FLOAT_FORMATS(X) X(F32, f32) X(F16, f16) X(BF16, bf16)
#define LEGACY_FORMATS(X) X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q8_0, q8_0)
#define K_FORMATS(X) X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k)
#define CODEBOOK_FORMATS(X) X(IQ4_NL, iq4_nl) X(IQ4_XS, iq4_xs) X(MXFP4, mxfp4)
#define INTEGER_FORMATS(X) LEGACY_FORMATS(X) K_FORMATS(X) CODEBOOK_FORMATS(X)
