/* Starts the other processors (INIT, SIPI) and adds with all of them to one cell by a locked instruction.
   Says how many processors came and whether the locked sum is whole. */
#include "common.inc"
.set TRAMPOLINE, 0x8000
.set ARRIVED, 0x9000
.set GO, 0x9004
.set SUM, 0x9040
.set FINISHED, 0x9080
.set ROUNDS, 100000
.globl start
start:
    ENTER
    movl $1, ARRIVED
    movl $0, GO
    movl $0, SUM
    movl $0, FINISHED
    /* The trampoline, copied below 1 MiB where a start-up vector can point. */
    mov $ap_begin, %esi
    mov $TRAMPOLINE, %edi
    mov $(ap_end - ap_begin), %ecx
    rep movsb
    /* Local APIC: software enable, then INIT and SIPI to all but self. */
    movl $0x1ff, 0xfee000f0
    movl $0xc4500, 0xfee00300
    mov $20000, %ecx
1:  pause
    dec %ecx
    jnz 1b
    movl $(0xc4600 | TRAMPOLINE >> 12), 0xfee00300
    /* How many are to come: fw_cfg's item 5. */
    mov $0x510, %dx
    mov $5, %ax
    out %ax, %dx
    mov $0x511, %dx
    xor %ecx, %ecx
    in %dx, %al
    mov %al, %cl
    in %dx, %al
    mov %al, %ch
2:  pause
    cmp %ecx, ARRIVED
    jne 2b
    movl $1, GO
    push %ecx
    call add_rounds
    pop %ecx
3:  pause
    cmp %ecx, FINISHED
    jne 3b
    PRINT "cpus="
    mov FINISHED, %ecx
    call print_hex
    mov FINISHED, %eax
    mov $ROUNDS, %ecx
    mul %ecx
    cmp %eax, SUM
    je 4f
    PRINT " the sum is not whole\n"
    jmp power_off
4:  PRINT " the sum is whole\n"
    jmp power_off

add_rounds:
    mov $ROUNDS, %ecx
1:  lock incl SUM
    dec %ecx
    jnz 1b
    lock incl FINISHED
    ret

.code16
ap_begin:
    cli
    lgdtl %cs:(ap_gdtr - ap_begin)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $ap_protected
ap_gdtr:
    .word 3 * 8 - 1
    .long gdt
ap_end:
.code32
ap_protected:
    mov $0x10, %cx
    mov %cx, %ds
    lock incl ARRIVED
1:  pause
    cmpl $0, GO
    je 1b
    /* No stack: the return is a jump. */
    mov $ROUNDS, %ecx
2:  lock incl SUM
    dec %ecx
    jnz 2b
    lock incl FINISHED
3:  hlt
    jmp 3b
