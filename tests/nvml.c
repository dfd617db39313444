/* A stand-in for NVIDIA's management library with two GPUs, for machines without any; pynvml loads it by name. The
   second GPU is a MIG slice, which does not report its utilization. */
#include <string.h>

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Use;

int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
const char *nvmlErrorString(int error) { return "no"; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(unsigned long)(index + 1);
    return index < 2 ? 0 : 2 /* invalid argument */;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)1;
    return strcmp(uuid, "GPU-first") ? 6 /* not found */ : 0;
}
int nvmlDeviceGetIndex(void *device, unsigned int *index) { *index = (unsigned long)device - 1; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    *memory = (Memory){80ull << 30, 50ull << 30, 30ull << 30};
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, Use *use) {
    *use = (Use){87, 40};
    return device == (void *)1 ? 0 : 3 /* not supported */;
}
