/* Says what a multiboot loader handed over (Multiboot 0.6.96): magic, upper memory, command line, modules. */
#include "common.inc"
.section .multiboot, "a"
.align 4
.long 0x1badb002, 3, -(0x1badb002 + 3)
.section .text
.globl start
start:
    ENTER
    mov %eax, %ecx
    mov %ebx, %ebp
    PRINT "magic="
    call print_hex
    PRINT " upper="
    mov 8(%ebp), %ecx
    call print_hex
    PRINT " cmdline="
    testl $4, (%ebp)
    jz 1f
    mov 16(%ebp), %esi
    call print
1:  PRINT " modules="
    mov 20(%ebp), %ecx
    call print_hex
    PRINT "\n"
    jmp power_off
