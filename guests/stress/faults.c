/* Faults in hot loops: at page borders, for every kind of access, with the flags of many producers still live.
 *
 * One combination is a loop with a flag producer directly before the instruction under test, whose pointer is good in
 * all iterations but the last. What the frame of the last one must hold comes from a run of the same code, once, with a
 * breakpoint in the place of the instruction: all registers and flags in front of it. */
#include "stress.h"

enum { LOAD = 0, STORE = 1, MODIFY = 2 };
enum { STACK = 1, ALIGNED = 2, ON_SS = 4, NEEDS_AVX = 8, NO_CROSS = 16, NEEDS_BMI = 32, KERNEL_ONLY = 64 };

struct Access {
    struct Snippet code;
    i64 bias; /* The accessed address is the pointer plus this. */
    u32 size, kind, traits;
};

#define ACCESSES(X)                                                                                                    \
    X(load_q, "mov (%rsi), %rax", 0, 8, LOAD, 0)                                                                       \
    X(load_d, "mov (%rdi), %eax", 0, 4, LOAD, 0)                                                                       \
    X(load_w, "mov (%rsi), %ax", 0, 2, LOAD, 0)                                                                        \
    X(load_b, "mov (%rsi), %ah", 0, 1, LOAD, 0)                                                                        \
    X(load_r13, "mov (%r13), %r13", 0, 8, LOAD, 0)                                                                     \
    X(load_rbp, "mov 24(%rbp), %rdx", 24, 8, LOAD, ON_SS)                                                              \
    X(load_rsp, "mov 16(%rsp), %rbx", 16, 8, LOAD, STACK | ON_SS)                                                      \
    X(load_to_rsp, "mov (%rsi), %rsp", 0, 8, LOAD, 0)                                                                  \
    X(load_self, "mov (%rsi), %esi", 0, 4, LOAD, 0)                                                                    \
    X(load_scaled, "mov -8(%rsi,%rcx,2), %rcx", -2, 8, LOAD, 0)                                                        \
    X(movzx, "movzbl (%rsi), %edx", 0, 1, LOAD, 0)                                                                     \
    X(movsx, "movswq (%rsi), %rcx", 0, 2, LOAD, 0)                                                                     \
    X(movsxd, "movslq (%rsi), %rbx", 0, 4, LOAD, 0)                                                                    \
    X(movbe, "movbe (%rsi), %rax", 0, 8, LOAD, 0)                                                                      \
    X(load_add, "add (%rsi), %rax", 0, 8, LOAD, 0)                                                                     \
    X(load_adc, "adc (%rsi), %edx", 0, 4, LOAD, 0)                                                                     \
    X(load_sbb, "sbb (%rsi), %bl", 0, 1, LOAD, 0)                                                                      \
    X(load_cmp, "cmp %rax, (%rsi)", 0, 8, LOAD, 0)                                                                     \
    X(load_test, "testl $0x7f001234, (%rsi)", 0, 4, LOAD, 0)                                                           \
    X(load_imul, "imul (%rsi), %rdx", 0, 8, LOAD, 0)                                                                   \
    X(load_mul, "mulq (%rsi)", 0, 8, LOAD, 0)                                                                          \
    X(load_cmov, "cmovne (%rsi), %rax", 0, 8, LOAD, 0)                                                                 \
    X(load_cmovc, "cmovc (%rsi), %eax", 0, 4, LOAD, 0)                                                                 \
    X(load_bt, "btl $5, (%rsi)", 0, 4, LOAD, 0)                                                                        \
    X(load_bsf, "bsf (%rsi), %rax", 0, 8, LOAD, 0)                                                                     \
    X(load_popcnt, "popcnt (%rsi), %rax", 0, 8, LOAD, 0)                                                               \
    X(load_crc32, "crc32q (%rsi), %rax", 0, 8, LOAD, 0)                                                                \
    X(load_andn, "andn (%rsi), %rax, %rdx", 0, 8, LOAD, NEEDS_BMI)                                                     \
    X(load_shlx, "shlx %rcx, (%rsi), %rdx", 0, 8, LOAD, NEEDS_BMI)                                                     \
    X(lods, "lodsq", 0, 8, LOAD, 0)                                                                                    \
    X(scas, "scasl", 0, 4, LOAD, 0)                                                                                    \
    X(movs, "movsq", 0, 8, LOAD, 0)                                                                                    \
    X(cmps, "cmpsw", 0, 2, LOAD, 0)                                                                                    \
    X(push_m, "pushq (%rsi)", 0, 8, LOAD, 0)                                                                           \
    X(pop_r, "pop %rax", 0, 8, LOAD, STACK | ON_SS)                                                                    \
    X(pop_rsp, "pop %rsp", 0, 8, LOAD, STACK | ON_SS)                                                                  \
    X(leave, "leave", 0, 8, LOAD, ON_SS)                                                                               \
    X(ret, "ret", 0, 8, LOAD, STACK | ON_SS)                                                                           \
    X(ret_16, "ret $16", 0, 8, LOAD, STACK | ON_SS)                                                                    \
    X(jmp_m, "jmp *(%rsi)", 0, 8, LOAD, 0)                                                                             \
    X(call_m, "call *(%rsi)", 0, 8, LOAD, 0)                                                                           \
    X(movups, "movups (%rsi), %xmm0", 0, 16, LOAD, 0)                                                                  \
    X(movaps, "movaps (%rsi), %xmm1", 0, 16, LOAD, ALIGNED)                                                            \
    X(movsd, "movsd (%rsi), %xmm2", 0, 8, LOAD, 0)                                                                     \
    X(addps, "addps (%rsi), %xmm0", 0, 16, LOAD, ALIGNED)                                                              \
    X(addsd, "addsd (%rsi), %xmm0", 0, 8, LOAD, 0)                                                                     \
    X(paddd, "paddd (%rsi), %xmm3", 0, 16, LOAD, ALIGNED)                                                              \
    X(pshufb, "pshufb (%rsi), %xmm4", 0, 16, LOAD, ALIGNED)                                                            \
    X(movd, "movd (%rsi), %xmm5", 0, 4, LOAD, 0)                                                                       \
    X(cvtsi2sd, "cvtsi2sdq (%rsi), %xmm6", 0, 8, LOAD, 0)                                                              \
    X(vmovdqu, "vmovdqu (%rsi), %ymm0", 0, 32, LOAD, NEEDS_AVX)                                                        \
    X(vaddps, "vaddps (%rsi), %ymm1, %ymm2", 0, 32, LOAD, NEEDS_AVX)                                                   \
    X(vmovaps, "vmovaps (%rsi), %ymm3", 0, 32, LOAD, NEEDS_AVX | ALIGNED)                                              \
    X(vbroadcastss, "vbroadcastss (%rsi), %ymm4", 0, 4, LOAD, NEEDS_AVX)                                               \
    X(fld_d, "fldl (%rsi)", 0, 8, LOAD, 0)                                                                             \
    X(fld_t, "fldt (%rsi)", 0, 10, LOAD, 0)                                                                            \
    X(fild, "fildll (%rsi)", 0, 8, LOAD, 0)                                                                            \
    X(movq_mm, "movq (%rsi), %mm0", 0, 8, LOAD, 0)                                                                     \
    X(store_q, "mov %rax, (%rsi)", 0, 8, STORE, 0)                                                                     \
    X(store_d, "mov %edx, (%rdi)", 0, 4, STORE, 0)                                                                     \
    X(store_w, "mov %bx, (%rsi)", 0, 2, STORE, 0)                                                                      \
    X(store_b, "mov %ch, (%rsi)", 0, 1, STORE, 0)                                                                      \
    X(store_r14, "mov %r14, (%rsi)", 0, 8, STORE, 0)                                                                   \
    X(store_at_r13, "mov %r12, 8(%r13)", 8, 8, STORE, 0)                                                               \
    X(store_at_rsp, "mov %rax, 8(%rsp)", 8, 8, STORE, STACK | ON_SS)                                                   \
    X(store_rsp, "mov %rsp, (%rsi)", 0, 8, STORE, 0)                                                                   \
    X(store_imm, "movq $-2, (%rsi)", 0, 8, STORE, 0)                                                                   \
    X(movnti, "movnti %rax, (%rsi)", 0, 8, STORE, 0)                                                                   \
    X(movbe_store, "movbe %eax, (%rsi)", 0, 4, STORE, 0)                                                               \
    X(setcc, "setg (%rsi)", 0, 1, STORE, 0)                                                                            \
    X(stos, "stosq", 0, 8, STORE, 0)                                                                                   \
    X(push_r, "push %rax", -8, 8, STORE, STACK | ON_SS)                                                                \
    X(push_rsp, "push %rsp", -8, 8, STORE, STACK | ON_SS)                                                              \
    X(push_r14, "push %r14", -8, 8, STORE, STACK | ON_SS)                                                              \
    X(push_imm, "push $0x1234567", -8, 8, STORE, STACK | ON_SS)                                                        \
    X(pushf, "pushfq", -8, 8, STORE, STACK | ON_SS)                                                                    \
    X(pop_m, "popq (%rdi)", 0, 8, STORE, 0)                                                                            \
    X(call_rel, ".byte 0xe8, 0, 0, 0, 0", -8, 8, STORE, STACK | ON_SS)                                                 \
    X(movups_store, "movups %xmm0, (%rsi)", 0, 16, STORE, 0)                                                           \
    X(movaps_store, "movaps %xmm0, (%rsi)", 0, 16, STORE, ALIGNED)                                                     \
    X(movntdq, "movntdq %xmm1, (%rsi)", 0, 16, STORE, ALIGNED)                                                         \
    X(movss_store, "movss %xmm0, (%rsi)", 0, 4, STORE, 0)                                                              \
    X(pextrd, "pextrd $1, %xmm0, (%rsi)", 0, 4, STORE, 0)                                                              \
    X(vmovdqu_store, "vmovdqu %ymm0, (%rsi)", 0, 32, STORE, NEEDS_AVX)                                                 \
    X(fst_d, "fstl (%rsi)", 0, 8, STORE, 0)                                                                            \
    X(fnstcw, "fnstcw (%rsi)", 0, 2, STORE, 0)                                                                         \
    X(fxsave, "fxsave (%rsi)", 0, 512, STORE, ALIGNED)                                                                 \
    X(stmxcsr, "stmxcsr (%rsi)", 0, 4, STORE, 0)                                                                       \
    X(rmw_add, "add %rax, (%rsi)", 0, 8, MODIFY, 0)                                                                    \
    X(rmw_adc, "adc %edx, (%rsi)", 0, 4, MODIFY, 0)                                                                    \
    X(rmw_sbb, "sbbw $5, (%rsi)", 0, 2, MODIFY, 0)                                                                     \
    X(rmw_inc, "incb (%rsi)", 0, 1, MODIFY, 0)                                                                         \
    X(rmw_dec, "decq (%rsi)", 0, 8, MODIFY, 0)                                                                         \
    X(rmw_neg, "negl (%rsi)", 0, 4, MODIFY, 0)                                                                         \
    X(rmw_not, "notq (%rsi)", 0, 8, MODIFY, 0)                                                                         \
    X(rmw_xor, "xorb %al, (%rsi)", 0, 1, MODIFY, 0)                                                                    \
    X(rmw_shl, "shll %cl, (%rsi)", 0, 4, MODIFY, 0)                                                                    \
    X(rmw_rcl, "rclq $3, (%rsi)", 0, 8, MODIFY, 0)                                                                     \
    X(rmw_shld, "shldq $9, %rax, (%rsi)", 0, 8, MODIFY, 0)                                                             \
    X(rmw_bts, "btsl $9, (%rsi)", 0, 4, MODIFY, 0)                                                                     \
    X(rmw_xchg, "xchg %rdx, (%rsi)", 0, 8, MODIFY, 0)                                                                  \
    X(rmw_xadd, "xadd %rdx, (%rsi)", 0, 8, MODIFY, 0)                                                                  \
    X(rmw_cmpxchg, "cmpxchg %rdx, (%rsi)", 0, 8, MODIFY, 0)                                                            \
    X(rmw_at_rsp, "addq $3, (%rsp)", 0, 8, MODIFY, STACK | ON_SS)                                                      \
    X(lock_add, "lock add %rax, (%rsi)", 0, 8, MODIFY, 0)                                                              \
    X(lock_xadd, "lock xadd %edx, (%rsi)", 0, 4, MODIFY, 0)                                                            \
    X(lock_cmpxchg, "lock cmpxchg %rbx, (%rsi)", 0, 8, MODIFY, 0)                                                      \
    X(lock_btr, "lock btrq $7, (%rsi)", 0, 8, MODIFY, 0)                                                               \
    X(cmpxchg8b, "lock cmpxchg8b (%rsi)", 0, 8, MODIFY, 0)                                                             \
    X(cmpxchg16b, "lock cmpxchg16b (%rsi)", 0, 16, MODIFY, ALIGNED)

#define DECLARE(name, text, ...) SNIPPET(name, text);
ACCESSES(DECLARE)
#define ROW(name, text, ...) {OF_SNIPPET(name), __VA_ARGS__},
static const struct Access accesses[] = {ACCESSES(ROW)};
enum { ACCESS_COUNT = sizeof accesses / sizeof *accesses };

/* Flag producers on RAX, RDX, RBX and CL = 3. */
#define PRODUCERS(X)                                                                                                   \
    X(p_add, "add %rax, %rdx")                                                                                         \
    X(p_add32, "add %edx, %eax")                                                                                       \
    X(p_add16, "add %dx, %ax")                                                                                         \
    X(p_add8, "add %ah, %dl")                                                                                          \
    X(p_add_imm, "add $-128, %rbx")                                                                                    \
    X(p_adc, "stc; adc %rax, %rdx")                                                                                    \
    X(p_adc_chain, "add %rax, %rdx; adc %edx, %ebx; adc $0, %eax")                                                     \
    X(p_sub, "sub %rdx, %rax")                                                                                         \
    X(p_sub_self, "sub %eax, %eax")                                                                                    \
    X(p_sbb, "stc; sbb %dx, %ax")                                                                                      \
    X(p_sbb_self, "cmp %rax, %rdx; sbb %rbx, %rbx")                                                                    \
    X(p_cmp, "cmp %rdx, %rax")                                                                                         \
    X(p_cmp8, "cmp $0x80, %dl")                                                                                        \
    X(p_inc, "cmp %rdx, %rax; inc %al")                                                                                \
    X(p_dec, "stc; dec %edx")                                                                                          \
    X(p_neg, "neg %rdx")                                                                                               \
    X(p_and, "and %rax, %rdx")                                                                                         \
    X(p_or, "or %bl, %dh")                                                                                             \
    X(p_xor_self, "xor %edx, %edx")                                                                                    \
    X(p_test, "test %rax, %rax")                                                                                       \
    X(p_shl1, "shl %rax")                                                                                              \
    X(p_shl, "shl $5, %edx")                                                                                           \
    X(p_shl_cl, "shl %cl, %dx")                                                                                        \
    X(p_shr, "shr $9, %rax")                                                                                           \
    X(p_sar, "sar %cl, %edx")                                                                                          \
    X(p_shift_by_0, "add %rax, %rdx; mov %ecx, %ebx; mov $64, %ecx; shl %cl, %rdx; mov %ebx, %ecx")                          \
    X(p_rol, "cmp %rdx, %rax; rol $7, %rax")                                                                           \
    X(p_rcr, "sub %rdx, %rbx; rcr $1, %al")                                                                            \
    X(p_shld, "shld $3, %rax, %rdx")                                                                                   \
    X(p_imul, "imul %rax, %rdx")                                                                                       \
    X(p_mul, "mul %dl")                                                                                                \
    X(p_bt, "or $1, %al; bt $3, %rdx")                                                                                 \
    X(p_btc, "cmp %al, %al; btc %rcx, %rax")                                                                           \
    X(p_bsf, "bsf %rdx, %rbx")                                                                                         \
    X(p_popcnt, "popcnt %rax, %rbx")                                                                                   \
    X(p_xadd, "xadd %rax, %rdx")                                                                                       \
    X(p_cmpxchg, "cmpxchg %rbx, %rdx")                                                                                 \
    X(p_comisd, "pxor %xmm7, %xmm7; comisd %xmm7, %xmm7")                                                              \
    X(p_ptest, "ptest %xmm7, %xmm6")                                                                                   \
    X(p_sahf, "sahf")                                                                                                  \
    X(p_carry_kept, "stc; mov %rax, %rbx; lea 5(%rdx,%rdx), %rdx; not %rax; movzbl %dl, %edx")                         \
    X(p_cmc, "add %rax, %rdx; cmc")                                                                                    \
    X(p_setcc, "sub %rax, %rdx; setl %bl; setc %bh")                                                                   \
    X(p_cmov, "sub %rdx, %rax; cmovs %rbx, %rax; cmovbe %edx, %ebx")                                                   \
    X(p_branch, "add %rdx, %rax; jc 1f; lea 1(%rbx), %rbx; 1:")                                                        \
    X(p_branch_then_inc, "cmp %rdx, %rax; jg 1f; inc %rbx; 1:")                                                        \
    X(p_load_between, "add %rax, %rdx; mov 0x40(%r8), %rbx; mov %rbx, 0x48(%r8)")                                      \
    X(p_stack_between, "sub %rax, %rdx; mov %rsp, %rbx; mov %r15, %rsp; push %rdx; pop %rdx; mov %rbx, %rsp")          \
    X(p_call_between, "add %rdx, %rax; mov %rsp, %rbx; mov %r15, %rsp; call 1f; jmp 2f; 1: ret; 2: mov %rbx, %rsp")    \
    X(p_std, "neg %rax; std")

PRODUCERS(DECLARE)
static const struct Snippet producers[] = {
#define PRODUCER_ROW(name, text) OF_SNIPPET(name),
    PRODUCERS(PRODUCER_ROW)
};
enum { PRODUCER_COUNT = sizeof producers / sizeof *producers };

SNIPPET(loop_head, "mov %r8, %rsi; cmp $1, %r14; cmove %r9, %rsi; mov %rsi, %rdi; mov %rsi, %rbp; mov %rsi, %r13;"
                   "mov %r10, %rax; mov %r11, %rdx; mov %r12, %rbx; mov $3, %ecx");
SNIPPET(use_stack, "mov %rsi, %rsp");
SNIPPET(loop_tail, "mov %r15, %rsp; cld; lea -1(%r14), %r14; test %r14, %r14");
SNIPPET(stop, "int3");

/* The pages around the border: 0 and 2 writable, 1 missing, 3 read-only, 4 writable, 5 the kernel's, 6 writable. */
#define DATA (ZONE + 0x40000000ull)
#define CODE (ZONE + 0x80000000ull)
enum { CODE_PAGES = 3000 };
static u64 data_page[8];
static u64 code_number, rf_missing, rf_present;

static void set_up(void)
{
    for (int i = 0; i < 7; i++) {
        data_page[i] = fresh_page();
        u64 bits = i == 1 ? 0 : i == 3 ? P | U | NX : i == 5 ? P | W | NX : P | W | U | NX;
        map(DATA + i * PAGE, data_page[i], bits);
    }
    for (u64 i = 0; i < CODE_PAGES; i++)
        map(CODE + i * PAGE, fresh_page(), P | W | U);
}

static void jump_back(u8 **at, u8 *target)
{
    copy(*at, "\x0f\x85", 2);
    *at += 2;
    *at = put32(*at, (u32)(target - (*at + 4)));
}

enum Place { MISSING, CROSS_INTO_MISSING, CROSS_FROM_MISSING, READ_ONLY, CROSS_INTO_READ_ONLY, NOT_CANONICAL, KERNELS, CROSS_INTO_KERNELS, PLACES };
static const char *const place_name[] = {"missing", "crossing into missing", "crossing from missing", "read-only", "crossing into read-only", "not canonical", "the kernel's", "crossing into the kernel's"};

struct Wanted {
    u64 address, vector, error, cr2;
};

/* The address of the access at a place and what it must lead to; false: there is no such case. */
static bool expectation(const struct Access *a, enum Place place, bool user, struct Wanted *w)
{
    bool write = a->kind != LOAD, crosses = place == CROSS_INTO_MISSING || place == CROSS_FROM_MISSING || place == CROSS_INTO_READ_ONLY || place == CROSS_INTO_KERNELS;
    u64 half = a->size / 2, bits = (write ? 2u : 0u) | (user ? 4u : 0u);
    if (crosses && (a->size == 1 || a->traits & NO_CROSS || a->size > 64))
        return false;
    *w = (struct Wanted){.vector = PF, .error = bits};
    switch (place) {
    case MISSING: w->address = w->cr2 = DATA + PAGE + 0x440; break;
    case CROSS_INTO_MISSING: w->address = DATA + PAGE - half; w->cr2 = DATA + PAGE; break;
    case CROSS_FROM_MISSING: w->address = w->cr2 = DATA + 2 * PAGE - half; break;
    case READ_ONLY:
    case CROSS_INTO_READ_ONLY:
        if (!write)
            return false;
        w->address = place == READ_ONLY ? DATA + 3 * PAGE + 0x440 : DATA + 3 * PAGE - half;
        w->cr2 = place == READ_ONLY ? w->address : DATA + 3 * PAGE;
        w->error |= 1;
        break;
    case NOT_CANONICAL:
        w->address = 0x0000900000000040ull;
        w->vector = a->traits & ON_SS ? SS : GP;
        w->error = 0;
        return true;
    default:
        if (!user)
            return false;
        w->address = place == KERNELS ? DATA + 5 * PAGE + 0x440 : DATA + 5 * PAGE - half;
        w->cr2 = place == KERNELS ? w->address : DATA + 5 * PAGE;
        w->error |= 1;
    }
    if (crosses && a->traits & ALIGNED) {
        w->vector = GP;
        w->error = 0;
    }
    return true;
}

static const u64 values[][3] = {
    {0x7fffffffffffffff, 1, 0x80}, {0xffffffffffffffff, 1, 0}, {0x0123456789abcdef, 0xfedcba9876543211, 0x7f},
    {0x8000000000000000, 0x8000000080008080, 0xff}, {0, 0, 0x100}, {0x7f, 0x0f0f0f0f0f0f0f81, 0x1000000000000001},
};

static void compare(const char *producer, const char *access, enum Place place, bool user, const struct Frame *got, const struct Frame *reference, const struct Wanted *w, u64 rip)
{
    const char *mode = user ? "user" : "kernel";
    if (got->vector != w->vector || got->error != w->error || got->rip != rip) {
        fail("%s %s %s %s: vector %d error %x at %x, wanted %d %x at %x", producer, access, place_name[place], mode, got->vector, got->error, got->rip, w->vector, w->error, rip);
        return;
    }
    if (w->vector == PF)
        CHECK(this_cpu()->cr2 == w->cr2, "%s %s %s %s: cr2 %x, wanted %x", producer, access, place_name[place], mode, this_cpu()->cr2, w->cr2);
    const u64 *a = &got->r15, *b = &reference->r15;
    static const char *const names[] = {"r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx", "rax"};
    for (int i = 0; i < 15; i++)
        CHECK(a[i] == b[i], "%s %s %s %s: %s is %x, wanted %x", producer, access, place_name[place], mode, names[i], a[i], b[i]);
    CHECK(got->rsp == reference->rsp, "%s %s %s %s: rsp is %x, wanted %x", producer, access, place_name[place], mode, got->rsp, reference->rsp);
    CHECK(((got->rflags ^ reference->rflags) & ~(u64)RF) == 0, "%s %s %s %s: rflags %x, wanted %x", producer, access, place_name[place], mode, got->rflags, reference->rflags);
    if (got->rflags & RF)
        rf_present++;
    else
        rf_missing++;
}

static void combination(const struct Snippet *producer, const struct Access *a, enum Place place, bool user, u64 iterations)
{
    struct Wanted w;
    if ((a->traits & NEEDS_AVX && !has_avx()) || (a->traits & NEEDS_BMI && !(has_leaf7(3) && has_leaf7(8))) || !expectation(a, place, user, &w))
        return;
    u64 base = CODE + code_number++ % CODE_PAGES * PAGE;
    u8 *at = (u8 *)base + (code_number * 8 & 0xff8) % 0xc00, *loop;
    loop = at;
    PUT(at, loop_head);
    if (a->traits & STACK)
        PUT(at, use_stack);
    at = put(at, producer);
    u8 *fault = at;
    at = put(at, &a->code);
    u8 *after = at;
    PUT(at, loop_tail);
    jump_back(&at, loop);
    PUT(at, stop);
    /* Jumps through memory go to what follows; a call leaves the stack to the tail. */
    for (u64 i = 0; i < PAGE / 8; i++)
        for (int k = 0; k < 7; k += 2)
            ((u64 *)data_page[k])[i] = (u64)after;
    const u64 *v = values[code_number % (sizeof values / sizeof *values)];
    struct Frame from = begin((u64)loop, user);
    from.r15 = from.rsp - 256;
    from.rsp = from.r15;
    from.r8 = DATA + 0x200;
    from.r9 = w.address - (u64)a->bias;
    from.r10 = v[0];
    from.r11 = v[1];
    from.r12 = v[2];
    from.r14 = 1;
    u8 first = *fault;
    *fault = *snippet_stop;
    struct Frame reference = run(from, NULL);
    *fault = first;
    CHECK(reference.vector == BP && reference.rip == (u64)fault + 1, "%s %s: the reference run ends with vector %d at %x", producer->name, a->code.name, reference.vector, reference.rip);
    from.r14 = iterations;
    struct Frame got = run(from, NULL);
    compare(producer->name, a->code.name, place, user, &got, &reference, &w, (u64)fault);
    u64 pages[] = {0, 2, 4};
    for (int i = 0; i < 3 && place != NOT_CANONICAL; i++)
        for (u64 k = PAGE / 8 - 8; k < PAGE / 8; k++)
            CHECK(((u64 *)data_page[pages[i]])[k] == (u64)after, "%s %s %s: page %d changed at %x", producer->name, a->code.name, place_name[place], pages[i], k * 8);
    __asm__ volatile("fninit");
}

/* What RIP-relative, absolute and far forms of the fetch do: an instruction across a page border whose second page goes. */
SNIPPET(fetch_head, "mov %r10, %rax; mov %r11, %rdx");
SNIPPET(fetch_tail, "lea -1(%r14), %r14; test %r14, %r14");
SNIPPET(long_mov, "movabs $0x1122334455667788, %rbx");
SNIPPET(long_add, "addq $0x12345678, 0x100(%r8)");
SNIPPET(long_lea, "lea 0x12345678(%rax,%rdx,2), %rcx");
SNIPPET(long_imm, "mov $0x12345678, %ecx");

static void fetch_across(void)
{
    static const struct Snippet instructions[] = {OF_SNIPPET(long_mov), OF_SNIPPET(long_add), OF_SNIPPET(long_lea), OF_SNIPPET(long_imm)};
    u64 linear = CODE - 0x100000, first = fresh_page(), second = fresh_page();
    map(linear, first, P | W | U);
    for (int i = 0; i < 4; i++) {
        u64 length = (u64)(instructions[i].end - instructions[i].begin);
        /* From one byte before the border to all of them. */
        for (u64 before = 1; before <= length; before++) {
            for (int user = 0; user < 2; user++) {
                map(linear + PAGE, second, P | W | U);
                u64 add = (u64)(snippet_p_add_end - snippet_p_add), head = (u64)(snippet_fetch_head_end - snippet_fetch_head);
                u8 *loop = (u8 *)(linear + PAGE - before - add - head), *at = loop;
                PUT(at, fetch_head);
                PUT(at, p_add);
                u64 fault = (u64)at;
                at = put(at, &instructions[i]);
                PUT(at, fetch_tail);
                jump_back(&at, loop);
                PUT(at, stop);
                struct Frame from = begin((u64)loop, user);
                from.r8 = DATA;
                from.r10 = 0x7fffffffffffffff;
                from.r11 = 1;
                from.r14 = HOT;
                struct Frame got = run(from, NULL);
                CHECK(got.vector == BP && got.r14 == 0, "the hot loop ended with vector %d, r14 %d", got.vector, got.r14);
                static const u64 bits[] = {0, P | W | U | NX, P | W};
                for (int kind = 0; kind < 3; kind++) {
                    if (kind == 2 && !user)
                        continue;
                    map(linear + PAGE, second, bits[kind]);
                    got = run(from, NULL);
                    u64 error = 0x10u | (user ? 4u : 0) | (kind ? 1u : 0), rip = before == length ? linear + PAGE : fault;
                    u64 r14 = HOT;
                    CHECK(got.vector == PF && got.error == error && got.rip == rip && this_cpu()->cr2 == linear + PAGE && got.r14 == r14 && (got.rflags & ARITHMETIC) == (before == length && i == 1 ? got.rflags & ARITHMETIC : (u64)(SF | OF | PFLAG | AF)),
                          "%s, %d bytes in front, kind %d, user %d: vector %d error %x rip %x cr2 %x rflags %x", instructions[i].name, before, (u64)kind, (u64)user, got.vector, got.error, got.rip, this_cpu()->cr2, got.rflags);
                }
            }
        }
    }
}

/* String instructions with a repeat prefix over a border, in both directions. */
SNIPPET(rep_movsb, "rep movsb");
SNIPPET(rep_movsw, "rep movsw");
SNIPPET(rep_movsl, "rep movsl");
SNIPPET(rep_movsq, "rep movsq");
SNIPPET(rep_stosb, "rep stosb");
SNIPPET(rep_stosw, "rep stosw");
SNIPPET(rep_stosl, "rep stosl");
SNIPPET(rep_stosq, "rep stosq");
SNIPPET(rep_lodsb, "rep lodsb");
SNIPPET(rep_lodsq, "rep lodsq");
SNIPPET(repe_cmpsb, "repe cmpsb");
SNIPPET(repe_cmpsl, "repe cmpsl");
SNIPPET(repne_scasb, "repne scasb");
SNIPPET(repne_scasw, "repne scasw");
struct Repeated {
    struct Snippet code;
    u64 size;
    bool reads, writes, compares;
};
static const struct Repeated repeated[] = {
    {OF_SNIPPET(rep_movsb), 1, true, true, false}, {OF_SNIPPET(rep_movsw), 2, true, true, false}, {OF_SNIPPET(rep_movsl), 4, true, true, false},
    {OF_SNIPPET(rep_movsq), 8, true, true, false}, {OF_SNIPPET(rep_stosb), 1, false, true, false}, {OF_SNIPPET(rep_stosw), 2, false, true, false},
    {OF_SNIPPET(rep_stosl), 4, false, true, false}, {OF_SNIPPET(rep_stosq), 8, false, true, false}, {OF_SNIPPET(rep_lodsb), 1, true, false, false},
    {OF_SNIPPET(rep_lodsq), 8, true, false, false}, {OF_SNIPPET(repe_cmpsb), 1, true, false, true}, {OF_SNIPPET(repe_cmpsl), 4, true, false, true},
    {OF_SNIPPET(repne_scasb), 1, false, false, true}, {OF_SNIPPET(repne_scasw), 2, false, false, true},
};
SNIPPET(string_head, "lea (%r8), %rsi; lea (%r9), %rdi; mov %r10, %rcx; mov %r12, %rax; add %r12, %rax; mov %r12, %rax");
SNIPPET(set_direction, "std");

static bool bring_page(struct Frame *frame)
{
    if (frame->vector != PF || (this_cpu()->cr2 & ~(PAGE - 1)) != frame->r11)
        return false;
    map(frame->r11, data_page[1], P | W | U | NX);
    return true;
}

static void strings_across(void)
{
    for (u64 n = 0; n < sizeof repeated / sizeof *repeated; n++) {
        const struct Repeated *r = &repeated[n];
        for (int variant = 0; variant < 8; variant++) {
            bool down = variant & 1, odd = variant & 2, user = variant & 4;
            u64 size = r->size, count = 200, fit = 77, misfit = odd ? size / 2 : 0;
            u64 base = CODE + code_number++ % CODE_PAGES * PAGE;
            u8 *loop = (u8 *)base + 64, *at = loop;
            PUT(at, string_head);
            if (down)
                PUT(at, set_direction);
            u64 fault = (u64)at;
            at = put(at, &r->code);
            PUT(at, loop_tail);
            jump_back(&at, loop);
            PUT(at, stop);
            map(DATA + PAGE, data_page[1], P | W | U | NX);
            for (int k = 0; k < 3; k++)
                fill((void *)data_page[k], 0x5a, PAGE);
            /* Hot on good addresses: short and long. */
            struct Frame from = begin((u64)loop, user);
            from.r15 = from.rsp;
            from.r14 = HOT / 10;
            from.r12 = 0x4242424242424242;
            from.r10 = 12;
            from.r8 = DATA + 0x600;
            from.r9 = DATA + 0x900;
            struct Frame got = run(from, NULL);
            CHECK(got.vector == BP, "%s: the hot loop ends with vector %d", r->code.name, got.vector);
            /* Then over the border into page 1, upwards from page 0 or downwards from page 2. */
            for (int k = 0; k < 3; k++)
                fill((void *)data_page[k], 0x5a, PAGE);
            map(DATA + PAGE, 0, 0);
            u64 near = down ? DATA + 2 * PAGE + (fit - 1) * size + misfit : DATA + PAGE - fit * size - misfit;
            u64 far = down ? DATA + 2 * PAGE + 0xe00 : DATA + 0x100;
            from.r14 = 1;
            from.r10 = count;
            from.r11 = DATA + PAGE;
            bool by_source = r->reads && !r->writes;
            from.r8 = by_source || (r->reads && (variant & 4)) ? near : far;
            from.r9 = by_source ? far : (r->reads && (variant & 4)) ? far : near;
            bool source = from.r8 == near;
            /* A source and a destination in the same page must not meet. */
            u64 step = down ? 0 - size : size, stop_at = near + fit * step;
            u64 cr2 = down ? (misfit ? stop_at : stop_at) : misfit ? DATA + PAGE : stop_at;
            u64 error = (source || !r->writes ? 0u : 2u) | (user ? 4u : 0u);
            got = run(from, NULL);
            u64 moved = r->reads ? from.r8 + fit * step : from.r8, moved_to = r->writes || r->compares ? from.r9 + fit * step : from.r9;
            if (r->code.begin == snippet_rep_lodsb || r->code.begin == snippet_rep_lodsq)
                moved_to = from.r9;
            u64 flags = PFLAG | SF | OF; /* 0x4242… + 0x4242… */
            CHECK(got.vector == PF && got.error == error && got.rip == fault && this_cpu()->cr2 == cr2, "%s variant %d: vector %d error %x rip %x cr2 %x, wanted error %x rip %x cr2 %x", r->code.name, (u64)variant, got.vector, got.error, got.rip, this_cpu()->cr2, error, fault, cr2);
            CHECK(got.rcx == count - fit && got.rsi == moved && got.rdi == moved_to, "%s variant %d: rcx %d rsi %x rdi %x, wanted %d %x %x", r->code.name, (u64)variant, got.rcx, got.rsi, got.rdi, count - fit, moved, moved_to);
            /* Comparisons leave the last one's flags (AMD) or those before the instruction (Intel). */
            u64 last = r->reads ? PFLAG | ZF : CF | PFLAG | AF | SF;
            if (got.vector == PF)
                CHECK((got.rflags & ARITHMETIC) == flags || (r->compares && (got.rflags & ARITHMETIC) == last), "%s variant %d: rflags %x, wanted %x", r->code.name, (u64)variant, got.rflags & ARITHMETIC, flags);
            /* With the page brought by the handler it runs to its end. */
            map(DATA + PAGE, 0, 0);
            got = run(from, bring_page);
            CHECK(got.vector == BP && got.rcx == 0, "%s variant %d: after the page came, vector %d, rcx %d", r->code.name, (u64)variant, got.vector, got.rcx);
            if (r->writes) {
                u8 wanted = r->reads ? 0x5a : 0x42;
                u64 low = down ? from.r9 - (count - 1) * size : from.r9;
                for (u64 i = 0; i < count * size; i++)
                    if (((volatile u8 *)low)[i] != wanted) {
                        fail("%s variant %d: byte %d is %x", r->code.name, (u64)variant, i, (u64)((u8 *)low)[i]);
                        break;
                    }
            }
        }
    }
    map(DATA + PAGE, 0, 0);
}

/* Faults that values bring about: the pointer registers hold a good and a bad value. */
SNIPPET(v_div, "mov $0, %edx; div %rsi");
SNIPPET(v_div8, "mov $0x100, %eax; div %sil");
SNIPPET(v_idiv, "cqto; idiv %esi");
SNIPPET(v_cr8, "mov %rsi, %cr8");
SNIPPET(v_es, "mov %esi, %es");
SNIPPET(v_cr4, "mov %rsi, %cr4");
SNIPPET(v_divsd, "cvtsi2sd %rsi, %xmm1; divsd %xmm1, %xmm0");
SNIPPET(v_sqrtsd, "cvtsi2sd %rsi, %xmm1; sqrtsd %xmm1, %xmm0");
struct ByValue {
    struct Snippet code;
    u64 good, bad, vector, error, before; /* Bytes of instructions before the one that faults. */
    bool kernel_only;
};

static void faults_by_value(void)
{
    u64 cr4 = read_cr4();
    const struct ByValue table[] = {
        {OF_SNIPPET(v_div), 3, 0, DE, 0, 5, false},      {OF_SNIPPET(v_div8), 0x40, 1, DE, 0, 5, false},
        {OF_SNIPPET(v_idiv), 5, 0, DE, 0, 2, false},     {OF_SNIPPET(v_cr8), 0, 0x100, GP, 0, 0, true},
        {OF_SNIPPET(v_es), 0x10, 0x1000, GP, 0x1000, 0, true}, {OF_SNIPPET(v_cr4), cr4, cr4 | 1ull << 31, GP, 0, 0, true},
        {OF_SNIPPET(v_divsd), 3, 0, XM, 0, 5, false},    {OF_SNIPPET(v_sqrtsd), 3, (u64)-1, XM, 0, 5, false},
    };
    for (u64 n = 0; n < sizeof table / sizeof *table; n++)
        for (int producer = 0; producer < PRODUCER_COUNT; producer++) {
            const struct ByValue *t = &table[n];
            bool user = !t->kernel_only && producer & 1;
            u64 base = CODE + code_number++ % CODE_PAGES * PAGE;
            if (producers[producer].begin == snippet_p_load_between)
                continue; /* R8 is no pointer here. */
            u8 *loop = (u8 *)base + 128, *at = loop;
            PUT(at, loop_head);
            at = put(at, &producers[producer]);
            u64 fault = (u64)at + t->before;
            at = put(at, &t->code);
            PUT(at, loop_tail);
            jump_back(&at, loop);
            PUT(at, stop);
            struct Frame from = begin((u64)loop, user);
            from.r15 = from.rsp;
            from.r8 = t->good;
            from.r9 = t->bad;
            const u64 *v = values[(n + (u64)producer) % (sizeof values / sizeof *values)];
            from.r10 = v[0];
            from.r11 = v[1];
            from.r12 = v[2];
            /* Division by zero and invalid operation are unmasked; 1.0 / x. */
            u32 mxcsr = t->vector == XM ? 0x1d00 : 0x1f80;
            __asm__ volatile("ldmxcsr %0; movq %1, %%xmm0" : : "m"(mxcsr), "r"(0x3ff0000000000000));
            from.r14 = 1;
            u8 first = *(u8 *)fault;
            *(u8 *)fault = *snippet_stop;
            struct Frame reference = run(from, NULL);
            *(u8 *)fault = first;
            CHECK(reference.vector == BP && reference.rip == fault + 1, "%s %s: reference vector %d at %x", producers[producer].name, t->code.name, reference.vector, reference.rip);
            from.r14 = HOT / 10;
            struct Frame got = run(from, NULL);
            struct Wanted w = {.vector = t->vector, .error = t->error};
            compare(producers[producer].name, t->code.name, MISSING, user, &got, &reference, &w, fault);
            mxcsr = 0x1f80;
            __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
        }
}

/* Alignment checks begin in the middle of a hot loop of user code, by POPF. */
SNIPPET(ac_loop, "1: mov %r10, %rax; cmp $1, %r14; jne 2f; pushfq; orl $0x40000, (%rsp); popfq; 2: add %r10, %rax; mov 1(%r8), %rdx; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void alignment_check(void)
{
    u64 base = CODE + code_number++ % CODE_PAGES * PAGE;
    u8 *at = (u8 *)base;
    PUT(at, ac_loop);
    for (int enabled = 0; enabled < 2; enabled++) {
        write_cr0(enabled ? read_cr0() | 1 << 18 : read_cr0() & ~(1ull << 18));
        struct Frame from = begin(base, true);
        from.r8 = DATA;
        from.r10 = 0x4242424242424242;
        from.r14 = HOT;
        struct Frame got = run(from, NULL);
        if (enabled) {
            CHECK(got.vector == AC && got.error == 0 && (got.rflags & (ARITHMETIC | ACF)) == (PFLAG | SF | OF | ACF) && got.r14 == 1, "vector %d error %x rflags %x r14 %d", got.vector, got.error, got.rflags, got.r14);
            from = begin(base, false);
            from.r8 = DATA;
            from.r14 = HOT;
            got = run(from, NULL);
            CHECK(got.vector == BP, "in the kernel: vector %d", got.vector);
        } else {
            CHECK(got.vector == BP, "not enabled: vector %d", got.vector);
        }
    }
    write_cr0(read_cr0() & ~(1ull << 18));
}

/* CR0.TS set under a hot loop of vector and x87 code. */
SNIPPET(nm_sse, "1: add %r10, %rax; addps %xmm1, %xmm0; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(nm_x87, "1: add %r10, %rax; fnop; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");
SNIPPET(nm_avx, "1: add %r10, %rax; vpaddd %xmm1, %xmm0, %xmm0; lea -1(%r14), %r14; test %r14, %r14; jnz 1b; int3");

static void device_not_available(void)
{
    const struct Snippet loops[] = {OF_SNIPPET(nm_sse), OF_SNIPPET(nm_x87), OF_SNIPPET(nm_avx)};
    for (int i = 0; i < (has_avx() ? 3 : 2); i++)
        for (int user = 0; user < 2; user++) {
            u64 base = CODE + code_number++ % CODE_PAGES * PAGE;
            put((u8 *)base, &loops[i]);
            struct Frame from = begin(base, user);
            from.r10 = 0x4242424242424242;
            from.rax = from.r10;
            from.r14 = HOT;
            struct Frame got = run(from, NULL);
            CHECK(got.vector == BP, "%s: vector %d", loops[i].name, got.vector);
            for (int round = 0; round < 10; round++) {
                write_cr0(read_cr0() | 8);
                from.r14 = 3;
                got = run(from, NULL);
                CHECK(got.vector == NM && got.rip == base + 3 && got.r14 == 3 && (got.rflags & ARITHMETIC) == (PFLAG | SF | OF), "%s, TS set: vector %d rip %x r14 %d rflags %x", loops[i].name, got.vector, got.rip, got.r14, got.rflags);
                write_cr0(read_cr0() & ~8ull);
                got = run(from, NULL);
                CHECK(got.vector == BP, "%s, TS clear: vector %d", loops[i].name, got.vector);
            }
        }
}

void test(void)
{
    set_up();
    group("every access at every place, hot");
    for (int a = 0; a < ACCESS_COUNT; a++)
        for (int place = 0; place < PLACES; place++)
            for (int user = 0; user < 2; user++)
                combination(&producers[a % PRODUCER_COUNT], &accesses[a], place, user, HOT / 4);
    group("every producer, hot");
    for (int p = 0; p < PRODUCER_COUNT; p++)
        for (int place = 0; place < PLACES; place++) {
            combination(&producers[p], &accesses[0], place, p & 1, HOT / 2);
            combination(&producers[p], &accesses[(p * 7 + place) % ACCESS_COUNT], place, ~p & 1, HOT / 2);
        }
    group("every producer with every access");
    for (int p = 0; p < PRODUCER_COUNT; p++)
        for (int a = 0; a < ACCESS_COUNT; a++)
            for (int k = 0; k < 2; k++)
                combination(&producers[p], &accesses[a], (p + a + k * 3) % PLACES, (p ^ a) >> 1 & 1, 600);
    group("instruction fetch across a border");
    fetch_across();
    group("string instructions across a border");
    strings_across();
    group("faults by value");
    faults_by_value();
    group("alignment checks");
    alignment_check();
    group("device not available");
    device_not_available();
    group("RF in the frames of faults");
    CHECK(rf_missing == 0, "%d frames without RF, %d with it", rf_missing, rf_present);
}
