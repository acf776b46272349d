// For building the peer with GCC before 14: its <amxtileintrin.h> tells the compiler that `ldtilecfg` reads 8 of
// its 64 bytes and that `tileloadd` reads no memory, so that the stores before them may be dropped and llama.cpp's
// AMX path crashes (GCC bug 114098). Included ahead of every source by `peers.py --setup`.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14 && defined(__AMX_TILE__)
#include <immintrin.h>

static inline __attribute__((always_inline)) void peer_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char (*)[64]) config) : "memory");
}
#define _tile_loadconfig peer_tile_loadconfig

#undef _tile_loadd_internal
#define _tile_loadd_internal(dst, base, stride)         \
    __asm__ volatile("tileloadd\t(%0,%1,1), %%tmm" #dst \
                     :                                  \
                     : "r"((const void *) (base)), "r"((long) (stride)) \
                     : "memory")
#endif
