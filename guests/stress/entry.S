/* The start of the stress guests: PVH entry in 32-bit mode, long mode with the first 4 GiB mapped one to one by large
   pages, 256 interrupt gates that all use one stack of their own, start of the other processors, and `enter`, which
   runs code from given registers up to its first trap. */
.set CODE64, 0x08
.set DATA, 0x10
.set CODE32, 0x28
.set TRAMPOLINE, 0x8000
.set MAX_CPUS, 8
.set STACK_SIZE, 0x4000
/* struct Cpu in stress.h */
.set CPU_SIZE, 64
.set CPU_SAVED_RSP, 8

.section .note, "a", @note
.align 4
.long 4, 4, 18
.asciz "Xen"
.long start

.section .text
.code32
.globl start
start:
    cli
    mov $(stacks + STACK_SIZE), %esp
    lgdt gdt_pointer
    ljmp $CODE32, $1f
1:  mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    /* Level 4 entry 0 to level 3; its four entries to level 2; 2048 large pages. */
    movl $(level3 + 3), level4
    mov $(level2 + 3), %eax
    mov $level3, %edi
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    mov $level2, %edi
    mov $0x83, %eax
    mov $2048, %ecx
3:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 3b
    xor %ebx, %ebx
to_long_mode:
    /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    mov %cr4, %eax
    or $0x6a0, %eax
    mov %eax, %cr4
    mov $level4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    /* PG, WP, NE, MP; no EM, TS, CD, NW */
    mov %cr0, %eax
    and $~0x6000000c, %eax
    or $0x80010022, %eax
    mov %eax, %cr0
    ljmp $CODE64, $long_mode

.code16
trampoline:
    cli
    lgdtl %cs:(trampoline_gdt - trampoline)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $CODE32, $ap_protected
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
.globl trampoline, trampoline_end
trampoline_end:

.code32
ap_protected:
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $1, %ebx
    lock xadd %ebx, cpus_started
    inc %ebx
    jmp to_long_mode

.code64
/* EBX: the processor's number. */
long_mode:
    mov %ebx, %ebx
    mov %rbx, %rax
    inc %rax
    imul $STACK_SIZE, %rax
    lea stacks(%rax), %rsp
    lidt idt_pointer
    mov %rbx, %rdi
    xor %ebp, %ebp
    call main_of_cpu
1:  hlt
    jmp 1b

/* void enter(struct Frame *from): loads all registers and runs until a trap that no hook takes; see stress.c. */
.globl enter, leave_entered
enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, %gs:CPU_SAVED_RSP
    mov %rdi, %rsp
load_frame:
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq
leave_entered:
    mov %gs:CPU_SAVED_RSP, %rsp
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

/* Gates: error code (a zero where the processor pushes none), vector, registers; then on_trap(frame). */
.align 16
.globl gates
gates:
.set number, 0
.rept 256
    .align 16
    .if !(number == 8 || (number >= 10 && number <= 14) || number == 17)
    push $0
    .endif
    push $number
    jmp common_gate
    .set number, number + 1
.endr
common_gate:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    call on_trap
    mov %rax, %rsp
    jmp load_frame

.section .data
.align 8
.globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 0x08: 64-bit code */
    .quad 0x00cf93000000ffff    /* 0x10: data */
    .quad 0x00cff3000000ffff    /* 0x18: user data */
    .quad 0x00affb000000ffff    /* 0x20: user 64-bit code */
    .quad 0x00cf9b000000ffff    /* 0x28: 32-bit code */
    .fill 2 * MAX_CPUS, 8, 0    /* 0x30: one task state segment for each processor */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad idt
.globl cpus_started
cpus_started: .long 0

.section .bss
.align 4096
.globl idt, level4, level2
idt: .skip 4096
level4: .skip 4096
level3: .skip 4096
level2: .skip 4 * 4096
stacks: .skip MAX_CPUS * STACK_SIZE
.section .note.GNU-stack, "", @progbits
