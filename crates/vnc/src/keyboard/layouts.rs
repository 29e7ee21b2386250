//! Keyboard layouts: for each level (plain, Shift, AltGr, Shift and AltGr) the characters of four rows of keys. A blank
//! is nothing, a combining character a dead key, an empty row has nothing on this level.

/// The keys of a layout.
pub const ROWS: [&[&str]; 4] = [
    &["grave_accent", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "minus", "equal"],
    &["q", "w", "e", "r", "t", "y", "u", "i", "o", "p", "bracket_left", "bracket_right"],
    &["a", "s", "d", "f", "g", "h", "j", "k", "l", "semicolon", "apostrophe", "backslash"],
    &["less", "z", "x", "c", "v", "b", "n", "m", "comma", "dot", "slash"],
];

type Rows = [&'static str; 4];

/// The layouts by QEMU's names.
pub const LAYOUTS: &[(&str, [Rows; 4])] = &[
    (
        "en-us",
        [
            ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", "<zxcvbnm,./"],
            ["~!@#$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:\"|", ">ZXCVBNM<>?"],
            ["", "", "", ""],
            ["", "", "", ""],
        ],
    ),
    (
        "en-gb",
        [
            ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"],
            ["¬!\"£$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"],
            ["¦   €        ", "  é   úíó   ", "á           ", ""],
            ["", "  É   ÚÍÓ   ", "Á           ", ""],
        ],
    ),
    (
        "de",
        [
            ["\u{302}1234567890ß\u{301}", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"],
            ["°!\"§$%&/()=?\u{300}", "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"],
            ["  ²³   {[]}\\ ", "@ €        ~", "", "|      µ   "],
            ["", "", "", ""],
        ],
    ),
    (
        "fr",
        [
            ["²&é\"'(-è_çà)=", "azertyuiop\u{302}$", "qsdfghjklmù*", "<wxcvbn,;:!"],
            [" 1234567890°+", "AZERTYUIOP\u{308}£", "QSDFGHJKLM%µ", ">WXCVBN?./§"],
            ["  ~#{[|`\\^@]}", "  €        ¤", "", ""],
            ["", "", "", ""],
        ],
    ),
    (
        "es",
        [
            ["º1234567890'¡", "qwertyuiop\u{300}+", "asdfghjklñ\u{301}ç", "<zxcvbnm,.-"],
            ["ª!\"·$%&/()=?¿", "QWERTYUIOP\u{302}*", "ASDFGHJKLÑ\u{308}Ç", ">ZXCVBNM;:_"],
            ["\\|@#~€¬      ", "  €       []", "          {}", ""],
            ["", "", "", ""],
        ],
    ),
    (
        "it",
        [
            ["\\1234567890'ì", "qwertyuiopè+", "asdfghjklòàù", "<zxcvbnm,.-"],
            ["|!\"£$%&/()=?^", "QWERTYUIOPé*", "ASDFGHJKLç°§", ">ZXCVBNM;:_"],
            ["", "  €       []", "         @# ", ""],
            ["", "          {}", "", ""],
        ],
    ),
    (
        "sv",
        [
            ["§1234567890+\u{301}", "qwertyuiopå\u{308}", "asdfghjklöä'", "<zxcvbnm,.-"],
            ["½!\"#¤%&/()=?\u{300}", "QWERTYUIOPÅ\u{302}", "ASDFGHJKLÖÄ*", ">ZXCVBNM;:_"],
            ["  @£$€ {[]}\\ ", "  €        \u{303}", "", "|      µ   "],
            ["", "", "", ""],
        ],
    ),
];
