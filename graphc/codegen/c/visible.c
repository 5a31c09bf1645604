/* ---- names and paths, which may hold anything, on a terminal ---- */

/* A letter of UTF-8, and how many bytes it has; 0: the bytes are none. */
static int read_letter(const unsigned char *bytes, unsigned *letter) {
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned first = bytes[0];
    int length = first < 0x80 ? 1
                 : first >> 5 == 6 ? 2
                 : first >> 4 == 14 ? 3
                 : first >> 3 == 30 ? 4
                 : 0;
    *letter = length > 1 ? first & (0x7fu >> length) : first;
    for (int i = 1; i < length; i++) {
        if (bytes[i] >> 6 != 2) return 0;
        *letter = *letter << 6 | (bytes[i] & 63u);
    }
    int is_half = *letter >> 11 == 0xd800 >> 11; /* of a pair in UTF-16: no letter */
    return *letter >= least[length] && *letter <= 0x10ffff && !is_half ? length : 0;
}

/* Whether a letter shows nothing, or steers what shows it: those of Unicode's classes Cc, Cf, Co,
 * Zl, Zp and Zs, but for the plain blank. */
static int is_hidden(unsigned letter) {
    static const unsigned ranges[][2] = {
        {0x0, 0x1f},         {0x7f, 0xa0},         {0xad, 0xad},       {0x600, 0x605},
        {0x61c, 0x61c},      {0x6dd, 0x6dd},       {0x70f, 0x70f},     {0x890, 0x891},
        {0x8e2, 0x8e2},      {0x1680, 0x1680},     {0x180e, 0x180e},   {0x2000, 0x200f},
        {0x2028, 0x202f},    {0x205f, 0x2064},     {0x2066, 0x206f},   {0x3000, 0x3000},
        {0xe000, 0xf8ff},    {0xfeff, 0xfeff},     {0xfff9, 0xfffb},   {0x110bd, 0x110bd},
        {0x110cd, 0x110cd},  {0x13430, 0x1343f},   {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0001, 0xe0001},  {0xe0020, 0xe007f},   {0xf0000, 0xffffd}, {0x100000, 0x10fffd},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (letter >= ranges[i][0] && letter <= ranges[i][1]) return 1;
    return 0;
}

/* Prints a text in one line, with \x1b and the like for what would steer a terminal. */
static void print_visible(FILE *stream, const char *text) {
    const unsigned char *next = (const unsigned char *)text;
    while (*next != 0) {
        unsigned letter;
        int length = read_letter(next, &letter);
        if (length == 0)
            fprintf(stream, "\\x%02x", (unsigned)*next);
        else if (!is_hidden(letter))
            fwrite(next, 1, (size_t)length, stream);
        else if (letter == '\n' || letter == '\r' || letter == '\t')
            fputs(letter == '\n' ? "\\n" : letter == '\r' ? "\\r" : "\\t", stream);
        else
            fprintf(stream, letter < 0x100 ? "\\x%02x" : letter < 0x10000 ? "\\u%04x" : "\\U%08x",
                    letter);
        next += length ? length : 1;
    }
}

