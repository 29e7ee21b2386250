/* Several processors on the same memory: locked operations lose nothing, plain ones keep x86's order. The order of
 * stores and loads is probed with the usual litmus tests (x86-TSO: Sewell and others, CACM 53(7), 2010): only SB without
 * fences may show both loads passing both stores. Translations of pages that another processor changes must go. */
#include "stress.h"

enum { ROUNDS = 30000, BATCH = 512, BATCHES = 40 };
static u64 count;
static volatile u32 phase, arrived;

/* All processors meet; the last one opens the next phase. */
static void meet(void)
{
    u32 now = phase;
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count) {
        arrived = 0;
        __atomic_store_n(&phase, now + 1, __ATOMIC_SEQ_CST);
    } else {
        while (phase == now)
            pause();
    }
}

/* Locked operations on shared cells, each with a sum that must come out. */
static struct {
    volatile u64 add, inc, sub, xadd, cmpxchg, cmpxchg8, guarded, spin, bits_total, fetch_last, xchg_total, neg, xor, btc, byte_adds;
    volatile u64 wide[2] __attribute__((aligned(16)));
    volatile u64 bitmap[ROUNDS / 64 + 1];
    volatile u8 bytes[8];
    volatile u16 words[4];
    u8 line[256] __attribute__((aligned(64)));
} shared __attribute__((aligned(64)));

static void locked(u64 number)
{
    u64 xadd_sum = 0, bits = 0, xchg_sum = 0;
    volatile u64 *split = (volatile u64 *)(shared.line + 60), *odd = (volatile u64 *)(shared.line + 131);
    for (u64 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock addq %1, %0" : "+m"(shared.add) : "r"(i));
        __asm__ volatile("lock incq %0" : "+m"(shared.inc));
        __asm__ volatile("lock subl %1, %0" : "+m"(*(volatile u32 *)&shared.sub) : "r"(3));
        u64 one = 1;
        __asm__ volatile("lock xaddq %0, %1" : "+r"(one), "+m"(shared.xadd));
        xadd_sum += one;
        u64 old = shared.cmpxchg;
        while (!__atomic_compare_exchange_n(&shared.cmpxchg, &old, old + 7, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
        u32 low = (u32)shared.cmpxchg8, high = (u32)(shared.cmpxchg8 >> 32);
        bool done;
        do
            __asm__ volatile("lock cmpxchg8b %1" : "=@ccz"(done), "+m"(shared.cmpxchg8), "+a"(low), "+d"(high) : "b"(low + 1), "c"(high + 2));
        while (!done);
        u64 a = shared.wide[0], d = shared.wide[1];
        do
            __asm__ volatile("lock cmpxchg16b %1" : "=@ccz"(done), "+m"(*(volatile unsigned __int128 *)shared.wide), "+a"(a), "+d"(d) : "b"(a + 1), "c"(d + 3));
        while (!done);
        /* A spin lock by XCHG guards a plain addition. */
        u32 taken = 1;
        do {
            taken = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(*(volatile u32 *)&shared.spin) : : "memory");
        } while (taken);
        shared.guarded = shared.guarded + 1;
        __asm__ volatile("" : : : "memory");
        *(volatile u32 *)&shared.spin = 0;
        /* Each bit is set by one processor only. */
        bool was;
        __asm__ volatile("lock btsq %2, %1" : "=@ccc"(was), "+m"(shared.bitmap[i / 64]) : "r"(i % 64) : "memory");
        bits += !was;
        __asm__ volatile("lock btcq $5, %0" : "+m"(shared.btc));
        __asm__ volatile("lock xorq %1, %0" : "+m"(shared.xor) : "r"(i * 0x9e3779b97f4a7c15ull + number));
        __asm__ volatile("lock notq %0" : "+m"(shared.neg));
        /* Neighbouring bytes and words, one for each processor, without a lock. */
        shared.bytes[number]++;
        shared.words[number & 3]++;
        __asm__ volatile("lock incb %0" : "+m"(*(volatile u8 *)&shared.byte_adds));
        /* Values that travel by XCHG: none is lost. */
        u64 value = i & 1 ? 0 : number + 1;
        __asm__ volatile("xchgq %0, %1" : "+r"(value), "+m"(shared.xchg_total));
        xchg_sum += value - (i & 1 ? 0 : number + 1);
        if (i % 16 == 0) {
            __asm__ volatile("lock incq %0" : "+m"(*split));
            __asm__ volatile("lock addq $2, %0" : "+m"(*odd));
        }
    }
    __atomic_fetch_add(&shared.bits_total, bits, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&shared.fetch_last, xadd_sum, __ATOMIC_SEQ_CST);
    static volatile u64 xchg_all;
    __atomic_fetch_add(&xchg_all, xchg_sum, __ATOMIC_SEQ_CST);
    meet();
    if (number != 0)
        return;
    u64 n = count * ROUNDS, expected_xor = 0;
    for (u64 k = 0; k < count; k++)
        for (u64 i = 0; i < ROUNDS; i++)
            expected_xor ^= i * 0x9e3779b97f4a7c15ull + k;
    CHECK(shared.add == count * (ROUNDS - 1ull) * ROUNDS / 2, "add: %d", shared.add);
    CHECK(shared.inc == n, "inc: %d of %d", shared.inc, n);
    CHECK((u32)shared.sub == (u32)(0 - 3 * n), "sub: %x", shared.sub);
    CHECK(shared.xadd == n && shared.fetch_last == n * (n - 1) / 2, "xadd: %d, sum %d", shared.xadd, shared.fetch_last);
    CHECK(shared.cmpxchg == 7 * n, "cmpxchg: %d of %d", shared.cmpxchg, 7 * n);
    CHECK((u32)shared.cmpxchg8 == n && shared.cmpxchg8 >> 32 == 2 * n, "cmpxchg8b: %x", shared.cmpxchg8);
    CHECK(shared.wide[0] == n && shared.wide[1] == 3 * n, "cmpxchg16b: %d %d", shared.wide[0], shared.wide[1]);
    CHECK(shared.guarded == n, "xchg lock: %d of %d", shared.guarded, n);
    CHECK(shared.bits_total == ROUNDS, "bts: %d of %d", shared.bits_total, (u64)ROUNDS);
    CHECK(shared.btc == (n & 1) << 5, "btc: %x", shared.btc);
    CHECK(shared.xor == expected_xor, "xor: %x, wanted %x", shared.xor, expected_xor);
    CHECK(shared.neg == (n & 1 ? ~0ull : 0), "not: %x", shared.neg);
    CHECK((u8)shared.byte_adds == (u8)n, "inc byte: %x", shared.byte_adds);
    CHECK(xchg_all + shared.xchg_total == 0, "xchg: %x and %x", xchg_all, shared.xchg_total);
    CHECK(*split == count * ((ROUNDS + 15) / 16), "across a cache line: %d of %d", *split, count * ((ROUNDS + 15) / 16));
    CHECK(*odd == 2 * count * ((ROUNDS + 15) / 16), "misaligned: %d", *odd);
    for (u64 k = 0; k < count && k < 8; k++)
        CHECK(shared.bytes[k] == (u8)ROUNDS, "byte of cpu %d: %x", k, (u64)shared.bytes[k]);
    if (count <= 4)
        for (u64 k = 0; k < count; k++)
            CHECK(shared.words[k] == (u16)ROUNDS, "word of cpu %d: %x", k, (u64)shared.words[k]);
}

/* Litmus tests. Each processor runs its part on a batch of instances, x and y of each in lines of their own;
   processors beyond the test idle. */
static struct { volatile u64 x __attribute__((aligned(64))), y __attribute__((aligned(64))); } cells[BATCH];
static volatile u64 result[4][BATCH][2];
enum Litmus { SB, SB_MFENCE, SB_XCHG, SB_LOCK, MP, LB, IRIW, TWO_W, CORR, MP_STRING, LITMUS_KINDS };
static const char *const litmus_name[] = {"SB", "SB+mfence", "SB+xchg", "SB+lock", "MP", "LB", "IRIW", "2+2W", "CoRR", "MP by rep movs"};

#define cell_x cells[i].x
#define cell_y cells[i].y
static void litmus_part(enum Litmus kind, u64 number, u64 i)
{
    u64 a = 0, b = 0;
    volatile u64 *mine = number == 0 ? &cell_x : &cell_y, *theirs = number == 0 ? &cell_y : &cell_x;
    switch (kind) {
    case SB:
        if (number < 2)
            __asm__ volatile("movq $1, %1; movq %2, %0" : "=r"(a), "=m"(*mine) : "m"(*theirs));
        break;
    case SB_MFENCE:
        if (number < 2)
            __asm__ volatile("movq $1, %1; mfence; movq %2, %0" : "=r"(a), "=m"(*mine) : "m"(*theirs));
        break;
    case SB_XCHG:
        b = 1;
        if (number < 2)
            __asm__ volatile("xchgq %3, %1; movq %2, %0" : "=&r"(a), "+m"(*mine) : "m"(*theirs), "r"(b));
        break;
    case SB_LOCK:
        if (number < 2)
            __asm__ volatile("movq $1, %1; lock addq $0, (%%rsp); movq %2, %0" : "=r"(a), "=m"(*mine) : "m"(*theirs) : "cc");
        break;
    case MP:
        if (number == 0)
            __asm__ volatile("movq $1, %0; movq $1, %1" : "=m"(cell_x), "=m"(cell_y));
        else if (number == 1)
            __asm__ volatile("movq %2, %0; movq %3, %1" : "=&r"(a), "=r"(b) : "m"(cell_y), "m"(cell_x));
        break;
    case MP_STRING: {
        static const u64 one = 1;
        const void *from = &one;
        volatile void *to = &cell_x;
        u64 n = 8;
        if (number == 0)
            __asm__ volatile("rep movsb; movq $1, %0" : "=m"(cell_y), "+S"(from), "+D"(to), "+c"(n) : : "memory");
        else if (number == 1)
            __asm__ volatile("movq %2, %0; movq %3, %1" : "=&r"(a), "=r"(b) : "m"(cell_y), "m"(cell_x));
        break;
    }
    case LB:
        if (number < 2)
            __asm__ volatile("movq %2, %0; movq $1, %1" : "=&r"(a), "=m"(*mine) : "m"(*theirs));
        break;
    case IRIW:
        if (number < 2)
            *mine = 1;
        else if (number == 2)
            __asm__ volatile("movq %2, %0; movq %3, %1" : "=&r"(a), "=r"(b) : "m"(cell_x), "m"(cell_y));
        else if (number == 3)
            __asm__ volatile("movq %2, %0; movq %3, %1" : "=&r"(a), "=r"(b) : "m"(cell_y), "m"(cell_x));
        break;
    case TWO_W:
        if (number < 2)
            __asm__ volatile("movq $1, %0; movq $2, %1" : "=m"(*mine), "=m"(*theirs));
        break;
    default:
        if (number == 0)
            cell_x = 1;
        else if (number == 1)
            __asm__ volatile("movq %2, %0; movq %3, %1" : "=&r"(a), "=r"(b) : "m"(cell_x), "m"(cell_x));
    }
    if (number < 4) {
        result[number][i][0] = a;
        result[number][i][1] = b;
    }
}

static bool forbidden(enum Litmus kind, u64 i)
{
    u64 a = result[0][i][0], b = result[1][i][0], c = result[1][i][1];
    switch (kind) {
    case SB:
    case SB_MFENCE:
    case SB_XCHG:
    case SB_LOCK: return a == 0 && b == 0;
    case MP:
    case MP_STRING: return b == 1 && c == 0;
    case LB: return a == 1 && b == 1;
    case IRIW: return result[2][i][0] == 1 && result[2][i][1] == 0 && result[3][i][0] == 1 && result[3][i][1] == 0;
    case TWO_W: return cell_x == 1 && cell_y == 1;
    default: return b == 1 && c == 0;
    }
}

static void litmus(u64 number)
{
    static u64 seen[LITMUS_KINDS];
    if (count < 2)
        return;
    for (int kind = 0; kind < LITMUS_KINDS; kind++) {
        for (u64 batch = 0; batch < BATCHES; batch++) {
            for (u64 i = 0; number == 0 && i < BATCH; i++)
                cell_x = cell_y = 0;
            meet();
            for (u64 i = 0; i < BATCH; i++) {
                /* The processors drift past each other at different speeds. */
                for (u64 k = 0; k < (batch * (number + 1) + i / 16) % 9; k++)
                    __asm__ volatile("" : : : "memory");
                litmus_part(kind, number, i);
            }
            meet();
            for (u64 i = 0; number == 0 && i < BATCH; i++)
                seen[kind] += forbidden(kind, i);
        }
        if (number == 0) {
            if (kind == SB) {
                say("SB without fences: both loads passed both stores ");
                say_number(seen[kind]);
                say(" times\n");
            } else {
                CHECK(seen[kind] == 0, "%s: %d forbidden results", litmus_name[kind], seen[kind]);
            }
        }
        meet();
    }
}
#undef cell_x
#undef cell_y

/* Dekker's algorithm with MFENCE, on two processors: plain loads and stores guard a plain counter. */
static volatile u64 want[2] __attribute__((aligned(128))), turn __attribute__((aligned(128))), dekker_count;
static void dekker(u64 number)
{
    enum { DEKKER = 20000 };
    if (number < 2 && count >= 2)
        for (int i = 0; i < DEKKER; i++) {
            want[number] = 1;
            __asm__ volatile("mfence" : : : "memory");
            while (want[1 - number]) {
                if (turn != number) {
                    want[number] = 0;
                    while (turn != number)
                        pause();
                    want[number] = 1;
                    __asm__ volatile("mfence" : : : "memory");
                }
            }
            dekker_count = dekker_count + 1;
            turn = 1 - number;
            __asm__ volatile("" : : : "memory");
            want[number] = 0;
        }
    meet();
    if (number == 0 && count >= 2)
        CHECK(dekker_count == 2 * DEKKER, "%d of %d", dekker_count, (u64)2 * DEKKER);
    meet();
}

/* Shoot-downs: processor 0 changes what a page shows and asks the others by interrupt to drop their translation. After
   all have acknowledged nobody may see the old page: data and code. The others work in hot loops meanwhile. */
#define SHOT_DATA (ZONE + 0x10000000ull)
#define SHOT_CODE (ZONE + 0x20000000ull)
static volatile u64 acknowledged, stop_reading, wrong[MAX_CPUS], epoch;
static u64 shot_pages[2][2], shot_start[MAX_CPUS], shot_stack[MAX_CPUS];
SNIPPET(shot_loop, "1: mov (%rsi), %rax; cmp %rdx, %rax; jb 2f; mov %rax, %rdx; call *%rdi; cmp %rcx, %rax; jb 3f; mov %rax, %rcx; cmpq $0, (%r9); jz 1b; int3; 2: incq (%r8); mov %rax, %rdx; jmp 1b; 3: incq (%r8); mov %rax, %rcx; jmp 1b");
SNIPPET(shot_function, "mov $0, %eax; ret");

static bool on_shot(struct Frame *frame)
{
    if (frame->vector == SPURIOUS_VECTOR)
        return true;
    if (frame->vector != IPI_VECTOR)
        return false;
    invlpg(SHOT_DATA);
    invlpg(SHOT_CODE);
    apic_write(APIC_EOI, 0);
    /* From here on only values of this epoch or a later one may be seen. What was loaded before is forgotten. */
    frame->rcx = frame->rdx = epoch;
    frame->rip = shot_start[this_cpu()->number];
    frame->rsp = shot_stack[this_cpu()->number];
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
    return true;
}

static void shoot_down(u64 number)
{
    if (number == 0) {
        for (int k = 0; k < 2; k++) {
            shot_pages[0][k] = fresh_page();
            shot_pages[1][k] = fresh_page();
            copy((void *)shot_pages[1][k], snippet_shot_function, (size_t)(snippet_shot_function_end - snippet_shot_function));
        }
        map(SHOT_DATA, shot_pages[0][0], P | W);
        map(SHOT_CODE, shot_pages[1][0], P | W);
        for (u64 k = 1; k < count; k++) {
            shot_start[k] = SHOT_CODE + (k + 1) * 16 * PAGE;
            map(shot_start[k], fresh_page(), P | W);
            put((u8 *)shot_start[k], &(struct Snippet)OF_SNIPPET(shot_loop));
        }
    }
    meet();
    if (number != 0) {
        struct Frame from = begin(shot_start[number], false);
        shot_stack[number] = from.rsp;
        from.rflags |= IF;
        from.rsi = SHOT_DATA;
        from.rdi = SHOT_CODE;
        from.r8 = (u64)&wrong[number];
        from.r9 = (u64)&stop_reading;
        struct Frame got = run(from, on_shot);
        CHECK(got.vector == BP, "cpu %d: vector %d", number, got.vector);
        meet();
        return;
    }
    u64 last = count > 2 ? 300 : 1000;
    for (u64 i = 1; i <= last; i++) {
        int k = i & 1;
        *(volatile u64 *)shot_pages[0][k] = i;
        *(volatile u32 *)(shot_pages[1][k] + 1) = (u32)i;
        *entry_of(SHOT_DATA) = shot_pages[0][k] | P | W;
        *entry_of(SHOT_CODE) = shot_pages[1][k] | P | W;
        epoch = i;
        acknowledged = 0;
        for (u64 cpu = 1; cpu < count; cpu++)
            send_ipi(cpu);
        while (acknowledged != count - 1)
            pause();
        for (int wait = 0; wait < 200; wait++)
            pause();
    }
    stop_reading = 1;
    meet();
    for (u64 cpu = 1; cpu < count; cpu++)
        CHECK(wrong[cpu] == 0, "cpu %d saw an old page %d times", cpu, wrong[cpu]);
}

/* Sequence locks: a writer and readers of 64 bytes, written by plain, vector and string stores. */
static volatile u64 sequence __attribute__((aligned(64))), block[8] __attribute__((aligned(64))), torn[MAX_CPUS], seq_stop;
static void sequence_lock(u64 number)
{
    if (number == 0) {
        for (u64 i = 1; i <= 20000; i++) {
            u64 source[8];
            for (int k = 0; k < 8; k++)
                source[k] = i;
            sequence = 2 * i - 1;
            __asm__ volatile("" : : : "memory");
            if (i % 3 == 0) {
                const void *from = source;
                volatile void *to = block;
                u64 n = 8;
                __asm__ volatile("rep movsq" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
            } else if (i % 3 == 1) {
                __asm__ volatile("movq %0, %%xmm0; punpcklqdq %%xmm0, %%xmm0; movaps %%xmm0, (%1); movaps %%xmm0, 16(%1); movups %%xmm0, 32(%1); movaps %%xmm0, 48(%1)" : : "r"(i), "r"(block) : "memory");
            } else {
                for (int k = 0; k < 8; k++)
                    block[k] = i;
            }
            __asm__ volatile("" : : : "memory");
            sequence = 2 * i;
        }
        seq_stop = 1;
    } else {
        while (!seq_stop) {
            u64 before = sequence, values[8];
            for (int k = 7; k >= 0; k--)
                values[k] = block[k];
            __asm__ volatile("" : : : "memory");
            if (before == sequence && !(before & 1))
                for (int k = 0; k < 8; k++)
                    torn[number] += values[k] != before / 2;
        }
    }
    meet();
    if (number == 0)
        for (u64 cpu = 1; cpu < count; cpu++)
            CHECK(torn[cpu] == 0, "cpu %d read %d torn words", cpu, torn[cpu]);
    meet();
}

static void everybody(u64 number)
{
    static void (*const parts[])(u64) = {locked, litmus, dekker, sequence_lock, shoot_down};
    static const char *const names[] = {"locked operations", "litmus tests", "Dekker with MFENCE", "sequence lock", "shoot-downs"};
    for (u64 i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (number == 0)
            group(names[i]);
        meet();
        parts[i](number);
        meet();
    }
}

void test(void)
{
    count = cpu_count();
    start_cpus(everybody);
    everybody(0);
}
