/* Reports a crash through pvpanic. */
#include "common.inc"
.globl start
start:
    mov $stack, %esp
    PRINT "crashing\n"
    mov $0x505, %dx
    in %dx, %al
    mov $1, %al
    out %al, %dx
1:  pause
    jmp 1b
.section .bss
.skip 4096
stack:
