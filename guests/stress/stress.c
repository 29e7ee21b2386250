/* The stress guests' common part; see stress.h. */
#include "stress.h"
#include <stdarg.h>

extern u64 gdt[], idt[][2], level4[];
extern u8 gates[], trampoline[], trampoline_end[];
extern volatile u32 cpus_started;
void enter(struct Frame *from);
_Noreturn void leave_entered(void);

struct Tss {
    u32 reserved;
    u64 rsp[3], reserved2, ist[7], reserved3;
    u16 reserved4, io_map;
} __attribute__((packed));

enum { TRAP_STACK = 8192, TRAMPOLINE = 0x8000, RUN_STACK = 4096 };
static struct Cpu cpus[MAX_CPUS];
static struct Tss tasks[MAX_CPUS];
static u8 trap_stacks[MAX_CPUS][TRAP_STACK] __attribute__((aligned(64)));
static u8 run_stacks[MAX_CPUS][RUN_STACK] __attribute__((aligned(64)));
static u64 user_stack_page;
static void (*ap_body)(u64 number);
static volatile u64 failures;
static const char *group_name;
static u64 group_failures;
static volatile u32 print_lock;

void *memcpy(void *to, const void *from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memset(void *to, int value, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}

void copy(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void fill(void *to, u8 value, size_t count) { memset(to, value, count); }

/* Reports. */

void say(const char *text)
{
    for (; *text; text++) {
        while (!(inb(0x3fd) & 0x20)) {}
        outb(0x3f8, (u8)*text);
    }
}

void say_hex(u64 value)
{
    char text[17] = {0};
    for (int i = 0; i < 16; i++)
        text[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    const char *from = text;
    while (from[0] == '0' && from[1])
        from++;
    say(from);
}

void say_number(u64 value)
{
    char text[21] = {0};
    int at = 20;
    do
        text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    say(text + at);
}

void fail(const char *format, ...)
{
    while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE))
        pause();
    /* After some hundred lines only the number counts. */
    if (++failures <= 300) {
        va_list arguments;
        va_start(arguments, format);
        say("FAIL ");
        say(group_name);
        say(": ");
        for (; *format; format++) {
            char one[2] = {*format, 0};
            if (*format != '%') {
                say(one);
                continue;
            }
            switch (*++format) {
            case 'd': say_number(va_arg(arguments, u64)); break;
            case 'x': say_hex(va_arg(arguments, u64)); break;
            default: say(va_arg(arguments, const char *)); break;
            }
        }
        say("\n");
        va_end(arguments);
    }
    __atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

void group(const char *name)
{
    if (group_name && failures == group_failures) {
        say("ok ");
        say(group_name);
        say("\n");
    }
    group_name = name;
    group_failures = failures;
}

static _Noreturn void leave_guest(void)
{
    group(NULL);
    say("DONE failures=");
    say_number(failures);
    say("\n");
    outb(0x501, (u8)(failures > 100 ? 100 : failures));
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* Traps. */

struct Cpu *this_cpu(void)
{
    struct Cpu *cpu;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

struct Frame *on_trap(struct Frame *frame)
{
    struct Cpu *cpu = this_cpu();
    cpu->traps++;
    if (frame->vector == PF)
        __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->cr2));
    if (cpu->hook && cpu->hook(frame))
        return frame;
    if (!cpu->out) {
        fail("unexpected vector %d, error %x, at %x, cr2 %x, cpu %d", frame->vector, frame->error, frame->rip, cpu->cr2, cpu->number);
        leave_guest();
    }
    *cpu->out = *frame;
    cpu->out = NULL;
    leave_entered();
}

struct Frame run(struct Frame from, Hook hook)
{
    struct Cpu *cpu = this_cpu();
    struct Frame out;
    Hook before = cpu->hook;
    cpu->out = &out;
    cpu->hook = hook ? hook : before;
    enter(&from);
    cpu->hook = before;
    __asm__ volatile("" : : "r"(&out) : "memory");
    return out;
}

struct Frame begin(u64 code, bool user)
{
    u64 stack = (u64)run_stacks[this_cpu()->number] + RUN_STACK - 64;
    if (user) {
        if (!user_stack_page) {
            user_stack_page = fresh_page();
            map(ZONE + (511ull << 30), user_stack_page, P | W | U | NX);
        }
        stack = ZONE + (511ull << 30) + PAGE - 64;
    }
    return (struct Frame){.rip = code, .cs = user ? USER_CODE : KERNEL_CODE, .ss = user ? USER_DATA : KERNEL_DATA, .rflags = FLAG1, .rsp = stack};
}

u64 call(u64 code, u64 rdi, u64 rsi)
{
    u64 rax;
    __asm__ volatile("call *%[code]" : "=a"(rax), "+D"(rdi), "+S"(rsi) : [code] "r"(code) : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
    return rax;
}

static void make_gates(void)
{
    for (u64 i = 0; i < 256; i++) {
        u64 target = (u64)gates + i * 16;
        u64 level = i == BP || i >= 0x80 ? 3 : 0;
        idt[i][0] = (target & 0xffff) | KERNEL_CODE << 16 | 1ull << 32 | (0x8eull | level << 5) << 40 | (target >> 16 & 0xffff) << 48;
        idt[i][1] = target >> 32;
    }
}

static void prepare_cpu(u64 number)
{
    struct Cpu *cpu = &cpus[number];
    struct Tss *task = &tasks[number];
    cpu->self = cpu;
    cpu->number = number;
    wrmsr(0xc0000101, (u64)cpu);
    task->rsp[0] = task->ist[0] = (u64)trap_stacks[number] + TRAP_STACK;
    task->io_map = sizeof *task;
    u64 base = (u64)task;
    gdt[6 + 2 * number] = (sizeof *task - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[7 + 2 * number] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(0x30 + 16 * number));
    if (has_leaf1_ecx(26)) {
        write_cr4(read_cr4() | 1 << 18);
        u32 mask = has_leaf1_ecx(28) ? 7 : 3;
        __asm__ volatile("xsetbv" : : "c"(0), "a"(mask), "d"(0));
    }
    apic_write(APIC_SPURIOUS, 0x100 | SPURIOUS_VECTOR);
}

void main_of_cpu(u64 number)
{
    if (number == 0) {
        make_gates();
        /* Nothing comes from the 8259s. */
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
    }
    prepare_cpu(number);
    if (number == 0) {
        test();
        leave_guest();
    }
    ap_body(number);
    for (;;)
        __asm__ volatile("cli; hlt");
}

u64 cpu_count(void)
{
    outb(0x510, 5);
    __asm__ volatile("outw %0, %1" : : "a"((u16)5), "Nd"((u16)0x510));
    u64 low = inb(0x511);
    return low | (u64)inb(0x511) << 8;
}

void start_cpus(void (*body)(u64 number))
{
    u64 count = cpu_count();
    ap_body = body;
    copy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    apic_write(APIC_ICR, 0xc4500);
    for (int i = 0; i < 20000; i++)
        pause();
    apic_write(APIC_ICR, 0xc4600 | TRAMPOLINE >> 12);
    while (cpus_started + 1 < count)
        pause();
}

bool has_leaf7(u32 bit) { u32 r[4]; cpuid(0, 0, r); if (r[0] < 7) return false; cpuid(7, 0, r); return r[1] >> bit & 1; }
bool has_leaf1_ecx(u32 bit) { u32 r[4]; cpuid(1, 0, r); return r[2] >> bit & 1; }
bool has_avx(void) { return has_leaf1_ecx(26) && has_leaf1_ecx(28); }

bool on_hardware(void)
{
    u32 r[4];
    cpuid(0x40000000, 0, r);
    return r[1] == 0x4b4d564b; /* "KVMK" */
}

/* Pages. */

static volatile u64 next_page = 0x1000000;

u64 fresh_page(void)
{
    u64 page = __atomic_fetch_add(&next_page, PAGE, __ATOMIC_RELAXED);
    fill((void *)page, 0, PAGE);
    return page;
}

u64 fresh_large_page(void)
{
    u64 page = (next_page + 0x1fffff) & ~0x1fffffull;
    next_page = page + 0x200000;
    fill((void *)page, 0, 0x200000);
    return page;
}

volatile u64 *entry_in(u64 root, u64 linear, int level)
{
    volatile u64 *table = (u64 *)(root & 0xffffffffff000);
    for (int at = 4;; at--) {
        volatile u64 *entry = &table[linear >> (12 + 9 * (at - 1)) & 511];
        if (at == level)
            return entry;
        if (!(*entry & P))
            *entry = fresh_page() | P | W | U;
        table = (u64 *)(*entry & 0xffffffffff000);
    }
}

volatile u64 *entry_of(u64 linear) { return entry_in(read_cr3(), linear, 1); }

void map(u64 linear, u64 physical, u64 bits)
{
    *entry_of(linear) = bits ? physical | bits : 0;
    invlpg(linear);
}

u64 new_space(void)
{
    u64 root = fresh_page();
    *(u64 *)root = level4[0];
    return root;
}

/* The local APIC. */

void timer_periodic(u32 count)
{
    apic_write(APIC_DIVIDE, 3);
    apic_write(APIC_TIMER, 0x20000 | TIMER_VECTOR);
    apic_write(APIC_INITIAL, count);
}

void timer_once(u32 count)
{
    apic_write(APIC_DIVIDE, 3);
    apic_write(APIC_TIMER, TIMER_VECTOR);
    apic_write(APIC_INITIAL, count);
}

void timer_off(void)
{
    apic_write(APIC_TIMER, 0x10000);
    apic_write(APIC_INITIAL, 0);
}

void send_ipi(u64 cpu)
{
    apic_write(APIC_ICR_HIGH, (u32)cpu << 24);
    apic_write(APIC_ICR, 0x4000 | IPI_VECTOR);
}
