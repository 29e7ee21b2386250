/* Code that is written to: by itself, by every kind of store, through another mapping, by a device, by another
 * processor. Everything is hot before it changes. */
#include "stress.h"

#define CODE (ZONE + 0x10000000ull)
#define ALIAS (ZONE + 0x20000000ull)
static u64 pages;

/* A code page of its own for each case, mapped at CODE + n pages and again at ALIAS + n pages. */
static u8 *code_page(void)
{
    u64 n = pages;
    pages += 4;
    for (u64 i = 0; i < 2; i++) {
        u64 physical = fresh_page();
        map(CODE + (n + i) * PAGE, physical, P | W | U);
        map(ALIAS + (n + i) * PAGE, physical, P | W | U);
    }
    return (u8 *)(CODE + n * PAGE);
}
static u8 *alias_of(u8 *at) { return at + (ALIAS - CODE); }

/* Loops of HOT iterations in which one instruction is changed every time; the sum of what it did tells. RBX: where to
   write; RCX: counts down; RAX: the sum; the next value is the count itself. */
SNIPPET(next_head, "1: mov %ecx, (%rbx)");
SNIPPET(patched, "mov $0x11111111, %edx");
SNIPPET(next_tail, "add %rdx, %rax; dec %ecx");
SNIPPET(stop, "int3");
SNIPPET(jump_next, "jmp 1f; nop; nop; nop; 1:");
SNIPPET(filler, "lea 1(%rsi), %rsi; xor %r8, %r9; add %r9, %r10; test %r10, %r10; js 1f; nop; 1: mov %r10, %r11");

static u8 *jump_to(u8 *at, u8 *target, const char *opcode, u64 length)
{
    copy(at, opcode, length);
    at += length;
    return put32(at, (u32)(target - (at + 4)));
}
static u8 *loop_to(u8 *at, u8 *target) { return jump_to(at, target, "\x0f\x85", 2); }
static u8 *jump(u8 *at, u8 *target) { return jump_to(at, target, "\xe9", 1); }

static void run_sum(const char *what, u8 *start, u8 *target, u64 count, u64 wanted)
{
    struct Frame from = begin((u64)start, false);
    from.rbx = (u64)target;
    from.rcx = count;
    struct Frame got = run(from, NULL);
    CHECK(got.vector == BP && got.rax == wanted, "%s: vector %d at %x, sum %d, wanted %d", what, got.vector, got.rip, got.rax, wanted);
}

static const u64 SUM = (u64)HOT * (HOT + 1) / 2;

static void immediate_of_what_follows(void)
{
    for (int form = 0; form < 6; form++) {
        if (form == 1 && on_hardware())
            continue; /* There a serialising instruction would have to follow. */
        u8 *page = code_page(), *loop = page + 256, *at = loop, *target;
        static const char *const names[] = {"next instruction", "next, through an alias", "same block, further on", "after a jump", "earlier in the loop", "across a page border"};
        switch (form) {
        case 5:
            at = loop = page + PAGE - (size_t)(snippet_next_head_end - snippet_next_head) - 3;
            /* fall through */
        case 0:
        case 1:
            PUT(at, next_head);
            break;
        case 2:
            PUT(at, next_head);
            for (int i = 0; i < 3; i++)
                PUT(at, filler);
            break;
        case 3:
            PUT(at, next_head);
            PUT(at, jump_next);
            break;
        default:;
        }
        target = at + 1;
        PUT(at, patched);
        if (form == 4) {
            /* What is written is used in the next round: the first round adds the original. */
            PUT(at, next_head);
            PUT(at, filler);
        }
        PUT(at, next_tail);
        at = loop_to(at, loop);
        PUT(at, stop);
        u64 wanted = form == 4 ? SUM - 1 + 0x11111111 : SUM;
        for (int round = 0; round < 3; round++) {
            run_sum(names[form], loop, form == 1 ? alias_of(target) : target, HOT, wanted);
            if (form == 4)
                copy(target, "\x11\x11\x11\x11", 4);
        }
    }
}

/* The loop calls a function in another page, in which it has changed an immediate. Also by an indirect call, and with
   the change through the alias. */
SNIPPET(call_direct_head, "mov %ecx, (%rbx)");
SNIPPET(call_indirect, "call *%rdi");
SNIPPET(function_body, "mov $0x11111111, %edx; ret");

static void function_in_another_page(void)
{
    for (int form = 0; form < 4; form++) {
        u8 *page = code_page(), *at = page + 64, *loop = at, *function = code_page() + 100;
        put(function, &(struct Snippet)OF_SNIPPET(function_body));
        PUT(at, call_direct_head);
        if (form & 1) {
            PUT(at, call_indirect);
        } else {
            at = jump_to(at, function, "\xe8", 1);
        }
        PUT(at, next_tail);
        at = loop_to(at, loop);
        PUT(at, stop);
        struct Frame from = begin((u64)loop, false);
        from.rdi = (u64)function;
        from.rbx = (u64)(form & 2 ? alias_of(function + 1) : function + 1);
        for (int round = 0; round < 3; round++) {
            from.rcx = HOT;
            from.rax = 0;
            struct Frame got = run(from, NULL);
            CHECK(got.vector == BP && got.rax == SUM, "form %d: vector %d, sum %d, wanted %d", (u64)form, got.vector, got.rax, SUM);
        }
    }
}

/* Every kind of store, into an immediate that the loop has run with before. Each writes the eight bytes of RBP's memory
   (or RAX) at RDI; 16-byte forms write the following code again as it is. */
#define STORES(X)                                                                                                      \
    X(by_mov_q, "mov %rax, (%rdi)")                                                                                    \
    X(by_mov_d, "mov %eax, (%rdi); shr $32, %rax; mov %eax, 4(%rdi)")                                                  \
    X(by_mov_b, "mov %al, (%rdi); mov %ah, 1(%rdi)")                                                                   \
    X(by_xchg, "xchg %rax, (%rdi)")                                                                                    \
    X(by_xadd, "mov (%rdi), %rdx; sub %rdx, %rax; lock xadd %rax, (%rdi)")                                             \
    X(by_cmpxchg, "mov %rax, %rdx; mov (%rdi), %rax; lock cmpxchg %rdx, (%rdi)")                                       \
    X(by_add, "sub (%rdi), %rax; add %rax, (%rdi)")                                                                    \
    X(by_sub, "mov (%rdi), %rdx; sub %rax, %rdx; lock sub %rdx, (%rdi)")                                               \
    X(by_xor, "xor (%rdi), %rax; xor %rax, (%rdi)")                                                                    \
    X(by_push, "lea 8(%rdi), %rsp; push %rax; mov %r15, %rsp")                                                         \
    X(by_pop, "push %rax; popq (%rdi)")                                                                                \
    X(by_stos, "stosq")                                                                                                \
    X(by_rep_stos, "mov $1, %ecx; rep stosq")                                                                          \
    X(by_movs, "mov %rbp, %rsi; movsq")                                                                                \
    X(by_rep_movsb, "mov %rbp, %rsi; mov $8, %ecx; rep movsb")                                                         \
    X(by_rep_movsb_down, "lea 7(%rbp), %rsi; add $7, %rdi; mov $8, %ecx; std; rep movsb; cld")                         \
    X(by_movnti, "movnti %rax, (%rdi)")                                                                                \
    X(by_movq_xmm, "movq %rax, %xmm0; movq %xmm0, (%rdi)")                                                             \
    X(by_movups, "movups (%rbp), %xmm0; movups %xmm0, (%rdi)")                                                         \
    X(by_maskmov, "movq (%rbp), %xmm0; pcmpeqb %xmm1, %xmm1; movq %xmm1, %xmm1; maskmovdqu %xmm1, %xmm0")              \
    X(by_fistp, "fildll (%rbp); fistpll (%rdi)")                                                                       \
    X(by_fstp, "fldt (%rbp); fstpt (%rdi)")                                                                            \
    X(by_movbe, "bswap %rax; movbe %rax, (%rdi)")                                                                      \
    X(by_bts, "push %rcx; mov $31, %ecx; 1: bt %ecx, %eax; jc 2f; lock btr %ecx, (%rdi); jmp 3f; 2: lock bts %ecx, (%rdi); 3: dec %ecx; jns 1b; pop %rcx") \
    X(by_cmpxchg8b, "mov (%rdi), %rax; mov %rax, %rdx; shr $32, %rdx; mov %eax, %eax; mov (%rbp), %ebx; mov 4(%rbp), %ecx; lock cmpxchg8b (%rdi)") \
    X(by_not, "not %rax; mov %rax, (%rdi); notq (%rdi)")                                                               \
    X(by_neg, "neg %rax; mov %rax, (%rdi); negq (%rdi)")                                                               \
    X(by_inc, "dec %rax; mov %rax, (%rdi); incq (%rdi)")                                                               \
    X(by_rol, "ror $9, %rax; mov %rax, (%rdi); rolq $9, (%rdi)")                                                       \
    X(by_avx, "vmovdqu (%rbp), %ymm0; vmovdqu %ymm0, (%rdi); vzeroupper")                                              \
    X(by_call, "lea 8(%rdi), %rsp; jmp *%rax")
#define DECLARE(name, text) SNIPPET(name, text);
#define ROW(name, text) OF_SNIPPET(name),
STORES(DECLARE)
static const struct Snippet stores[] = {STORES(ROW)};
SNIPPET(wide_head, "mov %r8, %rax; mov %r9, %rdi");
SNIPPET(wide_patched, "movabs $0x1111111111111111, %r10; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop");
SNIPPET(wide_tail, "add %r10, %r13; lea 1(%r8), %r8; mov %r8, (%rbp); lea -1(%r14), %r14; test %r14, %r14");

static void every_kind_of_store(void)
{
    for (u64 n = 0; n < sizeof stores / sizeof *stores - 1; n++) {
        if (stores[n].begin == snippet_by_avx && !has_avx())
            continue;
        for (int aliased = 0; aliased < (on_hardware() ? 1 : 2); aliased++)
            for (int place = 0; place < 3; place++) {
                u8 *page = code_page(), *at, *loop, *source = (u8 *)(CODE + (pages + 2) * PAGE);
                if (*entry_of((u64)source) == 0)
                    map((u64)source, fresh_page(), P | W | U);
                u64 store = (u64)(stores[n].end - stores[n].begin), head = (u64)(snippet_wide_head_end - snippet_wide_head);
                /* In the middle of a page; the immediate across the border; the immediate at the beginning of a page. */
                at = loop = place == 0 ? page + 300 : page + PAGE - head - store - (place == 1 ? 5 : 2);
                PUT(at, wide_head);
                at = put(at, &stores[n]);
                u8 *target = at + 2;
                PUT(at, wide_patched);
                PUT(at, wide_tail);
                at = loop_to(at, loop);
                PUT(at, stop);
                copy(source, target, 32);
                u64 base = 0x0011223344550000, count = 3000;
                copy(source, &base, 8);
                struct Frame from = begin((u64)loop, false);
                from.r15 = from.rsp;
                from.r8 = base;
                from.r9 = (u64)(aliased ? alias_of(target) : target);
                from.rbp = (u64)source;
                from.r14 = count;
                /* Through an alias the manuals want a serialising instruction between; both tiers follow every store
                   without it, so that they agree. */
                struct Frame got = run(from, NULL);
                u64 low = stores[n].begin == snippet_by_mov_b || stores[n].begin == snippet_by_bts;
                u64 wanted = 0;
                for (u64 i = 0; i < count; i++)
                    wanted += low ? (n == 2 ? (0x1111111111110000 | ((base + i) & 0xffff)) : (0x1111111100000000 | ((base + i) & 0xffffffff))) : base + i;
                CHECK(got.vector == BP && got.r13 == wanted, "%s, aliased %d, place %d: vector %d at %x (cr2 %x), sum %x, wanted %x", stores[n].name, (u64)aliased, (u64)place, got.vector, got.rip, this_cpu()->cr2, got.r13, wanted);
                __asm__ volatile("fninit");
            }
    }
}

/* The opcode changes, not only an immediate: length, kind, prefix, breakpoint, direction of a jump. */
SNIPPET(op_loop, "1: nop; nop; nop; nop; nop; nop; nop; nop; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
struct Form {
    u8 bytes[8];
    u64 adds; /* What one round adds to RAX. */
};

static void opcodes(void)
{
    static const struct Form forms[] = {
        {{0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}, 0},
        {{0x48, 0xff, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x90}, 1},              /* inc rax */
        {{0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x90, 0x90}, 2},              /* twice */
        {{0x48, 0x8d, 0x40, 0x07, 0x90, 0x90, 0x90, 0x90}, 7},              /* lea rax, [rax+7] */
        {{0x48, 0x8d, 0x80, 0x00, 0x10, 0x00, 0x00, 0x90}, 0x1000},         /* lea rax, [rax+0x1000] */
        {{0xeb, 0x03, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0}, 1},              /* jmp over the first */
        {{0xeb, 0x06, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0}, 0},              /* over both */
        {{0x66, 0x83, 0xc0, 0x05, 0x66, 0x83, 0xe8, 0x02}, 3},              /* add ax, 5; sub ax, 2 */
        {{0x48, 0x83, 0xc0, 0x11, 0x74, 0x01, 0x90, 0x90}, 0x11},           /* add rax, 17; jz to the last byte */
    };
    enum { FORMS = sizeof forms / sizeof *forms };
    u8 *page = code_page();
    put(page + 40, &(struct Snippet)OF_SNIPPET(op_loop));
    u64 seed = 12345;
    for (int round = 0; round < 600; round++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const struct Form *form = &forms[(seed >> 33) % FORMS];
        copy(seed >> 60 & 1 ? alias_of(page + 40) : page + 40, form->bytes, 8);
        serialise();
        struct Frame from = begin((u64)page + 40, false);
        from.r14 = round % 10 ? 300 : HOT;
        struct Frame got = run(from, NULL);
        u64 wanted = form->adds * from.r14;
        if (form->bytes[0] == 0x66)
            wanted &= 0xffff;
        CHECK(got.vector == BP && got.rax == wanted, "form %d: vector %d at %x, rax %x, wanted %x", (u64)(form - forms), got.vector, got.rip, got.rax, wanted);
    }
    /* A breakpoint byte in hot code, and its removal. */
    for (int round = 0; round < 50; round++) {
        copy(page + 40, forms[2].bytes, 8);
        struct Frame from = begin((u64)page + 40, false);
        from.r14 = 2000;
        struct Frame got = run(from, NULL);
        CHECK(got.rax == 4000, "before the breakpoint: rax %d", got.rax);
        page[43] = 0xcc;
        got = run(from, NULL);
        CHECK(got.vector == BP && got.rip == (u64)page + 44 && got.rax == 1 && got.r14 == 2000, "the breakpoint: vector %d at %x, rax %d", got.vector, got.rip, got.rax);
    }
}

/* The loop copies other code over itself with REP MOVSB, in front of, over and behind the instruction that does it. */
SNIPPET(over_a, "1: mov %r8, %rsi; mov %r9, %rdi; mov %r10, %rcx; rep movsb; add $1, %rax; xchg %r8, %r11; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(over_b, "1: mov %r8, %rsi; mov %r9, %rdi; mov %r10, %rcx; rep movsb; add $7, %rax; xchg %r8, %r11; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(fill_nops, "mov $0x90, %al; mov $8, %ecx; lea 1f(%rip), %rdi; rep stosb; 1: ud2; ud2; ud2; ud2; lea -1(%r14), %r14; int3");

static void string_over_running_code(void)
{
    for (int border = 0; border < 2; border++) {
        u8 *page = code_page(), *at = border ? page + PAGE - 20 : page + 512;
        u64 size = (u64)(snippet_over_a_end - snippet_over_a);
        put(at, &(struct Snippet)OF_SNIPPET(over_a));
        struct Frame from = begin((u64)at, false);
        from.r8 = (u64)snippet_over_b;
        from.r11 = (u64)snippet_over_a;
        from.r9 = (u64)at;
        from.r10 = size;
        from.r14 = HOT;
        struct Frame got = run(from, NULL);
        /* After the copy of B 7 is added, after the copy of A 1. */
        CHECK(got.vector == BP && got.rax == HOT / 2 * 8, "vector %d at %x, rax %d, wanted %d", got.vector, got.rip, got.rax, (u64)HOT / 2 * 8);
    }
    for (int round = 0; round < 200; round++) {
        u8 *page = (u8 *)(CODE + (pages + 1) * PAGE);
        if (*entry_of((u64)page) == 0)
            map((u64)page, fresh_page(), P | W);
        put(page + 32, &(struct Snippet)OF_SNIPPET(fill_nops));
        struct Frame got = run(begin((u64)page + 32, false), NULL);
        CHECK(got.vector == BP, "REP STOSB over what follows: vector %d at %x", got.vector, got.rip);
    }
}

/* Small functions made again and again in the same place, called often enough to be translated; a model in C says what
   they must return. */
static u64 state = 88172645463325252ull;
static u64 next(void) { state ^= state << 13; state ^= state >> 7; return state ^= state << 17; }

static u64 model(const u8 *ops, const u32 *imm, int count, u64 x, u64 y)
{
    for (int i = 0; i < count; i++)
        switch (ops[i]) {
        case 0: x += (u64)(i64)(int)imm[i]; break;
        case 1: x ^= y; break;
        case 2: y += x; break;
        case 3: x = x << (imm[i] & 63) | x >> (-imm[i] & 63); break;
        case 4: x = x < y ? y : x; break;
        case 5: if ((i64)x < 0) y++; break;
        default: x *= y; break;
        }
    return x + y;
}

static u8 *emit(u8 *at, const u8 *ops, const u32 *imm, int count)
{
    copy(at, "\x48\x89\xf8", 3); /* mov rax, rdi */
    at += 3;
    for (int i = 0; i < count; i++)
        switch (ops[i]) {
        case 0: copy(at, "\x48\x05", 2); at = put32(at + 2, imm[i]); break;
        case 1: copy(at, "\x48\x31\xf0", 3); at += 3; break;
        case 2: copy(at, "\x48\x01\xc6", 3); at += 3; break;
        case 3: copy(at, "\x48\xc1\xc0", 3); at[3] = imm[i] & 63; at += 4; break;
        case 4: copy(at, "\x48\x39\xf0\x48\x0f\x42\xc6", 7); at += 7; break;
        case 5: copy(at, "\x48\x85\xc0\x79\x03\x48\xff\xc6", 8); at += 8; break;
        default: copy(at, "\x48\x0f\xaf\xc6", 4); at += 4; break;
        }
    copy(at, "\x48\x01\xf0\xc3", 4);
    return at + 4;
}

static void functions_made_again(void)
{
    enum { LENGTH = 40, PLACES = 8 };
    u8 *page = code_page();
    for (int round = 0; round < 2000; round++) {
        u8 ops[LENGTH];
        u32 imm[LENGTH];
        for (int i = 0; i < LENGTH; i++) {
            ops[i] = next() >> 40 & 7;
            imm[i] = (u32)next();
        }
        u8 *function = page + round % PLACES * 700 + (round & 3);
        emit(round & 8 ? alias_of(function) : function, ops, imm, LENGTH);
        for (u64 i = 0; i < 100; i++) {
            u64 x = next(), y = next(), got = call((u64)function, x, y), wanted = model(ops, imm, LENGTH, x, y);
            if (got != wanted) {
                fail("round %d, call %d: %x, wanted %x", (u64)round, i, got, wanted);
                break;
            }
        }
    }
}

/* A device writes into hot code: fw_cfg's DMA puts the signature "QEMU" into an immediate. */
SNIPPET(dma_loop, "1: mov $0x11111111, %edx; add %rdx, %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void by_a_device(void)
{
    u8 *page = code_page();
    struct { u32 control, length; u64 address; } __attribute__((packed)) *request = (void *)fresh_page();
    u64 physical = *entry_of((u64)page) & 0xffffffffff000;
    for (int round = 0; round < 200; round++) {
        put(page + 0x80, &(struct Snippet)OF_SNIPPET(dma_loop));
        struct Frame from = begin((u64)page + 0x80, false);
        from.r14 = 3000;
        struct Frame got = run(from, NULL);
        CHECK(got.rax == 3000 * 0x11111111ull, "before: %x", got.rax);
        request->control = __builtin_bswap32(0 << 16 | 8 | 2); /* Select item 0, read. */
        request->length = __builtin_bswap32(4);
        request->address = __builtin_bswap64(physical + 0x81);
        outl(0x514, 0);
        outl(0x518, __builtin_bswap32((u32)(u64)request));
        while (*(volatile u32 *)&request->control & ~__builtin_bswap32(1)) {}
        if (request->control) {
            fail("the device refused");
            return;
        }
        got = run(from, NULL);
        CHECK(got.rax == 3000 * 0x554d4551ull, "after the device's write: %x, wanted %x", got.rax, 3000 * 0x554d4551ull);
    }
}

/* Data beside hot code: stores to the page that leave the code alone, and code that is cut by changes of its neighbour. */
SNIPPET(beside, "1: add $3, %rax; mov %rax, (%rbx); mov %r14, 8(%rbx); add 8(%rbx), %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void data_beside_code(void)
{
    u8 *page = code_page();
    u64 size = (u64)(snippet_beside_end - snippet_beside);
    u64 places[] = {size, 512 - 8, 2048, PAGE - 16, PAGE - 8};
    for (u64 i = 0; i < sizeof places / sizeof *places; i++)
        for (int aliased = 0; aliased < 2; aliased++) {
            put(page, &(struct Snippet)OF_SNIPPET(beside));
            struct Frame from = begin((u64)page, false);
            from.rbx = (u64)(aliased ? alias_of(page) : page) + places[i];
            from.r14 = HOT;
            struct Frame got = run(from, NULL);
            CHECK(got.vector == BP && got.rax == 3 * HOT && got.rdx == SUM, "at %d: vector %d rax %d rdx %d", places[i], got.vector, got.rax, got.rdx);
        }
}

/* Jumps between pages that have been joined: the target changes, then the source. */
SNIPPET(chain_a, "1: add $1, %rax");
SNIPPET(chain_end, "lea -1(%r14), %r14; test %r14, %r14");

static void joined_blocks(void)
{
    u8 *first = code_page(), *second = code_page(), *third = code_page();
    for (u64 round = 1; round < 300; round++) {
        u8 *at = first;
        PUT(at, chain_a);
        at = jump(at, round & 1 ? second : third);
        for (int k = 0; k < 2; k++) {
            at = k ? third : second;
            PUT(at, chain_a);
            at[-1] = (u8)(round % 50 + (u64)k * 50);
            PUT(at, chain_end);
            at = loop_to(at, first);
            PUT(at, stop);
        }
        struct Frame from = begin((u64)first, false);
        from.r14 = round % 7 ? 500 : HOT;
        struct Frame got = run(from, NULL);
        u64 wanted = from.r14 * (1 + round % 50 + (round & 1 ? 0 : 50));
        CHECK(got.vector == BP && got.rax == wanted, "round %d: vector %d, rax %d, wanted %d", round, got.vector, got.rax, wanted);
    }
}

/* Return addresses: the code behind a call changes while the call is running. */
SNIPPET(return_loop, "1: call *%rdi; mov $0x11111111, %edx; add %rdx, %rax; dec %ecx; jnz 1b; int3");
SNIPPET(return_function, "mov %ecx, (%rbx); ret");

static void behind_a_call(void)
{
    u8 *page = code_page(), *function = code_page();
    put(page, &(struct Snippet)OF_SNIPPET(return_loop));
    put(function, &(struct Snippet)OF_SNIPPET(return_function));
    struct Frame from = begin((u64)page, false);
    from.rdi = (u64)function;
    from.rbx = (u64)page + 3;
    from.rcx = HOT;
    struct Frame got = run(from, NULL);
    CHECK(got.vector == BP && got.rax == SUM, "vector %d, sum %d, wanted %d", got.vector, got.rax, SUM);
}

/* Another processor runs the code. Asked and acknowledged, each with a serialising instruction; and unasked, where only
   an old or a new value may be seen and the new one must come. */
static volatile u32 version, acknowledged, stop_others;
static u8 *shared;
static volatile u64 seen[MAX_CPUS], wrong[MAX_CPUS];
SNIPPET(shared_function, "nop; nop; nop; mov $0, %eax; ret");

static void other_processor(u64 number)
{
    u32 mine = 0;
    while (!stop_others) {
        u32 wanted = version;
        if (wanted != mine) {
            serialise();
            mine = wanted;
            for (int i = 0; i < 50; i++)
                if (call((u64)shared, 0, 0) != mine)
                    wrong[number]++;
            __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
        }
    }
    while (stop_others != 2) {
        u64 now = call((u64)shared, 0, 0);
        /* Values only grow. */
        if (now < seen[number])
            wrong[number]++;
        seen[number] = now;
    }
    __atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
}

static void by_another_processor(void)
{
    u64 others = cpu_count() - 1;
    if (!others)
        return;
    shared = code_page() + 64;
    u8 *start = shared;
    put(start, &(struct Snippet)OF_SNIPPET(shared_function));
    start_cpus(other_processor);
    for (u32 i = 1; i <= 300; i++) {
        acknowledged = 0;
        *(volatile u32 *)(shared + 4) = i;
        __atomic_store_n(&version, i, __ATOMIC_SEQ_CST);
        while (acknowledged != others)
            pause();
    }
    stop_others = 1;
    /* Nobody asks: the immediate is aligned, a store to it is single. */
    for (u32 i = 301; i < 8000; i++) {
        *(volatile u32 *)(shared + 4) = i;
        if (i % 1000 == 0)
            for (u64 k = 1; k <= others; k++)
                while (seen[k] < i)
                    pause();
    }
    acknowledged = 0;
    stop_others = 2;
    while (acknowledged != others)
        pause();
    for (u64 k = 1; k <= others; k++)
        CHECK(wrong[k] == 0, "cpu %d: %d wrong values", k, wrong[k]);
}

void test(void)
{
    group("immediate of what follows");
    immediate_of_what_follows();
    group("function in another page");
    function_in_another_page();
    group("every kind of store");
    every_kind_of_store();
    group("opcodes");
    opcodes();
    group("string instructions over running code");
    string_over_running_code();
    group("functions made again");
    functions_made_again();
    group("by a device");
    by_a_device();
    group("data beside code");
    data_beside_code();
    group("joined blocks");
    joined_blocks();
    group("behind a call");
    behind_a_call();
    group("by another processor");
    by_another_processor();
}
