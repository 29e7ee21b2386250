/* Says hello, counts in memory, and powers off when the power button is pressed. */
#include "common.inc"
.globl start
start:
    ENTER
    /* PM1 enable: the power button is latched in PM1 status only when it is enabled. */
    mov $0x602, %dx
    mov $0x100, %ax
    out %ax, %dx
    /* The pattern and the counter that a monitor can read: guest-physical 0x200000 and 0x200010. */
    movl $0x7a75304f, 0x200000      /* "O0uz" */
    movl $0x21216c65, 0x200004      /* "el!!" */
    movl $0, 0x200010
    PRINT "Hello from a bare-metal guest.\n"
    mov $0x600, %dx
loop:
    incl 0x200010
    in %dx, %ax
    test $0x100, %ax
    jz loop
    PRINT "The power button was pressed.\n"
    jmp power_off
