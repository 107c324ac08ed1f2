#ifndef SPW_CPU_H
#define SPW_CPU_H

#include <stdbool.h>

typedef struct spw_cpu {
  bool avx2;       /* AVX2 and FMA, and the system saves 256-bit registers */
  bool avxvnni;    /* AVX2 and AVX-VNNI */
  bool avx512vnni; /* AVX-512 F, BW, DQ, VL and VNNI, and the system saves 512-bit registers */
  bool neon;       /* 64-bit Arm with the dot product of bytes */
} spw_cpu;

spw_cpu spw_cpu_detect(void);

#endif
