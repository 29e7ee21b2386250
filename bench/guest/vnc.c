/*
 * A guest that draws: Multiboot, 32 bits, no system. The command line says what: "text" scrolls lines of text up a screen
 * of 1024 by 768, "window" moves a window about, one step each 25 ms. Built and run by bench/vnc.py.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define WIDTH 1024
#define HEIGHT 768
#define LINE 16

__attribute__((section(".multiboot"), used)) static const u32 header[] = {0x1badb002, 0, -0x1badb002u};

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }
static u8 in8(u16 port) { u8 value; __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static u32 in32(u16 port) { u32 value; __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port)); return value; }

static u32 seed = 1;
static u32 number(void) { seed = seed * 1664525 + 1013904223; return seed >> 8; }

/* Waits 25 ms on channel 2 of the timer. */
static void pause25(void)
{
    out8(0x61, in8(0x61) & ~3);
    out8(0x43, 0xb0);
    out8(0x42, 29830 & 0xff);
    out8(0x42, 29830 >> 8);
    out8(0x61, (in8(0x61) & ~2) | 1);
    while (!(in8(0x61) & 0x20)) {
        __asm__ volatile("pause");
    }
}

static void dispi(u16 index, u16 value) { out16(0x1ce, index); out16(0x1cf, value); }

/* Sets the mode; gives the card's memory, which a kernel loader leaves where firmware would put it, or nowhere. */
static u32 *screen(void)
{
    u32 *memory = 0;
    for (u32 slot = 0; slot < 32; slot++) {
        u32 config = 0x80000000 | slot << 11;
        out32(0xcf8, config | 8);
        if (in32(0xcfc) >> 16 != 0x0300) {
            continue;
        }
        out32(0xcf8, config | 0x10);
        if ((in32(0xcfc) & ~15u) == 0) {
            out32(0xcfc, 0xe0000000);
        }
        memory = (u32 *)(in32(0xcfc) & ~15u);
        out32(0xcf8, config | 4);
        out32(0xcfc, in32(0xcfc) | 7);
        break;
    }
    dispi(4, 0);
    dispi(1, WIDTH);
    dispi(2, HEIGHT);
    dispi(3, 32);
    dispi(4, 0x41);
    /* Without firmware the attribute controller is still dark. */
    in8(0x3da);
    out8(0x3c0, 0x20);
    return memory;
}

static void text(u32 *at)
{
    static u16 glyphs[96][LINE];
    for (u32 glyph = 1; glyph < 96; glyph++) {
        for (u32 row = 2; row < 14; row++) {
            glyphs[glyph][row] = number() & number() & 0x7e;
        }
    }
    for (;;) {
        __asm__ volatile("" ::: "memory");
        u32 *to = at, *from = at + WIDTH * LINE;
        u32 count = WIDTH * (HEIGHT - LINE);
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count)::"memory");
        u32 length = 20 + number() % 100;
        for (u32 column = 0; column < WIDTH / 8; column++) {
            const u16 *glyph = glyphs[column < length ? number() % 96 : 0];
            for (u32 row = 0; row < LINE; row++) {
                u32 *pixel = at + (HEIGHT - LINE + row) * WIDTH + column * 8;
                for (u32 bit = 0; bit < 8; bit++) {
                    pixel[bit] = glyph[row] >> bit & 1 ? 0xc0c0c0 : 0;
                }
            }
        }
        pause25();
    }
}

static void window(u32 *at)
{
    const int width = 320, height = 240;
    int x = 10, y = 10, by_x = 7, by_y = 5;
    for (int row = 0; row < HEIGHT; row++) {
        for (int column = 0; column < WIDTH; column++) {
            at[row * WIDTH + column] = 0x204060 + (row / 8 << 8) + column / 16;
        }
    }
    for (;;) {
        int last_x = x, last_y = y;
        x += by_x;
        y += by_y;
        if (x < 0 || x + width > WIDTH) { by_x = -by_x; x += 2 * by_x; }
        if (y < 0 || y + height > HEIGHT) { by_y = -by_y; y += 2 * by_y; }
        for (int row = last_y; row < last_y + height; row++) {
            for (int column = last_x; column < last_x + width; column++) {
                at[row * WIDTH + column] = 0x204060 + (row / 8 << 8) + column / 16;
            }
        }
        for (int row = 0; row < height; row++) {
            for (int column = 0; column < width; column++) {
                u32 colour = row < 20 ? 0x3355aa : 0xffffff;
                if (row > 30 && row < 220 && column > 12 && column < 300 && row % 12 < 8 && (row * 31 + column * 17) % 7 < 2) {
                    colour = 0x101010;
                }
                at[(y + row) * WIDTH + x + column] = colour;
            }
        }
        pause25();
    }
}

void start(u32 *information)
{
    u32 *at = screen();
    const char *line = (const char *)information[4];
    const char *last = line;
    for (; *line; line++) {
        if (*line == ' ') {
            last = line + 1;
        }
    }
    if (*last == 't') {
        text(at);
    }
    window(at);
}

__asm__(".globl _start\n_start: mov $0x300000, %esp\n push %ebx\n call start\n");
