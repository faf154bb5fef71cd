// Attention of many rows of a sequence, for heads of up to so many elements (`attention_tiles.cuh`).
#include "attention_tiles.cuh"

ATTEND_TILES(64)
ATTEND_TILES(96)
ATTEND_TILES(128)
ATTEND_TILES(256)
