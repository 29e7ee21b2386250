/* Page tables that change under running code: what a page holds, whether it is there, who may use it; accessed and dirty
 * bits; large and global pages, address spaces, PCIDs. Code and data are hot before each change. */
#include "stress.h"

#define CODE (ZONE + 0x10000000ull)
#define DATA (ZONE + 0x20000000ull)
#define LARGE_CODE (ZONE + 0x80000000ull)
#define TABLES (ZONE + 0x100000000ull)
static u64 next_case;

static u64 code_place(void) { return CODE + next_case++ * 8 * PAGE; }
static u64 data_place(void) { return DATA + next_case++ * 8 * PAGE; }
static u64 physical_of(u64 linear) { return *entry_of(linear) & 0xffffffffff000; }

/* A loop that adds a number to RAX HOT times. */
SNIPPET(adder, "1: add $1, %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
/* A function that returns a number. */
SNIPPET(number, "mov $1, %eax; ret");

static u64 page_with_adder(u8 value)
{
    u64 page = fresh_page();
    copy((void *)page, snippet_adder, (size_t)(snippet_adder_end - snippet_adder));
    ((u8 *)page)[3] = value;
    return page;
}

static void check_adder(const char *what, u64 linear, u64 count, u64 value)
{
    struct Frame from = begin(linear, false);
    from.r14 = count;
    struct Frame got = run(from, NULL);
    CHECK(got.vector == BP && got.rax == count * value, "%s: vector %d at %x error %x cr2 %x, rax %d, wanted %d", what, got.vector, got.rip, got.error, this_cpu()->cr2, got.rax, count * value);
}

/* The same address shows other code. */
static void remapped_code(void)
{
    u64 linear = code_place(), pages[4];
    for (int i = 0; i < 4; i++)
        pages[i] = page_with_adder((u8)(i + 1));
    for (int i = 0; i < 1000; i++) {
        int n = i * 7 % 4;
        *entry_of(linear) = pages[n] | P | W;
        if (i & 1)
            invlpg(linear);
        else
            write_cr3(read_cr3());
        check_adder(i & 1 ? "after INVLPG" : "after a CR3 load", linear, i % 50 ? 100 : HOT, (u64)n + 1);
    }
}

/* The loop itself changes what the function that it calls is. */
SNIPPET(self_remap, "1: mov %rcx, (%rdi); invlpg (%rsi); call *%rsi; add %rax, %rbx; xchg %rcx, %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(self_remap_cr3, "1: mov %rcx, (%rdi); mov %r8, %cr3; call *%rsi; add %rax, %rbx; xchg %rcx, %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(self_remap_data, "1: mov %rcx, (%rdi); invlpg (%rsi); add (%rsi), %rbx; xchg %rcx, %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(self_remap_store, "1: mov %rcx, (%rdi); invlpg (%rsi); incq (%rsi); xchg %rcx, %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void remapped_by_the_loop(void)
{
    const struct Snippet loops[] = {OF_SNIPPET(self_remap), OF_SNIPPET(self_remap_cr3), OF_SNIPPET(self_remap_data), OF_SNIPPET(self_remap_store)};
    for (int n = 0; n < 4; n++) {
        u64 loop = code_place(), target = code_place(), one = fresh_page(), two = fresh_page();
        map(loop, fresh_page(), P | W);
        put((u8 *)loop, &loops[n]);
        for (int k = 0; k < 2; k++) {
            u8 *page = (u8 *)(k ? two : one);
            if (n < 2) {
                copy(page, snippet_number, (size_t)(snippet_number_end - snippet_number));
                page[1] = k ? 100 : 1;
            } else {
                *(u64 *)page = n == 3 ? 0 : k ? 100 : 1;
            }
        }
        map(target, one, P | W);
        struct Frame from = begin(loop, false);
        from.rdi = (u64)entry_of(target);
        from.rsi = target;
        from.rcx = one | P | W;
        from.rdx = two | P | W;
        from.r8 = read_cr3();
        from.r14 = HOT;
        struct Frame got = run(from, NULL);
        if (n < 3)
            CHECK(got.vector == BP && got.rbx == HOT / 2 * 101, "%s: vector %d, sum %d", loops[n].name, got.vector, got.rbx);
        else
            CHECK(got.vector == BP && *(u64 *)one == HOT / 2 && *(u64 *)two == HOT / 2, "%s: vector %d, counts %d %d", loops[n].name, got.vector, *(u64 *)one, *(u64 *)two);
    }
}

/* A loop takes its own page away: the next instruction's fetch faults. Also by NX, and in user mode by the U bit. */
SNIPPET(own_page, "1: cmp $1, %r14; jne 2f; mov %rcx, (%rdi); invlpg (%rsi); 2: add %r8, %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(own_page_cr3, "1: cmp $1, %r14; jne 2f; mov %rcx, (%rdi); mov %r9, %cr3; 2: add %r8, %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void own_page_taken_away(void)
{
    const struct Snippet loops[] = {OF_SNIPPET(own_page), OF_SNIPPET(own_page_cr3)};
    for (int n = 0; n < 2; n++)
        for (int by_nx = 0; by_nx < 2; by_nx++)
            for (int round = 0; round < 10; round++) {
                u64 loop = code_place(), page = fresh_page();
                map(loop, page, P | W);
                put((u8 *)loop, &loops[n]);
                struct Frame from = begin(loop, false);
                from.rdi = (u64)entry_of(loop);
                from.rsi = loop;
                from.rcx = by_nx ? page | P | W | NX : 0;
                from.r8 = 3;
                from.r9 = read_cr3();
                from.r14 = HOT / 4;
                struct Frame got = run(from, NULL);
                u64 rip = loop + 4 + 2 + 3 + 3 + (u64)n; /* Behind INVLPG or the load of CR3. */
                CHECK(got.vector == PF && got.error == (by_nx ? 0x11u : 0x10u) && got.rip == rip && this_cpu()->cr2 == rip && got.r14 == 1 && got.rax == (HOT / 4 - 1) * 3,
                      "%s, NX %d: vector %d error %x rip %x (wanted %x) cr2 %x rax %d", loops[n].name, (u64)by_nx, got.vector, got.error, got.rip, rip, this_cpu()->cr2, got.rax);
            }
}

static void no_execute(void)
{
    u64 linear = code_place(), page = page_with_adder(5);
    for (int i = 0; i < 100; i++) {
        map(linear, page, P | W | U);
        check_adder("executable", linear, i % 10 ? 300 : HOT, 5);
        map(linear, page, P | W | U | NX);
        struct Frame from = begin(linear, i & 1);
        from.r14 = 10;
        struct Frame got = run(from, NULL);
        CHECK(got.vector == PF && got.error == (i & 1 ? 0x15u : 0x11u) && got.rip == linear && this_cpu()->cr2 == linear && got.r14 == 10, "NX: vector %d error %x rip %x", got.vector, got.error, got.rip);
        /* The upper levels' bits count as well. */
        map(linear, page, P | W | U);
        *entry_in(read_cr3(), linear, 2) |= NX;
        invlpg(linear);
        got = run(from, NULL);
        CHECK(got.vector == PF && got.error == (i & 1 ? 0x15u : 0x11u), "NX in the directory: vector %d error %x", got.vector, got.error);
        *entry_in(read_cr3(), linear, 2) &= ~NX;
        invlpg(linear);
    }
}

/* Stores in a hot loop; in the middle the page becomes read-only, by the loop. */
SNIPPET(protect, "1: cmp $1, %r14; jne 2f; mov %rcx, (%rdi); invlpg (%rsi); 2: add %r8, %rax; mov %rax, (%rsi); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void write_protection(void)
{
    for (int round = 0; round < 20; round++)
        for (int wp = 0; wp < 2; wp++) {
            u64 loop = code_place(), data = data_place(), page = fresh_page();
            map(loop, fresh_page(), P | W);
            put((u8 *)loop, &(struct Snippet)OF_SNIPPET(protect));
            map(data, page, P | W);
            struct Frame from = begin(loop, false);
            from.rdi = (u64)entry_of(data);
            from.rsi = data;
            from.rcx = page | P | ACCESSED;
            from.r8 = 1ull << 63;
            from.r14 = HOT / 4 + 1;
            write_cr0(wp ? read_cr0() | 1 << 16 : read_cr0() & ~(1ull << 16));
            struct Frame got = run(from, NULL);
            u64 store = loop + 4 + 2 + 3 + 3 + 3;
            if (wp)
                CHECK(got.vector == PF && got.error == 3 && got.rip == store && this_cpu()->cr2 == data && got.r14 == 1 && got.rax == 1ull << 63 && (got.rflags & ARITHMETIC) == (SF | PFLAG) && *(u64 *)page == 0,
                      "WP: vector %d error %x rip %x (wanted %x) rax %x rflags %x memory %x", got.vector, got.error, got.rip, store, got.rax, got.rflags, *(u64 *)page);
            else
                CHECK(got.vector == BP && *(u64 *)page == 1ull << 63 && *entry_of(data) == (page | P | ACCESSED | DIRTY), "no WP: vector %d, memory %x, entry %x", got.vector, *(u64 *)page, *entry_of(data));
            write_cr0(read_cr0() | 1 << 16);
        }
    /* CR0.WP alone changes under a hot store. */
    u64 data = data_place(), page = fresh_page(), code = code_place();
    map(data, page, P);
    map(code, page_with_adder(1), P | W);
    static const u8 store_loop[] = {0x48, 0xff, 0x03, 0x4d, 0x8d, 0x76, 0xff, 0x4d, 0x85, 0xf6, 0x75, 0xf4, 0xcc}; /* inc qword [rbx]; lea r14,[r14-1]; test; jnz */
    copy((void *)code, store_loop, sizeof store_loop);
    for (int i = 0; i < 200; i++) {
        struct Frame from = begin(code, false);
        from.rbx = data;
        from.r14 = 1000;
        write_cr0(read_cr0() & ~(1ull << 16));
        struct Frame got = run(from, NULL);
        CHECK(got.vector == BP && *(u64 *)page == 1000 * ((u64)i + 1), "WP off: vector %d, count %d", got.vector, *(u64 *)page);
        write_cr0(read_cr0() | 1 << 16);
        got = run(from, NULL);
        CHECK(got.vector == PF && got.error == 3 && got.rip == code && got.r14 == 1000, "WP on: vector %d error %x", got.vector, got.error);
    }
}

/* The same address for the kernel and for the user, hot in both. */
static void user_bit(void)
{
    u64 code = code_place(), data = data_place(), page = fresh_page();
    static const u8 load_loop[] = {0x48, 0x03, 0x03, 0x4d, 0x8d, 0x76, 0xff, 0x4d, 0x85, 0xf6, 0x75, 0xf4, 0xcc}; /* add rax, [rbx]; … */
    map(code, fresh_page(), P | W | U);
    copy((void *)code, load_loop, sizeof load_loop);
    *(u64 *)page = 3;
    bool smap = has_leaf7(20), smep = has_leaf7(7);
    for (int i = 0; i < 200; i++) {
        u64 bits = i & 1 ? P | W | U : P | W;
        map(data, page, bits);
        for (int user = 0; user < 2; user++) {
            struct Frame from = begin(code, user);
            from.rbx = data;
            from.r14 = i % 20 ? 500 : HOT;
            struct Frame got = run(from, NULL);
            if (user && !(bits & U))
                CHECK(got.vector == PF && got.error == 5 && got.rip == code && this_cpu()->cr2 == data, "the kernel's page: vector %d error %x", got.vector, got.error);
            else
                CHECK(got.vector == BP && got.rax == from.r14 * 3, "user %d: vector %d error %x rax %d", (u64)user, got.vector, got.error, got.rax);
            if (!user && smap) {
                /* The code is the user's too: SMEP stays off. EFLAGS.AC lets the kernel read. */
                write_cr4(read_cr4() | 1 << 21);
                for (int ac = 0; ac < 2; ac++) {
                    from.rflags = FLAG1 | (ac ? ACF : 0);
                    got = run(from, NULL);
                    if (bits & U && !ac)
                        CHECK(got.vector == PF && got.error == 1 && got.rip == code && this_cpu()->cr2 == data, "SMAP: vector %d error %x", got.vector, got.error);
                    else
                        CHECK(got.vector == BP && got.rax == from.r14 * 3, "SMAP, AC %d: vector %d rax %d", (u64)ac, got.vector, got.rax);
                }
                write_cr4(read_cr4() & ~(1ull << 21));
            }
            if (!user && smep) {
                from.rflags = FLAG1;
                write_cr4(read_cr4() | 1 << 20);
                got = run(from, NULL);
                CHECK(got.vector == PF && got.error == 0x11 && got.rip == code && this_cpu()->cr2 == code, "SMEP: vector %d error %x", got.vector, got.error);
                write_cr4(read_cr4() & ~(1ull << 20));
            }
        }
    }
}

/* STAC and CLAC in a hot loop. */
SNIPPET(stac_loop, "1: stac; add (%rbx), %rax; clac; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; add (%rbx), %rax; int3");

static void smap_in_a_loop(void)
{
    if (!has_leaf7(20))
        return;
    u64 code = code_place(), data = data_place();
    map(code, fresh_page(), P | W);
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(stac_loop));
    map(data, fresh_page(), P | W | U);
    *(u64 *)physical_of(data) = 1;
    write_cr4(read_cr4() | 1 << 21);
    struct Frame from = begin(code, false);
    from.rbx = data;
    from.r14 = HOT;
    struct Frame got = run(from, NULL);
    CHECK(got.vector == PF && got.error == 1 && got.rax == HOT && got.rip == (u64)code + (u64)(snippet_stac_loop_end - snippet_stac_loop) - 4, "vector %d error %x at %x, rax %d", got.vector, got.error, got.rip, got.rax);
    write_cr4(read_cr4() & ~(1ull << 21));
}

/* Accessed and dirty bits, after hot loops of loads, then stores, then after they were cleared. */
SNIPPET(touch_load, "1: mov (%rbx), %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_store, "1: mov %rax, (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_add, "1: add %rax, (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_cmpxchg, "1: mov $-1, %rax; lock cmpxchg %rdx, (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_cmp, "1: cmp %rax, (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_movs, "1: mov %rbx, %rsi; mov %rbx, %rdi; movsq; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_sse, "1: movups (%rbx), %xmm0; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_sse_store, "1: movups %xmm0, (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_push, "1: lea 8(%rbx), %rsp; push %rax; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; mov %r15, %rsp; int3");
SNIPPET(touch_lea, "1: lea (%rbx), %rax; prefetcht0 (%rbx); nopl (%rbx); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(touch_call, "1: call *%rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(bts_clear, "1: btrq $5, (%rcx); btrq $6, (%rcx); invlpg (%rbx); mov (%rbx), %rax; mov (%rcx), %rdx; and $0x60, %edx; cmp $0x20, %edx; jne 2f; mov %rax, (%rbx); mov (%rcx), %rdx; and $0x60, %edx; cmp $0x60, %edx; jne 2f; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; 2: int3");

static void accessed_and_dirty(void)
{
    const struct { struct Snippet code; u64 bits; } cases[] = {
        {OF_SNIPPET(touch_load), ACCESSED}, {OF_SNIPPET(touch_store), ACCESSED | DIRTY}, {OF_SNIPPET(touch_add), ACCESSED | DIRTY},
        {OF_SNIPPET(touch_cmpxchg), ACCESSED | DIRTY}, {OF_SNIPPET(touch_cmp), ACCESSED}, {OF_SNIPPET(touch_movs), ACCESSED | DIRTY},
        {OF_SNIPPET(touch_sse), ACCESSED}, {OF_SNIPPET(touch_sse_store), ACCESSED | DIRTY}, {OF_SNIPPET(touch_push), ACCESSED | DIRTY},
        {OF_SNIPPET(touch_call), ACCESSED},
    };
    u64 number_case = sizeof cases / sizeof *cases;
    for (u64 n = 0; n < number_case; n++) {
        u64 code = code_place();
        map(code, fresh_page(), P | W);
        put((u8 *)code, &cases[n].code);
        for (int round = 0; round < 30; round++) {
            u64 data = data_place(), page = fresh_page();
            *(u8 *)page = 0xc3;
            *entry_of(data) = page | P | W;
            /* A neighbour that is not touched. */
            *entry_of(data + PAGE) = page | P | W;
            struct Frame from = begin(code, false);
            from.rbx = data;
            from.rcx = (u64)entry_of(data);
            from.r15 = from.rsp;
            from.r14 = round ? 200 : HOT;
            for (int again = 0; again < 3; again++) {
                struct Frame got = run(from, NULL);
                u64 entry = *entry_of(data);
                CHECK(got.vector == BP && (entry & (ACCESSED | DIRTY)) == cases[n].bits, "%s, time %d: vector %d, bits %x, wanted %x", cases[n].code.name, (u64)again, got.vector, entry & 0xfff, cases[n].bits);
                CHECK(!(*entry_of(data + PAGE) & (ACCESSED | DIRTY)), "%s: the neighbour was touched", cases[n].code.name);
                *entry_of(data) &= ~(ACCESSED | DIRTY);
                invlpg(data);
            }
            *entry_of(data) = 0;
            invlpg(data);
        }
    }
    /* What does not touch: LEA, PREFETCH, NOP with an operand. (Hardware may set the accessed bit by prefetching.) */
    u64 code = code_place(), data = data_place();
    map(code, fresh_page(), P | W);
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(touch_lea));
    *entry_of(data) = fresh_page() | P | W;
    struct Frame from = begin(code, false);
    from.rbx = data;
    from.r14 = HOT;
    run(from, NULL);
    CHECK(!(*entry_of(data) & DIRTY), "LEA or PREFETCH made the page dirty");
    /* The loop itself clears the bits and looks. */
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(bts_clear));
    from.rcx = (u64)entry_of(data);
    struct Frame got = run(from, NULL);
    CHECK(got.vector == BP && got.r14 == 0, "cleared in the loop: %d rounds left, bits %x", got.r14, got.rdx);
    /* The upper levels have accessed bits too. */
    for (int level = 2; level <= 4; level++) {
        *entry_in(read_cr3(), data, level) &= ~ACCESSED;
        write_cr3(read_cr3());
        from.r14 = 100;
        run(from, NULL);
        CHECK(*entry_in(read_cr3(), data, level) & ACCESSED, "level %d: no accessed bit", (u64)level);
    }
}

/* Code on a large page; the large page is split so that one small page holds other code; and joined again. */
static void large_pages(void)
{
    u64 large = fresh_large_page(), other = page_with_adder(9);
    volatile u64 *directory = entry_in(read_cr3(), LARGE_CODE, 2);
    u64 table = fresh_page();
    for (u64 i = 0; i < 512; i++)
        ((u64 *)table)[i] = (large + i * PAGE) | P | W | U;
    ((u64 *)table)[5] = other | P | W | U;
    for (u64 i = 4; i < 8; i++)
        copy((void *)(large + i * PAGE), (void *)page_with_adder((u8)(i + 10)), PAGE);
    for (int round = 0; round < 200; round++) {
        *directory = large | P | W | U | LARGE;
        invlpg(LARGE_CODE + 7 * PAGE);
        if (round & 1)
            write_cr3(read_cr3());
        else
            invlpg(LARGE_CODE + 5 * PAGE);
        for (u64 i = 4; i < 8; i++)
            check_adder("on the large page", LARGE_CODE + i * PAGE, round % 20 ? 100 : HOT, i + 10);
        *directory = table | P | W | U;
        /* One INVLPG anywhere on a large page drops all of it. */
        if (round & 2)
            invlpg(LARGE_CODE + (round & 4 ? 5 : 300) * PAGE);
        else
            write_cr3(read_cr3());
        for (u64 i = 4; i < 8; i++)
            check_adder("after the split", LARGE_CODE + i * PAGE, round % 20 ? 100 : HOT, i == 5 ? 9 : i + 10);
    }
    /* The dirty bit of a large page. */
    u64 code = code_place();
    map(code, fresh_page(), P | W);
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(touch_load));
    for (int store = 0; store < 2; store++) {
        if (store)
            put((u8 *)code, &(struct Snippet)OF_SNIPPET(touch_store));
        *directory = large | P | W | LARGE;
        invlpg(LARGE_CODE);
        struct Frame from = begin(code, false);
        from.rbx = LARGE_CODE + 0x123458;
        from.r14 = HOT;
        run(from, NULL);
        u64 wanted = store ? ACCESSED | DIRTY : ACCESSED;
        CHECK((*directory & (ACCESSED | DIRTY)) == wanted, "large page, store %d: %x", (u64)store, *directory & 0xfff);
    }
}

/* Global pages outlive a load of CR3 (or not: both are allowed), never INVLPG or a change of CR4.PGE. */
static void global_pages(void)
{
    u64 linear = code_place(), a = page_with_adder(3), b = page_with_adder(4);
    for (int i = 0; i < 200; i++) {
        map(linear, a, P | W | GLOBAL);
        check_adder("global", linear, 300, 3);
        *entry_of(linear) = b | P | W | GLOBAL;
        if (i & 1) {
            invlpg(linear);
        } else {
            write_cr4(read_cr4() ^ 0x80);
            write_cr4(read_cr4() ^ 0x80);
        }
        check_adder("global, changed", linear, 300, 4);
    }
}

/* Two address spaces with other code and data at the same places, switched in a hot loop. */
SNIPPET(switcher, "1: mov %rcx, %cr3; call *%rsi; add %rax, %rbx; add (%rdi), %rbp; mov %rdx, %cr3; call *%rsi; sub %rax, %rbx; addq $2, (%rdi); lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void address_spaces(void)
{
    u64 here = read_cr3(), spaces[2], data[2], code = fresh_page();
    copy((void *)code, snippet_switcher, (size_t)(snippet_switcher_end - snippet_switcher));
    for (int i = 0; i < 2; i++) {
        spaces[i] = new_space();
        u64 page = fresh_page();
        copy((void *)page, snippet_number, (size_t)(snippet_number_end - snippet_number));
        ((u8 *)page)[1] = i ? 2 : 7;
        data[i] = fresh_page();
        *(u64 *)data[i] = 10;
        *entry_in(spaces[i], CODE, 1) = page | P | W;
        *entry_in(spaces[i], DATA, 1) = data[i] | P | W;
    }
    bool pcid = has_leaf1_ecx(17);
    for (int tagged = 0; tagged < (pcid ? 3 : 1); tagged++) {
        if (tagged == 1)
            write_cr4(read_cr4() | 1 << 17);
        /* Tag 1 and 2, later with bit 63: what is cached of them stays. */
        u64 bits = tagged == 2 ? 1ull << 63 : 0;
        struct Frame from = begin(code, false);
        from.rcx = spaces[0] | (tagged ? 1 | bits : 0);
        from.rdx = spaces[1] | (tagged ? 2 | bits : 0);
        from.rsi = CODE;
        from.rdi = DATA;
        from.r14 = HOT;
        *(u64 *)data[0] = *(u64 *)data[1] = 10;
        struct Frame got = run(from, NULL);
        write_cr3(here);
        CHECK(got.vector == BP && got.rbx == HOT * 5 && got.rbp == HOT * 10 && *(u64 *)data[1] == 10 + 2 * HOT && *(u64 *)data[0] == 10,
              "tagged %d: vector %d at %x, sums %d %d, data %d %d", (u64)tagged, got.vector, got.rip, got.rbx, got.rbp, *(u64 *)data[0], *(u64 *)data[1]);
        /* What changes in a space and is dropped there is seen when it comes back. */
        if (tagged == 2 && has_leaf7(10)) {
            u64 other = fresh_page();
            *(u64 *)other = 50;
            *entry_in(spaces[0], DATA, 1) = other | P | W;
            struct { u64 pcid, linear; } which = {1, DATA};
            __asm__ volatile("invpcid %0, %1" : : "m"(which), "r"(0ull) : "memory");
            got = run(from, NULL);
            write_cr3(here);
            CHECK(got.rbp == HOT * 50, "after INVPCID: %d", got.rbp);
        }
    }
    if (pcid)
        write_cr4(read_cr4() & ~(1ull << 17));
}

/* A page that comes on its first touch, again and again: the handler maps it and the instruction runs once. */
static u64 demand_page, demand_count;
static bool on_demand(struct Frame *frame)
{
    if (frame->vector != PF || frame->error & 1)
        return false;
    *entry_of(this_cpu()->cr2) = demand_page | P | W | U;
    demand_count++;
    return true;
}
SNIPPET(demand_loop, "1: incq (%rbx); add $0x1000, %rbx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void on_first_touch(void)
{
    u64 code = code_place();
    map(code, fresh_page(), P | W | U);
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(demand_loop));
    demand_page = fresh_page();
    for (int user = 0; user < 2; user++) {
        struct Frame from = begin(code, user);
        from.rbx = TABLES + (u64)user * 0x10000000;
        from.r14 = 5000;
        u64 before = *(u64 *)demand_page;
        demand_count = 0;
        struct Frame got = run(from, on_demand);
        CHECK(got.vector == BP && demand_count == 5000 && *(u64 *)demand_page == before + 5000, "user %d: vector %d, %d faults, %d increments", (u64)user, got.vector, demand_count, *(u64 *)demand_page - before);
        got = run(from, on_demand);
        CHECK(demand_count == 5000 && *(u64 *)demand_page == before + 10000, "second time: %d faults", demand_count);
    }
}

/* Reserved bits, not-present upper levels. */
static void broken_entries(void)
{
    u64 code = code_place(), data = data_place(), page = fresh_page();
    map(code, fresh_page(), P | W | U);
    put((u8 *)code, &(struct Snippet)OF_SNIPPET(touch_load));
    for (int round = 0; round < 50; round++) {
        map(data, page, P | W | U);
        struct Frame from = begin(code, round & 1);
        from.rbx = data + 8;
        from.r14 = 500;
        struct Frame got = run(from, NULL);
        CHECK(got.vector == BP, "good: vector %d", got.vector);
        map(data, page, P | W | U | 1ull << 51);
        got = run(from, NULL);
        CHECK(got.vector == PF && got.error == (round & 1 ? 13u : 9u) && this_cpu()->cr2 == data + 8 && got.rip == code, "reserved bit: vector %d error %x", got.vector, got.error);
        map(data, page, P | W | U);
        volatile u64 *directory = entry_in(read_cr3(), data, 2);
        u64 kept = *directory;
        *directory = 0;
        invlpg(data);
        got = run(from, NULL);
        CHECK(got.vector == PF && got.error == (round & 1 ? 4u : 0u) && this_cpu()->cr2 == data + 8, "no directory: vector %d error %x", got.vector, got.error);
        *directory = kept;
    }
}

void test(void)
{
    group("remapped code");
    remapped_code();
    group("remapped by the loop");
    remapped_by_the_loop();
    group("own page taken away");
    own_page_taken_away();
    group("no-execute");
    no_execute();
    group("write protection");
    write_protection();
    group("user bit, SMAP, SMEP");
    user_bit();
    group("SMAP in a loop");
    smap_in_a_loop();
    group("accessed and dirty bits");
    accessed_and_dirty();
    group("large pages");
    large_pages();
    group("global pages");
    global_pages();
    group("address spaces");
    address_spaces();
    group("pages on first touch");
    on_first_touch();
    group("broken entries");
    broken_entries();
}
