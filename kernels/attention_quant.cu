// Attention over quantised keys (`attention.cuh`).
#include "attention.cuh"

ATTEND_KEYS(StateQ8_0, q8_0)
ATTEND_KEYS(StateQ4_0, q4_0)
