/* Interrupts, single steps and breakpoints that meet hot loops with live flags. */
#include "stress.h"

#define CODE (ZONE + 0x10000000ull)
#define DATA (ZONE + 0x20000000ull)
static u64 next_case;

static u8 *code_for(const struct Snippet *s, bool user)
{
    u64 linear = CODE + next_case++ * 2 * PAGE;
    map(linear, fresh_page(), P | W | (user ? U : 0));
    put((u8 *)linear, s);
    return (u8 *)linear;
}

static volatile u64 interrupts, strange;
static u64 code_begin, code_end;

/* Takes timer interrupts; they must find the code under test, with interrupts on. */
static bool on_timer(struct Frame *frame)
{
    if (frame->vector == SPURIOUS_VECTOR)
        return true;
    if (frame->vector != TIMER_VECTOR && frame->vector != IPI_VECTOR)
        return false;
    interrupts++;
    if (frame->rip < code_begin || frame->rip > code_end || !(frame->rflags & IF))
        strange++;
    apic_write(APIC_EOI, 0);
    return true;
}

/* Loops that keep flags alive over many instructions, a jump, memory accesses and calls. RSI, RDI: data; R14: rounds. */
SNIPPET(wide_add, "1: mov $8, %ecx; xor %edx, %edx; 2: mov (%rsi,%rdx,8), %rax; adc %rax, (%rdi,%rdx,8); inc %rdx; dec %ecx; jnz 2b; setc %al; movzbl %al, %eax; add %rax, %rbx; adc $0, %rbp; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(wide_sub, "1: mov $8, %ecx; xor %edx, %edx; 2: mov (%rdi,%rdx,8), %rax; sbb (%rsi,%rdx,8), %rax; mov %rax, (%rdi,%rdx,8); lea 1(%rdx), %rdx; dec %ecx; jnz 2b; sbb %rax, %rax; sub %rax, %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(carry_over_jumps, "1: add %rsi, %rax; jmp 2f; nop; 2: mov %rax, %rdx; jmp 3f; nop; 3: adc %rdx, %rbx; lea -1(%r14), %r14; inc %r8; jmp 4f; 4: adc $0, %rcx; test %r14, %r14; jnz 1b; int3");
SNIPPET(rotate_chain, "1: rcl $1, %rax; inc %r9; rcl $1, %rbx; lea 1(%rbx), %rbx; rcr $3, %rcx; rcl $1, %rdx; xor %rax, %r10; lea -1(%r14), %r14; bt $0, %rdx; dec %r14; inc %r14; jnz 1b; int3");
SNIPPET(set_and_move, "1: imul $77, %rax, %rax; inc %rax; cmp %rbx, %rax; setl %cl; cmovg %rax, %rbx; seto %ch; sets %dl; setp %dh; add %rcx, %r8; adc %rdx, %r9; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(calls, "1: stc; call 2f; adc $1, %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3; 2: lea 1(%rbx), %rbx; call 3f; ret; 3: mov %rbx, %rcx; ret");
SNIPPET(vectors, "1: paddq %xmm1, %xmm0; pxor %xmm0, %xmm2; paddd %xmm2, %xmm3; addsd %xmm5, %xmm4; add %rsi, %rax; movq %xmm0, %rcx; adc %rcx, %rbx; movq %xmm3, %rdx; adc %rdx, %r8; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; movq %xmm4, %r9; int3");
SNIPPET(strings, "1: mov $100, %ecx; mov %r8, %rsi; mov %r9, %rdi; add %r14, %rax; rep movsb; adc $0, %rbx; mov $60, %ecx; mov %r9, %rdi; rep stosb; adc (%r9), %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(x87, "fldz; 1: fld1; faddp; add %rsi, %rax; fstl (%r8); adc (%r8), %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; fistpll (%r8); mov (%r8), %r9; int3");
static const struct Snippet loops[] = {OF_SNIPPET(wide_add), OF_SNIPPET(wide_sub), OF_SNIPPET(carry_over_jumps), OF_SNIPPET(rotate_chain), OF_SNIPPET(set_and_move), OF_SNIPPET(calls), OF_SNIPPET(vectors), OF_SNIPPET(strings), OF_SNIPPET(x87)};
enum { LOOPS = sizeof loops / sizeof *loops };

static u64 data_physical;
static void set_data(void)
{
    for (u64 i = 0; i < PAGE / 8; i++)
        ((u64 *)data_physical)[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
    u64 values[] = {0x1234567890abcdef, 0xfedcba0987654321, 0x3ff0000000000000};
    __asm__ volatile("fninit; movq %0, %%xmm0; movq %1, %%xmm1; movq %0, %%xmm2; movq %1, %%xmm3; movq %2, %%xmm4; movq %2, %%xmm5" : : "m"(values[0]), "m"(values[1]), "m"(values[2]));
}

static struct Frame loop_start(const u8 *code, bool user, u64 rounds)
{
    struct Frame from = begin((u64)code, user);
    from.rsi = DATA + 0x400;
    from.rdi = DATA + 0x800;
    from.r8 = DATA + 0x100;
    from.r9 = DATA + 0x200;
    from.rax = 0x5555555555555555;
    from.r14 = rounds;
    return from;
}

static bool same(const struct Frame *a, const struct Frame *b, u64 ignored_flags)
{
    const u64 *x = &a->r15, *y = &b->r15;
    for (int i = 0; i < 15; i++)
        if (x[i] != y[i])
            return false;
    return a->rip == b->rip && a->rsp == b->rsp && ((a->rflags ^ b->rflags) & ~ignored_flags) == 0 && a->vector == b->vector;
}

/* The same loop without and with interrupts gives the same registers and memory. */
static void timer_in_hot_loops(void)
{
    static u64 memory[PAGE / 8];
    for (int n = 0; n < LOOPS; n++)
        for (int user = 0; user < 2; user++) {
            u8 *code = code_for(&loops[n], true);
            code_begin = (u64)code;
            code_end = (u64)code + (u64)(loops[n].end - loops[n].begin);
            set_data();
            struct Frame from = loop_start(code, user, HOT * 5), quiet = run(from, NULL);
            CHECK(quiet.vector == BP, "%s without interrupts: vector %d", loops[n].name, quiet.vector);
            copy(memory, (void *)data_physical, PAGE);
            u64 total = 0;
            /* Until enough interrupts have come, whatever the speed; other periods each time. */
            for (u32 round = 0; total < 100 && round < 300; round++) {
                set_data();
                from.rflags |= IF;
                interrupts = strange = 0;
                timer_periodic(3000 + round * 977 % 5000);
                struct Frame got = run(from, on_timer);
                timer_off();
                total += interrupts;
                CHECK(same(&got, &quiet, IF), "%s, user %d: after %d interrupts rax %x rbx %x rcx %x rdx %x rip %x vector %d, wanted %x %x %x %x", loops[n].name, (u64)user, interrupts, got.rax, got.rbx, got.rcx, got.rdx, got.rip, got.vector, quiet.rax, quiet.rbx, quiet.rcx, quiet.rdx);
                CHECK(strange == 0, "%s: %d interrupts found strange places", loops[n].name, strange);
                for (u64 i = 0; i < PAGE / 8; i++)
                    if (memory[i] != ((u64 *)data_physical)[i]) {
                        fail("%s: memory at %x differs", loops[n].name, i * 8);
                        break;
                    }
            }
            CHECK(total >= 5, "%s: only %d interrupts", loops[n].name, total);
        }
}

/* Loops that never end by themselves; the interrupt's handler ends them. */
SNIPPET(endless_jmp, "1: jmp 1b");
SNIPPET(endless_two, "1: inc %rax; jmp 2f; nop; 2: jmp 1b");
SNIPPET(endless_jcc, "1: xor %eax, %eax; jz 1b");
SNIPPET(endless_loop, "1: mov $5, %ecx; loop 1b; jmp 1b");
SNIPPET(endless_call, "1: call 2f; jmp 1b; 2: ret");
SNIPPET(endless_indirect, "1: lea 1b(%rip), %rax; jmp *%rax");
SNIPPET(endless_load, "1: mov (%r8), %rax; test %rax, %rax; jz 1b; jmp 1b");
SNIPPET(endless_pause, "1: pause; jmp 1b");
SNIPPET(endless_rep, "1: mov $2048, %ecx; mov %r8, %rdi; rep stosb; sub $0x100, %rdi; jmp 1b");
SNIPPET(endless_hlt, "1: hlt; jmp 1b");

static bool end_after_ten(struct Frame *frame)
{
    if (frame->vector == SPURIOUS_VECTOR)
        return true;
    if (frame->vector != TIMER_VECTOR)
        return false;
    apic_write(APIC_EOI, 0);
    if (frame->rip < code_begin || frame->rip >= code_end)
        strange++;
    return ++interrupts < 10;
}

static void endless_loops(void)
{
    const struct Snippet all[] = {OF_SNIPPET(endless_jmp), OF_SNIPPET(endless_two), OF_SNIPPET(endless_jcc), OF_SNIPPET(endless_loop), OF_SNIPPET(endless_call), OF_SNIPPET(endless_indirect), OF_SNIPPET(endless_load), OF_SNIPPET(endless_pause), OF_SNIPPET(endless_rep), OF_SNIPPET(endless_hlt)};
    for (u64 n = 0; n < sizeof all / sizeof *all; n++)
        for (int once = 0; once < 2; once++) {
            u8 *code = code_for(&all[n], true);
            code_begin = (u64)code;
            code_end = code_begin + (u64)(all[n].end - all[n].begin);
            struct Frame from = loop_start(code, false, 0);
            from.rflags |= IF;
            interrupts = once ? 9 : 0;
            strange = 0;
            if (once)
                timer_once(100000);
            else
                timer_periodic(50000);
            struct Frame got = run(from, end_after_ten);
            timer_off();
            CHECK(got.vector == TIMER_VECTOR && interrupts == 10 && strange == 0, "%s: vector %d, %d interrupts, %d strange", all[n].name, got.vector, interrupts, strange);
        }
}

/* The shadow of STI: nothing comes between STI and what follows. */
SNIPPET(sti_cli, "1: sti; cli; inc %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(sti_nop_cli, "1: sti; nop; cli; inc %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(popf_loop, "1: push %r10; popfq; nop; push %r11; popfq; inc %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(mov_ss, "1: sti; mov %r12, %ss; cli; inc %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
static u64 wanted_rip, other_rip, third_rip;
static bool on_window(struct Frame *frame)
{
    if (frame->vector != TIMER_VECTOR)
        return frame->vector == SPURIOUS_VECTOR;
    interrupts++;
    if (frame->rip != wanted_rip && frame->rip != other_rip && frame->rip != third_rip)
        strange = frame->rip;
    apic_write(APIC_EOI, 0);
    return true;
}

static void interrupt_windows(void)
{
    for (int n = 0; n < 3; n++) {
        const struct Snippet all[] = {OF_SNIPPET(sti_cli), OF_SNIPPET(sti_nop_cli), OF_SNIPPET(popf_loop)};
        u8 *code = code_for(&all[n], false);
        struct Frame from = loop_start(code, false, HOT * 5);
        from.rax = 0;
        from.r10 = FLAG1 | IF;
        from.r11 = FLAG1;
        interrupts = strange = 0;
        /* At CLI; at the NOP behind POPF, behind that, or behind the next PUSH. */
        wanted_rip = (u64)code + (n == 2 ? 3 : 2);
        other_rip = (u64)code + (n == 2 ? 4 : 2);
        third_rip = (u64)code + (n == 2 ? 6 : 2);
        timer_periodic(5000);
        /* On a busy host the timer's thread may come late: again, until there was something to see. */
        struct Frame got = run(from, on_window);
        for (int round = 0; n > 0 && interrupts <= 5 && got.vector == BP && got.rax == HOT * 5 && round < 10000; round++)
            got = run(from, on_window);
        u64 during = interrupts, odd = strange;
        /* What is pending when the loop has ended comes now. */
        timer_off();
        this_cpu()->hook = on_window;
        __asm__ volatile("sti; nop; nop; cli" : : : "memory");
        this_cpu()->hook = NULL;
        CHECK(got.vector == BP && got.rax == HOT * 5, "%s: vector %d rax %d", all[n].name, got.vector, got.rax);
        if (n == 0)
            CHECK(during == 0, "%d interrupts between STI and CLI", during);
        else
            CHECK(during > 5 && odd == 0, "%s: %d interrupts, one at %x (code at %x)", all[n].name, during, odd, (u64)code);
    }
}

/* Single steps through code that is hot: every instruction traps once, with the flags that it has made. */
SNIPPET(step_code, "1: add %rsi, %rax; mov %rax, (%r8); adc (%r8), %rbx; jc 2f; inc %rcx; 2: push %rbx; pop %rdx; rcl $1, %rdx; call 3f; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3; 3: neg %rdx; sbb %rdi, %rdi; ret");
enum { MAX_STEPS = 400 };
static struct Frame steps[MAX_STEPS];
static u64 step_count;
static bool on_step(struct Frame *frame)
{
    if (frame->vector != DB)
        return false;
    if (!(read_dr6() & 0x4000))
        strange++;
    write_dr(6, 0xffff0ff0);
    if (step_count < MAX_STEPS)
        steps[step_count] = *frame;
    step_count++;
    return true;
}

static void single_steps(void)
{
    for (int user = 0; user < 2; user++) {
        u8 *code = code_for(&(struct Snippet)OF_SNIPPET(step_code), true), *cold = code_for(&(struct Snippet)OF_SNIPPET(step_code), true);
        static struct Frame reference[MAX_STEPS];
        /* Cold code gives the reference; then hot code, stepped between hot runs. */
        set_data();
        struct Frame from = loop_start(cold, user, 5);
        from.rflags |= TF;
        step_count = strange = 0;
        struct Frame end = run(from, on_step);
        u64 count = step_count;
        CHECK(end.vector == BP && count > 50 && count < MAX_STEPS && strange == 0, "cold: vector %d after %d steps, %d without BS", end.vector, count, strange);
        copy(reference, steps, sizeof steps);
        for (int round = 0; round < 20; round++) {
            set_data();
            from = loop_start(code, user, HOT / 4);
            struct Frame hot = run(from, NULL);
            CHECK(hot.vector == BP && hot.r14 == 0, "hot: vector %d", hot.vector);
            set_data();
            from = loop_start(code, user, 5);
            from.rflags |= TF;
            step_count = strange = 0;
            end = run(from, on_step);
            CHECK(end.vector == BP && step_count == count && strange == 0, "hot: vector %d after %d steps, wanted %d", end.vector, step_count, count);
            for (u64 i = 0; i < count && i < step_count; i++) {
                struct Frame wanted = reference[i];
                wanted.rip += (u64)(code - cold);
                if (!same(&steps[i], &wanted, 0)) {
                    /* RDX holds a pushed value, nothing holds an address of the code. */
                    fail("step %d at %x: rax %x rbx %x rflags %x, wanted at %x: %x %x %x", i, steps[i].rip, steps[i].rax, steps[i].rbx, steps[i].rflags, wanted.rip, wanted.rax, wanted.rbx, wanted.rflags);
                    break;
                }
            }
        }
    }
}

/* TF set by POPF in the middle of a hot loop, every 64th round; the handler clears it again. */
SNIPPET(popf_step, "1: add $3, %rax; test $63, %r14b; jnz 2f; push %r10; popfq; nop; lea 1(%rbx), %rbx; 2: lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
static bool on_popf_step(struct Frame *frame)
{
    if (frame->vector != DB)
        return false;
    interrupts++;
    if (frame->rip != wanted_rip || (frame->rflags & (ARITHMETIC | TF)) != (CF | ZF | TF))
        strange = frame->rip;
    frame->rflags &= ~(u64)TF;
    return true;
}
/* Steps of a repeated string instruction: one for each round of it. */
SNIPPET(rep_step, "1: mov %r8, %rsi; mov %r9, %rdi; mov $20, %ecx; rep movsb; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void steps_from_inside(void)
{
    u8 *code = code_for(&(struct Snippet)OF_SNIPPET(popf_step), true);
    struct Frame from = loop_start(code, false, HOT);
    from.rax = 0;
    from.r10 = FLAG1 | TF | CF | ZF;
    interrupts = strange = 0;
    wanted_rip = (u64)code + 4 + 4 + 2 + 2 + 1 + 1; /* Behind the NOP. */
    struct Frame got = run(from, on_popf_step);
    CHECK(got.vector == BP && interrupts == HOT / 64 && strange == 0 && got.rax == 3 * HOT && got.rbx == HOT / 64, "vector %d, %d traps, strange %x (wanted %x), rax %d rbx %d", got.vector, interrupts, strange, wanted_rip, got.rax, got.rbx);
    code = code_for(&(struct Snippet)OF_SNIPPET(rep_step), true);
    from = loop_start(code, false, HOT);
    got = run(from, NULL);
    CHECK(got.vector == BP, "hot: vector %d", got.vector);
    from.r14 = 1;
    from.rflags |= TF;
    step_count = strange = 0;
    got = run(from, on_step);
    CHECK(got.vector == BP && step_count == 3 + 20 + 3, "REP MOVSB: %d steps, wanted 26", step_count);
    for (u64 i = 0; i < 20; i++)
        CHECK(steps[3 + i].rcx == 19 - i && steps[3 + i].rip == (u64)code + (i == 19 ? 13 : 11), "REP MOVSB, step %d: rcx %d at %x", i, steps[3 + i].rcx, steps[3 + i].rip);
}

/* Debug registers: an instruction breakpoint and watchpoints, set and taken away around and inside hot loops. */
SNIPPET(break_loop, "1: add $1, %rax; mov %rax, (%r8); mov (%r9), %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(break_inside, "1: mov %r14, %rcx; and $0xff, %ecx; jnz 2f; mov %r10, %dr7; 2: add $1, %rax; mov %rax, (%r8); mov %r11, %dr7; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
static u64 wanted_dr6;
static bool on_break(struct Frame *frame)
{
    if (frame->vector != DB)
        return false;
    interrupts++;
    if (frame->rip != wanted_rip || (read_dr6() & 0xf) != wanted_dr6)
        strange = frame->rip;
    write_dr(6, 0xffff0ff0);
    frame->rflags |= RF;
    return true;
}

static void breakpoints(void)
{
    u8 *code = code_for(&(struct Snippet)OF_SNIPPET(break_loop), true);
    struct { u64 dr0, dr7, rip, dr6; const char *name; } cases[] = {
        {(u64)code + 4, 0x402, (u64)code + 4, 1, "execution of the store"},
        {(u64)code, 0x402, (u64)code, 1, "execution of the loop's head"},
        {DATA + 0x100, 0x402 | 0x9 << 16, (u64)code + 7, 1, "write of 8 bytes"},
        {DATA + 0x103, 0x402 | 0x1 << 16, (u64)code + 7, 1, "write of 1 byte inside"},
        {DATA + 0x200, 0x402 | 0xb << 16, (u64)code + 10, 1, "read of 8 bytes"},
        {DATA + 0x204, 0x402 | 0xf << 16, (u64)code + 10, 1, "read of 4 bytes inside"},
        {DATA + 0x108, 0x402 | 0x9 << 16, 0, 1, "write beside"},
        {DATA + 0x200, 0x402 | 0x9 << 16, 0, 1, "write of what is only read"},
        {(u64)code + 5, 0x402, 0, 1, "execution inside an instruction"},
    };
    for (u64 n = 0; n < sizeof cases / sizeof *cases; n++)
        for (int user = 0; user < 2; user++) {
            struct Frame from = loop_start(code, user, HOT);
            from.rax = 0;
            struct Frame got = run(from, NULL);
            CHECK(got.vector == BP && got.rax == HOT, "%s, before: vector %d rax %d", cases[n].name, got.vector, got.rax);
            u64 count = 500;
            from.r14 = count;
            interrupts = strange = 0;
            wanted_rip = cases[n].rip;
            wanted_dr6 = cases[n].dr6;
            write_dr(0, cases[n].dr0);
            write_dr(6, 0xffff0ff0);
            write_dr(7, cases[n].dr7);
            got = run(from, on_break);
            write_dr(7, 0x400);
            u64 wanted = cases[n].rip ? count : 0;
            CHECK(got.vector == BP && got.rax == count && interrupts == wanted && strange == 0, "%s, user %d: vector %d, rax %d, %d traps (wanted %d), one at %x", cases[n].name, (u64)user, got.vector, got.rax, interrupts, wanted, strange);
            from.r14 = HOT;
            got = run(from, NULL);
            CHECK(got.vector == BP && got.rax == HOT, "%s, after: vector %d rax %d", cases[n].name, got.vector, got.rax);
        }
    /* The loop sets and clears DR7 itself: a watchpoint on its store in every 256th round. */
    code = code_for(&(struct Snippet)OF_SNIPPET(break_inside), true);
    struct Frame from = loop_start(code, false, HOT);
    from.rax = 0;
    from.r10 = 0x402 | 0x9 << 16;
    from.r11 = 0x400;
    write_dr(0, DATA + 0x100);
    interrupts = strange = 0;
    wanted_rip = (u64)code + 3 + 6 + 2 + 4 + 4 + 3;
    struct Frame got = run(from, on_break);
    CHECK(got.vector == BP && got.rax == HOT && interrupts == HOT / 256 && strange == 0, "DR7 set in the loop: vector %d, rax %d, %d traps, one at %x, wanted %x", got.vector, got.rax, interrupts, strange, wanted_rip);
    write_dr(7, 0x400);
}

/* System calls and software interrupts out of hot user loops, with flags live on both sides. */
SNIPPET(syscall_loop, "1: add %r10, %rax; mov %rax, %r15; syscall; mov %r15, %rax; adc $0, %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(int_loop, "1: add %r10, %rax; int $0x80; adc $0, %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
__asm__(".text\nsyscall_entry: incq syscalls_seen(%rip); xor %r12d, %r12d; sysretq\n");
extern u8 syscall_entry[];
u64 syscalls_seen;
static bool on_int80(struct Frame *frame)
{
    if (frame->vector != 0x80)
        return false;
    interrupts++;
    return true;
}

static void system_calls(void)
{
    /* SYSRET's selectors: CS = base + 16, SS = base + 8, with 3 for the user. */
    wrmsr(0xc0000081, (u64)(KERNEL_CODE) << 32 | (u64)(0x10 | 3) << 48);
    wrmsr(0xc0000082, (u64)syscall_entry);
    wrmsr(0xc0000084, TF | IF | DF);
    for (int n = 0; n < 2; n++) {
        const struct Snippet all[] = {OF_SNIPPET(syscall_loop), OF_SNIPPET(int_loop)};
        u8 *code = code_for(&all[n], true);
        struct Frame from = loop_start(code, true, HOT);
        from.rax = 0;
        from.r10 = 0x4000000000000001;
        syscalls_seen = interrupts = 0;
        struct Frame got = run(from, on_int80);
        /* Every fourth addition carries. */
        u64 carries = 0, sum = 0;
        for (u64 i = 0; i < HOT; i++)
            carries += __builtin_add_overflow(sum, 0x4000000000000001ull, &sum);
        CHECK(got.vector == BP && got.rax == sum && got.rbx == carries && (n ? interrupts : syscalls_seen) == HOT, "%s: vector %d at %x, rax %x (wanted %x), carries %d (wanted %d), calls %d", all[n].name, got.vector, got.rip, got.rax, sum, got.rbx, carries, n ? interrupts : syscalls_seen);
    }
}

/* Interrupts in the middle of long string instructions: the frame shows how far it is, the rest follows. */
SNIPPET(long_string, "1: mov %r8, %rsi; mov %r9, %rdi; mov %r10, %rcx; cmp %rsi, %rdi; rep movsb; jbe 2f; lea 1(%rbx), %rbx; 2: mov %r9, %rdi; mov %r10, %rcx; rep stosb; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
static u64 in_the_middle;
static bool on_string_timer(struct Frame *frame)
{
    if (frame->vector != TIMER_VECTOR)
        return frame->vector == SPURIOUS_VECTOR;
    interrupts++;
    u64 done = frame->r10 - frame->rcx;
    if (frame->rip == wanted_rip) {
        if (frame->rdi != frame->r9 + done || frame->rsi != frame->r8 + done)
            strange++;
        in_the_middle += done != 0;
    } else if (frame->rip == other_rip) {
        if (frame->rdi != frame->r9 + done)
            strange++;
        in_the_middle += done != 0;
    }
    apic_write(APIC_EOI, 0);
    return true;
}

static void interrupted_strings(void)
{
    u8 *code = code_for(&(struct Snippet)OF_SNIPPET(long_string), false);
    struct Frame from = begin((u64)code, false);
    from.r8 = fresh_large_page();
    from.r9 = fresh_large_page();
    from.r10 = 0x180000;
    from.rax = 0x77;
    from.r14 = 60;
    from.rflags |= IF;
    interrupts = strange = in_the_middle = 0;
    wanted_rip = (u64)code + 12;
    other_rip = (u64)code + 12 + 2 + 2 + 4 + 3 + 3;
    fill((void *)from.r8, 0x33, from.r10);
    timer_periodic(20000);
    struct Frame got = run(from, on_string_timer);
    timer_off();
    CHECK(got.vector == BP && got.rbx == 60 && strange == 0, "vector %d at %x, rbx %d, %d interrupts, %d in the middle, %d strange", got.vector, got.rip, got.rbx, interrupts, in_the_middle, strange);
    for (u64 i = 0; i < from.r10; i++)
        if (((u8 *)from.r9)[i] != 0x77) {
            fail("byte %x is %x", i, (u64)((u8 *)from.r9)[i]);
            break;
        }
}

void test(void)
{
    data_physical = fresh_page();
    map(DATA, data_physical, P | W | U | NX);
    group("timer in hot loops");
    timer_in_hot_loops();
    group("endless loops");
    endless_loops();
    group("interrupt windows");
    interrupt_windows();
    group("single steps");
    single_steps();
    group("steps from inside");
    steps_from_inside();
    group("breakpoints");
    breakpoints();
    group("system calls");
    system_calls();
    group("interrupted string instructions");
    interrupted_strings();
}
