/* System-management mode: moves SMBASE, then takes a number of SMIs that the local APIC sends, in a loop whose registers
   must survive them. Says where SMBASE is, what the save map says of itself, how many SMIs there were, and whether all
   was whole. */
#include "common.inc"
.set FIRST, 0x38000
.set MOVED, 0x40000
.set COUNT, 0x9000
.set REVISION, 0x9004
.set SAVED_CR0, 0x9008
.set ROUNDS, 100
.globl start
start:
    ENTER
    mov $relocate_begin, %esi
    mov $FIRST, %edi
    mov $(relocate_end - relocate_begin), %ecx
    rep movsb
    mov $count_begin, %esi
    mov $(MOVED + 0x8000), %edi
    mov $(count_end - count_begin), %ecx
    rep movsb
    movl $0, COUNT
    movl $0, REVISION
    movl $0x1ff, 0xfee000f0
    /* The processor's own id as the destination: SMIs have no shorthand for it. */
    movl 0xfee00020, %eax
    movl %eax, 0xfee00310
    /* The first SMI moves SMBASE. */
    movl $0x4200, 0xfee00300
1:  pause
    cmpl $0, REVISION
    je 1b
    xor %ebx, %ebx
    mov $0x12345678, %esi
    mov $0x9abcdef0, %ebp
2:  mov %ebx, %edi
    movl $0x4200, 0xfee00300
3:  pause
    cmp %edi, COUNT
    je 3b
    inc %ebx
    cmp %ebx, COUNT
    jne broken
    cmp $ROUNDS, %ebx
    jne 2b
    cmp $0x12345678, %esi
    jne broken
    cmp $0x9abcdef0, %ebp
    jne broken
    mov %cr0, %eax
    cmp %eax, SAVED_CR0
    jne broken
    PRINT "revision="
    mov REVISION, %ecx
    call print_hex
    PRINT " smbase="
    mov MOVED + 0xff00, %ecx
    call print_hex
    PRINT " smis="
    mov COUNT, %ecx
    call print_hex
    PRINT " all is whole\n"
    jmp power_off
broken:
    PRINT "something is broken\n"
    jmp power_off

.code16
relocate_begin:
    movl $MOVED, %cs:0xff00
    movl %cs:0xfefc, %eax
    addr32 movl %eax, REVISION
    rsm
relocate_end:
count_begin:
    movl %cs:0xff58, %eax
    addr32 movl %eax, SAVED_CR0
    addr32 incl COUNT
    rsm
count_end:
