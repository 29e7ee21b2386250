/* A workload that scales: each thread does its own integer, floating-point and memory work and now and then adds to a
 * shared counter. `parallel THREADS UNITS` divides UNITS among THREADS, prints the wall time and a checksum that does
 * not depend on the number of threads. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WORDS = 32768, MAX_THREADS = 64 };

static _Atomic uint64_t shared_sum, shared_count;
static unsigned units_of_each;

static uint64_t unit(uint64_t seed, uint64_t *memory)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1, h = 0;
    double f = 1.0;
    for (int round = 0; round < 40; round++) {
        for (unsigned i = 0; i < WORDS; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            memory[(x >> 20) % WORDS] += x;
            h += memory[i] ^ (x >> 32);
            if ((i & 1023) == 0) {
                f = f * 1.0000001 + (double)(x & 7);
                shared_count++;
            }
        }
    }
    uint64_t bits;
    memcpy(&bits, &f, sizeof bits);
    return h ^ bits;
}

static void *work(void *argument)
{
    uint64_t first = (uintptr_t)argument, *memory = malloc(WORDS * sizeof *memory);
    for (unsigned i = 0; i < units_of_each; i++) {
        memset(memory, 0, WORDS * sizeof *memory);
        shared_sum += unit(first + i, memory);
    }
    free(memory);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? atoi(argv[1]) : 1, units = argc > 2 ? atoi(argv[2]) : 8;
    pthread_t thread[MAX_THREADS];
    struct timespec before, after;
    if (threads == 0 || threads > MAX_THREADS || units % threads != 0)
        return 2;
    units_of_each = units / threads;
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, work, (void *)(uintptr_t)(i * units_of_each)) != 0)
            return 3;
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double wall = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    printf("PARALLEL threads=%u units=%u wall=%.6f sum=%016llx count=%llu\n", threads, units, wall,
           (unsigned long long)shared_sum, (unsigned long long)shared_count);
    return 0;
}
