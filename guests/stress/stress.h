/* What the stress guests share: traps as values, page tables, the local APIC, reports.
 *
 * A guest is one C file without a library. Its `test` runs on processor 0; failed checks are counted and printed on the
 * serial port; the end is a line "DONE failures=N" and an exit through isa-debug-exit at port 0x501 with min(N, 100).
 * Only general registers are used by compiled code, so that the vector registers belong to the code under test. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

/* Registers as the gates save them. */
struct Frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};
/* Takes a trap: true to go on with the (changed) frame, false to let `run` return. */
typedef bool (*Hook)(struct Frame *frame);

struct Cpu {
    struct Cpu *self;
    u64 saved_rsp;
    struct Frame *out;
    Hook hook;
    u64 number, cr2, traps, unused;
};
_Static_assert(sizeof(struct Cpu) == 64, "entry.S counts on it");
enum { MAX_CPUS = 8 };

enum { DE = 0, DB = 1, BP = 3, UD = 6, NM = 7, SS = 12, GP = 13, PF = 14, MF = 16, AC = 17, XM = 19 };
enum { CF = 1, FLAG1 = 2, PFLAG = 4, AF = 16, ZF = 64, SF = 128, TF = 0x100, IF = 0x200, DF = 0x400, OF = 0x800, RF = 0x10000, ACF = 0x40000 };
enum { ARITHMETIC = CF | PFLAG | AF | ZF | SF | OF };
enum { KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, USER_DATA = 0x1b, USER_CODE = 0x23 };

/* Page-table bits. */
#define P 1ull
#define W 2ull
#define U 4ull
#define ACCESSED 0x20ull
#define DIRTY 0x40ull
#define LARGE 0x80ull
#define GLOBAL 0x100ull
#define NX (1ull << 63)
#define PAGE 4096ull
/* Where `map` works: addresses that nothing else uses. */
#define ZONE 0x8000000000ull

#define HOT 20000

struct Cpu *this_cpu(void);
/* Runs code from these registers to the first trap that the hook does not take, and returns the registers there. */
struct Frame run(struct Frame from, Hook hook);
/* A frame that begins at `code`, in the kernel or in user mode, with interrupts off and a stack. */
struct Frame begin(u64 code, bool user);
/* Calls code that ends with `ret`, with arguments in RDI and RSI. */
u64 call(u64 code, u64 rdi, u64 rsi);

/* A fresh page, filled with zeroes: its physical address, which is also a linear one. */
u64 fresh_page(void);
u64 fresh_large_page(void);
/* The entry of the last level for an address of the zone; tables are made as needed. */
volatile u64 *entry_of(u64 linear);
/* The same in another address space, or of a higher level (1: page table, 2: directory). */
volatile u64 *entry_in(u64 root, u64 linear, int level);
/* Maps one page and flushes its translation. */
void map(u64 linear, u64 physical, u64 bits);
/* A new address space that shares everything but the zone. */
u64 new_space(void);

void say(const char *text);
void say_number(u64 value);
void say_hex(u64 value);
/* Counts a failed check. `printf`-like: %d, %x, %s. */
void fail(const char *format, ...);
#define CHECK(condition, ...) do { if (!(condition)) fail(__VA_ARGS__); } while (0)
/* Begins a named group of checks, ends the one before. */
void group(const char *name);

void start_cpus(void (*body)(u64 number));
u64 cpu_count(void);
bool has_leaf7(u32 bit);
bool has_leaf1_ecx(u32 bit);
bool has_avx(void);
/* Whether the code runs on a processor itself (under KVM), which needs not do more than the manuals promise. */
bool on_hardware(void);
void copy(void *to, const void *from, size_t count);
void fill(void *to, u8 value, size_t count);

/* The local APIC. */
enum { APIC_ID = 0x20, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310, APIC_TIMER = 0x320, APIC_INITIAL = 0x380, APIC_CURRENT = 0x390, APIC_DIVIDE = 0x3e0 };
enum { TIMER_VECTOR = 0x40, IPI_VECTOR = 0x41, SPURIOUS_VECTOR = 0xff };
static inline void apic_write(u32 offset, u32 value) { *(volatile u32 *)(0xfee00000ull + offset) = value; }
static inline u32 apic_read(u32 offset) { return *(volatile u32 *)(0xfee00000ull + offset); }
void timer_periodic(u32 count);
void timer_once(u32 count);
void timer_off(void);
void send_ipi(u64 cpu);

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline void invlpg(u64 linear) { __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory"); }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr3(u64 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline u64 read_cr0(void) { u64 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline u64 read_cr4(void) { u64 v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr4(u64 v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline void write_dr(int number, u64 v)
{
    switch (number) {
    case 0: __asm__ volatile("mov %0, %%db0" : : "r"(v)); break;
    case 1: __asm__ volatile("mov %0, %%db1" : : "r"(v)); break;
    case 6: __asm__ volatile("mov %0, %%db6" : : "r"(v)); break;
    default: __asm__ volatile("mov %0, %%db7" : : "r"(v)); break;
    }
}
static inline u64 read_dr6(void) { u64 v; __asm__ volatile("mov %%db6, %0" : "=r"(v)); return v; }
static inline void wrmsr(u32 index, u64 v) { __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static inline u64 rdmsr(u32 index) { u32 a, d; __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(index)); return (u64)d << 32 | a; }
static inline void cpuid(u32 leaf, u32 sub, u32 out[4]) { __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub) : "memory"); }
static inline void serialise(void) { u32 ignored[4]; cpuid(0, 0, ignored); }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }

/* Code as data: SNIPPET(name, "instructions") makes the bytes; they must not depend on their place. */
struct Snippet {
    const char *name;
    const u8 *begin, *end;
};
#define SNIPPET(label, text)                                                                                          \
    __asm__(".pushsection .rodata\nsnippet_" #label ": " text "\nsnippet_" #label "_end: .popsection\n");            \
    extern const u8 snippet_##label[], snippet_##label##_end[]
#define OF_SNIPPET(label) {#label, snippet_##label, snippet_##label##_end}
/* Appends a snippet and returns the address behind it. */
static inline u8 *put(u8 *at, const struct Snippet *s)
{
    copy(at, s->begin, (size_t)(s->end - s->begin));
    return at + (s->end - s->begin);
}
#define PUT(at, label) copy(at, snippet_##label, (size_t)(snippet_##label##_end - snippet_##label)), (at) += snippet_##label##_end - snippet_##label
static inline u8 *put32(u8 *at, u32 v) { copy(at, &v, 4); return at + 4; }
static inline u8 *put64(u8 *at, u64 v) { copy(at, &v, 8); return at + 8; }

/* The guest itself. */
void test(void);
