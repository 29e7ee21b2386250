/* Says hello, counts in memory, and powers off when the power button is pressed. */
#include "common.inc"
.globl start
start:
    mov $stack, %esp
    PRINT "Hello from a bare-metal guest.\n"
    /* The counter that a monitor can read: guest-physical 0x200000. */
    movl $0, 0x200000
    mov $0x600, %dx
loop:
    incl 0x200000
    in %dx, %ax
    test $0x100, %ax
    jz loop
    PRINT "The power button was pressed.\n"
    jmp power_off
.section .bss
.skip 4096
stack:
