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

// Two of them in a word.
__device__ inline uint32_t pack_halves(float low, float high) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// The same as bfloat16.
__device__ inline uint32_t pack_bfloats(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// Products of small matrices by a whole warp, whose lanes hold parts ("fragments") of each: d = a b + c, with 16 rows
// of a, 8 columns of b, and as many elements between them as the name says. Which elements a lane holds says the PTX
// document, "Matrix fragments for mma.m16n8k32" and its like; in words, for lane 4 g + t:
//   - of d and c: rows g (d[0], d[1]) and g + 8 (d[2], d[3]), columns 2 t and 2 t + 1;
//   - of a, bytes: rows g (a[0]) and g + 8 (a[1]), elements 4 t to 4 t + 3; for 32 elements the same 16 later in a[2]
//     and a[3]; of b: column g, elements 4 t to 4 t + 3, 16 later in b[1];
//   - of half floats, 16 of them, the same with 2 t and 2 t + 1, and 8 later; d is what it was and the product.
__device__ inline void mma_s8_32(int* d, const uint32_t* a, const uint32_t* b, const int* c) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
          "r"(c[3]));
}

__device__ inline void mma_s8_16(int* d, const uint32_t* a, const uint32_t* b, const int* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__device__ inline void mma_f16(float* d, const uint32_t* a, const uint32_t* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of eight rows of 16 bytes from shared memory: lane i names row i % 8 of matrix i / 8, and gets of each
// matrix word i % 4 of row i / 4. These are the fragments above.
__device__ inline void load_matrices(uint32_t* out, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

// The same with each matrix of half floats turned: of each a lane gets elements i / 4 of rows 2 (i % 4) and the next.
__device__ inline void load_turned_matrices(uint32_t* out, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

// Begins to copy 16 bytes to shared memory, zeros where they are not `there`; they have arrived behind `copies_done`,
// for the thread that copied them.
__device__ inline void copy_16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ inline void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
