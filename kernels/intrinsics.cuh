// What kernels take from the device beyond C++: every kernel includes this and nothing of CUDA's own headers.
//
// `host/cuda_host.h` defines the same names for a host compiler, and the guard with them, so that the kernels' tests
// run the very same source without a GPU. Inline PTX stands here only.
#ifndef AIR_INTRINSICS
#define AIR_INTRINSICS

#include <stdint.h>

// A kernel: a symbol of its own name whose one parameter is a struct `a`, launched with at most `threads` threads. That
// one block a multiprocessor is enough is said because the assembler else spills registers for the sake of more.
#define KERNEL(name, Args, threads) extern "C" __global__ void __launch_bounds__(threads, 1) name(const Args a)

// Memory of the block whose size the launch sets, aligned to 16 bytes.
__device__ inline uint8_t* dynamic_shared() {
    extern __shared__ __align__(16) uint8_t bytes[];
    return bytes;
}

__device__ inline float half_to_float(uint16_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// Rounds to nearest, ties to even; what is too large becomes infinite.
__device__ inline uint16_t float_to_half(float f) {
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

#endif
